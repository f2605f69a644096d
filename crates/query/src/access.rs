//! Who asks, which relations it may read, and how far its queries may go.
//!
//! Owns the one answer to "may this session see that relation", which the catalogue gives for every name that a statement
//! resolves to and for every listing; so all doors, dialects and ways of writing obey it alike. Does not own who
//! somebody is: the doors prove that.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alluvium_plan::{Grant, RoleLimits, User};
use datafusion::{
    common::Result,
    error::DataFusionError,
    execution::memory_pool::{
        MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
    },
};

use crate::{
    error::{ErrorKind, QueryError},
    limits::Limits,
    names::SYSTEM,
};

/// What one user may do. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    user: Option<Arc<str>>,
    grants: Arc<BTreeSet<Grant>>,
    limits: RoleLimits,
}

impl Access {
    /// For whoever owns the process, and for a server without users: everything, by nobody in particular.
    pub fn unrestricted() -> Self {
        Self {
            user: None,
            grants: Arc::new(BTreeSet::from([Grant::Everything])),
            limits: RoleLimits::default(),
        }
    }

    /// What the server file gives a user.
    pub fn of(name: &str, user: &User) -> Self {
        Self {
            user: Some(name.into()),
            grants: Arc::new(user.grants.clone()),
            limits: user.limits,
        }
    }

    /// The user's name; none where the server has no users.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether what `system.*` tells may be seen: names, offsets and sizes of every pipeline and table.
    pub fn sees_system(&self) -> bool {
        self.grants.contains(&Grant::Everything)
            || self.grants.contains(&Grant::Schema(SYSTEM.into()))
    }

    pub(crate) fn may_read(&self, schema: &str, name: &str) -> bool {
        self.grants.iter().any(|grant| match grant {
            Grant::Everything => true,
            Grant::Schema(granted) => granted == schema,
            Grant::Relation(granted, relation) => granted == schema && relation == name,
        })
    }

    pub(crate) fn reads_everything(&self) -> bool {
        self.grants.contains(&Grant::Everything)
    }

    /// The refusal of a relation, the same whether there is one of this name or not.
    pub(crate) fn denied(name: &str) -> QueryError {
        QueryError::new(
            ErrorKind::NotGranted,
            format!("permission denied for table {name}"),
        )
        .hint("SHOW TABLES lists what this user may read; roles are given in alluvium.yaml")
    }

    pub(crate) fn timeout(&self, limits: &Limits) -> Duration {
        self.limits
            .timeout
            .map_or(limits.timeout, |timeout| timeout.min(limits.timeout))
    }

    pub(crate) fn max_rows(&self, limits: &Limits) -> u64 {
        self.limits
            .rows
            .map_or(limits.max_rows, |rows| rows.min(limits.max_rows))
    }

    /// The bytes of files that one query may open.
    pub(crate) fn max_scan(&self, limits: &Limits) -> u64 {
        self.limits
            .scan
            .map_or(limits.max_scan, |scan| scan.min(limits.max_scan))
    }

    /// The bytes of one answer.
    pub(crate) fn max_bytes(&self, limits: &Limits) -> u64 {
        self.limits
            .bytes
            .map_or(limits.max_bytes, |bytes| bytes.min(limits.max_bytes))
    }

    /// The bytes that one query may have, where that is less than all queries share.
    pub(crate) fn memory(&self, limits: &Limits) -> Option<usize> {
        narrower(self.limits.memory, limits.memory_of_one).filter(|memory| *memory < limits.memory)
    }

    /// The bytes on disk that one query may have, where that is less than all queries share.
    pub(crate) fn disk(&self, limits: &Limits) -> Option<u64> {
        narrower(self.limits.disk, limits.disk_of_one).filter(|disk| *disk < limits.disk)
    }
}

fn narrower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// One query's part of the memory that queries share.
pub(crate) struct Share {
    /// None: whatever is left of what all have.
    most: Option<usize>,
    taken: Arc<AtomicUsize>,
    all: Arc<dyn MemoryPool>,
}

impl Share {
    /// `taken` tells how much it is.
    pub(crate) fn of(
        all: Arc<dyn MemoryPool>,
        most: Option<usize>,
        taken: Arc<AtomicUsize>,
    ) -> Self {
        Self { most, taken, all }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("most", &self.most)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.most {
            Some(most) => write!(f, "a share of {}", human_readable_size(most)),
            None => fmt::Display::fmt(&self.all, f),
        }
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.taken.fetch_add(additional, Ordering::Relaxed);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.taken.fetch_sub(shrink, Ordering::Relaxed);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let grown = |taken: usize| {
            taken
                .checked_add(additional)
                .filter(|sum| self.most.is_none_or(|most| *sum <= most))
        };
        if self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .is_err()
        {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} more for {} would pass the {} that one query may have",
                human_readable_size(additional),
                reservation.consumer().name(),
                human_readable_size(self.most.unwrap_or(usize::MAX))
            )));
        }
        self.all.try_grow(reservation, additional).inspect_err(|_| {
            self.taken.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        match self.most {
            Some(most) => MemoryLimit::Finite(most),
            None => self.all.memory_limit(),
        }
    }
}
