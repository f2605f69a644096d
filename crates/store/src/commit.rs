//! One commit from the judgement to its known ending.
//!
//! Owns the loop of P7–P12: judge in the snapshot in hand, put exactly the next version, and after anything but a
//! plain yes read on and judge again. Does not own the judgement itself; every kind of commit brings its own.
//!
//! Why no commit can count twice: an entry is only ever put as the version after the snapshot that was judged. If any
//! other commit, wanted or not, came in between, that version is taken and the put is refused. This is stricter than
//! refusing commits that touch the same ids (P9), and it also makes a late put harmless: the slot it aims at is
//! either still the next version of the very snapshot that was judged, or taken.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rand::Rng as _;

use crate::{
    StoreError,
    action::{Draft, Entry, Metadata, Place, Txn},
    clock::{Moment, wall_millis},
    definition::protocol,
    log::{Put, TableLog},
    snapshot::Snapshot,
};

/// Every version that removes files moves this number (P36), so that a writer of another make that has planned on files can
/// see that some may be gone.
pub(crate) const LAYOUT: &str = "alluvium/layout";

/// How long a commit may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For one answer of the store to a put.
    pub(crate) put: Duration,
    /// For the whole commit.
    pub(crate) commit: Duration,
    /// Between two tries, at most.
    pub(crate) pause: Duration,
}

/// The name of one commit, and whether a log entry with it may be on its way.
#[derive(Debug)]
pub(crate) struct CommitName {
    pub(crate) id: String,
    /// How often an entry was put under it. From the first put on a reply may be lost and the entry land late. Then its files
    /// are not ours to delete (O1).
    puts: AtomicU32,
}

impl CommitName {
    pub(crate) fn new() -> Self {
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            puts: AtomicU32::new(0),
        }
    }

    pub(crate) fn puts(&self) -> u32 {
        self.puts.load(Ordering::Acquire)
    }

    pub(crate) fn was_sent(&self) -> bool {
        self.puts() > 0
    }
}

/// Puts version 0 of a table. Whoever loses the race opens what the winner made.
pub(crate) async fn create_table(
    log: &TableLog,
    info: serde_json::Map<String, serde_json::Value>,
    metadata: Metadata,
) -> Result<(), StoreError> {
    let table_id = metadata.id.clone();
    let draft = Draft {
        operation: "CREATE TABLE",
        info,
        protocol: Some(protocol()),
        metadata: Some(metadata),
        ..Draft::default()
    };
    let place = Place {
        table_id: &table_id,
        version: 0,
        follows: None,
    };
    let bytes = draft.encode(place, &CommitName::new().id, wall_millis());
    match log.put_entry(0, bytes).await {
        Ok(Put::Landed | Put::Taken) => Ok(()),
        Err(source) => Err(StoreError::Object {
            doing: format!("create {}", log.table),
            source,
        }),
    }
}

/// What the judgement of a snapshot is.
pub(crate) enum Decision<T> {
    /// Commit this, as the version after this snapshot.
    Write(Box<Draft>),
    /// Do not commit.
    Stop(T),
}

/// How a commit ended.
pub(crate) enum Outcome<T> {
    /// It is this version.
    Landed(i64),
    /// A judgement stopped it, and no put of it can land any more. One may have: when its reply was lost, and the log was
    /// then read from a log checkpoint or over more commits than are remembered, nothing tells whose version it was.
    Stopped(T),
}

