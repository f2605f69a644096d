//! Tables that somebody changed by hand: plain JSON of the Delta log, plain Parquet, no product.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch},
        datatypes::Int64Type,
    },
    parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
};
use serde_json::{Value, json};

use crate::ledger;

/// Rows as they are in one of a table's files.
pub(crate) fn read(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let reader = reader.with_batch_size(1 << 20).build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.len(), 1, "a small file");
    batches.into_iter().next().unwrap()
}

/// Puts a version into a table's log that takes one file out, and puts another in its place or beside it. Written by hand: no
/// product takes part. Returns the entry, which is the table's last as long as it is there.
pub(crate) fn forge(table: &Path, out: Option<&str>, rows: Option<&RecordBatch>) -> PathBuf {
    let last = ledger::version(table);
    let mut lines = vec![json!({"commitInfo": {"timestamp": 1, "operation": "WRITE"}})];
    if let Some(path) = out {
        lines.push(json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}}));
    }
    if let Some(rows) = rows {
        let name = format!("forged-{last}.parquet");
        let file = File::create(table.join(&name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
        writer.write(rows).unwrap();
        writer.close().unwrap();
        let size = fs::metadata(table.join(&name)).unwrap().len();
        lines.push(json!({"add": {
            "path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
        }}));
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let entry = table.join(format!("_delta_log/{:020}.json", last + 1));
    fs::write(&entry, lines.join("\n")).unwrap();
    entry
}

/// Puts a version into a table's log that says of one partition that it covers `range`, as a writer would that has lost its place.
pub(crate) fn forge_range(
    table: &Path,
    pipeline: &str,
    partition: &str,
    range: [i64; 2],
) -> PathBuf {
    let version = ledger::version(table) + 1;
    let balance = json!({"in": 0, "counted": 0, "filtered": 0, "late": 0, "rejected": 0});
    let ours = json!({
        "format": 1, "kind": "commit", "pipeline": pipeline, "commit_id": format!("forged-{version}"), "version": version,
        "ranges": {partition: range}, "balance": balance,
    });
    let lines = [
        json!({"commitInfo": {"timestamp": 1, "operation": "STREAMING UPDATE", "alluvium": ours}}),
        json!({"txn": {"appId": format!("alluvium/{pipeline}/{partition}"), "version": range[1]}}),
    ];
    let entry = table.join(format!("_delta_log/{version:020}.json"));
    fs::write(&entry, lines.map(|line| line.to_string()).join("\n")).unwrap();
    entry
}

/// The batch with one more in `column` of row 0.
pub(crate) fn one_more(rows: &RecordBatch, column: &str) -> RecordBatch {
    let at = rows.schema().index_of(column).unwrap();
    let values = rows.column(at).as_primitive::<Int64Type>();
    let changed: Int64Array = values
        .iter()
        .enumerate()
        .map(|(row, value)| Some(value? + i64::from(row == 0)))
        .collect();
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[at] = Arc::new(changed);
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}
