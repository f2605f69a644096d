//! What clients of Postgres expect beside our tables: `pg_catalog`, its functions, and SQL written for it.
//!
//! Owns what such a session has more than others. The rows, functions and rewriting rules are those of
//! `datafusion-pg-catalog`; here they are put over our catalogue, which changes while clients are connected. Does not own the
//! protocol, nor settings of a connection.

mod absent;
mod writing;

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use alluvium_plan::StatusBoard;
use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, new_null_array},
        datatypes::{DataType, Field, Int32Type, SchemaRef},
    },
    catalog::{
        CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
        SchemaProvider, TableProvider,
    },
    common::{Result as DataFusionResult, ScalarValue, plan_err},
    datasource::TableType,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    prelude::SessionContext,
    sql::{
        parser::Statement,
        sqlparser::{
            keywords::Keyword,
            tokenizer::{Token, TokenWithSpan},
        },
    },
};
use datafusion_pg_catalog::{
    pg_catalog::{
        PgCatalogSchemaProvider, PgCatalogStaticTables, catalog_info::CatalogInfo,
        context::EmptyContextProvider, setup_pg_catalog,
    },
    sql::PostgresCompatibilityParser,
};

use crate::{
    access::Access,
    catalog::Catalogs,
    client::Client,
    error::QueryError,
    names::{CATALOG, PG_CATALOG, SCHEMAS, SYSTEM},
    view::{ReadMode, Shelf, View},
};

pub(crate) use writing::lists;
pub use writing::{SAME_NAME, date_without_zone};

/// The Postgres version whose catalogue is shown and whose answers clients expect.
pub const POSTGRES_VERSION: &str = "16.6";

/// Calls inside each other in a question about the catalogue. Its parser tries each of them twice.
const MOST_CALLS: usize = 10;

/// What Postgres sessions share.
pub(crate) struct Postgres {
    parser: PostgresCompatibilityParser,
    /// Its identifiers of tables stay the same from one query to the next.
    pub(crate) schema: Arc<dyn SchemaProvider>,
    listing: Listing,
    statics: Arc<PgCatalogStaticTables>,
    pub(crate) base: SessionState,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

impl Postgres {
    /// Puts it over a session state of ours.
    pub(crate) fn over(
        base: &SessionState,
        shelf: Arc<Shelf>,
        status: Option<Arc<StatusBoard>>,
    ) -> Result<Self, QueryError> {
        Self::build(base, shelf, status).map_err(QueryError::from)
    }

    fn build(
        base: &SessionState,
        shelf: Arc<Shelf>,
        status: Option<Arc<StatusBoard>>,
    ) -> DataFusionResult<Self> {
        let statics = Arc::new(PgCatalogStaticTables::try_new()?);
        let nothing: Arc<dyn CatalogProviderList> = Arc::new(MemoryCatalogProviderList::new());
        let shapes =
            PgCatalogSchemaProvider::try_new(nothing, statics.clone(), EmptyContextProvider)?;
        let shapes = Catalog {
            inner: Arc::new(shapes),
        };
        let listing = Listing {
            shelf,
            status,
            access: Access::unrestricted(),
            shapes: Arc::new(shapes),
        };
        Ok(Self {
            parser: PostgresCompatibilityParser::new(),
            schema: catalog_over(listing.clone(), statics.clone())?,
            listing,
            statics,
            base: with_functions(base)?,
        })
    }

    /// `pg_catalog` with what `access` may read.
    /// The `pg_catalog` that a client sees. One that may not read everything has its own.
    pub(crate) fn catalog_for(
        &self,
        client: &Client,
    ) -> Result<Arc<dyn SchemaProvider>, QueryError> {
        if client.access.reads_everything() {
            return Ok(self.schema.clone());
        }
        let made = client
            .granted_catalog
            .get_or_init(|| self.catalog_of(&client.access));
        made.clone()
    }

    fn catalog_of(&self, access: &Access) -> Result<Arc<dyn SchemaProvider>, QueryError> {
        let listing = Listing {
            access: access.clone(),
            ..self.listing.clone()
        };
        Ok(catalog_over(listing, self.statics.clone())?)
    }

    /// A statement as it is run: rewritten where Postgres means the same by other words.
    pub(crate) fn rewrite(&self, statement: Statement) -> Statement {
        match statement {
            Statement::Statement(inner) => {
                let mut inner = self.parser.rewrite(*inner);
                writing::rewrite(&mut inner);
                Statement::Statement(Box::new(inner))
            }
            Statement::Explain(mut explain) => {
                explain.statement = Box::new(self.rewrite(*explain.statement));
                Statement::Explain(explain)
            }
            other => other,
        }
    }

