//! The writer of one table: its checkpoint, the judgement of epochs, and commits.
//!
//! Owns P7–P16 and P25 for one table. Does not own what is read from where, or when to commit: it has never heard of
//! Kafka, a partition is a name with a number that grows.

mod seek;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alluvium_plan::{CommittedTable, PartitionBy, TableShape};
use alluvium_types::{
    Balance, Epoch, MemoryBudget, OffsetRange, Timestamp, TopicId, TopicPartition,
};
use datafusion::arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Checkpoint, Overtaken, Staged, Store, StoreError, Verdict,
    action::{Definition, Draft, Txn, our_info},
    checkpoint::Names,
    commit::{CommitName, Decision, Outcome, commit, create_table},
    definition::{self, Fit},
    log::TableLog,
    snapshot::Snapshot,
    stage::Stager,
};

pub use seek::{Goal, Moved, Sought};

/// What a pipeline wants a table to be.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Its name; the folder below `tables/`.
    pub name: Arc<str>,
    /// The pipeline that writes it.
    pub pipeline: Arc<str>,
    /// What is stored.
    pub shape: Arc<TableShape>,
    /// The Delta partition column.
    pub partition_by: PartitionBy,
    /// The canonical definition (P38).
    pub definition: String,
}

/// What a commit says besides its files (P13).
#[derive(Clone, Debug)]
pub struct CommitFacts {
    /// What the panes were made from. Empty ranges are passed over (P4).
    pub ranges: BTreeMap<TopicPartition, OffsetRange>,
    /// Where watermarks stand after it; a recorded one is never lowered (P24).
    pub watermarks: BTreeMap<TopicPartition, Timestamp>,
    /// Under which leaders of their partitions the last offsets were written, where that is known (P18).
    pub leader_epochs: BTreeMap<TopicPartition, i32>,
    /// What became of the events.
    pub balance: Balance,
    /// The version of the pipeline's definition.
    pub pipeline_version: Arc<str>,
    /// What else the pipeline's servers have to have in common, by key; empty: that is not said.
    pub settings: Arc<BTreeMap<String, String>>,
    /// The last epoch in it, as this process counts.
    pub epoch: Epoch,
}

/// What was made of dead letters that were sent through the pipeline again (P23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The version of the dead letters after which it begins; `None`: with the first.
    pub after: Option<i64>,
    /// The last version of theirs that is part of it.
    pub up_to: i64,
    /// Letters that were sent.
    pub letters: u64,
    /// Of these, how many are part of the table now, ...
    pub counted: u64,
    /// ... how many the pipeline does not want, ...
    pub filtered: u64,
    /// ... and how many are refused again and stay letters.
    pub refused: u64,
}

/// How the commit of a replay ended (P10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnding {
    /// It is this version.
    Committed {
        /// The Delta version.
        version: i64,
    },
    /// Others have replayed some of these letters meanwhile.
    Overtaken,
}

/// How a commit ended (P10). That the ending is not known is a transient error instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is this version.
    Committed {
        /// The Delta version.
        version: i64,
    },
    /// The table has it already: by an earlier try of ours, or by somebody who read the same.
    AlreadyDone,
    /// The table has another part of it: drop everything in flight and start again from the table (P7).
    Overtaken(Overtaken),
}

/// Writes one table. Any number of writers, in any number of processes, may hold the same table.
#[derive(Debug)]
pub struct TableWriter {
    store: Store,
    log: TableLog,
    spec: TableSpec,
    names: Names,
    snapshot: Snapshot,
    checkpoint: Checkpoint,
    shape: Arc<TableShape>,
}

impl TableWriter {
    /// Opens the table, creates it, or adds the measures that it does not have yet (P35, P38).
    pub(crate) async fn open(store: Store, spec: TableSpec) -> Result<Self, StoreError> {
        let log = store.table_log(&spec.name);
        let mut snapshot = loop {
            match log.load().await? {
                None => create(&store, &log, &spec).await?,
                Some(mut snapshot) => {
                    definition::fit(&log.table, &snapshot, &spec)?;
                    grow(&store, &log, &mut snapshot, &spec).await?;
                    break snapshot;
                }
            }
        };
        snapshot.forget_removed();
        snapshot.take_definitions();
        let names = Names::of_pipeline(&spec.pipeline);
        let mut writer = Self {
            checkpoint: Checkpoint::from_txns(&names, &snapshot.txns),
            shape: spec.shape.clone(),
            store,
            log,
            spec,
            names,
            snapshot,
        };
        writer.read_snapshot()?;
        Ok(writer)
    }

