//! The commits whose log entries were cleaned up, so that an audit still reaches back to the first (P37).
//!
//! Owns the Delta table `ledger`: one row a commit, keyed by table and version. Several servers may append the same
//! commit, so readers deduplicate. A table that was put back from an older copy comes to the same versions again: then it has a
//! commit of each of them. Does not own the decision what is cleaned up, nor which of two commits a table's history has.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};

use crate::{
    CommitRecord, Store, StoreError,
    action::{Draft, our_info},
    commit::{Decision, Outcome, commit, create_table},
    definition::plain_metadata,
    log::TableLog,
    log_checkpoint::write_checkpoint,
    parquet_reader::read_columns,
    snapshot::{Snapshot, delta_schema},
    stage::Stager,
};

/// Rows of one batch of the ledger.
const BATCH_ROWS: usize = 1024;

/// The columns that are read back.
const COLUMNS: [&str; 3] = ["table", "version", "commit"];

fn schema() -> SchemaRef {
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::Utf8, false),
        Field::new("version", DataType::Int64, false),
        Field::new("timestamp", moment, true),
        Field::new("commit", DataType::Utf8, false),
    ]))
}

/// Opens a table of a fixed schema, or creates it.
pub(crate) async fn open_plain(
    store: &Store,
    log: &TableLog,
    name: &str,
    pipeline: &str,
    schema: &Schema,
) -> Result<Snapshot, StoreError> {
    loop {
        if let Some(snapshot) = log.load().await? {
            return Ok(snapshot);
        }
        let schema = delta_schema(schema).map_err(|what| StoreError::Broken {
            table: log.table.clone(),
            what,
        })?;
        let metadata = plain_metadata(name, pipeline, schema, store.rules().log_retention);
        create_table(log, our_info("create", pipeline), metadata).await?;
    }
}

/// Appends what the ledger does not have yet of the table with this id; returns how many that were. On return they are durable.
///
/// Where it has another commit of the version, a record is one of a table that was put back, or of a commit that came late into the place
/// that clean-up had freed, and never was. The former is named by the next commit, which is among `records`, in the ledger, or in `next`.
pub(crate) async fn append(
    store: &Store,
    table: &Arc<str>,
    table_id: &str,
    records: &[CommitRecord],
    next: &[CommitRecord],
) -> Result<usize, StoreError> {
    let log = store.ledger_log();
    let mut snapshot = open_plain(store, &log, "ledger", "ledger", &schema()).await?;
    let beside: BTreeMap<i64, &CommitRecord> = records
        .iter()
        .chain(next)
        .map(|record| (record.version, record))
        .collect();
    let mut known: BTreeMap<i64, Vec<CommitRecord>> = BTreeMap::new();
    for record in read_files(store, &snapshot, table).await? {
        let is_asked_for = |version| beside.contains_key(&version);
        if record.is_of(table_id)
            && (is_asked_for(record.version) || is_asked_for(record.version - 1))
        {
            let commits = known.entry(record.version);
            commits
                .or_insert_with(|| Vec::with_capacity(1))
                .push(record);
        }
    }
    let known = |version: i64| known.get(&version).map_or(&[][..], Vec::as_slice);
    let is_named = |record: &CommitRecord| {
        let next = record.version + 1;
        let mut naming = known(next).iter().chain(beside.get(&next).copied());
        record.commit_id.is_some() && naming.any(|next| next.follows == record.commit_id)
    };
    let is_new = |record: &CommitRecord| {
        let before = known(record.version);
        let is_known = before.iter().any(|other| other.is_same_as(record));
        before.is_empty() || !is_known && is_named(record)
    };
    let new: Vec<&CommitRecord> = records.iter().filter(|record| is_new(record)).collect();
    if new.is_empty() {
        return Ok(0);
    }
    let mut stager = Stager::new(
        store.object_store(),
        log.table.clone(),
        log.folder.clone(),
        schema(),
        alluvium_plan::PartitionBy::None,
        None,
    );
    for records in new.chunks(BATCH_ROWS) {
        if let Err(error) = stager.write(&batch(&log, records)?).await {
            stager.abandon().await;
            return Err(error);
        }
    }
    let staged = stager.finish().await?;
    let decide = |_: &Snapshot| -> Result<Decision<()>, StoreError> {
        Ok(Decision::Write(Box::new(Draft {
            operation: "WRITE",
            info: our_info("ledger", "ledger"),
            adds: staged.adds(&log.table, store.rules())?,
            ..Draft::default()
        })))
    };
    match commit(&log, &mut snapshot, &staged.name, store.patience(), decide).await? {
        Outcome::Landed(_) | Outcome::Stopped(()) => {}
    }
    write_checkpoint(store, &log, &mut snapshot).await?;
    Ok(new.len())
}

/// All commits that the ledger has of what lay in one folder, be it one table or several after each other.
pub(crate) async fn read(store: &Store, table: &Arc<str>) -> Result<Vec<CommitRecord>, StoreError> {
    match store.ledger_log().load().await? {
        Some(snapshot) => read_files(store, &snapshot, table).await,
        None => Ok(Vec::new()),
    }
}

fn batch(log: &TableLog, records: &[&CommitRecord]) -> Result<RecordBatch, StoreError> {
    let tables: StringArray = records
        .iter()
        .map(|record| Some(record.table.as_ref()))
        .collect();
    let versions: Int64Array = records.iter().map(|record| Some(record.version)).collect();
    let moments: TimestampMicrosecondArray = records
        .iter()
        .map(|record| record.timestamp.map(alluvium_types::Timestamp::micros))
        .collect();
    let commits: StringArray = records
        .iter()
        .map(|record| Some(record.to_json()))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(tables),
        Arc::new(versions),
        Arc::new(moments.with_timezone("UTC")),
        Arc::new(commits),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| StoreError::Broken {
        table: log.table.clone(),
        what: error.to_string(),
    })
}

async fn read_files(
    store: &Store,
    snapshot: &Snapshot,
    table: &Arc<str>,
) -> Result<Vec<CommitRecord>, StoreError> {
    let mut records = Vec::new();
    for file in snapshot.files.iter() {
        for batch in read_columns(store.object_store(), &file.path, file.size, &COLUMNS).await? {
            let (Some(tables), Some(versions), Some(commits)) = (
                batch.column(0).as_string_opt::<i32>(),
                batch
                    .column(1)
                    .as_primitive_opt::<datafusion::arrow::datatypes::Int64Type>(),
                batch.column(2).as_string_opt::<i32>(),
            ) else {
                return Err(StoreError::Unsupported {
                    table: "ledger".into(),
                    what: format!("{} has other columns than a ledger", file.path),
                });
            };
            for row in 0..batch.num_rows() {
                if tables.value(row) == table.as_ref() {
                    let record = CommitRecord::from_json(commits.value(row));
                    records.push(record.map_err(|source| StoreError::UnreadableEntry {
                        table: "ledger".into(),
                        version: versions.value(row),
                        source,
                    })?);
                }
            }
        }
    }
    Ok(records)
}
