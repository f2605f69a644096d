//! The storage root and what lies below it.
//!
//! Owns the layout (`tables/`, `dead_letters/`, `ledger/`) and the handles to it. Does not own what is in a table.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alluvium_plan::{CommittedFile, CommittedTable};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, path::Path};

use crate::{
    Checkpoint, CommitRecord, DeadLetters, Letters, Orphan, StorageConfig, StoreError, TableSpec,
    TableWriter, Vacuum,
    checkpoint::Names,
    commit::Patience,
    config,
    definition::{PIPELINE, window},
    durable::DurableFolder,
    log::TableLog,
    maintain, sweep,
    table::read_shape,
};

const TABLES: &str = "tables";
const DEAD_LETTERS: &str = "dead_letters";
const LEDGER: &str = "ledger";

/// How long things are kept and waited for.
#[derive(Clone, Copy, Debug)]
pub struct StoreRules {
    /// How long new tables keep log entries. A commit's snapshot must be younger than a quarter of it (P12), so at
    /// least an hour; longer makes opening a table slower.
    pub log_retention: Duration,
    /// How long a file that no commit names is left alone. Longer than the longest query and commit (S11).
    pub orphan_retention: Duration,
    /// Commits between log checkpoints.
    pub checkpoint_every: NonZeroU32,
    /// How long one put of a log entry may take.
    pub put_timeout: Duration,
    /// How long a commit is tried before its ending is called unknown.
    pub commit_timeout: Duration,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
}

impl Default for StoreRules {
    fn default() -> Self {
        Self {
            log_retention: Duration::from_secs(86_400),
            orphan_retention: Duration::from_secs(3 * 86_400),
            checkpoint_every: NonZeroU32::new(50).expect("50 is not zero"),
            put_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(60),
            longest_pause: Duration::from_millis(500),
        }
    }
}

/// The storage of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: String,
    objects: Arc<dyn ObjectStore>,
    local: Option<DurableFolder>,
    rules: StoreRules,
    /// Whether it was seen to refuse what a commit must not do.
    is_proven: AtomicBool,
}

impl Store {
    /// Opens the storage root; a local folder is made.
    ///
    /// # Errors
    /// [`StoreError::Root`] when the settings or the folder are unusable.
    pub async fn open(config: &StorageConfig) -> Result<Self, StoreError> {
        let config = config.clone();
        let root = config.root.clone();
        let opened = tokio::task::spawn_blocking(move || config::open(&config)).await;
        let (objects, local) = opened.map_err(|error| StoreError::Root {
            root: root.clone(),
            source: error.into(),
        })??;
        Ok(Self(Arc::new(Inner {
            root,
            objects,
            local,
            rules: StoreRules::default(),
            is_proven: AtomicBool::new(false),
        })))
    }

    /// Any object store as a storage root, for embedding and for tests.
    pub fn over(objects: Arc<dyn ObjectStore>, rules: StoreRules) -> Self {
        Self(Arc::new(Inner {
            root: objects.to_string(),
            objects,
            local: None,
            rules,
            is_proven: AtomicBool::new(false),
        }))
    }

    /// Proves that the store refuses to create the same key twice (S8), which is the fence of every commit. Once it has, nothing
    /// is asked again; whoever writes asks for it first.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalPut`] when it does not; or that storage failed, which proves nothing.
    pub async fn prove(&self) -> Result<(), StoreError> {
        if !self.0.is_proven.load(Ordering::Relaxed) {
            self.probe().await?;
            self.0.is_proven.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let key = Path::from(format!("probes/create-{}", uuid::Uuid::new_v4()));
        let put = || {
            self.0
                .objects
                .put_opts(&key, "probe".into(), PutMode::Create.into())
        };
        let doing = || format!("create {key} to see whether the storage can be used");
        put().await.map_err(|source| match source {
            source if knows_no_condition(&source) => StoreError::NoConditionalPut {
                root: self.0.root.clone(),
            },
            source => StoreError::Object {
                doing: doing(),
                source,
            },
        })?;
        let second = put().await;
        let removed = self.0.objects.delete(&key).await;
        if let Err(error) = removed {
            // Commits need no right to delete; upkeep does, and says so itself.
            tracing::warn!("{key} cannot be removed, and stays: {error}");
        }
        match second {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(StoreError::NoConditionalPut {
                root: self.0.root.clone(),
            }),
            Err(source) => Err(StoreError::Object {
                doing: doing(),
                source,
            }),
        }
    }

    /// Opens a table for writing: creates it, or adds the measures it does not have yet (P35, P38).
    ///
    /// # Errors
    /// [`StoreError::Changed`], [`StoreError::OtherPipeline`] and other refusals; or that storage failed.
    pub async fn table(&self, spec: &TableSpec) -> Result<TableWriter, StoreError> {
        TableWriter::open(self.clone(), spec.clone()).await
    }

    /// Opens a pipeline's dead letters for writing, or creates their table.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub async fn dead_letters(&self, pipeline: &str) -> Result<DeadLetters, StoreError> {
        DeadLetters::open(self.clone(), pipeline).await
    }

