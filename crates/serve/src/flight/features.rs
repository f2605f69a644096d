//! What this server says it can do, and which types it knows.

use std::{collections::HashMap, sync::LazyLock};

use arrow_flight::sql::{
    CommandGetSqlInfo, CommandGetXdbcTypeInfo, Nullable, Searchable, SqlInfo, SqlNullOrdering,
    SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries,
    SqlSupportedTransaction, SqlSupportedUnions, SqlTransactionIsolationLevel, SupportedSqlGrammar,
    XdbcDataType, XdbcDatetimeSubcode,
    metadata::{
        SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
    },
};
use datafusion::arrow::record_batch::RecordBatch;
use tonic::Status;

use super::granted::Granted;

/// What is offered.
pub(super) fn offered() -> &'static SqlInfoData {
    static OFFERED: LazyLock<SqlInfoData> = LazyLock::new(|| {
        let mut offered = SqlInfoDataBuilder::new();
        offered.append(SqlInfo::FlightSqlServerName, "Alluvium");
        offered.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
        offered.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
        for (info, is_offered) in [
            (SqlInfo::FlightSqlServerReadOnly, true),
            (SqlInfo::FlightSqlServerSql, true),
            (SqlInfo::FlightSqlServerSubstrait, false),
            (SqlInfo::FlightSqlServerCancel, true),
            (SqlInfo::FlightSqlServerBulkIngestion, false),
            (SqlInfo::FlightSqlServerIngestTransactionsSupported, false),
            (SqlInfo::SqlDdlCatalog, false),
            (SqlInfo::SqlDdlSchema, false),
            (SqlInfo::SqlDdlTable, false),
            (SqlInfo::SqlAllTablesAreSelectable, true),
            (SqlInfo::SqlSupportsColumnAliasing, true),
            (SqlInfo::SqlNullPlusNullIsNull, true),
            (SqlInfo::SqlSupportsTableCorrelationNames, true),
            (SqlInfo::SqlSupportsExpressionsInOrderBy, true),
            (SqlInfo::SqlSupportsOrderByUnrelated, true),
            (SqlInfo::SqlSupportsLikeEscapeClause, true),
            (SqlInfo::SqlSelectForUpdateSupported, false),
            (SqlInfo::SqlStoredProceduresSupported, false),
            (SqlInfo::SqlCorrelatedSubqueriesSupported, true),
            (SqlInfo::SqlSupportsDifferentTableCorrelationNames, false),
            (SqlInfo::SqlSupportsNonNullableColumns, false),
            (SqlInfo::SqlSupportsIntegrityEnhancementFacility, false),
            (SqlInfo::SqlCatalogAtStart, true),
            (SqlInfo::SqlMaxRowSizeIncludesBlobs, true),
            (SqlInfo::SqlTransactionsSupported, false),
            (SqlInfo::SqlDataDefinitionCausesTransactionCommit, false),
            (SqlInfo::SqlDataDefinitionsInTransactionsIgnored, true),
            (SqlInfo::SqlBatchUpdatesSupported, false),
            (SqlInfo::SqlSavepointsSupported, false),
            (SqlInfo::SqlNamedParametersSupported, false),
            (SqlInfo::SqlLocatorsUpdateCopy, false),
            (SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false),
        ] {
            offered.append(info, is_offered);
        }
        let none = SqlSupportedTransaction::None as i32;
        offered.append(SqlInfo::FlightSqlServerTransaction, none);
        let [lower, sensitive] = [
            SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase,
            SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown,
        ]
        .map(|case| case as i32);
        offered.append(SqlInfo::SqlIdentifierCase, lower);
        offered.append(SqlInfo::SqlQuotedIdentifierCase, sensitive);
        let nulls = SqlNullOrdering::SqlNullsSortedHigh as i32;
        offered.append(SqlInfo::SqlNullOrdering, nulls);
        for (info, kinds) in kinds() {
            offered.append(info, kinds);
        }
        for info in WITHOUT_LIMIT {
            offered.append(info, 0_i64);
        }
        offered.append(SqlInfo::SqlMaxStatementLength, LONGEST_STATEMENT);
        offered.append(SqlInfo::SqlMaxColumnsInIndex, 0_i64);
        // None, the only level that there is without transactions.
        offered.append(SqlInfo::SqlDefaultTransactionIsolation, 0_i64);
        // There is CAST, and no CONVERT.
        offered.append(SqlInfo::SqlSupportsConvert, HashMap::new());
        for (info, names) in [
            (SqlInfo::SqlKeywords, KEYWORDS),
            (SqlInfo::SqlNumericFunctions, NUMERIC),
            (SqlInfo::SqlStringFunctions, STRING),
            (SqlInfo::SqlDatetimeFunctions, DATETIME),
            (SqlInfo::SqlSystemFunctions, SYSTEM),
        ] {
            offered.append(info, names);
        }
        for (info, text) in [
            (SqlInfo::SqlProcedureTerm, "procedure"),
            (SqlInfo::SqlExtraNameCharacters, ""),
            (SqlInfo::SqlIdentifierQuoteChar, "\""),
            (SqlInfo::SqlSearchStringEscape, "\\"),
            (SqlInfo::SqlSchemaTerm, "schema"),
            (SqlInfo::SqlCatalogTerm, "catalog"),
        ] {
            offered.append(info, text);
        }
        offered
            .build()
            .expect("each value has its own kind's column")
    });
    &OFFERED
}

