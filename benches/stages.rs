//! The stages of the way of an event, each alone: decode, fold, merge, Parquet. Run with
//! `cargo bench --bench stages`. Figures are per event or row; compare them within one run only.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use alluvium_engine::{EpochFold, JsonDecoder, merge_panes};
use alluvium_plan::{Plan, SourceFile, load_pipeline};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, TableSet, Timestamp,
    TopicPartition,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use datafusion::{
    arrow::{
        datatypes::{DataType, Field, Schema},
        record_batch::RecordBatch,
    },
    parquet::{
        arrow::ArrowWriter,
        basic::{Compression, ZstdLevel},
        file::properties::WriterProperties,
    },
    prelude::{SessionConfig, SessionContext},
};
use rand::{SeedableRng, rngs::StdRng};

#[path = "common/event.rs"]
mod common;

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 50_000;
/// Rows of one batch of columns.
const AT_ONCE: usize = 8192;

fn plan() -> Arc<Plan> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = SourceFile::read(&root.join("pipelines/clicks.yaml")).expect("the shipped pipeline");
    let mut read = |path: &Path| std::fs::read(path);
    let (plan, _) = load_pipeline(&file, &mut read, &Default::default())
        .expect("the shipped pipeline is right");
    Arc::new(plan)
}

fn batch() -> RawBatch {
    let mut random = StdRng::seed_from_u64(7);
    let mut builder = RawBatchBuilder::default();
    for number in 0..EVENTS {
        let payload = common::event(&mut random, number, EVENTS);
        builder.push(number as i64, None, None, Some(payload.as_bytes()), []);
    }
    builder.finish(
        TopicPartition::new("clicks", 0),
        OffsetRange::new(0, EVENTS as i64).expect("a range"),
        Generation(1),
        Timestamp::from_micros(i64::MAX / 2),
        None,
    )
}

fn panes(plan: &Arc<Plan>, batch: &RawBatch) -> Vec<RecordBatch> {
    let mut fold = EpochFold::new(plan.clone(), MemoryBudget::new(1 << 30)).expect("a fold");
    fold.push(batch, TableSet::all(plan.tables.len()))
        .expect("folds");
    fold.finish().expect("a part").tables.swap_remove(0).panes
}

/// The five fields that the race of `end_to_end` needs.
const FIVE: [&str; 5] = ["ts", "country", "latency_ms", "bytes", "is_bot"];

/// A decoder for a schema of those five.
fn five(plan: &Plan) -> JsonDecoder {
    let mut columns = plan.columns.clone();
    columns.retain(|column| FIVE.contains(&&*column.name));
    let field =
        |name: &Arc<str>, data_type: &DataType| Field::new(&**name, data_type.clone(), true);
    let fields: Vec<_> = columns
        .iter()
        .map(|column| field(&column.name, &column.data_type))
        .collect();
    let decoded = Arc::new(Schema::new(fields));
    JsonDecoder::with_schema(&columns, &decoded, plan.unknown_fields).expect("a decoder")
}

/// The event's fields, as they are written between its braces.
fn fields(event: &str) -> Vec<String> {
    let event: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(event).expect("an object");
    let written = |(name, value)| format!("{:?}:{value}", name as String);
    event.into_iter().map(written).collect()
}

/// Three producers, each with an order and spacing of its own.
fn interleaved(events: &[String]) -> Vec<String> {
    let written = |(number, event): (usize, &String)| match number % 3 {
        0 => event.clone(),
        1 => format!("{{{}}}", fields(event).join(",")),
        _ => {
            let mut fields = fields(event);
            fields.reverse();
            format!("{{ {} }}", fields.join(", ").replacen(':', ": ", 1))
        }
    };
    events.iter().enumerate().map(written).collect()
}

/// Every event with its fields in another order.
fn shuffled(events: &[String]) -> Vec<String> {
    use rand::seq::SliceRandom;
    let mut random = StdRng::seed_from_u64(11);
    let written = |event: &String| {
        let mut fields = fields(event);
        fields.shuffle(&mut random);
        format!("{{{}}}", fields.join(","))
    };
    events.iter().map(written).collect()
}

