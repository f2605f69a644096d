//! Log checkpoints: the log of a table up to one version, in one file, so that opening it stays cheap.
//!
//! Owns when one is due, and the Delta library's view of a table, which writes them. Does not own reading them
//! ([`crate::log`]).

use deltalake_core::{DeltaTableBuilder, checkpoints};

use object_store::{ObjectStoreExt as _, path::Path};
use serde_json::{Value, json};

use crate::{
    Store, StoreError,
    log::{SUM_TAG, TableLog, sum_of, tag_of},
    snapshot::Snapshot,
};

fn delta_error(doing: String) -> impl FnOnce(deltalake_core::DeltaTableError) -> StoreError {
    move |source| StoreError::Delta {
        doing,
        source: Box::new(source),
    }
}

/// The table's address for the Delta library. It only carries the path; all access goes through our store.
fn table_url(log: &TableLog) -> Result<url::Url, StoreError> {
    let unsupported = |what: String| StoreError::Unsupported {
        table: log.table.clone(),
        what,
    };
    let mut url = url::Url::parse("memory:///").map_err(|error| unsupported(error.to_string()))?;
    url.path_segments_mut()
        .map_err(|()| unsupported("it has no path".into()))?
        .pop_if_empty()
        .extend(log.folder.parts().map(|part| part.as_ref().to_owned()))
        .push("");
    Ok(url)
}

/// Writes a log checkpoint when enough commits came since the last one, whoever wrote that (S10).
pub(crate) async fn write_checkpoint(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
) -> Result<Option<i64>, StoreError> {
    let due = |snapshot: &Snapshot| {
        snapshot.version - snapshot.checkpoint.unwrap_or(0)
            >= i64::from(store.rules().checkpoint_every.get())
    };
    if !due(snapshot) {
        return Ok(None);
    }
    remove_passed_over(store, log, snapshot).await?;
    if let Some(hint) = log.last_checkpoint().await? {
        let newest = log.newest_checkpoint(hint.version).await?;
        if hint.version > snapshot.version
            && newest.is_none()
            && !log.has_entry(hint.version).await?
        {
            // Of a log that was longer once, or damaged. The library would keep it for ever, and other readers go by it.
            let hint = log.hint_path();
            tracing::warn!(table = %log.table, "removing {hint}: it names a version that does not exist");
            remove(store, &hint).await?;
        }
        let newest = newest.filter(|version| *version <= snapshot.version);
        snapshot.checkpoint = snapshot.checkpoint.max(newest);
        if !due(snapshot) {
            return Ok(None);
        }
    }
    let version = snapshot.version;
    if let Err(error) = write(store, log, version).await {
        // The library does not get past a hint that names what is not there; without one it looks for itself.
        let hint = log.hint_path();
        tracing::warn!(table = %log.table, version, %error, "trying again without {hint}");
        remove(store, &hint).await?;
        write(store, log, version).await?;
    }
    let is_right = vouch(store, log, snapshot).await?;
    // One that had to be removed is not tried again before the next one is due.
    snapshot.checkpoint = Some(version);
    Ok(is_right.then_some(version))
}

/// Lets the library write a log checkpoint of one version.
async fn write(store: &Store, log: &TableLog, version: i64) -> Result<(), StoreError> {
    let doing = || {
        format!(
            "write a log checkpoint of {} at version {version}",
            log.table
        )
    };
    let url = table_url(log)?;
    let table = DeltaTableBuilder::from_url(url.clone())
        .map_err(delta_error(doing()))?
        .with_storage_backend(store.object_store(), url)
        .with_version(u64::try_from(version).unwrap_or(0))
        .load()
        .await
        .map_err(delta_error(doing()))?;
    checkpoints::create_checkpoint(&table, None)
        .await
        .map_err(delta_error(doing()))
}

