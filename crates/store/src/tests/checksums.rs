//! A file whose bytes have changed is found by whoever reads it whole (S9), also where its decoders notice nothing.

use std::collections::BTreeSet;

use alluvium_types::{ErrorClass, MemoryBudget, Reject, Stage};
use object_store::{ObjectStoreExt as _, path::Path};

use super::*;
use crate::{Effort, Found, Look, LostFile, StoreError, checksum::CHECKSUM, choose};

const TABLE: &str = "clicks_per_minute";
const SEEDS: u64 = 300;

/// One bit of these bytes is another.
fn flipped(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let drawn = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let at = (drawn >> 16) as usize % bytes.len();
    bytes[at] ^= 1 << (drawn >> 60 & 7);
    bytes
}

async fn bytes_of(store: &Store, path: &str) -> Vec<u8> {
    let read = store.object_store().get(&Path::from(path)).await.unwrap();
    read.bytes().await.unwrap().to_vec()
}

async fn put(store: &Store, path: &str, bytes: Vec<u8>) {
    let path = Path::from(path);
    store.object_store().put(&path, bytes.into()).await.unwrap();
}

/// Reads the files of a merge to their ends, as a merge does before it commits anything.
async fn read_for_merging(store: &Store) -> Result<u64, StoreError> {
    let compactor = store.compactor(TABLE).await?;
    let everything = Effort::Everything;
    let choice = choose(compactor.files(), everything, 1 << 30, &BTreeSet::new()).unwrap();
    let inputs = compactor.open(&choice, 1 << 20).await?;
    // As whoever merges does; nothing is written.
    compactor
        .begin(&inputs, &MemoryBudget::new(1 << 30))
        .abandon()
        .await;
    let mut rows = 0;
    for mut file in inputs.into_files() {
        while let Some(batch) = file.next().await {
            rows += batch?.num_rows() as u64;
        }
    }
    Ok(rows)
}

async fn read_for_verifying(store: &Store) -> Result<u64, StoreError> {
    let reader = store.reader(&spec()).await?;
    let mut rows = 0;
    for file in reader.files() {
        let mut file = reader.open(file, 1 << 10).await?;
        while let Some(batch) = file.next().await {
            rows += batch?.num_rows() as u64;
        }
    }
    Ok(rows)
}

#[tokio::test]
async fn whoever_reads_a_file_whole_finds_every_flipped_bit() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, 10 * at, 10 * at + 10)]).await;
    }
    let files = writer.committed().files;
    let file = &files[1];
    assert!(file.checksum.is_some());
    assert_eq!(read_for_merging(&store).await.unwrap(), 4);
    assert_eq!(read_for_verifying(&store).await.unwrap(), 4);
    let found = store.find_files(TABLE, Look::Bytes).await.unwrap();
    assert_eq!((found.lost, found.without_checksum), (Vec::new(), 0));

    let good = bytes_of(&store, &file.path).await;
    let mut decoded = 0;
    for seed in 0..SEEDS {
        put(&store, &file.path, flipped(&good, seed)).await;
        let columns = [
            "window_start",
            "window_end",
            "country",
            "clicks",
            "bytes",
            "mean",
            "users",
        ];
        let read = read_columns(store.object_store(), &file.path, file.size, &columns).await;
        decoded += u64::from(read.is_ok());
        for error in [
            read_for_merging(&store).await.unwrap_err(),
            read_for_verifying(&store).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains(&file.path), "{seed}: {error}");
            assert_eq!(error.class(), ErrorClass::Config, "{seed}: {error}");
        }
        let by_length = store.find_files(TABLE, Look::Length).await.unwrap();
        assert_eq!(by_length.lost, [], "{seed}");
        let lost = LostFile {
            path: file.path.clone(),
            size: file.size,
            found: Found::OtherBytes,
        };
        let by_bytes = store.find_files(TABLE, Look::Bytes).await.unwrap();
        assert_eq!(by_bytes.lost, [lost], "{seed}");
    }
    assert!(
        decoded > SEEDS / 4,
        "the decoders find most by themselves: {decoded}"
    );
    put(&store, &file.path, good).await;
    assert_eq!(read_for_merging(&store).await.unwrap(), 4);
}

#[tokio::test]
async fn a_letter_whose_bytes_have_changed_is_not_replayed() {
    let store = in_memory();
    let mut letters = store.dead_letters("clicks").await.unwrap();
    let reject = |offset| Reject {
        partition: tp(0),
        offset,
        timestamp: None,
        key: None,
        headers: Vec::new(),
        payload: Some("{broken".into()),
        error: "it is broken".into(),
        column: None,
        stage: Stage::Decode,
        table: None,
    };
    let rejects: Vec<Reject> = (0..20).map(reject).collect();
    let written = letters.commit(&rejects, "v1", Timestamp::from_micros(5));
    let version = written.await.unwrap().version.unwrap();
    let (_, files) = store.read_dead_letters("clicks").await.unwrap();
    let good = bytes_of(&store, &files[0].path).await;
    let opened = store.letters("clicks").await.unwrap();
    assert_eq!(opened.read(version).await.unwrap().len(), 20);
    for seed in 0..SEEDS {
        put(&store, &files[0].path, flipped(&good, seed)).await;
        let error = opened.read(version).await.unwrap_err();
        assert!(
            error.to_string().contains(&files[0].path),
            "{seed}: {error}"
        );
    }
}

/// Files of older releases, and of other products that write a table's log anew, have no checksum: they are read as ever.
#[tokio::test]
async fn a_file_without_a_checksum_is_read_and_counted() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, 10 * at, 10 * at + 10)]).await;
    }
    let log = store.table_log(TABLE);
    let newest = log.entry_path(writer.version());
    let entry = String::from_utf8(bytes_of(&store, newest.as_ref()).await).unwrap();
    assert!(entry.contains(CHECKSUM));
    let entry = entry.replace(CHECKSUM, "other.checksum");
    // It is no entry of ours any more, and is not held to its own checksum either.
    let entry: String = entry
        .lines()
        .filter(|line| !line.contains("commitInfo"))
        .map(|line| format!("{line}\n"))
        .collect();
    put(&store, newest.as_ref(), entry.into_bytes()).await;
    let found = store.find_files(TABLE, Look::Bytes).await.unwrap();
    assert_eq!((found.lost, found.without_checksum), (Vec::new(), 1));
    assert_eq!(read_for_merging(&store).await.unwrap(), 4);
}

/// The checksum stays with the file in a log checkpoint, by which others read the table.
#[tokio::test]
async fn a_log_checkpoint_keeps_checksums() {
    let store = Store::over(Arc::new(InMemory::new()), unhurried());
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, 10 * at, 10 * at + 10)]).await;
    }
    let log = store.table_log(TABLE);
    let entries: Vec<_> = (0..=writer.version())
        .map(|version| log.entry_path(version))
        .collect();
    checkpointed(&store, &log).await;
    for entry in &entries {
        store.object_store().delete(entry).await.unwrap();
    }
    let found = store.find_files(TABLE, Look::Bytes).await.unwrap();
    assert_eq!((found.lost, found.without_checksum), (Vec::new(), 0));
    assert_eq!(writer.committed().files.len(), 4);
}
