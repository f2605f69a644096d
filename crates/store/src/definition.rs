//! Whether a table on storage is the table that a pipeline file asks for (P38).
//!
//! Owns the comparison and the schema of a new or grown table. Does not own the text of a definition: the plan writes
//! one `key: value` a line.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_plan::{PartitionBy, TableShape, window_of};
use datafusion::arrow::datatypes::{DataType, Field, Schema};

use crate::{
    StoreError, TableSpec,
    action::{Format, Metadata, Protocol},
    clock::wall_millis,
    snapshot::{LOG_RETENTION, Snapshot, delta_schema, writable},
};

pub(crate) const DEFINITION: &str = "alluvium.definition";
pub(crate) const PIPELINE: &str = "alluvium.pipeline";
const EXPIRING: &str = "delta.setTransactionRetentionDuration";

/// What opening found.
#[derive(Debug)]
pub(crate) enum Fit {
    /// The same table.
    Same,
    /// The same table with measures that it does not have yet; this metadata adds them (P35).
    Grow(Box<Metadata>),
}

/// Compares the table with what the pipeline wants of it.
pub(crate) fn fit(
    table: &Arc<str>,
    snapshot: &Snapshot,
    spec: &TableSpec,
) -> Result<Fit, StoreError> {
    refuse_foreign(table, snapshot, &spec.pipeline)?;
    let configuration = &snapshot.metadata.configuration;
    let recorded = configuration.get(DEFINITION).map_or("", String::as_str);
    let changed = |why: String| StoreError::Changed {
        table: table.clone(),
        why,
        recorded: recorded.to_owned(),
        wanted: spec.definition.clone(),
    };
    let columns: Vec<&str> = spec.partition_by.column().into_iter().collect();
    if snapshot.metadata.partition_columns != columns {
        return Err(changed(
            "partition_by is fixed when a table is created".into(),
        ));
    }
    let stored = TableShape::from_pane_schema(&snapshot.schema).map_err(|error| {
        StoreError::Unsupported {
            table: table.clone(),
            what: error.to_string(),
        }
    })?;
    let new_measures: Vec<&str> = spec
        .shape
        .measures
        .iter()
        .map(|measure| measure.name.as_ref())
        .filter(|name| !stored.measures.iter().any(|old| old.name.as_ref() == *name))
        .collect();
    compare_lines(recorded, &spec.definition, &new_measures).map_err(&changed)?;
    if recorded == spec.definition {
        compare_columns(&snapshot.schema, &spec.shape).map_err(changed)?;
        return Ok(Fit::Same);
    }
    for old in &stored.states {
        let kept = spec.shape.states.iter().any(|state| {
            state.name == old.name && state.kind == old.kind && state.data_type == old.data_type
        });
        if !kept {
            return Err(changed(format!(
                "state column {} would no longer be written as it is stored",
                old.name
            )));
        }
    }
    let metadata = Metadata {
        schema_string: schema_string(
            table,
            &spec.shape,
            spec.partition_by,
            Some(&snapshot.schema),
        )?,
        configuration: configuration
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain([(DEFINITION.to_owned(), spec.definition.clone())])
            .collect(),
        ..snapshot.metadata.clone()
    };
    Ok(Fit::Grow(Box::new(metadata)))
}

/// Refuses what no writer of ours may touch.
pub(crate) fn refuse_foreign(
    table: &Arc<str>,
    snapshot: &Snapshot,
    pipeline: &str,
) -> Result<(), StoreError> {
    let configuration = &snapshot.metadata.configuration;
    writable(&snapshot.protocol).map_err(|what| StoreError::Unsupported {
        table: table.clone(),
        what,
    })?;
    if configuration.contains_key(EXPIRING) {
        return Err(StoreError::ExpiringOffsets {
            table: table.clone(),
        });
    }
    match configuration.get(PIPELINE) {
        Some(owner) if owner == pipeline => Ok(()),
        Some(owner) => Err(StoreError::OtherPipeline {
            table: table.clone(),
            owner: owner.clone(),
            pipeline: pipeline.to_owned(),
        }),
        None => Err(StoreError::Unsupported {
            table: table.clone(),
            what: "its metadata names no pipeline, so it was not made by this product".into(),
        }),
    }
}

/// How long the table's windows are, as its definition says.
pub(crate) fn window(snapshot: &Snapshot) -> Option<Duration> {
    window_of(snapshot.metadata.configuration.get(DEFINITION)?)
}

