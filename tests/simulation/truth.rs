//! Whether tables hold what was produced, by their logs and files alone.
//!
//! Owns the verdict. It reads log entries as JSON and files as Parquet, and shares nothing with what wrote them.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_types::TopicPartition;
use bytes::Bytes;
use datafusion::arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::{
    events::{Fate, Record, TableTruth},
    kafka::Kafka,
    objects::Objects,
    report::{Counts, Kind},
};

/// Number of events and sum of amounts, by window and key.
type Cells = BTreeMap<(i64, String), (i64, i128)>;

/// Adds up what is in a batch of panes.
fn add_up(cells: &mut Cells, batch: &RecordBatch) -> Result<(), String> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| format!("there is no column {name}"))
    };
    let windows = column("window_start")?.as_primitive::<TimestampMicrosecondType>();
    let events = column("events")?.as_primitive::<Int64Type>();
    let amounts = column("amount")?.as_primitive::<Decimal128Type>();
    let keys = batch.column_by_name("key").map(|keys| {
        datafusion::arrow::compute::cast(keys, &datafusion::arrow::datatypes::DataType::Utf8)
            .map_err(|error| error.to_string())
    });
    let keys = keys.transpose()?;
    for row in 0..batch.num_rows() {
        let key = keys.as_ref().map_or_else(String::new, |keys| {
            keys.as_string::<i32>().value(row).to_owned()
        });
        let cell = cells.entry((windows.value(row), key)).or_default();
        cell.0 += events.value(row);
        if !amounts.is_null(row) {
            cell.1 += amounts.value(row);
        }
    }
    Ok(())
}

fn expected<'r>(table: &TableTruth, records: impl Iterator<Item = &'r Record>) -> Cells {
    let mut cells = Cells::new();
    for record in records.filter(|record| table.counts(record)) {
        let cell = cells.entry(table.cell(record)).or_default();
        cell.0 += 1;
        cell.1 += i128::from(record.amount);
    }
    cells
}

/// What differs between two, in words.
fn differ(found: &Cells, wanted: &Cells) -> Option<String> {
    if found == wanted {
        return None;
    }
    let sum = |cells: &Cells| cells.values().map(|(events, _)| events).sum::<i64>();
    let cells: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let first = cells
        .into_iter()
        .find(|cell| found.get(*cell) != wanted.get(*cell))?;
    Some(format!(
        "{} events instead of {}; the first difference is at {first:?}: {:?} instead of {:?}",
        sum(found),
        sum(wanted),
        found.get(first),
        wanted.get(first),
    ))
}

/// The records of some ranges.
fn within<'k>(
    kafka: &'k Kafka,
    ranges: &BTreeMap<TopicPartition, (i64, i64)>,
) -> impl Iterator<Item = &'k Record> {
    let ranges = ranges.clone();
    ranges.into_iter().flat_map(|(partition, (start, end))| {
        let records = kafka.log(&partition).map_or(&[][..], |log| &log.records);
        records
            .iter()
            .filter(move |record| (start..end).contains(&record.offset))
    })
}

/// Whether panes in memory are exactly what their ranges say.
pub(crate) fn check_memory(
    kafka: &Kafka,
    table: &TableTruth,
    ranges: &BTreeMap<TopicPartition, (i64, i64)>,
    panes: &[RecordBatch],
) -> Option<String> {
    let mut found = Cells::new();
    for batch in panes {
        if let Err(error) = add_up(&mut found, batch) {
            return Some(error);
        }
    }
    differ(&found, &expected(table, within(kafka, ranges)))
}

fn read_file(bytes: Bytes) -> Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| error.to_string())?;
    reader
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// The lines of a log entry, as far as they are JSON.
fn lines_of(entry: &[u8]) -> Vec<Value> {
    serde_json::Deserializer::from_slice(entry)
        .into_iter()
        .filter_map(Result::ok)
        .collect()
}

fn partition_of(text: &str) -> Option<TopicPartition> {
    let (topic, number) = text.rsplit_once('/')?;
    Some(TopicPartition::new(topic, number.parse().ok()?))
}