    /// Statements that ask about the catalogue: some forms of them can only be answered as a whole, which is seen before
    /// they are parsed. `None` when neither `pg_…` nor a setting is mentioned.
    pub(crate) fn known_question(
        &self,
        tokens: &[TokenWithSpan],
        sql: &str,
    ) -> Option<DataFusionResult<VecDeque<Statement>>> {
        let asks_catalog = tokens.iter().any(|token| match &token.token {
            Token::Word(word) => {
                let word = word.value.to_ascii_lowercase();
                word.starts_with("pg_") || word == "current_setting"
            }
            _ => false,
        });
        if !asks_catalog || calls_inside_each_other(tokens) > MOST_CALLS {
            return None;
        }
        // The JDBC driver's question for array types: input functions are told by name here, not by number.
        let sql = sql.replace("'pg_catalog.array_in'::regproc", "'array_in'");
        Some(match self.parser.parse(&sql) {
            Ok(statements) => Ok(statements
                .into_iter()
                .map(|mut statement| {
                    if let Some(nothing) = writing::nothing_of(&statement) {
                        statement = nothing;
                    }
                    writing::rewrite(&mut statement);
                    Statement::Statement(Box::new(statement))
                })
                .collect()),
            Err(error) => Err(DataFusionError::SQL(Box::new(error), None)),
        })
    }
}

fn catalog_over(
    listing: Listing,
    statics: Arc<PgCatalogStaticTables>,
) -> DataFusionResult<Arc<dyn SchemaProvider>> {
    let schema = PgCatalogSchemaProvider::try_new(listing, statics, EmptyContextProvider)?;
    Ok(Arc::new(Catalog {
        inner: Arc::new(schema),
    }))
}

/// `session_user` and `current_user`, which is rewritten to it.
pub(crate) fn session_user(user: &str) -> Arc<ScalarUDF> {
    let answer = Constant::new("session_user", ScalarValue::from(user));
    Arc::new(ScalarUDF::from(answer))
}

/// How deep calls stand inside each other, at most.
fn calls_inside_each_other(tokens: &[TokenWithSpan]) -> usize {
    const NO_CALLS: [Keyword; 12] = [
        Keyword::IN,
        Keyword::FROM,
        Keyword::AND,
        Keyword::OR,
        Keyword::ON,
        Keyword::WHERE,
        Keyword::SELECT,
        Keyword::EXISTS,
        Keyword::JOIN,
        Keyword::UNION,
        Keyword::ALL,
        Keyword::AS,
    ];
    let mut open = Vec::new();
    let (mut depth, mut deepest) = (0, 0);
    let mut before = &Token::EOF;
    for token in tokens.iter().map(|token| &token.token) {
        match token {
            Token::LParen => {
                let is_call =
                    matches!(before, Token::Word(word) if !NO_CALLS.contains(&word.keyword));
                open.push(is_call);
                depth += usize::from(is_call);
                deepest = deepest.max(depth);
            }
            Token::RParen => depth -= usize::from(open.pop().unwrap_or(false)),
            _ => {}
        }
        if !matches!(token, Token::Whitespace(_)) {
            before = token;
        }
    }
    deepest
}

/// The catalogue as it is now, for `pg_class` and its like.
#[derive(Clone)]
struct Listing {
    shelf: Arc<Shelf>,
    status: Option<Arc<StatusBoard>>,
    access: Access,
    /// The tables of `pg_catalog` itself, for their columns.
    shapes: Arc<dyn SchemaProvider>,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}

impl Listing {
    async fn schema(&self, schema: &str) -> Option<Arc<dyn SchemaProvider>> {
        if schema == PG_CATALOG {
            return Some(self.shapes.clone());
        }
        let view = View::open(self.shelf.clone(), ReadMode::Committed).await;
        let catalogs = Catalogs::new(
            Arc::new(view),
            self.status.clone(),
            self.access.clone(),
            None,
        );
        catalogs.catalog(CATALOG)?.schema(schema)
    }
}

#[async_trait]
impl CatalogInfo for Listing {
    async fn catalog_names(&self) -> DataFusionResult<Vec<String>> {
        Ok(vec![CATALOG.into()])
    }

