//! Events cost no allocations: decoding and folding allocate for batches and for new groups, never for an event.

use std::{io, path::Path, sync::Arc};

use alluvium_engine::EpochFold;
use alluvium_plan::{Environment, Plan, SourceFile, load_pipeline};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, TableSet, Timestamp,
    TopicPartition,
};

const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [clicks], start: earliest}
decode:
  json: {schema: click.yaml}
event_time: {column: ts, max_delay: 1h}
where: not is_bot
tables:
  clicks:
    window: {tumbling: 1m}
    group_by:
      country: coalesce(country, 'ZZ')
    measures:
      clicks: count(*)
      bytes: sum(bytes)
      mean_ms: avg(latency_ms)
";

const SCHEMA: &str = "\
version: 1
columns: {ts: timestamp, country: string?, latency_ms: double, bytes: bigint, is_bot: boolean}
";

/// Events of one raw batch.
const BATCH: i64 = 2000;

fn plan() -> Arc<Plan> {
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(SCHEMA.as_bytes().to_vec()) };
    let source = SourceFile::new("pipelines/test.yaml", PIPELINE);
    let (plan, _) = load_pipeline(&source, &mut read, &Environment::default())
        .unwrap_or_else(|found| panic!("the test's pipeline is wrong: {found}"));
    Arc::new(plan)
}

/// Events of 30 minutes and 26 countries: two layouts, text beyond ASCII, an escape here and there.
fn batch(first: i64) -> RawBatch {
    let mut builder = RawBatchBuilder::default();
    for number in first..first + BATCH {
        let country = match number % 50 {
            0 => r"\u00c5".to_owned(),
            1 => "Å".to_owned(),
            _ => char::from(b'A' + (number % 26) as u8).to_string(),
        };
        let optional = match number % 3 {
            0 => format!(r#""country":"{country}","#),
            _ => format!(r#""country":"{country}","session":"{number:032x}","#),
        };
        let event = format!(
            r#"{{"ts":"2026-03-01T12:{:02}:{:02}.{:03}Z",{optional}"bytes":{number},"latency_ms":{}.25,"is_bot":{}}}"#,
            number % 30,
            number % 60,
            number % 1000,
            number % 900,
            number % 20 == 0,
        );
        builder.push(number, None, Some(b"key"), Some(event.as_bytes()), []);
    }
    builder.finish(
        TopicPartition::new("clicks", 0),
        OffsetRange::new(first, first + BATCH).expect("a range"),
        Generation(1),
        Timestamp::from_micros(4_000_000_000_000_000),
        None,
    )
}

#[test]
fn nothing_is_allocated_for_an_event() {
    let plan = plan();
    let all = TableSet::all(plan.tables.len());
    let mut fold = EpochFold::new(plan, MemoryBudget::new(1 << 30)).expect("a fold");
    let batches: Vec<RawBatch> = (0..40)
        .map(|batch_number| batch(batch_number * BATCH))
        .collect();
    // Buffers grow and groups appear in the first of them.
    let (warm, measured) = batches.split_at(10);
    for batch in warm {
        fold.push(batch, all).expect("folds");
    }
    let found = allocation_counter::measure(|| {
        for batch in measured {
            fold.push(batch, all).expect("folds");
        }
    });
    let events = measured.len() as u64 * BATCH as u64;
    println!("{} allocations for {events} events", found.count_total);
    assert!(
        found.count_total * 20 < events,
        "{} allocations for {events} events: some of them grow with the events",
        found.count_total
    );
    let part = fold.finish().expect("a part");
    let balance = &part.tables[0].balance;
    assert_eq!(balance.events_in, 40 * BATCH as u64, "{balance:?}");
    assert_eq!(balance.rejected, 0, "{balance:?}");
}
