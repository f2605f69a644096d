//! What a table needs now and then: log checkpoints, the ledger, log clean-up, the sweeping of orphans (P37).
//!
//! Owns when each is due and in which order. Does not own commits, and neither fails nor delays one: it reads the log for
//! itself and works beside them. "Now" is taken from the store itself, so a server with a wrong clock deletes nothing early.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStore as _, path::Path};

use crate::{
    CommitRecord, Store, StoreError,
    action::{Line, stray},
    clock::{Moment, millis, wall_millis},
    dead_letters, ledger,
    log::{LOAD_ATTEMPTS, Listing, TableLog},
    log_checkpoint::write_checkpoint,
    snapshot::Snapshot,
    sweep::sweep_orphans,
};

/// Clean-up and sweeping list whole folders, so they run this rarely.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// Log entries read at once for the ledger.
const READ_AHEAD: usize = 16;

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// The version of a log checkpoint that was written.
    pub checkpoint: Option<i64>,
    /// Commits that were copied to the ledger.
    pub ledger_entries: usize,
    /// Files of the log that were removed.
    pub log_files_removed: usize,
    /// Orphans that were removed: files of commits that never came.
    pub orphans_removed: usize,
    /// Files of dead letters that were kept long enough and left the table.
    pub files_expired: usize,
}

/// Keeps up one table beside its writers (P37). Any number of servers may do so beside each other.
#[derive(Debug)]
pub struct Upkeep {
    store: Store,
    log: TableLog,
    letters: Option<Letters>,
    /// The newest log checkpoint that was seen, 0 when there is none; `None` before the first look.
    checkpoint: Option<i64>,
    last_clean: Option<Moment>,
    /// Why the last clean-up did not come to its end.
    failing: Option<String>,
    /// What of the log could not be read, and what that means.
    damaged: Vec<String>,
    /// How far this machine's clock was ahead of the storage's, in milliseconds, when that was asked last.
    clock_ahead: Option<i64>,
}

/// What is kept up where the rows are dead letters.
#[derive(Debug)]
struct Letters {
    pipeline: Arc<str>,
    keep: Duration,
}

impl Store {
    /// The upkeep of a table.
    pub fn upkeep(&self, table: &str) -> Upkeep {
        Upkeep::new(self, self.table_log(table), None)
    }

    /// The upkeep of a pipeline's dead letters: those that the store has held for longer than `keep`, by its own clock,
    /// leave the table, a file at a time.
    pub fn upkeep_of_dead_letters(&self, pipeline: &Arc<str>, keep: Duration) -> Upkeep {
        let letters = Letters {
            pipeline: pipeline.clone(),
            keep,
        };
        Upkeep::new(self, self.dead_letters_log(pipeline), Some(letters))
    }
}

impl Upkeep {
    fn new(store: &Store, log: TableLog, letters: Option<Letters>) -> Self {
        Self {
            store: store.clone(),
            log,
            letters,
            checkpoint: None,
            last_clean: None,
            failing: None,
            damaged: Vec::new(),
            clock_ahead: None,
        }
    }

    /// Its table's folder below the storage root.
    pub fn table(&self) -> &str {
        &self.log.table
    }

    /// Whether there is something to do when the table is at this version, as far as that is known without a look.
    pub fn is_due(&self, version: i64) -> bool {
        let every = i64::from(self.store.rules().checkpoint_every.get());
        self.is_clean_due() || self.checkpoint.is_none_or(|last| version - last >= every)
    }

    fn is_clean_due(&self) -> bool {
        self.last_clean.is_none_or(|last| last.age() >= CLEAN_EVERY)
    }

    /// What of the log could not be read since this was asked, and what that means: a sentence each (S9).
    pub fn take_damaged(&mut self) -> Vec<String> {
        std::mem::take(&mut self.damaged)
    }

    /// How far this machine's clock was ahead of the storage's, in milliseconds, if that was asked since this was. Known also where
    /// what it was asked for has failed.
    pub fn take_clock_ahead(&mut self) -> Option<i64> {
        self.clock_ahead.take()
    }

