//! The queries that run now: who asked what and when, how far they are, and the order to end one.
//!
//! Owns the list and who may see and end what. A query is in it from the moment it is asked until its last row is handed
//! over. Does not own how a query ends ([`crate::run`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use alluvium_types::Timestamp;
use tokio::sync::Notify;

use crate::{
    access::Access,
    client::Client,
    estimate::{Estimate, ToRead},
};

/// A query that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningQuery {
    /// By which it is ended; unique in the life of a process.
    pub id: u64,
    /// Who asked; none where the server has no users.
    pub user: Option<String>,
    /// The door it came through.
    pub door: &'static str,
    /// Its text.
    pub sql: String,
    /// When it was asked.
    pub since: Timestamp,
    /// Bytes that it has of the memory of queries.
    pub memory: u64,
    /// What it opens of stored files.
    pub to_read: ToRead,
    /// Rows handed over so far.
    pub rows: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Running {
    next: AtomicU64,
    queries: Mutex<BTreeMap<u64, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    user: Option<String>,
    door: &'static str,
    sql: String,
    since: Timestamp,
    memory: Arc<AtomicUsize>,
    estimate: Arc<Estimate>,
    rows: AtomicU64,
    end: Notify,
}

impl Running {
    pub(crate) fn begin(self: &Arc<Self>, client: &Client, sql: &str) -> Arc<Listed> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let entry = Arc::new(Entry {
            user: client.access.user().map(str::to_owned),
            door: client.door,
            sql: sql.to_owned(),
            since: Timestamp::from_micros(since.map_or(0, |since| since.as_micros() as i64)),
            memory: client.taken.clone(),
            estimate: client.estimate.clone(),
            rows: AtomicU64::new(0),
            end: Notify::new(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.queries().insert(id, entry.clone());
        Arc::new(Listed {
            id,
            entry,
            running: self.clone(),
        })
    }

    /// Those that `access` may know of: all for whoever sees `system.*`, else the user's own.
    pub(crate) fn seen_by(&self, access: &Access) -> Vec<RunningQuery> {
        let queries = self.queries();
        let seen = queries
            .iter()
            .filter(|(_, entry)| access.sees_system() || entry.is_of(access));
        seen.map(|(id, entry)| RunningQuery {
            id: *id,
            user: entry.user.clone(),
            door: entry.door,
            sql: entry.sql.clone(),
            since: entry.since,
            memory: entry.memory.load(Ordering::Relaxed) as u64,
            to_read: entry.estimate.so_far(),
            rows: entry.rows.load(Ordering::Relaxed),
        })
        .collect()
    }

    /// Orders a query to end, if `access` is its user or may read everything. Whether there was one.
    pub(crate) fn end(&self, access: &Access, id: u64) -> bool {
        match self.queries().get(&id) {
            Some(entry) if access.reads_everything() || entry.is_of(access) => {
                // One order is kept for a query that does not listen yet.
                entry.end.notify_one();
                true
            }
            _ => false,
        }
    }

    fn queries(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        // Every change is one insertion or removal, so a panic elsewhere leaves the list usable.
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_of(&self, access: &Access) -> bool {
        self.user.as_deref() == access.user()
    }
}

/// A query's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    id: u64,
    entry: Arc<Entry>,
    running: Arc<Running>,
}

impl Listed {
    /// Resolves when somebody has ordered it to end.
    pub(crate) async fn ordered_to_end(&self) {
        self.entry.end.notified().await;
    }

    pub(crate) fn count(&self, rows: u64) {
        self.entry.rows.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.queries().remove(&self.id);
    }
}
