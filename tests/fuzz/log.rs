//! The log of a table: whatever bytes stand in the place of an entry, a log checkpoint or its hint, the table is read or
//! refused, by everybody alike.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use alluvium_store::{Store, StoreError, StoreRules, TableSpec};
use alluvium_types::TopicPartition;
use bytes::Bytes;
use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path};
use tokio::runtime::Runtime;

use crate::house::{plan_of, spec_of};

const PIPELINE: &str = "version: 1\n\
    source:\n  kafka: {connection: main, topics: [t], start: earliest}\n\
    decode:\n  json: {schema: s.yaml}\n\
    event_time: {column: ts, max_delay: 1m}\n\
    tables:\n  t:\n    window: {tumbling: 1m}\n    measures: {n: count(*)}\n";
const SCHEMA: &[u8] = b"version: 1\ncolumns: {ts: timestamp}\n";
const FOLDER: &str = "tables/t/_delta_log";

/// A table of two versions, and what is needed to read it.
struct Table {
    runtime: Runtime,
    spec: TableSpec,
    first_entry: Bytes,
    checkpoint: Bytes,
    hint: Bytes,
}

const CHECKPOINT: &str = "00000000000000000001.checkpoint.parquet";
const HINT: &str = "_last_checkpoint";
const START: i64 = 17;

/// A letter that says where the bytes behind it stand: `e` in the place of the next entry, `c` of a log checkpoint beside
/// the entries, `a` of one that is alone, `d` says where a true one that is alone has other bits (three bytes each: where,
/// and which), anything else of the hint.
///
/// # Panics
/// When anything panics, or when readers and writers do not agree whether the table can be used.
pub fn log(data: &[u8]) {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(table);
    let Some((place, bytes)) = data.split_first() else {
        return;
    };
    let (name, keeps_entry) = match place {
        b'e' => ("00000000000000000001.json", true),
        b'c' => ("00000000000000000000.checkpoint.parquet", true),
        b'a' => ("00000000000000000000.checkpoint.parquet", false),
        b'd' => return table.runtime.block_on(differs(table, bytes)),
        _ => (HINT, true),
    };
    table.runtime.block_on(async {
        let objects = Arc::new(InMemory::new());
        let mut there = vec![(name, Bytes::copy_from_slice(bytes))];
        if keeps_entry {
            there.push(("00000000000000000000.json", table.first_entry.clone()));
        }
        for (name, bytes) in there {
            let path = Path::from(format!("{FOLDER}/{name}"));
            objects.put(&path, bytes.into()).await.expect("memory");
        }
        let store = Store::over(objects, StoreRules::default());
        let read = store.read_table("t").await;
        let history = store.history("t").await;
        let opened = store.table(&table.spec).await;
        let refusals = [
            read.as_ref().err(),
            history.as_ref().err(),
            opened.as_ref().err(),
        ];
        for error in refusals.into_iter().flatten() {
            assert!(!error.to_string().is_empty(), "a refusal has words");
        }
        match (read, opened) {
            (Ok(read), Ok(opened)) => {
                assert_eq!(read.version, opened.version());
                assert_eq!(read.files, opened.committed().files);
            }
            // It cannot be read, so nobody writes on behind it.
            (Err(StoreError::UnreadableEntry { .. } | StoreError::LostEntry { .. }), Ok(_)) => {
                panic!("a writer takes what a reader refuses")
            }
            _ => {}
        }
    });
}

/// A true log checkpoint, of which some bits are others: it is refused, or says what it said.
async fn differs(table: &Table, bits: &[u8]) {
    let mut checkpoint = table.checkpoint.to_vec();
    for change in bits.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % checkpoint.len();
        checkpoint[at] ^= change[2];
    }
    let objects = Arc::new(InMemory::new());
    for (name, bytes) in [
        (CHECKPOINT, Bytes::from(checkpoint)),
        (HINT, table.hint.clone()),
    ] {
        let path = Path::from(format!("{FOLDER}/{name}"));
        objects.put(&path, bytes.into()).await.expect("memory");
    }
    let store = Store::over(objects, StoreRules::default());
    if let Ok(read) = store.read_table("t").await {
        let recorded = read.offsets.get(&TopicPartition::new("t", 0));
        assert_eq!((read.version, recorded), (1, Some(&START)));
    }
}

fn table() -> Table {
    crate::bear_expected_panics();
    let spec = spec_of(&plan_of(PIPELINE, SCHEMA));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let [first_entry, checkpoint, hint] = runtime.block_on(async {
        let objects = Arc::new(InMemory::new());
        let rules = StoreRules {
            checkpoint_every: NonZeroU32::MIN,
            ..StoreRules::default()
        };
        let store = Store::over(objects.clone(), rules);
        let mut writer = store.table(&spec).await.expect("a new table");
        let starts = BTreeMap::from([(TopicPartition::new("t", 0), START)]);
        let counts = BTreeMap::from([("t".into(), 1)]);
        writer
            .record_start(&starts, &counts, &BTreeMap::new())
            .await
            .expect("a start");
        store.upkeep("t").run().await.expect("a log checkpoint");
        let mut files = Vec::new();
        for name in ["00000000000000000000.json", CHECKPOINT, HINT] {
            let path = Path::from(format!("{FOLDER}/{name}"));
            let file = objects.get(&path).await.expect("a file of the log");
            files.push(file.bytes().await.expect("memory"));
        }
        <[Bytes; 3]>::try_from(files).expect("three files")
    });
    Table {
        runtime,
        spec,
        first_entry,
        checkpoint,
        hint,
    }
}
