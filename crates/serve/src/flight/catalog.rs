//! What there is to ask: catalogues, schemas, tables and their keys, as the engine's own SQL says.

use std::sync::Arc;

use alluvium_plan::TableShape;
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTableTypes,
    CommandGetTables, metadata::GetCatalogsBuilder,
};
use datafusion::arrow::{
    array::{AsArray, Int32Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use tonic::Status;

use super::{
    granted::Granted,
    refusal::{broken, of_query},
    rows,
};

/// The schema of tables with final values.
const PUBLIC: &str = "public";

pub(super) async fn catalogs(
    granted: &Granted,
    _: CommandGetCatalogs,
) -> Result<RecordBatch, Status> {
    let mut builder = GetCatalogsBuilder::new();
    let sql = "SELECT DISTINCT catalog_name FROM information_schema.schemata";
    for [catalog] in texts(granted, sql).await? {
        builder.append(catalog);
    }
    builder.build().map_err(Status::from)
}

pub(super) async fn schemas(
    granted: &Granted,
    command: CommandGetDbSchemas,
) -> Result<RecordBatch, Status> {
    let mut builder = command.into_builder();
    let sql = "SELECT catalog_name, schema_name FROM information_schema.schemata";
    for [catalog, schema] in texts(granted, sql).await? {
        builder.append(catalog, schema);
    }
    builder.build().map_err(Status::from)
}

pub(super) async fn tables(
    granted: &Granted,
    command: CommandGetTables,
) -> Result<RecordBatch, Status> {
    let mut names = CommandGetTables {
        include_schema: false,
        ..command.clone()
    }
    .into_builder();
    let none = Schema::empty();
    let sql =
        "SELECT table_catalog, table_schema, table_name, table_type FROM information_schema.tables";
    for [catalog, schema, table, kind] in texts(granted, sql).await? {
        let kind = table_type(&kind);
        names
            .append(catalog, schema, table, kind, &none)
            .map_err(Status::from)?;
    }
    let names = names.build().map_err(Status::from)?;
    if !command.include_schema {
        return Ok(names);
    }
    // Only those that are asked for are looked into.
    let mut builder = command.into_builder();
    let column = |number: usize| names.column(number).as_string::<i32>();
    for row in 0..names.num_rows() {
        let [catalog, schema, table, kind] = [0, 1, 2, 3].map(|number| column(number).value(row));
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let sql = format!("SELECT * FROM {}.{}", quoted(schema), quoted(table));
        let described = granted.session().describe(&sql, Vec::new()).await;
        let described = described.map_err(|failed| of_query(&failed))?;
        let columns = rows::plain(&described.schema);
        builder
            .append(catalog, schema, table, kind, &columns)
            .map_err(Status::from)?;
    }
    builder.build().map_err(Status::from)
}

/// As JDBC calls it.
fn table_type(kind: &str) -> &str {
    match kind {
        "BASE TABLE" => "TABLE",
        other => other,
    }
}

pub(super) async fn table_types(
    _: &Granted,
    command: CommandGetTableTypes,
) -> Result<RecordBatch, Status> {
    let mut builder = command.into_builder();
    for kind in ["TABLE", "VIEW"] {
        builder.append(kind);
    }
    builder.build().map_err(Status::from)
}

pub(super) fn primary_key_columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("key_name", DataType::Utf8, true),
    ]))
}

/// A row of a table with final values is its window and group. Nothing else has a key.
pub(super) async fn primary_keys(
    granted: &Granted,
    command: CommandGetPrimaryKeys,
) -> Result<RecordBatch, Status> {
    let catalog = texts(
        granted,
        "SELECT DISTINCT catalog_name FROM information_schema.schemata",
    );
    let catalog = catalog.await?.into_iter().map(|[name]| name).next();
    let is_elsewhere = command.catalog.is_some() && command.catalog != catalog
        || command
            .db_schema
            .as_deref()
            .is_some_and(|schema| schema != PUBLIC);
    let mut keys = Vec::new();
    if !is_elsewhere {
        let known = granted.tables().await.map_err(|failed| of_query(&failed))?;
        let shape = known.into_iter().find(|(name, _)| *name == command.table);
        if let Some((_, shape)) = shape {
            keys.push(TableShape::WINDOW_START.to_owned());
            keys.extend(
                shape
                    .group_columns
                    .iter()
                    .map(|column| column.name().clone()),
            );
        }
    }
    let count = keys.len();
    let same = |text: Option<String>| Arc::new(StringArray::from(vec![text; count]));
    let numbers: Vec<i32> = (1..).take(count).collect();
    let columns: Vec<datafusion::arrow::array::ArrayRef> = vec![
        same(catalog),
        same(Some(PUBLIC.into())),
        same(Some(command.table)),
        Arc::new(StringArray::from(keys)),
        Arc::new(Int32Array::from(numbers)),
        same(None),
    ];
    RecordBatch::try_new(primary_key_columns(), columns).map_err(broken)
}

pub(super) fn foreign_key_columns() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// No table refers to another.
pub(super) async fn no_foreign_keys<C>(_: &Granted, _: C) -> Result<RecordBatch, Status> {
    Ok(RecordBatch::new_empty(foreign_key_columns()))
}

/// The rows of a query with `N` columns of text.
async fn texts<const N: usize>(granted: &Granted, sql: &str) -> Result<Vec<[String; N]>, Status> {
    let asked = async {
        granted
            .session()
            .query(sql, Vec::new())
            .await?
            .collect()
            .await
    };
    let batches = asked.await.map_err(|failed| of_query(&failed))?;
    let mut found = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            found.push(std::array::from_fn(|number| {
                batch
                    .column(number)
                    .as_string::<i32>()
                    .value(row)
                    .to_owned()
            }));
        }
    }
    Ok(found)
}