    /// The table's name.
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// The version in hand.
    pub fn version(&self) -> i64 {
        self.snapshot.version
    }

    /// What the version in hand records.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The version in hand for readers. Cheap: files are shared.
    pub fn committed(&self) -> CommittedTable {
        CommittedTable {
            shape: self.shape.clone(),
            window: definition::window(&self.snapshot),
            version: self.snapshot.version,
            files: self.snapshot.files.clone(),
            offsets: Arc::new(self.checkpoint.offsets.clone()),
            watermarks: Arc::new(self.checkpoint.watermarks.clone()),
            watermark: self.checkpoint.watermark(),
        }
    }

    /// Moves to the newest version. After an error the version in hand is the last one that was read, in all its parts.
    ///
    /// # Errors
    /// Transient ones; or that the table has become another one.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        let read = self.log.advance(&mut self.snapshot).await;
        self.read_snapshot()?;
        read
    }

    /// By which files of the pipeline events were committed to the table since this was asked last, as far as its log was read:
    /// by ours, and by those of other servers.
    pub fn take_definitions(&mut self) -> BTreeSet<Definition> {
        self.snapshot.take_definitions()
    }

    /// Derives everything from the snapshot in hand.
    fn read_snapshot(&mut self) -> Result<(), StoreError> {
        still_fits(&self.log, &self.spec, &self.snapshot)?;
        self.checkpoint = Checkpoint::from_txns(&self.names, &self.snapshot.txns);
        self.shape = read_shape(&self.log.table, &self.snapshot)?;
        Ok(())
    }

    /// Records where partitions start, for those of which nothing is recorded (P15), how many partitions topics
    /// have (P16), and which topic of its name the offsets belong to, where no id is recorded yet (P18). On return every
    /// partition of `starts` and every topic of `topics` is recorded: here or by another writer, whose start is then adopted.
    ///
    /// # Errors
    /// A transient error when the ending is not known; calling again is safe.
    pub async fn record_start(
        &mut self,
        starts: &BTreeMap<TopicPartition, i64>,
        partition_counts: &BTreeMap<Arc<str>, i32>,
        topics: &BTreeMap<Arc<str>, TopicId>,
    ) -> Result<(), StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            let absent: BTreeMap<_, _> = starts
                .iter()
                .filter(|(partition, _)| !recorded.offsets.contains_key(partition))
                .collect();
            let grown: BTreeMap<_, _> = partition_counts
                .iter()
                .filter(|(topic, count)| recorded.partition_counts.get(*topic) < Some(count))
                .collect();
            let unnamed: BTreeMap<_, _> = topics
                .iter()
                .filter(|(topic, _)| !recorded.topics.contains_key(*topic))
                .collect();
            if absent.is_empty() && grown.is_empty() && unnamed.is_empty() {
                return Ok(Decision::Stop(()));
            }
            let txns = absent
                .iter()
                .map(|(partition, start)| names.offset(partition, **start))
                .chain(
                    grown
                        .iter()
                        .map(|(topic, count)| names.partitions(topic, **count)),
                )
                .chain(unnamed.iter().map(|(topic, id)| names.topic(topic, **id)))
                .collect();
            let mut info = our_info("start", &spec.pipeline);
            info.insert(
                "starts".into(),
                by_partition(absent.into_iter(), |start| json!(start)),
            );
            info.insert(
                "partitions".into(),
                Value::Object(
                    grown
                        .into_iter()
                        .map(|(topic, count)| (topic.to_string(), json!(count)))
                        .collect(),
                ),
            );
            info.insert(
                "topics".into(),
                Value::Object(
                    unnamed
                        .into_iter()
                        .map(|(topic, id)| (topic.to_string(), json!(id)))
                        .collect(),
                ),
            );
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                txns,
                ..Draft::default()
            })))
        };
        self.write(&CommitName::new(), decide).await.map(drop)
    }

    /// Records that a topic goes on where the recorded one of its name ended: an operator's word, never our own (P18).
    ///
    /// # Errors
    /// A transient error when the ending is not known; calling again is safe.
    pub async fn continue_topic(
        &mut self,
        topic: &Arc<str>,
        id: TopicId,
    ) -> Result<(), StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            if recorded.topics.get(topic) == Some(&id) {
                return Ok(Decision::Stop(()));
            }
            let mut info = our_info("start", &spec.pipeline);
            info.insert("topics".into(), json!({ (topic.to_string()): id }));
            // It was written anew, under leaders of its own.
            let of_it = recorded.leader_epochs.keys();
            let of_it = of_it.filter(|partition| partition.topic == *topic);
            let mut txns = vec![names.topic(topic, id)];
            txns.extend(
                of_it
                    .map(|partition| names.no_leader_epoch(partition, recorded.offsets[partition])),
            );
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                txns,
                ..Draft::default()
            })))
        };
        self.write(&CommitName::new(), decide).await.map(drop)
    }

    /// Commits what `decide` makes of the newest version, under this name. The version in hand afterwards is the last one that was
    /// read, also when it failed.
    async fn write<T: Send>(
        &mut self,
        name: &CommitName,
        decide: impl FnMut(&Snapshot) -> Result<Decision<T>, StoreError> + Send,
    ) -> Result<Outcome<T>, StoreError> {
        let outcome = commit(
            &self.log,
            &mut self.snapshot,
            name,
            self.store.patience(),
            decide,
        )
        .await;
        self.read_snapshot()?;
        outcome
    }

    /// Judges an epoch in the version in hand (P7).
    pub fn judge(&self, ranges: &BTreeMap<TopicPartition, OffsetRange>) -> Verdict {
        self.checkpoint.judge(ranges)
    }

    /// Writes panes as Parquet, which nobody sees until [`Self::commit`] names it (P8). Batches have the table's pane
    /// schema and come sorted by window and group, each of these once, so that there is one file a partition value, and readers
    /// need not merge what no other file has (P34).
    ///
    /// # Errors
    /// The error of `panes`, or of the store; what was written is taken back.
    pub async fn stage<E>(
        &self,
        panes: impl Iterator<Item = Result<RecordBatch, E>> + Send,
        budget: Option<&MemoryBudget>,
    ) -> Result<Staged, StoreError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let mut stager = Stager::new(
            self.store.object_store(),
            self.log.table.clone(),
            self.log.folder.clone(),
            self.spec.shape.pane_schema(),
            self.spec.partition_by,
            budget,
        )
        .with_unique_keys();
        for batch in panes {
            let written = match batch {
                Ok(batch) => stager.write(&batch).await,
                Err(error) => Err(StoreError::Panes {
                    table: self.log.table.clone(),
                    source: error.into(),
                }),
            };
            if let Err(error) = written {
                stager.abandon().await;
                return Err(error);
            }
        }
        stager.finish().await
    }

    /// Commits staged panes together with the offsets they came from, in one version, once (P7–P13).
    ///
    /// After `Committed` and `AlreadyDone` the recorded offsets are at or past every range's end.
    ///
    /// # Errors
    /// [`StoreError::EndingUnknown`] and other transient ones: commit the same `staged` again (P10). After
    /// [`StoreError::StagedTooOld`] stage the same anew.
    pub async fn commit(
        &mut self,
        staged: &Staged,
        facts: &CommitFacts,
    ) -> Result<Ending, StoreError> {
        self.refuse_broken(facts)?;
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let rules = *self.store.rules();
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            match recorded.judge(&facts.ranges) {
                Verdict::Done => Ok(Decision::Stop(Ending::AlreadyDone)),
                Verdict::Overtaken(why) => Ok(Decision::Stop(Ending::Overtaken(why))),
                Verdict::Commit => Ok(Decision::Write(Box::new(Draft {
                    adds: staged.adds(&log.table, &rules)?,
                    ..draft(&names, &spec, &recorded, staged, facts)
                }))),
            }
        };
        match self.write(&staged.name, decide).await? {
            Outcome::Landed(version) => Ok(Ending::Committed { version }),
            Outcome::Stopped(ending) => {
                self.discard(staged).await;
                Ok(ending)
            }
        }
    }

    /// Commits staged panes together with the letters they came from, in one version, once (P23).
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn commit_replay(
        &mut self,
        staged: &Staged,
        replayed: &Replayed,
        pipeline_version: &str,
    ) -> Result<ReplayEnding, StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let rules = *self.store.rules();
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            if recorded.replayed != replayed.after {
                return Ok(Decision::Stop(()));
            }
            let mut info = our_info("replay", &spec.pipeline);
            info.insert("pipeline_version".into(), json!(pipeline_version));
            info.insert("replayed".into(), json!(replayed));
            info.insert("rows".into(), json!(staged.rows()));
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                adds: staged.adds(&log.table, &rules)?,
                txns: vec![names.replayed(replayed.up_to)],
                ..Draft::default()
            })))
        };
        match self.write(&staged.name, decide).await? {
            Outcome::Landed(version) => Ok(ReplayEnding::Committed { version }),
            Outcome::Stopped(()) => {
                staged
                    .remove_stopped(&self.log, self.snapshot.version)
                    .await;
                Ok(ReplayEnding::Overtaken)
            }
        }
    }

    fn refuse_broken(&self, facts: &CommitFacts) -> Result<(), StoreError> {
        let broken = |what: String| StoreError::Broken {
            table: self.log.table.clone(),
            what,
        };
        facts
            .balance
            .checked()
            .map_err(|error| broken(error.to_string()))?;
        if facts.ranges.values().all(|range| range.is_empty()) {
            return Err(broken("a commit covers at least one offset".into()));
        }
        Ok(())
    }

    /// Removes staged files that will not be committed, unless a log entry that names them may be on its way (O1);
    /// then they become orphans or part of the table.
    pub async fn discard(&self, staged: &Staged) {
        staged.remove_unsent(&self.log).await;
    }

    /// Records watermarks that moved without an event, together with the unchanged offsets (P25).
    ///
    /// # Errors
    /// As of [`Self::commit`]; calling again is safe.
    pub async fn commit_watermarks(
        &mut self,
        watermarks: &BTreeMap<TopicPartition, Timestamp>,
    ) -> Result<Ending, StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let expected = self.checkpoint.offsets.clone();
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            let mut txns = Vec::new();
            let mut moved = BTreeMap::new();
            for (partition, &watermark) in watermarks {
                let (at, was) = (recorded.offsets.get(partition), expected.get(partition));
                let (Some(&at), true) = (at, at == was) else {
                    let range = OffsetRange::empty_at(was.copied().unwrap_or(0));
                    return Ok(Decision::Stop(Ending::Overtaken(Overtaken {
                        partition: partition.clone(),
                        recorded: at.copied(),
                        range,
                    })));
                };
                if recorded.watermarks.get(partition) < Some(&watermark) {
                    txns.push(names.offset(partition, at));
                    txns.push(names.watermark(partition, watermark));
                    moved.insert(partition, watermark);
                }
            }
            if moved.is_empty() {
                return Ok(Decision::Stop(Ending::AlreadyDone));
            }
            let mut info = our_info("watermark", &spec.pipeline);
            info.insert(
                "watermarks".into(),
                by_partition(moved.into_iter(), |watermark| json!(watermark.micros())),
            );
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                txns,
                ..Draft::default()
            })))
        };
        Ok(match self.write(&CommitName::new(), decide).await? {
            Outcome::Landed(version) => Ending::Committed { version },
            Outcome::Stopped(ending) => ending,
        })
    }

    #[cfg(test)]
    pub(crate) fn maintenance_log(&self) -> &TableLog {
        &self.log
    }

    #[cfg(test)]
    pub(crate) fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }
}