    /// The names of all tables.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn tables(&self) -> Result<Vec<String>, StoreError> {
        self.folders(TABLES).await
    }

    /// The pipelines that have dead letters.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn dead_letter_tables(&self) -> Result<Vec<String>, StoreError> {
        self.folders(DEAD_LETTERS).await
    }

    async fn folders(&self, below: &str) -> Result<Vec<String>, StoreError> {
        let folder = Path::from(below);
        let listed = match self.0.objects.list_with_delimiter(Some(&folder)).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(source) => {
                return Err(StoreError::Object {
                    doing: format!("list {folder}"),
                    source,
                });
            }
        };
        let mut names: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(|prefix| prefix.filename().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The newest version of a table, for readers without a writer.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none; or that it cannot be read.
    pub async fn read_table(&self, name: &str) -> Result<CommittedTable, StoreError> {
        let log = self.table_log(name);
        let missing = || StoreError::Missing {
            table: log.table.clone(),
        };
        let snapshot = log.load().await?.ok_or_else(missing)?;
        let pipeline = snapshot.metadata.configuration.get(PIPELINE);
        let names = Names::of_pipeline(pipeline.map_or("", String::as_str));
        let checkpoint = Checkpoint::from_txns(&names, &snapshot.txns);
        Ok(CommittedTable {
            shape: read_shape(&log.table, &snapshot)?,
            window: window(&snapshot),
            version: snapshot.version,
            watermark: checkpoint.watermark(),
            watermarks: Arc::new(checkpoint.watermarks),
            offsets: Arc::new(checkpoint.offsets),
            files: snapshot.files,
        })
    }

    /// The newest version of a pipeline's dead letters and its files.
    ///
    /// # Errors
    /// As [`Self::read_table`].
    pub async fn read_dead_letters(
        &self,
        pipeline: &str,
    ) -> Result<(i64, Vec<CommittedFile>), StoreError> {
        let log = self.dead_letters_log(pipeline);
        let missing = || StoreError::Missing {
            table: log.table.clone(),
        };
        let snapshot = log.load().await?.ok_or_else(missing)?;
        Ok((snapshot.version, Arc::unwrap_or_clone(snapshot.files)))
    }

    /// Every commit of a table, oldest first, from its log and the ledger, each version once.
    ///
    /// # Errors
    /// When storage fails or an entry cannot be read.
    pub async fn history(&self, table: &str) -> Result<Vec<CommitRecord>, StoreError> {
        maintain::history(self, &self.table_log(table)).await
    }

    /// The dead letters of a pipeline, for sending them through it again (P23); none when there never were any.
    ///
    /// # Errors
    /// When storage fails, or the history of the letters is not whole.
    pub async fn letters(&self, pipeline: &str) -> Result<Letters, StoreError> {
        Letters::open(self, pipeline).await
    }

    /// Files in a table's folder that no version needs any more, after looking or deleting (P37).
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such table; or that storage failed.
    pub async fn vacuum(&self, table: &str, vacuum: Vacuum) -> Result<Vec<Orphan>, StoreError> {
        sweep::vacuum(self, &self.table_log(table), vacuum).await
    }

    /// The object store, rooted so that [`CommittedFile::path`] resolves.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.0.objects.clone()
    }

    /// How long things are kept and waited for.
    pub fn rules(&self) -> &StoreRules {
        &self.0.rules
    }

    /// The store's own clock in milliseconds, by the stamp it gives to an object.
    pub(crate) async fn now(&self) -> Result<i64, StoreError> {
        let objects = self.object_store();
        let probe = Path::from(format!("probes/time-{}", uuid::Uuid::new_v4()));
        let doing = || format!("ask the storage for its time with {probe}");
        objects
            .put(&probe, "now".into())
            .await
            .map_err(StoreError::object(doing()))?;
        let meta = objects.head(&probe).await;
        if let Err(error) = objects.delete(&probe).await {
            tracing::warn!("{probe} cannot be removed, and stays: {error}");
        }
        Ok(meta
            .map_err(StoreError::object(doing()))?
            .last_modified
            .timestamp_millis())
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            put: self.0.rules.put_timeout,
            commit: self.0.rules.commit_timeout,
            pause: self.0.rules.longest_pause,
        }
    }

    pub(crate) fn local_folder(&self) -> Option<&DurableFolder> {
        self.0.local.as_ref()
    }

    pub(crate) fn table_log(&self, name: &str) -> TableLog {
        self.log(Path::from(TABLES).join(name))
    }

    pub(crate) fn dead_letters_log(&self, pipeline: &str) -> TableLog {
        self.log(Path::from(DEAD_LETTERS).join(pipeline))
    }

    pub(crate) fn ledger_log(&self) -> TableLog {
        self.log(Path::from(LEDGER))
    }

    fn log(&self, folder: Path) -> TableLog {
        TableLog::new(self.object_store(), folder)
    }
}

/// Whether the store says that it cannot create a key only if there is none. Servers that do not know the header answer 501, which
/// reaches us as words alone.
fn knows_no_condition(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            true
        }
        object_store::Error::Generic { source, .. } => {
            source.to_string().contains("501 Not Implemented")
        }
        _ => false,
    }
}