    /// Why the last clean-up failed, if it did. The next one comes within the hour, as each costs a version.
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// Log checkpoint, ledger, log clean-up and the sweeping of orphans, each when it is due. A table that does not exist
    /// needs nothing. May be dropped at any point, as a crash would.
    ///
    /// # Errors
    /// The first step that failed; the next call goes on from there.
    pub async fn run(&mut self) -> Result<Maintenance, StoreError> {
        let mut done = Maintenance::default();
        // Read anew for each run: what is kept of a table between two of them costs memory for nothing.
        let Some(mut snapshot) = self.log.load().await? else {
            return Ok(done);
        };
        self.store.prove().await?;
        let passed_over: Vec<i64> = snapshot
            .passed_over
            .iter()
            .map(|(version, _)| *version)
            .collect();
        let written = write_checkpoint(&self.store, &self.log, &mut snapshot).await;
        self.checkpoint = Some(snapshot.checkpoint.unwrap_or(0));
        let meanwhile = match written {
            Ok(Some(_)) => "another one took its place",
            _ => "older ones and log entries say the same until another one takes its place",
        };
        self.damaged.extend(passed_over.into_iter().map(|version| {
            format!("the log checkpoint of version {version} could not be read; {meanwhile}")
        }));
        if self.is_clean_due() {
            let cleaned = self.clean(&mut snapshot, &mut done).await;
            self.failing = cleaned.as_ref().err().map(StoreError::to_string);
            cleaned?;
        }
        done.checkpoint = written?;
        Ok(done)
    }

    async fn clean(
        &mut self,
        snapshot: &mut Snapshot,
        done: &mut Maintenance,
    ) -> Result<(), StoreError> {
        let (store, log) = (&self.store, &self.log);
        let asked_at = wall_millis();
        let now = store.now().await?;
        self.clock_ahead = Some(ahead(now, asked_at, wall_millis()));
        if let Some(Letters { pipeline, keep }) = &self.letters {
            done.files_expired =
                dead_letters::expire(store, log, snapshot, pipeline, *keep, now).await?;
        }
        let cleaned = clean_log(store, log, snapshot.log_retention(), now).await;
        // Where something cannot be deleted, each try costs a version.
        self.last_clean = Some(Moment::now());
        done.orphans_removed = sweep_orphans(store, log, snapshot, now).await?;
        let cleaned = cleaned?;
        done.ledger_entries = cleaned.ledger_entries;
        done.log_files_removed = cleaned.log_files_removed;
        self.damaged.extend(cleaned.damaged);
        Ok(())
    }
}

/// How far a clock that said `before` and `after` is ahead of one that said `stamped` in between. Stores may stamp whole seconds.
fn ahead(stamped: i64, before: i64, after: i64) -> i64 {
    match stamped {
        late if late > after => after - late,
        early if early + 1000 < before => before - early,
        _ => 0,
    }
}

/// What clean-up did, and what stood in its way.
#[derive(Debug, Default)]
struct Cleaned {
    ledger_entries: usize,
    log_files_removed: usize,
    damaged: Option<String>,
}

