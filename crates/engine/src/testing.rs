//! What the tests of this crate share: plans from files as text, and raw batches from payloads.

use std::{io, path::Path, sync::Arc};

use alluvium_plan::{Environment, Plan, SourceFile, load_pipeline};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, Timestamp, TopicPartition,
};

/// A plan from the text of a pipeline file and its schema.
pub(crate) fn plan(pipeline: &str, schema: &str) -> Arc<Plan> {
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(schema.as_bytes().to_vec()) };
    let source = SourceFile::new("pipelines/test.yaml", pipeline);
    match load_pipeline(&source, &mut read, &Environment::default()) {
        Ok((plan, _)) => Arc::new(plan),
        Err(found) => panic!("the test's pipeline is wrong: {found}"),
    }
}

/// One record of a test: offset, Kafka timestamp, value.
pub(crate) type Record = (i64, Option<i64>, Option<Vec<u8>>);

/// A batch of partition 0 over exactly its records.
pub(crate) fn batch(records: &[Record]) -> RawBatch {
    let mut builder = RawBatchBuilder::default();
    for (offset, timestamp, value) in records {
        let timestamp = timestamp.map(Timestamp::from_micros);
        builder.push(*offset, timestamp, Some(b"key"), value.as_deref(), []);
    }
    let start = records.first().map_or(0, |(offset, ..)| *offset);
    let end = records.last().map_or(0, |(offset, ..)| *offset + 1);
    builder.finish(
        TopicPartition::new("events", 0),
        OffsetRange::new(start, end).unwrap(),
        Generation(1),
        Timestamp::from_micros(4_000_000_000_000_000),
        None,
    )
}

pub(crate) fn budget() -> MemoryBudget {
    MemoryBudget::new(1 << 30)
}