pub(crate) const STREAMING: &str = "STREAMING UPDATE";

fn draft(
    names: &Names,
    spec: &TableSpec,
    recorded: &Checkpoint,
    staged: &Staged,
    facts: &CommitFacts,
) -> Draft {
    let ranges = facts.ranges.iter().filter(|(_, range)| !range.is_empty());
    let mut txns: Vec<Txn> = ranges
        .clone()
        .map(|(partition, range)| names.offset(partition, range.end()))
        .collect();
    txns.extend(ranges.clone().filter_map(|(partition, range)| {
        let epoch = *facts.leader_epochs.get(partition)?;
        names.leader_epoch(partition, epoch, range.end())
    }));
    let mut moved = BTreeMap::new();
    for (partition, &watermark) in &facts.watermarks {
        if recorded.watermarks.get(partition) < Some(&watermark) {
            txns.push(names.watermark(partition, watermark));
            moved.insert(partition, watermark);
        }
    }
    let mut info = our_info("commit", &spec.pipeline);
    info.insert("pipeline_version".into(), json!(facts.pipeline_version));
    if !facts.settings.is_empty() {
        info.insert("settings".into(), json!(facts.settings));
    }
    info.insert("epoch".into(), json!(facts.epoch));
    info.insert(
        "ranges".into(),
        by_partition(ranges, |range| json!([range.start(), range.end()])),
    );
    info.insert("balance".into(), json!(facts.balance));
    info.insert("rows".into(), json!(staged.rows()));
    info.insert(
        "watermarks".into(),
        by_partition(moved.into_iter(), |watermark| json!(watermark.micros())),
    );
    Draft {
        operation: STREAMING,
        info,
        txns,
        ..Draft::default()
    }
}