/// Every recorded line must still be there; a new line must be about a new measure.
fn compare_lines(recorded: &str, wanted: &str, new_measures: &[&str]) -> Result<(), String> {
    let old: Vec<&str> = recorded.lines().map(str::trim_end).collect();
    let new: Vec<&str> = wanted.lines().map(str::trim_end).collect();
    if let Some(lost) = old.iter().find(|line| !new.contains(line)) {
        return Err(format!("`{}` is no longer there", lost.trim()));
    }
    let about_new_measure = |line: &str| {
        line.strip_prefix("measure ")
            .and_then(|rest| rest.split_once(": "))
            .is_some_and(|(name, _)| new_measures.contains(&name))
    };
    match new
        .iter()
        .find(|line| !old.contains(line) && !about_new_measure(line))
    {
        Some(added) => Err(format!("`{}` is new", added.trim())),
        None => Ok(()),
    }
}

/// The columns that panes bring must be in the table, with their types.
pub(crate) fn compare_columns(stored: &Schema, shape: &TableShape) -> Result<(), String> {
    for field in shape.pane_schema().fields() {
        match stored.field_with_name(field.name()) {
            Ok(known) if known.data_type().equals_datatype(field.data_type()) => {}
            Ok(known) => {
                return Err(format!(
                    "column {} is stored as {} and would be written as {}",
                    field.name(),
                    known.data_type(),
                    field.data_type()
                ));
            }
            Err(_) => return Err(format!("the table has no column {}", field.name())),
        }
    }
    Ok(())
}

/// Delta's schema of a table. Columns that are younger than `grown_from` may be absent in older files: nullable.
fn schema_string(
    table: &Arc<str>,
    shape: &TableShape,
    partition_by: PartitionBy,
    grown_from: Option<&Schema>,
) -> Result<String, StoreError> {
    let mut fields: Vec<Field> = shape
        .pane_schema()
        .fields()
        .iter()
        .map(|field| {
            let nullable = match grown_from.map(|older| older.field_with_name(field.name())) {
                None => field.is_nullable(),
                Some(Ok(older)) => older.is_nullable(),
                Some(Err(_)) => true,
            };
            field.as_ref().clone().with_nullable(nullable)
        })
        .collect();
    fields.extend(
        partition_by
            .column()
            .map(|column| Field::new(column, DataType::Date32, true)),
    );
    let broken = |what| StoreError::Broken {
        table: table.clone(),
        what,
    };
    delta_schema(&Schema::new(fields)).map_err(broken)
}

/// Metadata of a table that does not exist yet.
pub(crate) fn new_metadata(
    table: &Arc<str>,
    spec: &TableSpec,
    log_retention: std::time::Duration,
) -> Result<Metadata, StoreError> {
    let schema = schema_string(table, &spec.shape, spec.partition_by, None)?;
    let mut metadata = plain_metadata(&spec.name, &spec.pipeline, schema, log_retention);
    metadata.partition_columns = spec
        .partition_by
        .column()
        .map(str::to_owned)
        .into_iter()
        .collect();
    metadata
        .configuration
        .insert(DEFINITION.to_owned(), spec.definition.clone());
    Ok(metadata)
}

/// Metadata of any table of ours.
pub(crate) fn plain_metadata(
    name: &str,
    pipeline: &str,
    schema_string: String,
    log_retention: std::time::Duration,
) -> Metadata {
    Metadata {
        id: uuid::Uuid::new_v4().to_string(),
        name: Some(name.to_owned()),
        description: None,
        format: Format {
            provider: "parquet".into(),
            options: BTreeMap::new(),
        },
        schema_string,
        partition_columns: Vec::new(),
        configuration: BTreeMap::from([
            (
                LOG_RETENTION.to_owned(),
                format!("interval {} seconds", log_retention.as_secs()),
            ),
            // Clean-up is ours alone: only we keep its commits in the ledger first (P37).
            (
                "delta.enableExpiredLogCleanup".to_owned(),
                "false".to_owned(),
            ),
            (PIPELINE.to_owned(), pipeline.to_owned()),
        ]),
        created_time: Some(wall_millis()),
    }
}

/// What any Delta reader since 2019 understands.
pub(crate) fn protocol() -> Protocol {
    Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        reader_features: Vec::new(),
        writer_features: Vec::new(),
    }
}