    async fn schema_names(&self, _: &str) -> DataFusionResult<Option<Vec<String>>> {
        let ours = SCHEMAS.iter().copied();
        Ok(Some(ours.chain([PG_CATALOG]).map(String::from).collect()))
    }

    async fn table_names(&self, _: &str, schema: &str) -> DataFusionResult<Option<Vec<String>>> {
        Ok(self.schema(schema).await.map(|schema| schema.table_names()))
    }

    async fn table_schema(
        &self,
        _: &str,
        schema: &str,
        table: &str,
    ) -> DataFusionResult<Option<SchemaRef>> {
        let Some(schema) = self.schema(schema).await else {
            return Ok(None);
        };
        Ok(schema.table(table).await?.map(|table| table.schema()))
    }

    async fn table_type(
        &self,
        _: &str,
        schema: &str,
        _: &str,
    ) -> DataFusionResult<Option<TableType>> {
        Ok(Some(match schema {
            SYSTEM => TableType::View,
            _ => TableType::Base,
        }))
    }
}

/// The state with the functions and types that Postgres has.
fn with_functions(base: &SessionState) -> DataFusionResult<SessionState> {
    // The set-up wants a catalogue in which a schema can be registered. Ours takes its place for each query.
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.into(), Arc::new(MemoryCatalogProvider::new()));
    let state = SessionStateBuilder::new_from_existing(base.clone())
        .with_catalog_list(Arc::new(catalogs))
        .build();
    let context = SessionContext::new_with_state(state);
    setup_pg_catalog(&context, CATALOG, EmptyContextProvider).map_err(|error| *error)?;
    for function in functions() {
        context.register_udf(function);
    }
    Ok(context.state())
}

/// Functions that clients call while they connect or list tables, and that have one answer here.
fn functions() -> Vec<ScalarUDF> {
    let version = format!("PostgreSQL {POSTGRES_VERSION} (Alluvium)");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let started = started.and_then(|since| i64::try_from(since.as_micros()).ok());
    let started = ScalarValue::TimestampMicrosecond(started, Some("UTC".into()));
    let mut functions: Vec<ScalarUDF> = [
        ("version", ScalarValue::from(version)),
        ("pg_is_in_recovery", ScalarValue::from(false)),
        ("pg_get_userbyid", ScalarValue::from("alluvium")),
        ("pg_type_is_visible", ScalarValue::from(true)),
        ("pg_function_is_visible", ScalarValue::from(true)),
        ("pg_operator_is_visible", ScalarValue::from(true)),
        ("pg_collation_is_visible", ScalarValue::from(true)),
        ("pg_conversion_is_visible", ScalarValue::from(true)),
        ("pg_opclass_is_visible", ScalarValue::from(true)),
        ("pg_opfamily_is_visible", ScalarValue::from(true)),
        ("pg_statistics_obj_is_visible", ScalarValue::from(true)),
        ("pg_ts_config_is_visible", ScalarValue::from(true)),
        ("pg_ts_dict_is_visible", ScalarValue::from(true)),
        ("pg_ts_parser_is_visible", ScalarValue::from(true)),
        ("pg_ts_template_is_visible", ScalarValue::from(true)),
        // What may be read is decided where tables are looked up; nothing else can be done.
        ("has_column_privilege", ScalarValue::from(true)),
        ("has_function_privilege", ScalarValue::from(true)),
        ("has_language_privilege", ScalarValue::from(true)),
        ("has_sequence_privilege", ScalarValue::from(true)),
        ("has_server_privilege", ScalarValue::from(true)),
        ("has_tablespace_privilege", ScalarValue::from(true)),
        ("has_type_privilege", ScalarValue::from(true)),
        (
            "has_foreign_data_wrapper_privilege",
            ScalarValue::from(true),
        ),
        ("pg_has_role", ScalarValue::from(true)),
        ("row_security_active", ScalarValue::from(false)),
        ("getdatabaseencoding", ScalarValue::from("UTF8")),
        ("pg_char_to_encoding", ScalarValue::from(6)),
        ("pg_tablespace_size", ScalarValue::Int64(None)),
        ("pg_describe_object", ScalarValue::Utf8(None)),
        ("pg_get_function_sqlbody", ScalarValue::Utf8(None)),
        ("pg_get_ruledef", ScalarValue::Utf8(None)),
        ("pg_get_functiondef", ScalarValue::from(BUILT_IN)),
        // Nothing is changed by SQL, so there are no transactions to be told apart.
        ("txid_current", ScalarValue::from(1_i64)),
        ("pg_current_xact_id", ScalarValue::from(1_i64)),
        ("pg_postmaster_start_time", started),
        // Types of extensions, which drivers ask for; there are none.
        ("to_regtype", ScalarValue::Int32(None)),
        ("pg_size_pretty", ScalarValue::Utf8(None)),
        ("pg_table_size", ScalarValue::Int64(None)),
        ("pg_indexes_size", ScalarValue::Int64(None)),
        ("pg_database_size", ScalarValue::Int64(None)),
        ("pg_get_function_result", ScalarValue::Utf8(None)),
        ("pg_get_function_arguments", ScalarValue::Utf8(None)),
        (
            "pg_get_function_identity_arguments",
            ScalarValue::Utf8(None),
        ),
        ("obj_description", ScalarValue::Utf8(None)),
        ("col_description", ScalarValue::Utf8(None)),
        ("shobj_description", ScalarValue::Utf8(None)),
        ("pg_get_viewdef", ScalarValue::Utf8(None)),
        ("pg_get_indexdef", ScalarValue::Utf8(None)),
        ("pg_get_triggerdef", ScalarValue::Utf8(None)),
        ("pg_get_serial_sequence", ScalarValue::Utf8(None)),
        ("pg_tablespace_location", ScalarValue::Utf8(None)),
        ("inet_server_addr", ScalarValue::Utf8(None)),
        ("inet_server_port", ScalarValue::Int32(None)),
    ]
    .map(|(name, value)| ScalarUDF::from(Constant::new(name, value)))
    .into();
    functions.push(ScalarUDF::from(CurrentSetting::new()));
    functions.push(ScalarUDF::from(SetConfig::new()));
    functions.push(ScalarUDF::from(EncodingName::new()));
    functions
}