pub(crate) fn by_partition<'p, T>(
    values: impl Iterator<Item = (&'p TopicPartition, T)>,
    shown: impl Fn(T) -> Value,
) -> Value {
    Value::Object(
        values
            .map(|(partition, value)| (partition.to_string(), shown(value)))
            .collect(),
    )
}

/// Before every commit: the table must still be one that our panes fit into (P11, changed metadata).
fn still_fits(log: &TableLog, spec: &TableSpec, snapshot: &Snapshot) -> Result<(), StoreError> {
    definition::refuse_foreign(&log.table, snapshot, &spec.pipeline)?;
    definition::compare_columns(&snapshot.schema, &spec.shape).map_err(|why| StoreError::Changed {
        table: log.table.clone(),
        why,
        recorded: snapshot
            .metadata
            .configuration
            .get(definition::DEFINITION)
            .cloned()
            .unwrap_or_default(),
        wanted: spec.definition.clone(),
    })
}

pub(crate) fn read_shape(
    table: &Arc<str>,
    snapshot: &Snapshot,
) -> Result<Arc<TableShape>, StoreError> {
    TableShape::from_pane_schema(&snapshot.schema)
        .map(Arc::new)
        .map_err(|error| StoreError::Unsupported {
            table: table.clone(),
            what: error.to_string(),
        })
}

/// Puts version 0. Whoever loses the race opens what the winner made.
async fn create(store: &Store, log: &TableLog, spec: &TableSpec) -> Result<(), StoreError> {
    let metadata = definition::new_metadata(&log.table, spec, store.rules().log_retention)?;
    create_table(log, our_info("create", &spec.pipeline), metadata).await
}

/// Adds the columns of new measures, in a commit of its own.
async fn grow(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    spec: &TableSpec,
) -> Result<(), StoreError> {
    let decide = |snapshot: &Snapshot| {
        Ok(match definition::fit(&log.table, snapshot, spec)? {
            Fit::Same => Decision::Stop(()),
            Fit::Grow(metadata) => Decision::Write(Box::new(Draft {
                operation: "ADD COLUMN",
                info: our_info("grow", &spec.pipeline),
                metadata: Some(*metadata),
                ..Draft::default()
            })),
        })
    };
    commit(log, snapshot, &CommitName::new(), store.patience(), decide)
        .await
        .map(drop)
}
