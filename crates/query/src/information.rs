//! `information_schema` with the columns and type names of the standard, which tools ask for.
//!
//! Owns `columns`, the one character set, and the relations of constraints, grants, triggers and sequences, of which there are none. The others are DataFusion's.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, Int32Builder, RecordBatch, StringArray, StringBuilder},
        datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    },
    catalog::{
        CatalogProviderList, MemTable, SchemaProvider, TableFunction, TableProvider,
        information_schema::InformationSchemaProvider,
    },
    common::Result,
    datasource::TableType,
};

use crate::names::{CATALOG, PG_CATALOG, SCHEMAS};

/// Its name in the catalogue.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
const COLUMNS: &str = "columns";
/// What text is made of.
const CHARACTER_SETS: &str = "character_sets";

/// What a tool joins to find keys, or asks about grants, triggers and sequences: nothing is in them.
const CONSTRAINTS: [(&str, &[&str]); 10] = [
    (
        "table_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "constraint_type",
            "is_deferrable",
            "initially_deferred",
            "enforced",
        ],
    ),
    (
        "key_column_usage",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "position_in_unique_constraint",
        ],
    ),
    (
        "constraint_column_usage",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
        ],
    ),
    (
        "referential_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "unique_constraint_catalog",
            "unique_constraint_schema",
            "unique_constraint_name",
            "match_option",
            "update_rule",
            "delete_rule",
        ],
    ),
    (
        "check_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "check_clause",
        ],
    ),
    ("table_privileges", TABLE_GRANTS),
    ("role_table_grants", TABLE_GRANTS),
    (
        "column_privileges",
        &[
            "grantor",
            "grantee",
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "privilege_type",
            "is_grantable",
        ],
    ),
    (
        "triggers",
        &[
            "trigger_catalog",
            "trigger_schema",
            "trigger_name",
            "event_manipulation",
            "event_object_catalog",
            "event_object_schema",
            "event_object_table",
            "action_order",
            "action_condition",
            "action_statement",
            "action_orientation",
            "action_timing",
        ],
    ),
    (
        "sequences",
        &[
            "sequence_catalog",
            "sequence_schema",
            "sequence_name",
            "data_type",
            "start_value",
            "minimum_value",
            "maximum_value",
            "increment",
            "cycle_option",
        ],
    ),
];

const TABLE_GRANTS: &[&str] = &[
    "grantor",
    "grantee",
    "table_catalog",
    "table_schema",
    "table_name",
    "privilege_type",
    "is_grantable",
    "with_hierarchy",
];

/// The schema, over a catalogue that shows only what its reader may know of.
#[derive(Debug)]
pub(crate) struct InformationSchema {
    list: Arc<dyn CatalogProviderList>,
    usual: InformationSchemaProvider,
}

impl InformationSchema {
    pub(crate) fn over(
        list: Arc<dyn CatalogProviderList>,
        table_functions: HashMap<String, Arc<TableFunction>>,
    ) -> Self {
        let usual = InformationSchemaProvider::new(list.clone());
        Self {
            list,
            usual: usual.with_table_functions(table_functions),
        }
    }

    async fn columns(&self) -> Result<MemTable> {
        let mut columns = Columns::default();
        let Some(catalog) = self.list.catalog(CATALOG) else {
            return columns.build();
        };
        for name in SCHEMAS {
            let Some(schema) = catalog.schema(name) else {
                continue;
            };
            for table in schema.table_names() {
                if let Some(provider) = schema.table(&table).await? {
                    for (place, field) in (1..).zip(provider.schema().fields()) {
                        columns.push(name, &table, place, field);
                    }
                }
            }
        }
        columns.build()
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.usual.table_names();
        names.push(CHARACTER_SETS.to_owned());
        names.extend(CONSTRAINTS.iter().map(|(name, _)| (*name).to_owned()));
        names
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name == COLUMNS {
            return Ok(Some(Arc::new(self.columns().await?)));
        }
        if name == CHARACTER_SETS {
            return Ok(Some(Arc::new(character_sets()?)));
        }
        if let Some((_, columns)) = CONSTRAINTS.iter().find(|(known, _)| *known == name) {
            let fields = columns.iter().map(|column| match *column {
                "ordinal_position" | "position_in_unique_constraint" => number(column),
                _ => text(column),
            });
            let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Fields>()));
            return Ok(Some(Arc::new(MemTable::try_new(schema, vec![Vec::new()])?)));
        }
        self.usual.table(name).await
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::View))
    }
}

fn character_sets() -> Result<MemTable> {
    let row = [
        ("character_set_name", "UTF8"),
        ("character_repertoire", "UCS"),
        ("form_of_use", "UTF8"),
        ("default_collate_catalog", CATALOG),
        ("default_collate_schema", PG_CATALOG),
        ("default_collate_name", "C"),
    ];
    let schema: SchemaRef = Arc::new(Schema::new(row.map(|(name, _)| text(name)).to_vec()));
    let values = row.map(|(_, value)| Arc::new(StringArray::from(vec![value])) as ArrayRef);
    let rows = RecordBatch::try_new(schema.clone(), values.to_vec())?;
    MemTable::try_new(schema, vec![vec![rows]])
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int32, true)
}

/// The rows of `columns`.
#[derive(Default)]
struct Columns {
    texts: [StringBuilder; 13],
    numbers: [Int32Builder; 7],
}

