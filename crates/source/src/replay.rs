//! Raw batches from lines of text, for golden and stitched tests and for reading files.
//!
//! Owns deterministic partitions and offsets. Does not own files: the caller reads them.

use std::{collections::BTreeMap, sync::Arc};

use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, Timestamp, TopicPartition,
};

/// One event of a [`Replay`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayLine {
    /// The record's value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// Its partition; by default lines are dealt out in turn.
    pub partition: Option<i32>,
    /// The record's timestamp.
    pub timestamp: Option<Timestamp>,
}

impl From<&str> for ReplayLine {
    fn from(line: &str) -> Self {
        line.to_owned().into()
    }
}

impl From<String> for ReplayLine {
    fn from(line: String) -> Self {
        line.into_bytes().into()
    }
}

impl From<Vec<u8>> for ReplayLine {
    fn from(line: Vec<u8>) -> Self {
        Self {
            value: Some(line),
            ..Self::default()
        }
    }
}

/// Raw batches from lines, as an iterator.
///
/// Line `i` is a record of partition `i % partitions` unless it names one; offsets of a partition
/// count from 0 in the order of the lines. So the same lines always are the same records, however
/// they are cut into batches and wherever reading starts. Batches come from the partitions in
/// turn, with sizes that repeat.
#[derive(Clone, Debug)]
pub struct Replay {
    topic: Arc<str>,
    lines: Vec<Vec<ReplayLine>>,
    positions: Vec<usize>,
    ends: Vec<usize>,
    sizes: Vec<usize>,
    made: usize,
    turn: usize,
    generation: Generation,
    received: Timestamp,
    memory: Option<MemoryBudget>,
}

impl Replay {
    /// All `lines` of `topic`, dealt out to `partitions`, in batches of `sizes` records each.
    /// Without sizes, or with a zero among them, a batch holds whatever its partition has left.
    ///
    /// # Panics
    /// When `partitions` is not positive, or a line names a partition that is not there.
    pub fn new<L: Into<ReplayLine>>(
        topic: impl Into<Arc<str>>,
        partitions: i32,
        lines: impl IntoIterator<Item = L>,
        sizes: &[usize],
    ) -> Self {
        let count = usize::try_from(partitions).unwrap_or(0);
        assert!(count > 0, "a topic has at least one partition");
        let mut dealt = vec![Vec::new(); count];
        for (number, line) in lines.into_iter().enumerate() {
            let line = line.into();
            let at = line.partition.map_or(number % count, |named| {
                usize::try_from(named).unwrap_or(usize::MAX)
            });
            assert!(
                at < count,
                "line {number} names a partition that is not there"
            );
            dealt[at].push(line);
        }
        let ends = dealt.iter().map(Vec::len).collect();
        Self {
            topic: topic.into(),
            positions: vec![0; count],
            ends,
            lines: dealt,
            sizes: sizes.to_vec(),
            made: 0,
            turn: 0,
            generation: Generation::default(),
            received: Timestamp::default(),
            memory: None,
        }
    }