/// What a log adds up to.
#[derive(Default)]
pub(crate) struct Table {
    live: BTreeSet<String>,
    /// The next offset of every partition.
    pub(crate) offsets: BTreeMap<TopicPartition, i64>,
    /// Every start that was recorded.
    starts: Vec<(TopicPartition, i64)>,
    /// Every place that somebody moved a partition to.
    pub(crate) sought: Vec<(TopicPartition, i64)>,
    /// Where it began to read each partition.
    begins: BTreeMap<TopicPartition, i64>,
    /// What was passed over by hand: where it begins and ends.
    pub(crate) gaps: Vec<(TopicPartition, i64, i64)>,
    watermarks: BTreeMap<String, i64>,
    merges: u64,
    commits: u64,
    begun_elsewhere: u64,
}

impl Table {
    /// Reads a log from its first entry, and finds fault with every commit that does not hold what it says.
    pub(crate) fn read(
        kafka: &Kafka,
        objects: &Objects,
        table: Option<&TableTruth>,
        folder: &str,
        faults: &mut Vec<String>,
    ) -> Self {
        let mut read = Self::default();
        for (next, (version, bytes)) in objects.entries(folder).into_iter().enumerate() {
            let mut fault =
                |what: String| faults.push(format!("{folder} version {version}: {what}"));
            if version != next as i64 {
                fault(format!("version {next} is missing"));
                break;
            }
            let lines = lines_of(&bytes);
            read.apply(kafka, objects, table, folder, &lines, &mut fault);
        }
        read
    }

    /// Goes over the entries that came since, and keeps the recorded offsets of each version.
    pub(crate) fn read_on(
        &mut self,
        objects: &Objects,
        folder: &str,
        versions: &mut Vec<BTreeMap<TopicPartition, i64>>,
    ) {
        let entries = objects.entries(folder);
        for bytes in entries
            .range(versions.len() as i64..)
            .map(|(_, bytes)| bytes)
        {
            let lines = lines_of(bytes);
            self.follow(&lines, "", &mut |_| {});
            versions.push(self.offsets.clone());
        }
    }

    fn apply(
        &mut self,
        kafka: &Kafka,
        objects: &Objects,
        table: Option<&TableTruth>,
        folder: &str,
        lines: &[Value],
        fault: &mut dyn FnMut(String),
    ) {
        let info = lines.iter().find_map(|line| line.get("commitInfo"));
        let ours = info.and_then(|info| info.get("alluvium"));
        let kind = ours
            .and_then(|ours| ours["kind"].as_str())
            .unwrap_or_default()
            .to_owned();
        let mut added = Vec::new();
        let mut removed = 0;
        for line in lines {
            if let Some(path) = line.get("add").and_then(|add| add["path"].as_str()) {
                let path = format!("{folder}/{path}");
                if !self.live.insert(path.clone()) {
                    fault(format!("{path} is added twice"));
                }
                added.push(path);
            }
            if let Some(path) = line
                .get("remove")
                .and_then(|remove| remove["path"].as_str())
            {
                removed += 1;
                if !self.live.remove(&format!("{folder}/{path}")) {
                    fault(format!("{path} is removed, and was not there"));
                }
            }
        }
        self.merges += u64::from(removed > 0);
        let Some(table) = table else { return };
        self.follow(lines, &kind, fault);
        if kind != "commit" {
            return;
        }
        self.commits += 1;
        let said = ours.map(|ours| &ours["ranges"]).and_then(Value::as_object);
        let ranges: BTreeMap<TopicPartition, (i64, i64)> = said
            .into_iter()
            .flatten()
            .filter_map(|(name, range)| {
                let range = (range[0].as_i64()?, range[1].as_i64()?);
                Some((partition_of(name)?, range))
            })
            .collect();
        let mut found = Cells::new();
        for path in &added {
            // A file that is gone was merged since; the sum at the end has it.
            let Some(bytes) = objects.read(path) else {
                return;
            };
            let rows = read_file(bytes).and_then(|batches| {
                batches
                    .iter()
                    .try_for_each(|batch| add_up(&mut found, batch))
            });
            if let Err(error) = rows {
                fault(format!("{path} cannot be read: {error}"));
            }
        }
        if let Some(difference) = differ(&found, &expected(table, within(kafka, &ranges))) {
            fault(format!(
                "its rows are not its ranges {ranges:?}: {difference}"
            ));
        }
        let records: Vec<&Record> = within(kafka, &ranges).collect();
        let count = |is: &dyn Fn(&Record) -> bool| {
            records.iter().filter(|record| is(record)).count() as u64
        };
        let rejected = count(&|record| table.rejects(record));
        let counted = count(&|record| table.counts(record));
        let balance = ours.map(|ours| &ours["balance"]);
        let says = |name: &str| {
            balance
                .and_then(|balance| balance[name].as_u64())
                .unwrap_or(0)
        };
        if (says("in"), says("counted"), says("rejected"))
            != (records.len() as u64, counted, rejected)
        {
            fault(format!(
                "its balance is {balance:?}, and {} came in, {counted} count, {rejected} are refused",
                records.len()
            ));
        }
    }