/// Copies expired commits to the ledger, and only then removes their entries, and the log checkpoints of these. All of it goes by one
/// listing: what was read of the table before, or is listed later, can differ in what goes.
async fn clean_log(
    store: &Store,
    log: &TableLog,
    retention: Duration,
    now: i64,
) -> Result<Cleaned, StoreError> {
    let cutoff = now.saturating_sub(millis(retention));
    let listing = log.list().await?;
    let Some(trusted) = trusted_checkpoint(log, &listing, cutoff).await? else {
        return Ok(Cleaned::default());
    };
    let mut expired: Vec<i64> = listing
        .entries
        .range(..trusted.version)
        .filter(|(_, written)| **written <= cutoff)
        .map(|(version, _)| *version)
        .collect();
    if expired.is_empty() {
        return Ok(Cleaned::default());
    }
    let mut records: Vec<CommitRecord> = Vec::new();
    let mut entries = futures::stream::iter(expired.clone())
        .map(|version| log.read_entry(version))
        .buffered(READ_AHEAD);
    let mut unreadable = None;
    while let Some(entry) = entries.next().await {
        match entry {
            Ok(Some(entry)) => records.push(CommitRecord::from_entry(&log.table, &entry)),
            // An entry that is gone was taken by another server's clean-up, which put it into the ledger.
            Ok(None) => {}
            Err(error @ StoreError::UnreadableEntry { .. }) => {
                unreadable = Some(error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    drop(entries);
    // Others were put late into places that clean-up had freed, by writers of a table that was dropped.
    records.retain(|record| record.is_of(&trusted.table_id));
    for record in &mut records {
        // By another product, which does not tell.
        let table_id = || trusted.table_id.as_str().into();
        record.table_id.get_or_insert_with(table_id);
    }
    // Those behind them may have to say which commits these are.
    let runs = expired.chunk_by(|version, next| version + 1 == *next);
    let ends: Vec<i64> = runs.filter_map(|run| run.last().copied()).collect();
    let mut successors = futures::stream::iter(ends)
        .map(|version| async move { (version, log.read_entry(version + 1).await) })
        .buffered(READ_AHEAD);
    let mut next = Vec::new();
    let mut stay = BTreeSet::new();
    while let Some((version, entry)) = successors.next().await {
        match entry {
            Ok(entry) => {
                next.extend(entry.map(|entry| CommitRecord::from_entry(&log.table, &entry)));
            }
            Err(error) => {
                tracing::warn!(table = %log.table, version, %error, "an entry stays, as the next one cannot be read");
                stay.insert(version);
            }
        }
    }
    drop(successors);
    expired.retain(|version| !stay.contains(version));
    records.retain(|record| !stay.contains(&record.version));
    next.retain(|record| record.is_of(&trusted.table_id));
    let (table, table_id) = (&log.table, &trusted.table_id);
    let mut cleaned = Cleaned {
        ledger_entries: ledger::append(store, table, table_id, &records, &next).await?,
        ..Cleaned::default()
    };
    if let Some(error) = unreadable {
        // The table reads well without it. What it says is not lost for good while it lies there.
        cleaned.damaged = Some(format!(
            "the log is not cleaned up any more: {error}. Restore that file from a copy, or move it away: then its commit is \
             missing in the table's history"
        ));
        return Ok(cleaned);
    }
    let checkpoints = listing.checkpoint_files(trusted.version, cutoff).cloned();
    let files = expired
        .iter()
        .map(|version| log.entry_path(*version))
        .chain(checkpoints)
        .collect();
    cleaned.log_files_removed = remove_all(store, log, files).await?;
    Ok(cleaned)
}

/// Removes files of a log; returns how many of them were still there.
async fn remove_all(store: &Store, log: &TableLog, files: Vec<Path>) -> Result<usize, StoreError> {
    let files = futures::stream::iter(files.into_iter().map(Ok)).boxed();
    let mut removals = store.object_store().delete_stream(files);
    let mut removed = 0;
    while let Some(removal) = removals.next().await {
        match removal {
            Ok(_) => removed += 1,
            // Another server was faster.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => {
                return Err(StoreError::Object {
                    doing: format!("clean up the log of {}", log.table),
                    source,
                });
            }
        }
    }
    Ok(removed)
}

/// A log checkpoint by which a log may be cleaned up.
struct Trusted {
    version: i64,
    table_id: String,
}

/// The newest log checkpoint that was written before `cutoff` and can be read: entries before it may go.
///
/// One that cannot be read is passed over, as what alone says the same would be taken (S9). And one that was written just now,
/// in the place of a damaged one, may still go: another server that has seen the damaged one may be about to remove it.
async fn trusted_checkpoint(
    log: &TableLog,
    listing: &Listing,
    cutoff: i64,
) -> Result<Option<Trusted>, StoreError> {
    let hint = log.last_checkpoint().await?;
    for (version, parts) in listing.checkpoints_until(cutoff) {
        match log.read_checkpoint(version, &parts, hint.as_ref()).await {
            Ok(lines) => {
                let metadata = lines.into_iter().find_map(|line: Line| line.meta_data);
                return Ok(metadata.map(|metadata| Trusted {
                    version,
                    table_id: metadata.id,
                }));
            }
            Err(error) if error.is_corrupt_file() => {
                tracing::warn!(table = %log.table, version, %error, "not cleaning up by a log checkpoint");
            }
            // Another server's clean-up took it.
            Err(StoreError::TornLog { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// History of one table. The log is read first, then the ledger, so that an entry which is cleaned up meanwhile is seen there.
///
/// Where they have several commits of a version, the next version's says which one it follows. Where that says nothing the log is
/// believed from its newest checkpoint on, where nothing can have come late, and the ledger before: it was written while the version's
/// place in the log was taken. What stands there now may be a late put into a place that clean-up has freed, of a commit that never
/// was. Of a table that was put back from an older copy the ledger can have a former life.
pub(crate) async fn history(
    store: &Store,
    log: &TableLog,
) -> Result<Vec<CommitRecord>, StoreError> {
    let mut attempt = 1;
    loop {
        let records = read_history(store, log).await?;
        let gap = records
            .windows(2)
            .find(|pair| pair[0].version + 1 != pair[1].version)
            .map(|pair| pair[0].version + 1);
        // A folder is not listed at one moment: an entry that was put meanwhile can be missing in it, and the next one not.
        match gap {
            Some(missing) if attempt < LOAD_ATTEMPTS && log.has_entry(missing).await? => {
                attempt += 1;
            }
            _ => return Ok(records),
        }
    }
}

async fn read_history(store: &Store, log: &TableLog) -> Result<Vec<CommitRecord>, StoreError> {
    let listing = log.list().await?;
    let newest = listing.complete_checkpoints().next();
    let newest = newest.map(|(version, _)| version);
    let checkpoint = newest.unwrap_or(0);
    let head = listing.entries.keys().next_back().copied().max(newest);
    let mut in_log = Vec::new();
    let mut entries = futures::stream::iter(listing.entries.into_keys())
        .map(|version| log.read_entry(version))
        .buffered(READ_AHEAD);
    while let Some(entry) = entries.try_next().await? {
        // One that is gone was taken by clean-up, which put it into the ledger.
        in_log.extend(entry.map(|entry| CommitRecord::from_entry(&log.table, &entry)));
    }
    drop(entries);
    // Places are freed below a log checkpoint only, so nothing can have come late into one above.
    let standing = in_log.partition_point(|record| record.version < checkpoint);
    let table_id = in_log[standing..]
        .iter()
        .chain(in_log[..standing].iter().rev())
        .find_map(|record| record.table_id.clone());
    let is_ours = |record: &CommitRecord| table_id.as_ref().is_none_or(|id| record.is_of(id));
    if let Some(record) = in_log[standing..].iter().find(|record| !is_ours(record)) {
        return Err(StoreError::UnreadableEntry {
            table: log.table.clone(),
            version: record.version,
            source: stray(record.table_id.as_deref().unwrap_or_default()),
        });
    }
    let mut in_ledger = ledger::read(store, &log.table).await?;
    // Behind the newest version are those of a former life that it has not come to again.
    let is_past = |record: &CommitRecord| head.is_none_or(|head| record.version <= head);
    // The ones that are believed first, first: where nothing can have come late, the log, and of two lives the later one.
    let standing = in_log.split_off(standing);
    in_ledger.sort_by_key(|record| Reverse(record.timestamp));
    let mut told: BTreeMap<i64, Vec<CommitRecord>> = BTreeMap::new();
    for record in standing.into_iter().chain(in_ledger).chain(in_log) {
        if is_ours(&record) && is_past(&record) {
            // Nearly always there is one.
            let commits = told.entry(record.version);
            let commits = commits.or_insert_with(|| Vec::with_capacity(1));
            commits.push(record);
        }
    }
    let mut history: VecDeque<CommitRecord> = VecDeque::with_capacity(told.len());
    for (version, commits) in told.into_iter().rev() {
        let next = history.front().filter(|next| next.version == version + 1);
        let named = next.and_then(|next| next.follows.clone());
        let is_it = |record: &CommitRecord| named.is_none() || record.commit_id == named;
        if let Some(record) = commits.into_iter().find(is_it) {
            history.push_front(record);
        }
    }
    Ok(history.into())
}

#[cfg(test)]
mod tests {
    use super::ahead;

    #[test]
    fn only_what_waiting_does_not_explain_is_a_wrong_clock() {
        assert_eq!(ahead(5_000, 5_000, 5_300), 0);
        assert_eq!(ahead(5_000, 5_900, 6_300), 0, "whole seconds");
        assert_eq!(ahead(5_000, 65_000, 65_300), 60_000);
        assert_eq!(ahead(65_000, 5_000, 5_300), -59_700);
    }
}
