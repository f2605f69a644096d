//! The log of a table: whatever bytes stand in the place of an entry, a log checkpoint or its hint, the table is read or
//! refused, by everybody alike.

use std::{
    io,
    path::Path as FilePath,
    sync::{Arc, OnceLock},
};

use alluvium_plan::{Environment, SourceFile, load_pipeline};
use alluvium_store::{Store, StoreError, StoreRules, TableSpec};
use bytes::Bytes;
use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path};
use tokio::runtime::Runtime;

const PIPELINE: &str = "version: 1\n\
    source:\n  kafka: {connection: main, topics: [t], start: earliest}\n\
    decode:\n  json: {schema: s.yaml}\n\
    event_time: {column: ts, max_delay: 1m}\n\
    tables:\n  t:\n    window: {tumbling: 1m}\n    measures: {n: count(*)}\n";
const SCHEMA: &[u8] = b"version: 1\ncolumns: {ts: timestamp}\n";
const FOLDER: &str = "tables/t/_delta_log";

/// A table of one version, and what is needed to read it.
struct Table {
    runtime: Runtime,
    spec: TableSpec,
    first_entry: Bytes,
}

/// A letter that says where the bytes behind it stand: `e` in the place of the next entry, `c` of a log checkpoint beside
/// the entries, `a` of one that is alone, anything else of the hint.
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
        _ => ("_last_checkpoint", true),
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
        for error in [
            read.as_ref().err(),
            history.as_ref().err(),
            opened.as_ref().err(),
        ] {
            if let Some(error) = error {
                let text = error.to_string();
                // What a thread that decodes files says of a panic.
                assert!(!text.is_empty() && !text.contains("panicked"), "{text}");
            }
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

fn table() -> Table {
    // As the server's hook does: a decoder that gives up on damaged bytes is no broken promise.
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !alluvium_store::is_panic_expected() {
            end(panic);
        }
    }));
    let mut read = |_: &FilePath| -> io::Result<Vec<u8>> { Ok(SCHEMA.to_vec()) };
    let source = SourceFile::new("pipelines/p.yaml", PIPELINE);
    let (plan, _) = load_pipeline(&source, &mut read, &Environment::default()).expect("a plan");
    let planned = &plan.tables[0];
    let spec = TableSpec {
        name: planned.name.clone(),
        pipeline: plan.name.clone(),
        shape: Arc::new(planned.shape.clone()),
        partition_by: planned.partition_by,
        definition: planned.definition.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let first_entry = runtime.block_on(async {
        let objects = Arc::new(InMemory::new());
        let store = Store::over(objects.clone(), StoreRules::default());
        store.table(&spec).await.expect("a new table");
        let path = Path::from(format!("{FOLDER}/00000000000000000000.json"));
        let entry = objects.get(&path).await.expect("its first entry");
        entry.bytes().await.expect("memory")
    });
    Table {
        runtime,
        spec,
        first_entry,
    }
}