/// Those of its columns that are text, in the order of [`Columns::texts`], ...
const TEXTS: [&str; 13] = [
    "table_catalog",
    "table_schema",
    "table_name",
    "column_name",
    "column_default",
    "is_nullable",
    "data_type",
    "interval_type",
    "udt_catalog",
    "udt_schema",
    "udt_name",
    "is_identity",
    "is_updatable",
];
/// ... and those that are numbers.
const NUMBERS: [&str; 7] = [
    "ordinal_position",
    "character_maximum_length",
    "character_octet_length",
    "numeric_precision",
    "numeric_precision_radix",
    "numeric_scale",
    "datetime_precision",
];
/// All of them, in the standard's order.
const ORDER: [&str; 20] = [
    "table_catalog",
    "table_schema",
    "table_name",
    "column_name",
    "ordinal_position",
    "column_default",
    "is_nullable",
    "data_type",
    "character_maximum_length",
    "character_octet_length",
    "numeric_precision",
    "numeric_precision_radix",
    "numeric_scale",
    "datetime_precision",
    "interval_type",
    "udt_catalog",
    "udt_schema",
    "udt_name",
    "is_identity",
    "is_updatable",
];

impl Columns {
    fn push(&mut self, schema: &str, table: &str, place: i32, field: &Field) {
        let known = SqlType::of(field.data_type());
        let texts = [
            Some(CATALOG),
            Some(schema),
            Some(table),
            Some(field.name().as_str()),
            None,
            Some(if field.is_nullable() { "YES" } else { "NO" }),
            Some(known.name),
            None,
            Some(CATALOG),
            Some(PG_CATALOG),
            Some(known.short.as_str()),
            Some("NO"),
            Some("NO"),
        ];
        for (builder, value) in self.texts.iter_mut().zip(texts) {
            builder.append_option(value);
        }
        let radix = known.precision.map(|(_, radix)| radix);
        let numbers = [
            Some(place),
            None,
            None,
            known.precision.map(|(digits, _)| digits),
            radix,
            known.scale,
            known.fraction,
        ];
        for (builder, value) in self.numbers.iter_mut().zip(numbers) {
            builder.append_option(value);
        }
    }

    fn build(mut self) -> Result<MemTable> {
        let mut arrays: HashMap<&str, (Field, ArrayRef)> = HashMap::new();
        for (name, builder) in TEXTS.iter().zip(&mut self.texts) {
            arrays.insert(name, (text(name), Arc::new(builder.finish())));
        }
        for (name, builder) in NUMBERS.iter().zip(&mut self.numbers) {
            arrays.insert(name, (number(name), Arc::new(builder.finish())));
        }
        let in_order = ORDER.iter().filter_map(|name| arrays.remove(name));
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = in_order.unzip();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new(schema.clone(), arrays)?;
        MemTable::try_new(schema, vec![vec![rows]])
    }
}

/// A type as the standard and Postgres name it.
struct SqlType {
    name: &'static str,
    /// Its name in `pg_type`.
    short: String,
    /// Digits, and to which base they are counted.
    precision: Option<(i32, i32)>,
    scale: Option<i32>,
    /// Digits of a second.
    fraction: Option<i32>,
}

impl SqlType {
    fn of(data_type: &DataType) -> Self {
        let plain = |name: &'static str, short: &str| Self {
            name,
            short: short.to_owned(),
            precision: None,
            scale: None,
            fraction: None,
        };
        let whole = |name, short: &str, bits| Self {
            precision: Some((bits, 2)),
            scale: Some(0),
            ..plain(name, short)
        };
        let moment = |name, short: &str, unit: &TimeUnit| Self {
            fraction: Some(match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                // Postgres knows nothing finer.
                TimeUnit::Microsecond | TimeUnit::Nanosecond => 6,
            }),
            ..plain(name, short)
        };
        match data_type {
            DataType::Boolean => plain("boolean", "bool"),
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => whole("smallint", "int2", 16),
            DataType::UInt16 | DataType::Int32 => whole("integer", "int4", 32),
            DataType::UInt32 | DataType::Int64 => whole("bigint", "int8", 64),
            DataType::UInt64 => plain("numeric", "numeric"),
            DataType::Float16 | DataType::Float32 => Self {
                precision: Some((24, 2)),
                ..plain("real", "float4")
            },
            DataType::Float64 => Self {
                precision: Some((53, 2)),
                ..plain("double precision", "float8")
            },
            DataType::Decimal32(digits, scale)
            | DataType::Decimal64(digits, scale)
            | DataType::Decimal128(digits, scale)
            | DataType::Decimal256(digits, scale) => Self {
                precision: Some((i32::from(*digits), 10)),
                scale: Some(i32::from(*scale)),
                ..plain("numeric", "numeric")
            },
            DataType::Date32 | DataType::Date64 => Self {
                fraction: Some(0),
                ..plain("date", "date")
            },
            DataType::Time32(unit) | DataType::Time64(unit) => {
                moment("time without time zone", "time", unit)
            }
            DataType::Timestamp(unit, None) => {
                moment("timestamp without time zone", "timestamp", unit)
            }
            DataType::Timestamp(unit, Some(_)) => {
                moment("timestamp with time zone", "timestamptz", unit)
            }
            DataType::Interval(_) | DataType::Duration(_) => plain("interval", "interval"),
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => plain("bytea", "bytea"),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                let of = Self::of(item.data_type()).short;
                plain("ARRAY", &format!("_{of}"))
            }
            DataType::Dictionary(_, value) => Self::of(value),
            DataType::Struct(_) => plain("record", "record"),
            // Everything else comes out as text.
            _ => plain("text", "text"),
        }
    }
}