/// Decoding alone, by bytes: along one layout, along three, and where no layout comes twice.
fn decoding(criterion: &mut Criterion) {
    let plan = plan();
    let mut random = StdRng::seed_from_u64(7);
    let events: Vec<String> = (0..EVENTS)
        .map(|number| common::event(&mut random, number, EVENTS))
        .collect();
    let mut group = criterion.benchmark_group("decode five of eleven fields");
    group.measurement_time(Duration::from_secs(5));
    group.sample_size(20);
    let mut run = |name: &str, events: &[String], mut decoder: JsonDecoder| {
        // One behind the other, as in a record batch, and as many at a time as a worker takes.
        let bytes = events.concat();
        let lengths: Vec<usize> = events.iter().map(String::len).collect();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = bytes.as_bytes();
                let mut rows = 0;
                for lengths in lengths.chunks(AT_ONCE) {
                    let events = lengths.iter().map(|length| {
                        let event;
                        (event, rest) = rest.split_at(*length);
                        Some(event)
                    });
                    decoder.decode_each(events, |_, decoded| {
                        decoded.expect("no generated event is broken here");
                        ControlFlow::Continue(())
                    });
                    rows += decoder.finish().expect("a batch").num_rows();
                }
                rows
            });
        });
    };
    run("one layout", &events, five(&plan));
    run("three layouts", &interleaved(&events), five(&plan));
    let shuffled = shuffled(&events);
    run("always another layout", &shuffled, five(&plan));
    run(
        "always another layout, the general decoder",
        &shuffled,
        five(&plan).without_layouts(),
    );
}

fn stages(criterion: &mut Criterion) {
    let plan = plan();
    let batch = batch();
    let bytes: u64 = batch
        .records()
        .filter_map(|record| record.value())
        .map(|value| value.len() as u64)
        .sum();
    println!("{EVENTS} events of {} bytes", bytes / EVENTS as u64);

    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.measurement_time(Duration::from_secs(5));
    group.sample_size(20);
    group.bench_function("decode", |bencher| {
        let mut decoder = JsonDecoder::new(&plan).expect("a decoder");
        bencher.iter(|| {
            let events = batch.records().map(|record| record.value());
            decoder.decode_each(events, |_, decoded| {
                decoded.expect("no generated event is broken here");
                ControlFlow::Continue(())
            });
            decoder.finish().expect("a batch").num_rows()
        });
    });
    group.bench_function("serde_json into a struct", |bencher| {
        #[derive(serde::Deserialize)]
        #[allow(dead_code)]
        struct Click<'a> {
            ts: &'a str,
            user_id: &'a str,
            country: Option<&'a str>,
            #[serde(borrow)]
            url: std::borrow::Cow<'a, str>,
            status: Option<i32>,
            latency_ms: Option<f64>,
            bytes: Option<i64>,
            is_bot: bool,
        }
        bencher.iter(|| {
            batch
                .records()
                .filter(|record| {
                    serde_json::from_slice::<Click<'_>>(record.value().expect("a value"))
                        .is_ok_and(|click| !click.is_bot)
                })
                .count()
        });
    });
    group.bench_function("decode and fold", |bencher| {
        bencher.iter(|| panes(&plan, &batch).len());
    });

    let part = panes(&plan, &batch);
    let rows: usize = part.iter().map(RecordBatch::num_rows).sum();
    group.throughput(Throughput::Elements(2 * rows as u64));
    group.bench_function("merge two parts", |bencher| {
        bencher.iter(|| {
            merge_panes(
                &plan.tables[0].shape,
                vec![part.clone(), part.clone()],
                &MemoryBudget::new(1 << 30),
            )
            .expect("merges")
            .map(|batch| batch.expect("a batch").num_rows())
            .sum::<usize>()
        });
    });
    let merged: Vec<RecordBatch> = merge_panes(
        &plan.tables[0].shape,
        vec![part],
        &MemoryBudget::new(1 << 30),
    )
    .expect("merges")
    .collect::<Result<_, _>>()
    .expect("batches");
    group.throughput(Throughput::Elements(rows as u64));
    group.bench_function("parquet", |bencher| {
        let level = ZstdLevel::try_new(1).expect("a level");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .build();
        bencher.iter(|| {
            let mut bytes = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut bytes, merged[0].schema(), Some(properties.clone()))
                    .expect("a writer");
            for batch in &merged {
                writer.write(batch).expect("writes");
            }
            writer.close().expect("closes");
            bytes.len()
        });
    });
    group.finish();
}

/// Sketches of 5,000 values each, merged into one by SQL.
fn sketches(criterion: &mut Criterion) {
    const SKETCHES: usize = 400;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    alluvium_functions::register(&session);
    let query = format!(
        "SELECT hll_sketch_agg(v) AS distinct_values, ddsketch_agg(v) AS quantiles
         FROM generate_series(1, {}) AS t(v) GROUP BY v / 5000",
        SKETCHES * 5000 - 1,
    );
    runtime.block_on(async {
        let made = session.sql(&query).await.expect("plans");
        let made = made.cache().await.expect("runs").into_view();
        session.register_table("sketches", made).expect("a table");
    });
    let mut group = criterion.benchmark_group("merge full sketches");
    group.throughput(Throughput::Elements(SKETCHES as u64));
    for merge in [
        "hll_union_agg(distinct_values)",
        "ddsketch_merge(quantiles)",
    ] {
        group.bench_function(merge, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let merged = session
                        .sql(&format!("SELECT {merge} FROM sketches"))
                        .await
                        .expect("plans");
                    merged.collect().await.expect("runs").len()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoding, stages, sketches);
criterion_main!(benches);
