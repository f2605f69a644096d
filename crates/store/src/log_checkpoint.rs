//! Log checkpoints: the log of a table up to one version, in one file, so that opening it stays cheap.
//!
//! Owns when one is due, and the Delta library's view of a table, which writes them. Does not own reading them
//! ([`crate::log`]).

use deltalake_core::{
    DeltaTableBuilder, checkpoints,
    logstore::{self, LogStoreRef},
};

use object_store::{ObjectStoreExt as _, path::Path};
use serde_json::{Value, json};

use crate::{
    Store, StoreError,
    log::{SUM_TAG, TableLog, sum_of},
    snapshot::Snapshot,
};

pub(crate) fn delta_error(
    doing: String,
) -> impl FnOnce(deltalake_core::DeltaTableError) -> StoreError {
    move |source| StoreError::Delta {
        doing,
        source: Box::new(source),
    }
}

/// The Delta library's view of the table. Its URL only carries the path; all access goes through our store.
pub(crate) fn delta_log(
    store: &Store,
    log: &TableLog,
) -> Result<(url::Url, LogStoreRef), StoreError> {
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
    let delta = logstore::logstore_with(store.object_store(), &url, Default::default())
        .map_err(delta_error(format!("open the log of {}", log.table)))?;
    Ok((url, delta))
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
    vouch(store, log, snapshot).await?;
    snapshot.checkpoint = Some(version);
    Ok(Some(version))
}

/// Lets the library write a log checkpoint of one version.
async fn write(store: &Store, log: &TableLog, version: i64) -> Result<(), StoreError> {
    let doing = || {
        format!(
            "write a log checkpoint of {} at version {version}",
            log.table
        )
    };
    let (url, _) = delta_log(store, log)?;
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
            Err(error) if error.is_corrupt_file() => {
                tracing::warn!(table = %log.table, version, %error, "removing a log checkpoint");
                for path in &parts {
                    remove(store, path).await?;
                }
            }
            // It is whole, or gone: the bytes that came the first time were not its own.
            Ok(_) | Err(StoreError::TornLog { .. }) => {}
            Err(error) => return Err(error),
        }
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

/// Reads the new checkpoint back, and notes beside the hint what it says, so that damage is seen. One that does not say what
/// the log says is removed.
async fn vouch(store: &Store, log: &TableLog, snapshot: &Snapshot) -> Result<(), StoreError> {
    let version = snapshot.version;
    let path = log
        .log_folder()
        .join(format!("{version:020}.checkpoint.parquet"));
    let lines = log.read_checkpoint(version, &[&path], None).await?;
    let sum = sum_of(&lines);
    let read_at = snapshot.read_at;
    let says = Snapshot::replay(
        &log.table,
        &log.folder,
        Some((version, lines)),
        Vec::new(),
        read_at,
    )?;
    if !says.is_same_as(snapshot) {
        remove(store, &path).await?;
        return Err(StoreError::UnreadableFile {
            path: path.to_string(),
            source: parquet::errors::ParquetError::General(
                "it did not say what the log says, so it was removed".into(),
            ),
        });
    }
    let Some(bytes) = log.hint().await? else {
        return Ok(());
    };
    let mut hint: serde_json::Map<String, Value> = match serde_json::from_slice(&bytes) {
        Ok(hint) => hint,
        Err(_) => return Ok(()),
    };
    if hint.get("version").and_then(Value::as_i64) != Some(version) {
        // Another server has written a newer one meanwhile.
        return Ok(());
    }
    // A checksum of the hint itself would no longer hold.
    hint.remove("checksum");
    hint.insert("tags".into(), json!({ SUM_TAG: sum }));
    let path = log.hint_path();
    store
        .object_store()
        .put(&path, Value::Object(hint).to_string().into())
        .await
        .map_err(StoreError::object(format!("write {path}")))?;
    Ok(())
}
