//! One version of a table, and what its history says of the log: what is needed before anything is read again.
//!
//! Owns the refusals that the table itself is the reason for. Does not own those that Kafka is ([`Log`](super::log::Log)).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alluvium_plan::CommittedFile;
use alluvium_store::{AuditReport, CommitRecord, LetterPlace, StoreError, TableReader, audit};
use alluvium_types::{OffsetRange, TopicPartition};

use super::{Doubt, Refusal, Verify, account::Account};
use crate::{clock::micros, pipeline::table_spec};

/// A table whose rows can be computed again as far as it says itself.
pub(super) struct Prepared {
    /// Its place in the plan.
    pub(super) position: usize,
    pub(super) reader: TableReader,
    pub(super) account: Account,
    pub(super) doubts: Vec<Doubt>,
}

impl Prepared {
    /// Takes the newest version of a table. Its history and the letters are read after it, so that nothing of it is missing.
    pub(super) fn of(verify: &Verify, position: usize) -> Result<Self, Refusal> {
        let table = &verify.plan.tables[position];
        let spec = table_spec(&verify.plan, table);
        let reader = verify
            .io
            .block_on(verify.store.reader(&spec))
            .map_err(Refusal::Store)?;
        refuse_unknown_measures(verify, position, &reader)?;
        let mut history = verify
            .io
            .block_on(verify.store.history(&table.name))
            .map_err(Refusal::Store)?;
        history.retain(|record| record.version <= reader.version());
        let report = audit(&history);
        let stretches = stretches(&reader, &history, &report)?;
        let mut account = Account::of(&verify.plan.version, &history, stretches, &report.gaps);
        let doubts = report.faults.into_iter().take(1);
        let doubts = doubts.map(Doubt::History).collect();
        if account.needs_letters() {
            let (letters, have_expired) = letters(verify, &table.name).map_err(Refusal::Store)?;
            account.judge(&letters, have_expired);
        }
        Ok(Self {
            position,
            reader,
            account,
            doubts,
        })
    }
}

/// What the table has read of each partition, and what it passed over in between: from where it was started to what it records.
fn stretches(
    reader: &TableReader,
    history: &[CommitRecord],
    report: &AuditReport,
) -> Result<BTreeMap<TopicPartition, OffsetRange>, Refusal> {
    let started: BTreeSet<&TopicPartition> = history
        .iter()
        .flat_map(|record| record.starts.keys())
        .collect();
    let recorded = reader.checkpoint().offsets.iter();
    recorded
        .map(|(partition, &recorded)| {
            let audited = report.partitions.get(partition);
            let audited = audited.filter(|_| started.contains(partition));
            let start = audited.map(|audited| audited.covered.start());
            let stretch = start.and_then(|start| OffsetRange::new(start, recorded).ok());
            let partition = partition.clone();
            match stretch {
                Some(stretch) => Ok((partition, stretch)),
                None => Err(Refusal::NoStart { partition }),
            }
        })
        .collect()
}

/// A measure is compared where every file of the windows has it (P35).
fn refuse_unknown_measures(
    verify: &Verify,
    position: usize,
    reader: &TableReader,
) -> Result<(), Refusal> {
    if !reader.lacked_measures().is_empty() {
        let measures = reader.lacked_measures().to_vec();
        return Err(Refusal::NewMeasures { measures });
    }
    let files = reader.files().iter();
    let older: Vec<&CommittedFile> = files
        .filter(|file| !file.missing_states.is_empty() && verify.windows.may_be_in(file))
        .collect();
    if older.is_empty() {
        return Ok(());
    }
    let table = &verify.plan.tables[position];
    let missing: BTreeSet<&Arc<str>> = older.iter().flat_map(|file| &file.missing_states).collect();
    let measures = table.shape.measures.iter();
    let measures = measures
        .filter(|measure| missing.contains(&table.shape.states[measure.state].name))
        .map(|measure| measure.name.clone());
    let last = older.iter().map(|file| Some(file.window_start?.1));
    let last: Option<Vec<_>> = last.collect();
    let window = micros(table.window);
    Err(Refusal::YoungMeasures {
        measures: measures.collect(),
        files: older.len(),
        // Bounds are rounded up to a millisecond; windows are aligned to 1970.
        until: last
            .and_then(|last| last.into_iter().max())
            .map(|last| last.saturating_add_micros(window - last.micros().rem_euclid(window))),
    })
}

/// Where the dead letters stand that may be of a table, and whether some are gone.
fn letters(verify: &Verify, table: &Arc<str>) -> Result<(Vec<LetterPlace>, bool), StoreError> {
    let letters = verify
        .io
        .block_on(verify.store.letters(&verify.plan.name))?;
    let places = verify.io.block_on(letters.places(table))?;
    Ok((places, letters.have_expired()))
}