pub(super) async fn sql_info(
    _: &Granted,
    command: CommandGetSqlInfo,
) -> Result<RecordBatch, Status> {
    command
        .into_builder(offered())
        .build()
        .map_err(Status::from)
}

/// Which kinds there are of what comes in several; a bit for each.
fn kinds() -> [(SqlInfo, i32); 15] {
    let all = |numbers: &[i32]| numbers.iter().fold(0, |bits, number| bits | 1 << number);
    [
        (
            SqlInfo::SqlSupportedGroupBy,
            all(&[
                SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
                SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedGrammar,
            all(&[
                SupportedSqlGrammar::SqlMinimumGrammar as i32,
                SupportedSqlGrammar::SqlCoreGrammar as i32,
            ]),
        ),
        (
            SqlInfo::SqlAnsi92SupportedLevel,
            // Its entry level, whose number is 0.
            1,
        ),
        (
            SqlInfo::SqlOuterJoinsSupportLevel,
            all(&[
                SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32,
                SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedSubqueries,
            all(&[
                SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
                SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
                SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedUnions,
            all(&[
                SqlSupportedUnions::SqlUnion as i32,
                SqlSupportedUnions::SqlUnionAll as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedTransactionsIsolationLevels,
            all(&[SqlTransactionIsolationLevel::SqlTransactionNone as i32]),
        ),
        (
            SqlInfo::SqlSupportedResultSetTypes,
            all(&[SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]),
        ),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly,
            all(&[SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32]),
        ),
        (SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
            0,
        ),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
            0,
        ),
        (SqlInfo::SqlSupportedPositionedCommands, 0),
        // Procedures, indexes and privileges are what could be told apart by schema.
        (SqlInfo::SqlSchemasSupportedActions, 0),
        (SqlInfo::SqlCatalogsSupportedActions, 0),
    ]
}

/// The engine's own limit, in bytes.
const LONGEST_STATEMENT: i64 = 64 << 10;

/// What has no limit of its own: 0 says so.
const WITHOUT_LIMIT: [SqlInfo; 18] = [
    SqlInfo::SqlMaxBinaryLiteralLength,
    SqlInfo::SqlMaxCharLiteralLength,
    SqlInfo::SqlMaxColumnNameLength,
    SqlInfo::SqlMaxColumnsInGroupBy,
    SqlInfo::SqlMaxColumnsInOrderBy,
    SqlInfo::SqlMaxColumnsInSelect,
    SqlInfo::SqlMaxColumnsInTable,
    SqlInfo::SqlMaxConnections,
    SqlInfo::SqlMaxCursorNameLength,
    SqlInfo::SqlMaxIndexLength,
    SqlInfo::SqlDbSchemaNameLength,
    SqlInfo::SqlMaxProcedureNameLength,
    SqlInfo::SqlMaxCatalogNameLength,
    SqlInfo::SqlMaxRowSize,
    SqlInfo::SqlMaxStatements,
    SqlInfo::SqlMaxTableNameLength,
    SqlInfo::SqlMaxTablesInSelect,
    SqlInfo::SqlMaxUsernameLength,
];

/// Words that the standard does not keep for itself.
const KEYWORDS: &[&str] = &["ilike", "limit", "offset", "qualify"];
const NUMERIC: &[&str] = &[
    "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cot", "degrees", "exp", "floor", "ln",
    "log10", "pi", "power", "radians", "random", "round", "sin", "sqrt", "tan", "trunc",
];
const STRING: &[&str] = &[
    "ascii", "chr", "concat", "left", "length", "lower", "lpad", "ltrim", "repeat", "replace",
    "right", "rpad", "rtrim", "substr", "trim", "upper",
];
const DATETIME: &[&str] = &[
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "now",
    "to_timestamp",
];
const SYSTEM: &[&str] = &["coalesce", "nullif"];

/// The types that columns and parameters have.
pub(super) fn types() -> &'static XdbcTypeInfoData {
    static TYPES: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
        let mut types = XdbcTypeInfoDataBuilder::new();
        for (name, data_type, size, radix) in [
            ("boolean", XdbcDataType::XdbcBit, 1, None),
            ("smallint", XdbcDataType::XdbcSmallint, 5, Some(10)),
            ("integer", XdbcDataType::XdbcInteger, 10, Some(10)),
            ("bigint", XdbcDataType::XdbcBigint, 19, Some(10)),
            ("real", XdbcDataType::XdbcReal, 24, Some(2)),
            ("double", XdbcDataType::XdbcDouble, 53, Some(2)),
        ] {
            types.append(XdbcTypeInfo {
                unsigned_attribute: radix.map(|_| false),
                num_prec_radix: radix,
                ..named(name, data_type, size)
            });
        }
        types.append(XdbcTypeInfo {
            create_params: Some(vec!["precision".into(), "scale".into()]),
            unsigned_attribute: Some(false),
            minimum_scale: Some(0),
            maximum_scale: Some(38),
            num_prec_radix: Some(10),
            ..named("decimal", XdbcDataType::XdbcDecimal, 38)
        });
        types.append(XdbcTypeInfo {
            case_sensitive: true,
            ..quoted("varchar", XdbcDataType::XdbcVarchar, i32::MAX)
        });
        types.append(named("varbinary", XdbcDataType::XdbcVarbinary, i32::MAX));
        types.append(XdbcTypeInfo {
            sql_data_type: XdbcDataType::XdbcDatetime,
            // The protocol has one number for a date and for a year.
            datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeYear),
            ..quoted("date", XdbcDataType::XdbcDate, 10)
        });
        types.append(XdbcTypeInfo {
            sql_data_type: XdbcDataType::XdbcDatetime,
            datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
            minimum_scale: Some(0),
            maximum_scale: Some(6),
            ..quoted("timestamp", XdbcDataType::XdbcTimestamp, 32)
        });
        types.build().expect("each value has its own column")
    });
    &TYPES
}

fn named(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.into(),
        data_type,
        sql_data_type: data_type,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..XdbcTypeInfo::default()
    }
}

fn quoted(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        literal_prefix: Some("'".into()),
        literal_suffix: Some("'".into()),
        ..named(name, data_type, size)
    }
}

pub(super) async fn type_info(
    _: &Granted,
    command: CommandGetXdbcTypeInfo,
) -> Result<RecordBatch, Status> {
    let wanted = command.data_type;
    types().record_batch(wanted).map_err(Status::from)
}
