//! Instructions that an event costs, counted by Callgrind: the same on every machine, so that CI can hold them. Run with
//! `cargo bench --workspace --profile dev --bench instructions`, which needs Debian's `valgrind` and
//! `cargo install gungraun-runner --version 0.20.0`.
//!
//! The profile is that of the tests, where this crate is optimised and still checks its arithmetic: figures are for
//! comparing with the limits below, not for quoting. A limit stands a tenth above what was counted when it was set.

#![allow(missing_docs, reason = "the harness makes functions")]

use std::{hint::black_box, io, path::Path, sync::Arc};

use alluvium_engine::{EpochFold, JsonDecoder};
use alluvium_plan::{Environment, Plan, SourceFile, load_pipeline};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, TableSet, Timestamp,
    TopicPartition,
};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use rand::{SeedableRng, rngs::StdRng};

#[path = "common/event.rs"]
mod common;

const EVENTS: usize = 4000;
/// Most instructions of one event along a known layout, five of eleven fields.
const DECODE: u64 = 2_250;
/// The same when every event has its fields in another order.
const DECODE_UNFORESEEN: u64 = 7_910;
/// Most instructions of one event from a raw batch into count, sum and average by minute and country.
const FOLD: u64 = 5_500;

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
    group_by: {country: country}
    measures: {clicks: count(*), bytes: sum(bytes), mean_ms: avg(latency_ms)}
";

const SCHEMA: &str = "\
version: 1
columns: {ts: timestamp, country: string, latency_ms: double, bytes: bigint, is_bot: boolean}
";

fn plan() -> Arc<Plan> {
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(SCHEMA.as_bytes().to_vec()) };
    let source = SourceFile::new("pipelines/bench.yaml", PIPELINE);
    let (plan, _) = load_pipeline(&source, &mut read, &Environment::default())
        .unwrap_or_else(|found| panic!("the bench's pipeline is wrong: {found}"));
    Arc::new(plan)
}

fn events() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(7);
    (0..EVENTS)
        .map(|number| common::event(&mut random, number, EVENTS))
        .collect()
}

/// The fields of an event, turned by a number that is another for each neighbour.
fn turned(event: &str, number: usize) -> String {
    let inner = event.trim_start_matches('{').trim_end_matches('}');
    // The values of these events hold commas only where a quote does not follow.
    let mut fields: Vec<&str> = inner.split(",\"").collect();
    let count = fields.len();
    fields.rotate_left(number % count);
    fields.swap(number / 11 % count, number / 121 % count);
    fields.swap(number / 7 % count, number / 77 % count);
    let quoted: Vec<String> = fields
        .iter()
        .map(|field| format!("\"{}", field.trim_start_matches('"')))
        .collect();
    format!("{{{}}}", quoted.join(","))
}

fn known() -> (JsonDecoder, Vec<String>) {
    let mut decoder = JsonDecoder::new(&plan()).expect("a decoder");
    let events = events();
    for event in &events {
        decoder.decode(Some(event.as_bytes())).expect("an event");
    }
    decoder.finish().expect("rows");
    (decoder, events)
}

fn unforeseen() -> (JsonDecoder, Vec<String>) {
    let decoder = JsonDecoder::new(&plan()).expect("a decoder");
    let events = events();
    let turned = events
        .iter()
        .enumerate()
        .map(|(number, event)| turned(event, number))
        .collect();
    (decoder, turned)
}

#[library_benchmark(config = limit(DECODE))]
#[bench::known(known())]
fn decode((mut decoder, events): (JsonDecoder, Vec<String>)) -> usize {
    read(&mut decoder, &events)
}

#[library_benchmark(config = limit(DECODE_UNFORESEEN))]
#[bench::unforeseen(unforeseen())]
fn decode_unforeseen((mut decoder, events): (JsonDecoder, Vec<String>)) -> usize {
    read(&mut decoder, &events)
}

fn read(decoder: &mut JsonDecoder, events: &[String]) -> usize {
    for event in events {
        decoder
            .decode(black_box(Some(event.as_bytes())))
            .expect("an event");
    }
    decoder.finish().expect("rows").num_rows()
}

fn folding() -> (EpochFold, RawBatch) {
    let mut fold = EpochFold::new(plan(), MemoryBudget::new(1 << 30)).expect("a fold");
    fold.push(&batch(0), TableSet::all(1)).expect("folds");
    (fold, batch(EVENTS))
}

fn batch(first: usize) -> RawBatch {
    let mut builder = RawBatchBuilder::default();
    for (number, event) in events().iter().enumerate() {
        let offset = (first + number) as i64;
        builder.push(offset, None, None, Some(event.as_bytes()), []);
    }
    builder.finish(
        TopicPartition::new("clicks", 0),
        OffsetRange::new(first as i64, (first + EVENTS) as i64).expect("a range"),
        Generation(1),
        Timestamp::from_micros(4_000_000_000_000_000),
        None,
    )
}

#[library_benchmark(config = limit(FOLD))]
#[bench::usual(folding())]
fn fold((mut fold, batch): (EpochFold, RawBatch)) -> EpochFold {
    fold.push(black_box(&batch), TableSet::all(1))
        .expect("folds");
    fold
}

fn limit(of_an_event: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind.hard_limits([(EventKind::Ir, of_an_event * EVENTS as u64)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

library_benchmark_group!(name = events_cost; benchmarks = decode, decode_unforeseen, fold);
main!(library_benchmark_groups = events_cost);