    /// Offsets and watermarks by the numbers that a version records.
    fn follow(&mut self, lines: &[Value], kind: &str, fault: &mut dyn FnMut(String)) {
        let info = lines.iter().find_map(|line| line.get("commitInfo"));
        let ranges = info.map(|info| &info["alluvium"]["ranges"]);
        for txn in lines.iter().filter_map(|line| line.get("txn")) {
            let (Some(id), Some(number)) = (txn["appId"].as_str(), txn["version"].as_i64()) else {
                continue;
            };
            let Some(name) = id.strip_prefix("alluvium/simulated/") else {
                continue;
            };
            if let Some(partition) = name.strip_suffix("/watermark") {
                let before = self.watermarks.insert(partition.to_owned(), number);
                if before.is_some_and(|before| before > number) {
                    fault(format!(
                        "the watermark of {partition} goes back to {number}"
                    ));
                }
                continue;
            }
            let Some(partition) = partition_of(name) else {
                continue;
            };
            let before = self.offsets.insert(partition.clone(), number);
            let start = match kind {
                "commit" => ranges.and_then(|ranges| ranges[name][0].as_i64()),
                "seek" => info.and_then(|info| info["alluvium"]["seeks"][name][0].as_i64()),
                "start" => None,
                _ => Some(number),
            };
            match kind {
                "start" => self.starts.push((partition.clone(), number)),
                "seek" => self.sought.push((partition.clone(), number)),
                _ => {}
            }
            match (kind, start) {
                ("start", _) => {
                    self.begins.insert(partition, number);
                }
                ("seek", _) if self.commits == 0 => {
                    self.begins.insert(partition, number);
                    self.begun_elsewhere += 1;
                }
                ("seek", Some(start)) if start < number => {
                    self.gaps.push((partition, start, number));
                }
                ("seek", _) => fault(format!(
                    "{name} is moved back to {number}, and events count"
                )),
                _ => {}
            }
            if before != start {
                fault(format!(
                    "{name} stood at {before:?}, and a {kind} goes on from {start:?} to {number}"
                ));
            }
        }
    }

    /// Finds fault with what the last version holds.
    pub(crate) fn judge(
        &self,
        kafka: &Kafka,
        objects: &Objects,
        table: &TableTruth,
        counts: &mut Counts,
    ) -> Option<String> {
        counts.add_many(Kind::Commit, self.commits);
        counts.add_many(Kind::Merge, self.merges);
        counts.add_many(Kind::PassedOver, self.gaps.len() as u64);
        counts.add_many(Kind::BegunElsewhere, self.begun_elsewhere);
        for (partition, start) in &self.starts {
            let log = kafka.log(partition);
            if *start != 0 && !log.is_some_and(|log| log.starts.contains(start)) {
                let name = table.name;
                return Some(format!(
                    "{name} starts at {start} of {partition}, where nothing begins"
                ));
            }
        }
        let mut found = Cells::new();
        for path in &self.live {
            let Some(bytes) = objects.read(path) else {
                return Some(format!("{path} is part of the table and is gone"));
            };
            let rows = read_file(bytes).and_then(|batches| {
                batches
                    .iter()
                    .try_for_each(|batch| add_up(&mut found, batch))
            });
            if let Err(error) = rows {
                return Some(format!("{path} cannot be read: {error}"));
            }
        }
        let partitions = kafka.partitions();
        let covered = partitions.iter().flat_map(|partition| {
            let records = kafka.log(partition).map_or(&[][..], |log| &log.records);
            records
                .iter()
                .filter(move |record| self.covers(partition, record.offset))
        });
        differ(&found, &expected(table, covered))
            .map(|difference| format!("{} is wrong: {difference}", table.name))
    }