/// Commits what `decide` says about the newest snapshot. On return `snapshot` includes the commit.
///
/// # Errors
/// A transient error when the ending is still not known; the same `name` may then be used again (P10).
pub(crate) async fn commit<T: Send>(
    log: &TableLog,
    snapshot: &mut Snapshot,
    name: &CommitName,
    patience: Patience,
    mut decide: impl FnMut(&Snapshot) -> Result<Decision<T>, StoreError> + Send,
) -> Result<Outcome<T>, StoreError> {
    look_back(log, snapshot, patience).await?;
    let begun = Moment::now();
    let mut attempts = 0;
    let mut trouble: Option<StoreError> = None;
    let mut failed_reads = 0;
    // Until something went wrong the snapshot in hand is good enough: a stale one only costs a refused put.
    // Where others commit too it is stale almost surely.
    let mut read_on = name.was_sent() || !snapshot.is_young() || snapshot.is_shared();
    loop {
        if read_on && let Err(error) = log.advance(snapshot).await {
            if error.class() != alluvium_types::ErrorClass::Transient {
                return Err(error);
            }
            failed_reads += 1;
            trouble = Some(error);
        } else {
            if let Some(version) = snapshot.version_of(&name.id) {
                return Ok(Outcome::Landed(version));
            }
            let mut draft = match decide(snapshot)? {
                Decision::Stop(answer) => return Ok(Outcome::Stopped(answer)),
                Decision::Write(draft) => draft,
            };
            if !draft.removes.is_empty() {
                draft.txns.push(next_layout(snapshot));
            }
            attempts += 1;
            match put(log, snapshot, name, patience, &draft).await? {
                Answer::Landed(version) => {
                    snapshot.commits_up_to(version);
                    return Ok(Outcome::Landed(version));
                }
                Answer::Taken => {}
                Answer::NotKnown(error) => trouble = Some(error),
            }
            read_on = true;
        }
        if begun.age() >= patience.commit {
            let table = log.table.clone();
            return Err(match trouble {
                Some(last) if !name.was_sent() => last,
                Some(last) => StoreError::EndingUnknown {
                    table,
                    attempts,
                    last: Box::new(last),
                },
                None => StoreError::Crowded { table, attempts },
            });
        }
        let pause = back_off(attempts + failed_reads).min(patience.pause);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Looks now and then whether an earlier commit is still there: else the table was removed under its writer (S9), who would go on in a folder
/// from which nobody can read what came before.
async fn look_back(
    log: &TableLog,
    snapshot: &mut Snapshot,
    patience: Patience,
) -> Result<(), StoreError> {
    let Some(version) = snapshot.due_witness() else {
        return Ok(());
    };
    match tokio::time::timeout(patience.put, log.read_entry(version)).await {
        // A table that was created anew in this folder has an entry of that version, too.
        Ok(Ok(Some(entry))) if entry.refuse_stray(&snapshot.metadata.id).is_err() => {
            return Err(StoreError::Replaced {
                table: log.table.clone(),
            });
        }
        Ok(Ok(Some(_))) => snapshot.found_witness(),
        // A log checkpoint may stand in for it.
        Ok(Ok(None)) => log.reload(snapshot).await?,
        // The commit itself will tell of storage that fails, upkeep of entries that are damaged.
        Ok(Err(_)) | Err(_) => snapshot.put_off_witness(),
    }
    Ok(())
}

fn next_layout(snapshot: &Snapshot) -> Txn {
    Txn {
        app_id: LAYOUT.into(),
        version: snapshot.txns.get(LAYOUT).copied().unwrap_or(0) + 1,
    }
}

enum Answer {
    Landed(i64),
    Taken,
    NotKnown(StoreError),
}

async fn put(
    log: &TableLog,
    snapshot: &mut Snapshot,
    name: &CommitName,
    patience: Patience,
    draft: &Draft,
) -> Result<Answer, StoreError> {
    let version = snapshot.version + 1;
    let place = Place {
        table_id: &snapshot.metadata.id,
        version,
        follows: snapshot.newest_commit(),
    };
    let bytes = draft.encode(place, &name.id, wall_millis());
    let entry = Entry::parse(version, &bytes).map_err(|source| StoreError::UnreadableEntry {
        table: log.table.clone(),
        version,
        source,
    })?;
    let doing = || format!("put version {version} of {}", log.table);
    if !snapshot.is_young() {
        // The process slept between the judgement and here (P12).
        return Ok(Answer::Taken);
    }
    let sent_at = Moment::now();
    name.puts.fetch_add(1, Ordering::AcqRel);
    match tokio::time::timeout(patience.put, log.put_entry(version, bytes)).await {
        // If the process slept while the put was under way, clean-up may have freed an old slot for it (P12): then
        // only the log itself can say whether this version counts.
        Ok(Ok(Put::Landed)) if snapshot.is_young() => {
            if entry.changes_table() {
                log.advance(snapshot).await?;
            } else {
                snapshot.apply(&entry);
                snapshot.read_at = sent_at;
            }
            Ok(Answer::Landed(version))
        }
        Ok(Ok(_)) => Ok(Answer::Taken),
        Ok(Err(source)) => Ok(Answer::NotKnown(StoreError::Object {
            doing: doing(),
            source,
        })),
        Err(_) => Ok(Answer::NotKnown(StoreError::Object {
            doing: doing(),
            source: object_store::Error::Generic {
                store: "storage",
                source: format!("no answer after {:?}", patience.put).into(),
            },
        })),
    }
}

/// Grows from some milliseconds to half a second, with jitter so that rivals drift apart (S6).
fn back_off(attempts: u32) -> Duration {
    let most = 8_u64.saturating_mul(1 << attempts.min(6)).min(500);
    Duration::from_millis(rand::rng().random_range(most / 4..=most))
}
