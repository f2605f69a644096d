//! The auditor's side: what was produced, and what a committed table holds, read without the product's
//! store or query crates (plain JSON of the Delta log, plain Parquet).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use datafusion::{
    arrow::array::{Array, AsArray},
    arrow::datatypes::Int64Type,
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
};
use serde_json::Value;

/// The entries of every version of a Delta log, oldest first.
pub(crate) fn log(table: &Path) -> Vec<(i64, Vec<Value>)> {
    let Ok(folder) = fs::read_dir(table.join("_delta_log")) else {
        return Vec::new();
    };
    let mut versions: Vec<(i64, PathBuf)> = folder
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.strip_suffix(".json")?;
            Some((version.parse().ok()?, path))
        })
        .collect();
    versions.sort();
    versions
        .into_iter()
        .map(|(version, path)| {
            let text = fs::read_to_string(path).expect("a committed log entry can be read");
            (version, entries(&text))
        })
        .collect()
}

/// The newest version of a table, -1 when there is none.
pub(crate) fn version(table: &Path) -> i64 {
    let mut version = -1;
    while entry(table, version + 1).exists() {
        version += 1;
    }
    version
}

fn entry(table: &Path, version: i64) -> PathBuf {
    table.join(format!("_delta_log/{version:020}.json"))
}

/// The files that the newest version consists of.
pub(crate) fn files(table: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (_, entries) in log(table) {
        for entry in entries {
            if let Some(path) = entry["add"]["path"].as_str() {
                assert!(files.insert(path.to_owned()), "{path} was added twice");
            }
            if let Some(path) = entry["remove"]["path"].as_str() {
                files.remove(path);
            }
        }
    }
    files
}

/// The recorded next offset of every partition, by the part of its id after the pipeline.
pub(crate) fn offsets(table: &Path) -> BTreeMap<String, i64> {
    let mut follower = Follower::new(table);
    follower.advance();
    follower.offsets
}

/// Reads a table's log as it grows, each entry once.
pub(crate) struct Follower {
    table: PathBuf,
    next: i64,
    /// The recorded next offset of every partition, by the part of its id after the pipeline.
    pub(crate) offsets: BTreeMap<String, i64>,
}

impl Follower {
    pub(crate) fn new(table: &Path) -> Self {
        Self {
            table: table.to_owned(),
            next: 0,
            offsets: BTreeMap::new(),
        }
    }

    /// Takes in what was committed since the last time.
    pub(crate) fn advance(&mut self) {
        while let Ok(text) = fs::read_to_string(entry(&self.table, self.next)) {
            for entry in entries(&text) {
                let Some(id) = entry["txn"]["appId"].as_str() else {
                    continue;
                };
                let parts: Vec<&str> = id.split('/').collect();
                if let ["alluvium", _, topic, partition] = parts[..]
                    && partition.parse::<i32>().is_ok()
                {
                    let next = entry["txn"]["version"]
                        .as_i64()
                        .expect("a version is a number");
                    self.offsets.insert(format!("{topic}/{partition}"), next);
                }
            }
            self.next += 1;
        }
    }
}

fn entries(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a log entry is JSON"))
        .collect()
}

/// Sums a `bigint` column of all panes by a string column.
pub(crate) fn sum_by(table: &Path, key: &str, value: &str) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for path in files(table) {
        let file = File::open(table.join(&path)).expect("a committed file exists");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.build())
            .expect("a committed file is Parquet");
        for batch in reader {
            let batch = batch.expect("a committed file is whole");
            let keys = batch
                .column_by_name(key)
                .expect("the key column")
                .as_string::<i32>();
            let values = batch
                .column_by_name(value)
                .expect("the value column")
                .as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                assert!(values.is_valid(row), "a count is never NULL");
                *sums.entry(keys.value(row).to_owned()).or_insert(0) += values.value(row);
            }
        }
    }
    sums
}