/// What `\\sf` shows: there is no text.
const BUILT_IN: &str = "-- built into Alluvium; its functions are described in docs/sql.md\n";

/// A function that answers the same whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: &'static str,
    value: ScalarValue,
    signature: Signature,
}

impl Constant {
    fn new(name: &'static str, value: ScalarValue) -> Self {
        let any = [
            datafusion::logical_expr::TypeSignature::Nullary,
            datafusion::logical_expr::TypeSignature::VariadicAny,
        ];
        Self {
            name,
            value,
            signature: Signature::one_of(any.into(), Volatility::Stable),
        }
    }
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// `current_setting(name [, missing_ok])`, for settings that no session changes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CurrentSetting {
    signature: Signature,
}

impl CurrentSetting {
    fn new() -> Self {
        use datafusion::logical_expr::TypeSignature::Exact;
        let forms = vec![
            Exact(vec![DataType::Utf8]),
            Exact(vec![DataType::Utf8, DataType::Boolean]),
        ];
        Self {
            signature: Signature::one_of(forms, Volatility::Stable),
        }
    }
}

/// Settings that are the same for all sessions.
const FIXED: [(&str, &str); 26] = [
    ("server_version", POSTGRES_VERSION),
    ("server_version_num", "160006"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("search_path", "public"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
    ("default_transaction_read_only", "on"),
    ("is_superuser", "off"),
    ("in_hot_standby", "off"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("block_size", "8192"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("bytea_output", "hex"),
    ("password_encryption", "scram-sha-256"),
];

/// A setting that is the same for all sessions.
pub fn fixed_setting(name: &str) -> Option<&'static str> {
    FIXED
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| *value)
}

/// `pg_catalog` with our own settings in `pg_settings`, and with relations about what does not exist here.
#[derive(Debug)]
struct Catalog {
    inner: Arc<dyn SchemaProvider>,
}

#[async_trait]
impl SchemaProvider for Catalog {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.inner.table_names();
        names.extend(absent::names().map(str::to_owned));
        names
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
            || absent::names().any(|known| known.eq_ignore_ascii_case(name))
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        if name.eq_ignore_ascii_case("pg_settings") {
            return Ok(Some(Arc::new(all_settings()?)));
        }
        match absent::relation(name) {
            Some(relation) => Ok(Some(Arc::new(relation?))),
            None => self.inner.table(name).await,
        }
    }
}

/// The rows of `pg_settings`: what is the same for all sessions.
fn all_settings() -> DataFusionResult<MemTable> {
    const TEXTS: [&str; 13] = [
        "name",
        "setting",
        "unit",
        "category",
        "short_desc",
        "extra_desc",
        "context",
        "vartype",
        "source",
        "min_val",
        "max_val",
        "boot_val",
        "reset_val",
    ];
    let count = FIXED.len();
    let same = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    for name in TEXTS {
        let settings = FIXED.iter();
        let values: ArrayRef = match name {
            "name" => Arc::new(StringArray::from_iter_values(
                settings.map(|(name, _)| *name),
            )),
            "setting" | "boot_val" | "reset_val" => Arc::new(StringArray::from_iter_values(
                settings.map(|(_, value)| *value),
            )),
            "category" => same("Preset Options"),
            "context" => same("internal"),
            "vartype" => same("string"),
            "source" => same("default"),
            _ => new_null_array(&DataType::Utf8, count),
        };
        columns.push((name, values));
    }
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    for (name, kind) in [
        ("enumvals", DataType::List(item)),
        ("sourcefile", DataType::Utf8),
        ("sourceline", DataType::Int32),
    ] {
        columns.push((name, new_null_array(&kind, count)));
    }
    columns.push((
        "pending_restart",
        Arc::new(BooleanArray::from(vec![false; count])),
    ));
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, values)| (name, values, true)),
    )?;
    MemTable::try_new(rows.schema(), vec![vec![rows]])
}

