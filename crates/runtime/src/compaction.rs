//! The thread that merges files (P36), and the merge itself.
//!
//! Owns when files are merged, how much of a core and of the memory that may take, and what happens to files that cannot be
//! merged. Joins the store, which knows the files, and the engine, which knows what merging rows means. Does not own which
//! files are worth it: that is [`choose`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_engine::{EngineError, SortedPart, merge_sorted};
use alluvium_plan::{Plan, Publisher, StatusBoard, Trouble};
use alluvium_store::{
    Choice, CompactedFile, CompactionEnding, Compactor, Effort, Inputs, Staged, Store, StoreError,
    choose,
};
use alluvium_types::{ErrorClass, MemoryBudget};
use tokio::runtime::{Handle, Runtime};

use crate::{
    background::{Background, Stop},
    host::Host,
};

/// How often it looks whether there is something to merge.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a merge it rests so many times as long as the merge took: a fifth of one core at most.
const REST: u32 = 4;
/// How long merges wait for room.
const CRAMPED: Duration = Duration::from_secs(20);
/// How long a table is left alone after its storage failed.
const AFTER_TROUBLE: Duration = Duration::from_secs(30);
/// When files that could not be merged are tried again.
const ALL_AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// The share of the ingest budget that a merge may take.
const MEMORY_SHARE: usize = 8;
/// The least and the most that this is.
const MEMORY: (usize, usize) = (4 << 20, 64 << 20);

/// Why files were not merged. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// The store failed or refused.
    #[error("the files of {table} cannot be merged: {source}")]
    Store {
        /// The table.
        table: Arc<str>,
        /// What the store says.
        source: StoreError,
    },
    /// Rows cannot be merged.
    #[error("the files of {table} cannot be merged: {source}")]
    Engine {
        /// The table.
        table: Arc<str>,
        /// What the engine says.
        source: EngineError,
    },
    /// Somebody asked to stop meanwhile.
    #[error("the merging of files of {table} was stopped")]
    Stopped {
        /// The table.
        table: Arc<str>,
    },
}

impl CompactionError {
    /// Whether the same may succeed when it is tried again soon. A file that is gone does not come back by itself, though storage says so
    /// as it says that it is away: the table was looked at just now, and names it.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store { source, .. } => {
                !source.is_gone()
                    && matches!(
                        source.class(),
                        ErrorClass::Transient | ErrorClass::Overtaken
                    )
            }
            Self::Engine { .. } => false,
            Self::Stopped { .. } => true,
        }
    }
}

/// What one merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Files before.
    pub files_before: u64,
    /// Bytes of these.
    pub bytes_before: u64,
    /// Rows in these.
    pub rows_before: u64,
    /// Files after.
    pub files_after: u64,
    /// Bytes of these.
    pub bytes_after: u64,
    /// Rows in these.
    pub rows_after: u64,
}

/// What a table consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableExtent {
    /// Its files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Rows in these; `None` when the log does not say it of every file.
    pub rows: Option<u64>,
}

/// Merges files of one table by hand.
#[derive(Debug)]
pub struct TableCompaction {
    table: Arc<str>,
    compactor: Compactor,
    io: Handle,
    budget: MemoryBudget,
    /// Everything was merged that can be; what is left is to put files in order.
    is_joined: bool,
}

impl TableCompaction {
    /// Opens a table. `io` is a runtime that goes on while this thread waits; memory is counted against `budget`, of which a
    /// merge takes a share.
    ///
    /// # Errors
    /// That the table does not exist or cannot be read.
    pub fn open(
        store: &Store,
        table: &Arc<str>,
        io: &Handle,
        budget: &MemoryBudget,
    ) -> Result<Self, CompactionError> {
        let compactor =
            io.block_on(store.compactor(table))
                .map_err(|source| CompactionError::Store {
                    table: table.clone(),
                    source,
                })?;
        Ok(Self {
            table: table.clone(),
            compactor,
            io: io.clone(),
            budget: budget.clone(),
            is_joined: false,
        })
    }

    /// The table as it was last seen.
    pub fn extent(&self) -> TableExtent {
        let files = self.compactor.files();
        TableExtent {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            rows: files.iter().map(|file| file.rows).sum(),
        }
    }

    fn refresh(&mut self) -> Result<(), CompactionError> {
        let table = self.table.clone();
        self.io
            .block_on(self.compactor.refresh())
            .map_err(|source| CompactionError::Store { table, source })
    }

