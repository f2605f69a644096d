//! Files that no version of a table names: those that were staged and never committed, and those that were merged long ago.
//!
//! Owns when one is nobody's any more (P8, P37, S11). Does not own when it is looked for.

use futures::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _, path::Path};
use serde_json::json;

use crate::{
    Store, StoreError,
    action::{Draft, our_info},
    clock::millis,
    commit::{CommitName, Decision, commit},
    compact::pipeline,
    log::TableLog,
    snapshot::Snapshot,
};

/// A file in a table's folder that no version needs any more, or ever needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its path from the storage root.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What is done with orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacuum {
    /// They are listed.
    Look,
    /// They are deleted.
    Delete,
}

/// The orphans of one table. Files younger than the store's retention, or removed from the table since, are none: queries,
/// and commits under way, may need them.
pub(crate) async fn vacuum(
    store: &Store,
    log: &TableLog,
    vacuum: Vacuum,
) -> Result<Vec<Orphan>, StoreError> {
    let missing = || StoreError::Missing {
        table: log.table.clone(),
    };
    let mut snapshot = log.load().await?.ok_or_else(missing)?;
    let now = store.now().await?;
    let orphans = find_orphans(store, log, &mut snapshot, now).await?;
    match vacuum {
        Vacuum::Look => Ok(orphans),
        Vacuum::Delete => remove_orphans(store, log, &mut snapshot, &orphans, now).await,
    }
}

/// Removes files that no commit names, or that a commit removed so long ago that no query reads them any more.
pub(crate) async fn sweep_orphans(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    now: i64,
) -> Result<usize, StoreError> {
    let orphans = find_orphans(store, log, snapshot, now).await?;
    let mut removed = remove_orphans(store, log, snapshot, &orphans, now)
        .await?
        .len();
    if let Some(folder) = store.local_folder() {
        removed += folder
            .sweep_staging(&log.folder, store.rules().orphan_retention)
            .await
            .map_err(StoreError::object(format!("sweep {}", log.folder)))?;
    }
    Ok(removed)
}

/// What is older is not kept. Milliseconds.
fn oldest_kept(store: &Store, now: i64) -> i64 {
    now.saturating_sub(millis(store.rules().orphan_retention))
}

/// Whether a file left the table so lately that queries of older versions may still read it.
fn is_still_read(snapshot: &Snapshot, path: &str, cutoff: i64) -> bool {
    let removed = snapshot.removed_at(path);
    removed.is_some_and(|moment| moment > cutoff)
}

async fn find_orphans(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    now: i64,
) -> Result<Vec<Orphan>, StoreError> {
    let cutoff = oldest_kept(store, now);
    let log_folder = log.log_folder();
    let old: Vec<ObjectMeta> = store
        .object_store()
        .list(Some(&log.folder))
        .try_filter(|meta| {
            let is_old = meta.last_modified.timestamp_millis() <= cutoff
                && meta.location.as_ref().ends_with(".parquet")
                && !meta.location.prefix_matches(&log_folder);
            futures::future::ready(is_old)
        })
        .try_collect()
        .await
        .map_err(StoreError::object(format!("list {}", log.folder)))?;
    // Read on after the listing: what is old and not named now was staged long ago, and no put that begins now may name it: a
    // commit refuses files older than half of the retention.
    log.advance(snapshot).await?;
    let live: std::collections::HashSet<&str> = snapshot
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    Ok(old
        .into_iter()
        .filter(|meta| {
            let path = meta.location.as_ref();
            !live.contains(path) && !is_still_read(snapshot, path, cutoff)
        })
        .map(|meta| Orphan {
            path: meta.location.to_string(),
            bytes: meta.size,
        })
        .collect())
}

/// Those that no version names and none can name any more, once this returns.
///
/// A look at the clock before a put says nothing about one that is on its way for days already. But such a put aims at the
/// version after one in which its files were young, and the version that is put here is not before that one. So either it has
/// landed, and its files are named; or its version is taken.
async fn fenced(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    orphans: &[Orphan],
    now: i64,
) -> Result<Vec<Orphan>, StoreError> {
    let cutoff = oldest_kept(store, now);
    let mut unnamed = Vec::new();
    let decide = |snapshot: &Snapshot| {
        let is_unnamed = |orphan: &&Orphan| {
            !snapshot.paths.contains(&orphan.path) && !is_still_read(snapshot, &orphan.path, cutoff)
        };
        unnamed = orphans.iter().filter(is_unnamed).cloned().collect();
        if unnamed.is_empty() {
            return Ok(Decision::Stop(()));
        }
        let mut info = our_info("sweep", pipeline(snapshot));
        info.insert("files".into(), json!(unnamed.len()));
        Ok(Decision::Write(Box::new(Draft {
            operation: "VACUUM START",
            info,
            ..Draft::default()
        })))
    };
    let name = CommitName::new();
    commit(log, snapshot, &name, store.patience(), decide).await?;
    Ok(unnamed)
}

/// Deletes orphans, behind a version of its own; returns those that were. One that cannot be deleted does not keep the others.
async fn remove_orphans(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    orphans: &[Orphan],
    now: i64,
) -> Result<Vec<Orphan>, StoreError> {
    let (mut removed, mut failed) = (Vec::new(), None);
    for orphan in fenced(store, log, snapshot, orphans, now).await? {
        let path = Path::from(orphan.path.as_str());
        match store.object_store().delete(&path).await {
            Ok(()) => removed.push(orphan),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => {
                let doing = format!("remove the orphan {path}");
                failed.get_or_insert(StoreError::Object { doing, source });
            }
        }
    }
    match failed {
        None => Ok(removed),
        Some(error) => Err(error),
    }
}