impl ScalarUDFImpl for CurrentSetting {
    fn name(&self) -> &str {
        "current_setting"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let may_miss = args.args.len() == 2;
        let names = args.args[0].to_array(args.number_rows)?;
        let mut values = Vec::with_capacity(names.len());
        for name in names.as_string::<i32>() {
            let value = name.and_then(fixed_setting);
            if value.is_none() && !may_miss {
                return plan_err!("there is no setting {}", name.unwrap_or("NULL"));
            }
            values.push(value);
        }
        let values: ArrayRef = Arc::new(StringArray::from(values));
        Ok(ColumnarValue::Array(values))
    }
}

/// `set_config(name, value, is_local)`, which drivers call to hear what they set already: a setting's own value.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SetConfig {
    signature: Signature,
}

impl SetConfig {
    fn new() -> Self {
        let form = vec![DataType::Utf8, DataType::Utf8, DataType::Boolean];
        Self {
            signature: Signature::exact(form, Volatility::Stable),
        }
    }
}

impl ScalarUDFImpl for SetConfig {
    fn name(&self) -> &str {
        "set_config"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [names, values] =
            [0, 1].map(|place: usize| args.args[place].to_array(args.number_rows));
        let (names, values) = (names?, values?);
        for (name, value) in names
            .as_string::<i32>()
            .iter()
            .zip(values.as_string::<i32>())
        {
            let (name, value) = (name.unwrap_or_default(), value.unwrap_or_default());
            let known = fixed_setting(name);
            if !known.is_some_and(|known| known.eq_ignore_ascii_case(value)) {
                return plan_err!("set_config changes nothing here; write SET {name} = '{value}'");
            }
        }
        Ok(ColumnarValue::Array(values))
    }
}

/// `pg_encoding_to_char(number)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct EncodingName {
    signature: Signature,
}

impl EncodingName {
    fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Int32], Volatility::Immutable),
        }
    }
}

/// Postgres' character sets by their numbers.
const ENCODINGS: [&str; 42] = [
    "SQL_ASCII",
    "EUC_JP",
    "EUC_CN",
    "EUC_KR",
    "EUC_TW",
    "EUC_JIS_2004",
    "UTF8",
    "MULE_INTERNAL",
    "LATIN1",
    "LATIN2",
    "LATIN3",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "WIN1256",
    "WIN1258",
    "WIN866",
    "WIN874",
    "KOI8R",
    "WIN1251",
    "WIN1252",
    "ISO_8859_5",
    "ISO_8859_6",
    "ISO_8859_7",
    "ISO_8859_8",
    "WIN1250",
    "WIN1253",
    "WIN1254",
    "WIN1255",
    "WIN1257",
    "KOI8U",
    "SJIS",
    "BIG5",
    "GBK",
    "UHC",
    "GB18030",
    "JOHAB",
    "SHIFT_JIS_2004",
];

impl ScalarUDFImpl for EncodingName {
    fn name(&self) -> &str {
        "pg_encoding_to_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let numbers = args.args[0].to_array(args.number_rows)?;
        let names = numbers.as_primitive::<Int32Type>().iter().map(|number| {
            let place = usize::try_from(number?).ok()?;
            Some(ENCODINGS.get(place).copied().unwrap_or_default())
        });
        Ok(ColumnarValue::Array(Arc::new(
            names.collect::<StringArray>(),
        )))
    }
}