    fn choose(&self, effort: Effort, passed_over: &BTreeSet<String>) -> Option<Choice> {
        choose(
            self.compactor.files(),
            effort,
            Shares::of(&self.budget).files,
            passed_over,
        )
    }

    /// Merges the files that are worth it most; `None` when none are.
    ///
    /// # Errors
    /// [`CompactionError`]; the table is as it was.
    pub fn merge_next(
        &mut self,
        effort: Effort,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Option<Compaction>, CompactionError> {
        self.refresh()?;
        loop {
            let effort = match effort {
                Effort::Everything if self.is_joined => Effort::InOrder,
                effort => effort,
            };
            match self.choose(effort, &BTreeSet::new()) {
                Some(choice) => {
                    if let Some(done) = self.merge(&choice, should_stop)? {
                        return Ok(Some(done));
                    }
                }
                None if effort == Effort::Everything => self.is_joined = true,
                None => return Ok(None),
            }
        }
    }

    /// Merges these files; `None` when another server was faster.
    fn merge(
        &mut self,
        choice: &Choice,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Option<Compaction>, CompactionError> {
        let table = self.table.clone();
        let failed = |source| CompactionError::Store {
            table: table.clone(),
            source,
        };
        let count = choice.files().len();
        let held = usize::try_from(choice.held()).unwrap_or(usize::MAX);
        let _held = self.budget.reserve(held);
        let batch_bytes = Shares::of(&self.budget).rows / count.max(1);
        let inputs = self
            .io
            .block_on(self.compactor.open(choice, batch_bytes))
            .map_err(failed)?;
        let rows_before = inputs.rows();
        let staged = self
            .rewrite(inputs, should_stop)
            .map_err(|error| self.blame(choice, error, should_stop))?;
        let ending = self
            .io
            .block_on(self.compactor.commit(choice, rows_before, &staged))
            .map_err(failed)?;
        match ending {
            CompactionEnding::Overtaken => Ok(None),
            CompactionEnding::Committed { version } => {
                let done = Compaction {
                    files_before: count as u64,
                    bytes_before: choice.bytes(),
                    rows_before,
                    files_after: staged.files() as u64,
                    bytes_after: staged.bytes(),
                    rows_after: staged.rows(),
                };
                tracing::debug!(%table, version, ?done, "merged files");
                Ok(Some(done))
            }
        }
    }

    fn rewrite(
        &self,
        inputs: Inputs,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Staged, CompactionError> {
        let table = &self.table;
        let failed = |source| CompactionError::Store {
            table: table.clone(),
            source,
        };
        let mut file = self.compactor.begin(&inputs, &self.budget);
        let (shape, batch_rows) = (inputs.shape().clone(), inputs.batch_rows());
        let parts = inputs
            .into_files()
            .into_iter()
            .map(|mut file| -> SortedPart {
                // The thread waits for its files: a merge is polled by hand.
                let io = self.io.clone();
                Box::new(std::iter::from_fn(move || {
                    let batch = io.block_on(file.next())?;
                    Some(batch.map_err(Into::into))
                }))
            })
            .collect();
        let written = merge_sorted(&shape, parts, batch_rows, &self.budget)
            .map_err(|source| self.of_merge(source))
            .and_then(|merged| {
                for batch in merged {
                    if should_stop() {
                        return Err(CompactionError::Stopped {
                            table: table.clone(),
                        });
                    }
                    let batch = batch.map_err(|source| self.of_merge(source))?;
                    self.io.block_on(file.write(&batch)).map_err(failed)?;
                }
                Ok(())
            });
        match written {
            Ok(()) => self.io.block_on(file.finish()).map_err(failed),
            Err(error) => {
                self.io.block_on(CompactedFile::abandon(file));
                Err(error)
            }
        }
    }

    /// Rows that cannot be merged are most often those of a file whose bytes have changed: then it is at fault, and not the others.
    fn blame(
        &self,
        choice: &Choice,
        error: CompactionError,
        should_stop: &dyn Fn() -> bool,
    ) -> CompactionError {
        if !matches!(error, CompactionError::Engine { .. }) {
            return error;
        }
        let table = self.table.clone();
        match self
            .io
            .block_on(self.compactor.damaged(choice, should_stop))
        {
            // While one of them cannot be read it is not known which is at fault: then it is tried again.
            Ok(Some(source)) | Err(source) => CompactionError::Store { table, source },
            Ok(None) => error,
        }
    }

    /// A file that cannot be read fails the merge from inside; here it is the store's error again.
    fn of_merge(&self, error: EngineError) -> CompactionError {
        let table = self.table.clone();
        match error.into_external::<StoreError>() {
            Ok(source) => CompactionError::Store { table, source },
            Err(source) => CompactionError::Engine { table, source },
        }
    }
}

/// What a merge may hold.
struct Shares {
    /// Of files, as they are stored.
    files: u64,
    /// Of their rows, decoded.
    rows: usize,
}

impl Shares {
    fn of(budget: &MemoryBudget) -> Self {
        let memory = budget.share(MEMORY_SHARE, MEMORY.0, MEMORY.1);
        let rows = memory / 4;
        Self {
            files: (memory - rows) as u64,
            rows,
        }
    }

    fn all(&self) -> usize {
        self.files as usize + self.rows
    }
}

/// Starts the thread of a server that merges files of the tables it writes, beside everything else. Told to stop, it ends after
/// the batch in hand.
pub(crate) fn start(
    store: Store,
    budget: MemoryBudget,
    plans: &[Arc<Plan>],
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
    host: &Arc<dyn Host>,
) -> io::Result<Background> {
    let plans = plans.to_vec();
    let io = host.io("compaction-io")?;
    Background::start("compaction", host, move |stop| {
        let mut work = Work {
            store,
            budget,
            plans,
            publisher,
            status,
            stop,
            io,
            tables: BTreeMap::new(),
            cramped_since: None,
        };
        work.run();
    })
}

/// What is known of one table.
#[derive(Default)]
struct Known {
    open: Option<TableCompaction>,
    /// Files that cannot be merged, and when that was last found out.
    passed_over: BTreeSet<String>,
    found_out: Option<Instant>,
    /// Why the last merge failed, until one succeeds with all files.
    failing: Option<String>,
    /// The published version in which nothing was worth it.
    settled: Option<i64>,
    not_before: Option<Instant>,
}

impl Known {
    /// Files that could not be merged may have been mended meanwhile.
    fn try_all_again(&mut self) {
        if self
            .found_out
            .is_some_and(|found_out| found_out.elapsed() >= ALL_AGAIN_AFTER)
        {
            self.passed_over.clear();
            (self.found_out, self.settled) = (None, None);
        }
    }

    /// A merge, or the look for one, came to its end with all files that there are.
    fn is_well(&mut self) {
        if self.passed_over.is_empty() {
            self.failing = None;
        }
    }
}

struct Work {
    store: Store,
    budget: MemoryBudget,
    plans: Vec<Arc<Plan>>,
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
    stop: Stop,
    io: Runtime,
    tables: BTreeMap<Arc<str>, Known>,
    /// Since when there has been no room.
    cramped_since: Option<Instant>,
}

impl Work {
    fn run(&mut self) {
        self.tell();
        while !self.stop.is_asked() {
            let next = match self.may_merge() {
                true => self.most_worth(),
                false => None,
            };
            match next {
                None => self.stop.rest(LOOK_EVERY),
                Some((table, version)) => {
                    let begun = Instant::now();
                    self.merge(&table, version);
                    self.cramped_since = None;
                    self.tell();
                    self.stop.rest(begun.elapsed() * REST);
                }
            }
        }
    }

    /// What is counted already comes first. A merge waits until what it will hold fits in beside that; but where memory is never
    /// so empty, not for long, since files go on coming.
    fn may_merge(&mut self) -> bool {
        let inputs = Shares::of(&self.budget).all();
        let merge = inputs + CompactedFile::most_held(&self.budget);
        if self.budget.has_room_for(merge) {
            self.cramped_since = None;
        } else {
            let since = *self.cramped_since.get_or_insert_with(Instant::now);
            if since.elapsed() < CRAMPED {
                return false;
            }
        }
        !self.budget.is_half_used()
    }

    /// The table whose readers gain most, by the files that this server's writers last saw, and their version.
    fn most_worth(&mut self) -> Option<(Arc<str>, i64)> {
        let memory = Shares::of(&self.budget).files;
        let published = self.publisher.current();
        let mut best = None;
        for (name, table) in &published.tables {
            let known = self.tables.entry(name.clone()).or_default();
            known.try_all_again();
            let version = table.committed.version;
            let waits = known.not_before.is_some_and(|until| Instant::now() < until);
            if waits || known.settled == Some(version) {
                continue;
            }
            let choice = choose(
                &table.committed.files,
                Effort::AsItGrows,
                memory,
                &known.passed_over,
            );
            match choice.map(|choice| choice.files().len()) {
                None => known.settled = Some(version),
                Some(files) if best.as_ref().is_none_or(|(most, _, _)| files > *most) => {
                    best = Some((files, name.clone(), version));
                }
                Some(_) => {}
            }
        }
        best.map(|(_, name, version)| (name, version))
    }

    /// What is wrong, in the status of each pipeline and as a metric of each table.
    fn tell(&self) {
        for plan in &self.plans {
            let mut troubles = Vec::new();
            for table in &plan.tables {
                let known = self.tables.get(&table.name);
                let failing = known.and_then(|known| known.failing.as_ref());
                metrics::gauge!(
                    "alluvium_compaction_failing", "pipeline" => plan.name.to_string(), "table" => table.name.to_string()
                )
                .set(if failing.is_some() { 1.0 } else { 0.0 });
                troubles.extend(failing.map(|error| {
                    format!(
                        "files of {} cannot be merged, commits go on: {error}",
                        table.name
                    )
                }));
            }
            let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
            self.status.update(&plan.name, |status| {
                status.set_trouble(Trouble::Merge, trouble);
            });
        }
    }

    fn merge(&mut self, table: &Arc<str>, version: i64) {
        let begun = Instant::now();
        let stop = self.stop.clone();
        let known = self.tables.entry(table.clone()).or_default();
        let mut chosen = None;
        let outcome = (|| {
            let open = match &mut known.open {
                Some(open) => open,
                None => known.open.insert(TableCompaction::open(
                    &self.store,
                    table,
                    self.io.handle(),
                    &self.budget,
                )?),
            };
            open.refresh()?;
            // Writers may not have seen yet what was merged last.
            chosen = open.choose(Effort::AsItGrows, &known.passed_over);
            let Some(choice) = &chosen else {
                return Ok(None);
            };
            open.merge(choice, &|| stop.is_asked())
        })();
        let label = |outcome: &'static str| metrics::counter!("alluvium_compactions_total", "table" => table.to_string(), "outcome" => outcome);
        match outcome {
            Ok(Some(done)) => {
                label("committed").increment(1);
                metrics::counter!("alluvium_compaction_files_total", "table" => table.to_string())
                    .increment(done.files_before);
                metrics::counter!("alluvium_compaction_bytes_total", "table" => table.to_string())
                    .increment(done.bytes_before);
                metrics::histogram!("alluvium_compaction_duration_seconds", "table" => table.to_string())
                    .record(begun.elapsed().as_secs_f64());
                known.is_well();
            }
            Ok(None) if chosen.is_some() => label("overtaken").increment(1),
            Ok(None) => {
                known.settled = Some(version);
                known.is_well();
            }
            Err(CompactionError::Stopped { .. }) => {}
            Err(error) if error.is_passing() => {
                label("failed").increment(1);
                tracing::warn!("{error}; tried again in {AFTER_TROUBLE:?}");
                known.failing = Some(error.to_string());
                known.open = None;
                known.not_before = Some(Instant::now() + AFTER_TROUBLE);
            }
            Err(error) => {
                label("failed").increment(1);
                tracing::warn!("{error}; these files stay as they are for {ALL_AGAIN_AFTER:?}");
                known.failing = Some(error.to_string());
                known.found_out = Some(Instant::now());
                known.open = None;
                let at_fault = match &error {
                    CompactionError::Store {
                        source: StoreError::UnreadableFile { path, .. },
                        ..
                    } => vec![path.clone()],
                    _ => chosen
                        .iter()
                        .flat_map(Choice::files)
                        .map(|file| file.path.clone())
                        .collect(),
                };
                // Nothing was chosen: the table itself cannot be opened.
                if at_fault.is_empty() {
                    known.not_before = Some(Instant::now() + AFTER_TROUBLE);
                }
                known.passed_over.extend(at_fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::parquet::errors::ParquetError;

    use super::*;

    fn failed(cause: object_store::Error) -> CompactionError {
        CompactionError::Store {
            table: "clicks".into(),
            source: StoreError::UnreadableFile {
                path: "tables/clicks/a.parquet".into(),
                source: ParquetError::External(Box::new(cause)),
            },
        }
    }

    #[test]
    fn storage_that_is_away_comes_back_and_a_file_that_is_gone_does_not() {
        let path = String::from("tables/clicks/a.parquet");
        let away = object_store::Error::Generic {
            store: "S3",
            source: "no route".into(),
        };
        assert!(failed(away).is_passing());
        let gone = object_store::Error::NotFound {
            path,
            source: "404".into(),
        };
        assert!(!failed(gone).is_passing());
    }
}