    /// Every non-empty line of `text`, as [`new`](Self::new).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn from_text(
        topic: impl Into<Arc<str>>,
        partitions: i32,
        text: &str,
        sizes: &[usize],
    ) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty());
        Self::new(topic, partitions, lines, sizes)
    }

    /// Starts at these offsets; partitions that are not named start where they stand. Offsets
    /// outside a partition are drawn to its nearest end.
    #[must_use]
    pub fn starting_at(mut self, starts: &BTreeMap<TopicPartition, i64>) -> Self {
        for at in 0..self.lines.len() {
            if let Some(start) = starts.get(&self.name(at)) {
                self.positions[at] = within(*start, self.lines[at].len());
            }
        }
        self
    }

    /// Stops exactly at these offsets; partitions that are not named go on to their end.
    #[must_use]
    pub fn ending_at(mut self, ends: &BTreeMap<TopicPartition, i64>) -> Self {
        for at in 0..self.lines.len() {
            if let Some(end) = ends.get(&self.name(at)) {
                self.ends[at] = within(*end, self.lines[at].len());
            }
        }
        self
    }

    /// Gives every batch this generation and this moment of arrival.
    #[must_use]
    pub fn stamped(mut self, generation: Generation, received: Timestamp) -> Self {
        self.generation = generation;
        self.received = received;
        self
    }

    /// Counts every batch against `memory`.
    #[must_use]
    pub fn counted(mut self, memory: &MemoryBudget) -> Self {
        self.memory = Some(memory.clone());
        self
    }

    /// The partitions.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        (0..self.lines.len()).map(|at| self.name(at)).collect()
    }

    /// The next offset of every partition.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        (0..self.lines.len())
            .map(|at| (self.name(at), offset(self.positions[at])))
            .collect()
    }

    /// Where every partition's lines end.
    pub fn log_ends(&self) -> BTreeMap<TopicPartition, i64> {
        (0..self.lines.len())
            .map(|at| (self.name(at), offset(self.lines[at].len())))
            .collect()
    }

    fn name(&self, at: usize) -> TopicPartition {
        let number = i32::try_from(at).expect("the partitions were counted in i32");
        TopicPartition::new(Arc::clone(&self.topic), number)
    }

    fn batch(&mut self, at: usize) -> RawBatch {
        let start = self.positions[at];
        let size = match self.sizes.get(self.made % self.sizes.len().max(1)) {
            Some(0) | None => usize::MAX,
            Some(&size) => size,
        };
        let end = start.saturating_add(size).min(self.ends[at]);
        self.made += 1;
        self.positions[at] = end;
        let mut builder = RawBatchBuilder::default();
        for (position, line) in (start..end).zip(&self.lines[at][start..end]) {
            builder.push(
                offset(position),
                line.timestamp,
                line.key.as_deref(),
                line.value.as_deref(),
                [],
            );
        }
        let range = OffsetRange::new(offset(start), offset(end)).expect("positions only grow");
        let reservation = self
            .memory
            .as_ref()
            .map(|memory| memory.reserve(builder.size()));
        builder.finish(
            self.name(at),
            range,
            self.generation,
            self.received,
            reservation,
        )
    }
}

fn offset(position: usize) -> i64 {
    i64::try_from(position).expect("there are fewer lines than i64 counts")
}

fn within(offset: i64, length: usize) -> usize {
    usize::try_from(offset).map_or(0, |offset| offset.min(length))
}

impl Iterator for Replay {
    type Item = RawBatch;

    fn next(&mut self) -> Option<RawBatch> {
        let count = self.lines.len();
        let at = (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|&at| self.positions[at] < self.ends[at])?;
        self.turn = at + 1;
        Some(self.batch(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = BTreeMap<TopicPartition, Vec<(i64, Vec<u8>)>>;

    fn read(replay: impl Iterator<Item = RawBatch>, seen: &mut Seen) {
        for batch in replay {
            let records = seen.entry(batch.partition.clone()).or_default();
            let passed = records.last().map_or(0, |(offset, _)| offset + 1);
            assert_eq!(batch.range.start(), passed, "batches chain");
            records.extend(
                batch
                    .records()
                    .map(|record| (record.offset(), record.value().unwrap().to_vec())),
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_same_lines_are_the_same_records(
            count in 0usize..60,
            partitions in 1i32..5,
            sizes in prop::collection::vec(0usize..7, 0..4),
            cuts in prop::collection::vec(-1i64..25, 5),
        ) {
            let lines: Vec<String> = (0..count).map(|line| format!("{{\"line\":{line}}}")).collect();
            let replay = |sizes: &[usize]| Replay::new("t", partitions, lines.clone(), sizes);
            let mut whole = Seen::new();
            read(replay(&[]), &mut whole);
            let at: BTreeMap<_, _> = replay(&[]).partitions().into_iter().zip(cuts).collect();
            let mut stitched = Seen::new();
            read(replay(&sizes).ending_at(&at), &mut stitched);
            read(replay(&sizes).starting_at(&at), &mut stitched);
            prop_assert_eq!(stitched, whole);
        }
    }
}