/// Removes log checkpoints that cannot be read. Nothing needs them, as the log was just added up without; and while they lie
/// there, other readers stumble over them, and so does the library when it writes the next one (S9).
async fn remove_passed_over(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    for (version, parts) in std::mem::take(&mut snapshot.passed_over) {
        let hint = log.last_checkpoint().await?;
        let paths: Vec<&Path> = parts.iter().collect();
        match log.read_checkpoint(version, &paths, hint.as_ref()).await {
            // Whoever stood still for long may have come to another one of this version, by which the log was cleaned up since.
            Err(error) if error.is_corrupt_file() && !snapshot.is_young() => {
                return Err(error);
            }
            Err(error) if error.is_corrupt_file() => {
                tracing::warn!(table = %log.table, version, %error, "removing a log checkpoint");
                remove_checkpoint(store, log, version, &paths).await?;
            }
            // It is whole, or gone: the bytes that came the first time were not its own.
            Ok(_) | Err(StoreError::TornLog { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The hint that names it goes first: other readers fail where it names what is not there.
async fn remove_checkpoint(
    store: &Store,
    log: &TableLog,
    version: i64,
    parts: &[&Path],
) -> Result<(), StoreError> {
    let hint = log.last_checkpoint().await?;
    if hint.is_some_and(|hint| hint.version == version) {
        remove(store, &log.hint_path()).await?;
    }
    for path in parts {
        remove(store, path).await?;
    }
    Ok(())
}

async fn remove(store: &Store, path: &Path) -> Result<(), StoreError> {
    match store.object_store().delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(StoreError::Object {
            doing: format!("remove {path}"),
            source,
        }),
    }
}

/// Reads the new checkpoint back, and notes beside the hint what it says, so that damage is seen. One that twice does not say
/// what the log says is removed; the answer is whether it does.
async fn vouch(store: &Store, log: &TableLog, snapshot: &Snapshot) -> Result<bool, StoreError> {
    let version = snapshot.version;
    let path = log
        .log_folder()
        .join(format!("{version:020}.checkpoint.parquet"));
    let said = match says(log, snapshot, &path).await? {
        None => says(log, snapshot, &path).await?,
        said => said,
    };
    let Some((sum, size)) = said else {
        // Whoever stood still for long may have come to another one, as above.
        if !snapshot.is_young() {
            return Ok(false);
        }
        tracing::warn!(table = %log.table, "removing {path}: it does not say what the log says");
        remove_checkpoint(store, log, version, &[&path]).await?;
        return Ok(false);
    };
    let bytes = log.hint().await?;
    let hint = bytes.and_then(|bytes| serde_json::from_slice::<Map>(&bytes).ok());
    let named = |hint: &Map| hint.get("version").and_then(Value::as_i64);
    let mut hint = match hint {
        // Another server has written a newer one meanwhile.
        Some(hint) if named(&hint) > Some(version) => return Ok(true),
        Some(hint) if named(&hint) == Some(version) => hint,
        // One of an older checkpoint came later than ours.
        _ => Map::from_iter([
            ("version".to_owned(), version.into()),
            ("size".to_owned(), size.into()),
        ]),
    };
    // A checksum of the hint itself would no longer hold.
    hint.remove("checksum");
    hint.insert("tags".into(), json!({ SUM_TAG: tag_of(&sum) }));
    let path = log.hint_path();
    store
        .object_store()
        .put(&path, Value::Object(hint).to_string().into())
        .await
        .map_err(StoreError::object(format!("write {path}")))?;
    Ok(true)
}

/// The sum and the number of the lines of a checkpoint; `None` when it says something else than `snapshot`, of its version.
async fn says(
    log: &TableLog,
    snapshot: &Snapshot,
    path: &Path,
) -> Result<Option<(String, usize)>, StoreError> {
    let lines = log.read_checkpoint(snapshot.version, &[path], None).await?;
    let (sum, size) = (sum_of(&lines), lines.len());
    let says = Snapshot::replay(
        &log.table,
        &log.folder,
        Some((snapshot.version, lines)),
        Vec::new(),
        snapshot.read_at,
    )?;
    Ok(says.is_same_as(snapshot).then_some((sum, size)))
}

type Map = serde_json::Map<String, Value>;