    /// Finds fault with watermarks that are ahead of every event. While nobody sends, a clock that knows nothing of events closes the
    /// windows that they have begun, `longest` seconds at the most, and no others (P25).
    pub(crate) fn judge_watermarks(
        &self,
        kafka: &Kafka,
        table: &TableTruth,
        longest: i64,
    ) -> Option<String> {
        let partitions = kafka.partitions();
        let logs = partitions
            .iter()
            .filter_map(|partition| kafka.log(partition));
        let newest = logs
            .flat_map(|log| &log.records)
            .filter(|record| record.fate != Fate::Broken)
            .map(|record| record.timestamp.micros())
            .max();
        let size = longest * 1_000_000;
        let end = newest.map(|newest| (newest.div_euclid(size) + 1) * size);
        let (partition, mark) = self
            .watermarks
            .iter()
            .find(|(_, mark)| Some(**mark) > end)?;
        Some(format!(
            "{}: the watermark of {partition} is {mark}, and the last window ends at {end:?}",
            table.name
        ))
    }

    /// Whether an offset is part of the table.
    fn covers(&self, partition: &TopicPartition, offset: i64) -> bool {
        let at = |offsets: &BTreeMap<TopicPartition, i64>| offsets.get(partition).copied();
        let (Some(begin), Some(end)) = (at(&self.begins), at(&self.offsets)) else {
            return false;
        };
        let mut gaps = self.gaps.iter();
        (begin..end).contains(&offset)
            && !gaps.any(|(of, start, end)| of == partition && (start..end).contains(&&offset))
    }

    /// Every dead letter of the log: topic and partition, offset, and table if it is of one only.
    pub(crate) fn letters(
        &self,
        objects: &Objects,
    ) -> Result<Vec<(TopicPartition, i64, Option<String>)>, String> {
        let mut letters = Vec::new();
        for path in &self.live {
            let bytes = objects
                .read(path)
                .ok_or_else(|| format!("{path} is part of the letters and is gone"))?;
            for batch in read_file(bytes)? {
                let column = |name: &str| {
                    batch
                        .column_by_name(name)
                        .ok_or_else(|| format!("letters have no column {name}"))
                };
                let topics = column("topic")?.as_string::<i32>();
                let partitions = column("partition")?.as_primitive::<Int32Type>();
                let offsets = column("offset")?.as_primitive::<Int64Type>();
                let tables = column("table")?.as_string::<i32>();
                for row in 0..batch.num_rows() {
                    let name = TopicPartition::new(topics.value(row), partitions.value(row));
                    let table = (!tables.is_null(row)).then(|| tables.value(row).to_owned());
                    letters.push((name, offsets.value(row), table));
                }
            }
        }
        Ok(letters)
    }
}

/// Finds fault with dead letters: one for each event that was refused, once, and none else. Of what was passed over there may be
/// one: it is written before the table knows of the event (P21).
pub(crate) fn judge_letters(
    kafka: &Kafka,
    tables: &[(&TableTruth, Table)],
    letters: Vec<(TopicPartition, i64, Option<String>)>,
    faults: &mut Vec<String>,
) {
    let mut wanted = BTreeSet::new();
    let mut allowed = BTreeSet::new();
    for partition in kafka.partitions() {
        let records = kafka.log(&partition).map_or(&[][..], |log| &log.records);
        for record in records {
            for (table, read) in tables {
                if !table.rejects(record) {
                    continue;
                }
                let by = match record.fate {
                    Fate::Broken => None,
                    _ => Some(table.name.to_owned()),
                };
                let letter = (partition.clone(), record.offset, by);
                if read.covers(&partition, record.offset) {
                    wanted.insert(letter.clone());
                }
                allowed.insert(letter);
            }
        }
    }
    let mut seen = BTreeSet::new();
    for letter in letters {
        if !allowed.contains(&letter) {
            faults.push(format!(
                "there is a dead letter that nothing was refused for: {letter:?}"
            ));
        }
        if !seen.insert(letter.clone()) {
            faults.push(format!("a dead letter is there twice: {letter:?}"));
        }
    }
    for letter in wanted.difference(&seen) {
        faults.push(format!("a refused event has no dead letter: {letter:?}"));
    }
}
