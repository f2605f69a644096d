//! The stages of the way of an event, each alone: decode, fold, merge, Parquet. Run with
//! `cargo bench --bench stages`. Figures are per event or row; compare them within one run only.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{path::Path, sync::Arc, time::Duration};

use alluvium_engine::{EpochFold, JsonDecoder, merge_panes};
use alluvium_plan::{Plan, SourceFile, load_pipeline};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, TableSet, Timestamp,
    TopicPartition,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use datafusion::{
    arrow::record_batch::RecordBatch,
    parquet::{
        arrow::ArrowWriter,
        basic::{Compression, ZstdLevel},
        file::properties::WriterProperties,
    },
};
use rand::{SeedableRng, rngs::StdRng};

mod common;

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 50_000;

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
            for record in batch.records() {
                decoder
                    .decode(record.value())
                    .expect("no generated event is broken here");
            }
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

criterion_group!(benches, stages);
criterion_main!(benches);
