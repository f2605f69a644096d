//! Log checkpoints: the log of a table up to one version, in one file, so that opening it stays cheap.
//!
//! Owns when one is due, and the Delta library's view of a table, which writes them. Does not own reading them
//! ([`crate::log`]).

use deltalake_core::{
    DeltaTableBuilder, checkpoints,
    logstore::{self, LogStoreRef},
};

use crate::{Store, StoreError, log::TableLog, snapshot::Snapshot};

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
    let last = log.last_checkpoint().await?;
    let last = last.filter(|version| *version <= snapshot.version);
    snapshot.checkpoint = snapshot.checkpoint.max(last);
    if !due(snapshot) {
        return Ok(None);
    }
    let version = snapshot.version;
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
        .map_err(delta_error(doing()))?;
    snapshot.checkpoint = Some(version);
    Ok(Some(version))
}
