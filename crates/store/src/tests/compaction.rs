//! Merging files beside writers, beside each other and under faults changes no answer (P36).
//!
//! What merging rows means is not this crate's: here the rows of several files become one file as they are.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use alluvium_types::{ErrorClass, MemoryBudget};
use datafusion::arrow::compute::concat_batches;

use super::{
    faulty::{Effect, Faults, FaultyStore},
    *,
};
use crate::{
    Choice, CommitKind, CompactionEnding, Compactor, Effort, Staged, StoreError, audit, choose,
};

const TABLE: &str = "clicks_per_minute";
const A_WEEK: u64 = 7 * 86_400;

/// Writes the rows of a choice into one file.
async fn rewritten(compactor: &Compactor, choice: &Choice) -> Result<(u64, Staged), StoreError> {
    let inputs = compactor.open(choice, 1 << 20).await?;
    let rows = inputs.rows();
    let schema = inputs.shape().pane_schema();
    let mut file = compactor.begin(&inputs, &MemoryBudget::new(1 << 30));
    let mut batches = Vec::new();
    for mut input in inputs.into_files() {
        while let Some(batch) = input.next().await {
            batches.push(batch?);
        }
    }
    file.write(&concat_batches(&schema, &batches).unwrap())
        .await?;
    Ok((rows, file.finish().await?))
}

async fn compact_once(compactor: &mut Compactor) -> Result<Option<CompactionEnding>, StoreError> {
    let choice = choose(
        compactor.files(),
        Effort::Everything,
        1 << 30,
        &BTreeSet::new(),
    );
    let Some(choice) = choice else {
        return Ok(None);
    };
    let (rows, staged) = rewritten(compactor, &choice).await?;
    compactor.commit(&choice, rows, &staged).await.map(Some)
}

#[tokio::test]
async fn fewer_files_hold_the_same() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    for at in 0..10 {
        commit_ranges(&mut writer, &[(0, at, at + 1), (1, at, at + 1)]).await;
    }
    let before = totals(&store).await;
    let mut compactor = store.compactor(TABLE).await.unwrap();
    assert_eq!(compactor.files().len(), 20, "two days");
    for files in [11, 2] {
        let ending = compact_once(&mut compactor).await.unwrap().unwrap();
        assert!(matches!(ending, CompactionEnding::Committed { .. }));
        assert_eq!(compactor.files().len(), files);
        assert_eq!(totals(&store).await, before);
    }
    assert_eq!(compact_once(&mut compactor).await.unwrap(), None);

    // The writer goes on from a snapshot that has not seen it.
    commit_ranges(&mut writer, &[(0, 10, 11)]).await;
    assert_eq!(writer.committed().files.len(), 3);
    assert_eq!(totals(&store).await, (before.0 + 1, before.1 + 10));

    let history = store.history(TABLE).await.unwrap();
    assert!(audit(&history).is_proven(), "{:?}", audit(&history).faults);
    let compactions: Vec<_> = history
        .iter()
        .filter(|commit| commit.kind == CommitKind::Compact)
        .map(|commit| {
            (
                commit.files_removed,
                commit.files_added,
                commit.changes_rows,
            )
        })
        .collect();
    assert_eq!(compactions, [(10, 1, false), (10, 1, false)]);
    assert_eq!(layout_moves(&store.table_log(TABLE)).await, 2);
}

/// What becomes of a merged file before its maker wakes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// It is live.
    Live,
    /// Another server has merged it with others; queries of older versions still read it.
    MergedAgain,
}

/// A merge lands and its reply is lost; while its maker sleeps, a log checkpoint is written past it. From there on the log
/// does not tell whose version that was, only that the files it was made from are gone.
async fn a_merge_that_does_not_know_itself(since: Since) {
    let objects = FaultyStore::new(8, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let mut compactor = store.compactor(TABLE).await.unwrap();
    let everything = Effort::Everything;
    let choice = choose(compactor.files(), everything, 1 << 30, &BTreeSet::new()).unwrap();
    let (rows, staged) = rewritten(&compactor, &choice).await.unwrap();
    let path = format!("tables/{TABLE}/{}", staged.files[0].path);
    let (others, merged) = (store.clone(), path.clone());
    let meanwhile = async move {
        let live = |compactor: &Compactor| {
            let mut files = compactor.files().iter();
            files.any(|file| file.path == merged)
        };
        let mut other = others.compactor(TABLE).await.unwrap();
        assert!(live(&other), "the merge has landed");
        if since == Since::MergedAgain {
            for at in 4..12 {
                commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
            }
            other.refresh().await.unwrap();
            while compact_once(&mut other).await.unwrap().is_some() {}
            assert!(!live(&other), "the merge is merged again");
        }
        checkpointed(&others, &others.table_log(TABLE)).await;
    };
    // Longer than a quarter of the log's retention: the log is read anew.
    objects.lose_next_reply(Effect::Lands, meanwhile, 7 * AN_HOUR);
    let ending = compactor.commit(&choice, rows, &staged).await.unwrap();
    let file = object_store::path::Path::from(path);
    let found = object_store::ObjectStoreExt::head(&store.object_store(), &file).await;
    assert!(found.is_ok(), "{since:?}: {file} is gone");
    let (wanted, events) = match since {
        Since::Live => (CompactionEnding::Committed { version: 6 }, 4),
        Since::MergedAgain => (CompactionEnding::Overtaken, 12),
    };
    assert_eq!(ending, wanted);
    let sum = (0..events).map(i128::from).sum();
    assert_eq!(totals(&store).await, (events, sum));
}

#[tokio::test]
async fn a_merge_that_landed_unheard_keeps_its_live_file() {
    a_merge_that_does_not_know_itself(Since::Live).await;
}

#[tokio::test]
async fn a_merge_that_landed_unheard_keeps_its_file_for_older_versions() {
    a_merge_that_does_not_know_itself(Since::MergedAgain).await;
}

/// No reply, and days of sleep before the next put: by then the file may have been swept, although a fresh one was staged
/// when the commit was begun.
#[tokio::test]
async fn a_merge_that_slept_for_days_names_no_swept_file() {
    let objects = FaultyStore::new(10, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let mut compactor = store.compactor(TABLE).await.unwrap();
    let everything = Effort::Everything;
    let choice = choose(compactor.files(), everything, 1 << 30, &BTreeSet::new()).unwrap();
    let (rows, staged) = rewritten(&compactor, &choice).await.unwrap();
    let (others, behind) = (store.clone(), objects.clone());
    let meanwhile = async move {
        let log = others.table_log(TABLE);
        assert_eq!(swept_days_later(&others, &behind, &log).await, 1);
    };
    objects.lose_next_reply(Effect::Never, meanwhile, 72 * AN_HOUR);
    let ending = compactor.commit(&choice, rows, &staged).await;
    assert!(!objects.is_reply_to_come());
    assert!(
        matches!(ending, Err(StoreError::StagedTooOld { .. })),
        "{ending:?}"
    );
    assert_eq!(totals(&store).await, (4, 6));
    let again = compact_once(&mut compactor).await.unwrap().unwrap();
    assert!(matches!(again, CompactionEnding::Committed { .. }));
    assert_eq!(totals(&store).await, (4, 6));
}

/// Sweeps compare the moment at which a file left the table with the storage's clock, so it must be a moment of that clock: by
/// that of a server which is days behind, files would be swept under queries that read them.
#[tokio::test]
async fn files_leave_a_table_by_the_clock_of_the_storage() {
    let objects = FaultyStore::new(11, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let mut compactor = store.compactor(TABLE).await.unwrap();
    let merged: Vec<String> = compactor
        .files()
        .iter()
        .map(|file| file.path.clone())
        .collect();
    objects.behind.store(A_WEEK, Ordering::Relaxed);
    compact_once(&mut compactor).await.unwrap().unwrap();
    let now = store.now().await.unwrap();
    let snapshot = store.table_log(TABLE).load().await.unwrap().unwrap();
    for path in &merged {
        let removed = snapshot.removed_at(path).unwrap();
        assert!((now - 60_000..=now).contains(&removed), "{path}: {removed}");
    }
    let mut upkeep = store.upkeep(TABLE);
    upkeep.run().await.unwrap();
    let ahead = upkeep.take_clock_ahead().unwrap();
    let week = i64::try_from(A_WEEK).unwrap() * 1000;
    assert!((week - 2_000..week + 60_000).contains(&ahead), "{ahead}");
}

#[tokio::test]
async fn of_two_that_merge_the_same_files_one_wins() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..4 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let before = totals(&store).await;
    let mut first = store.compactor(TABLE).await.unwrap();
    let mut second = store.compactor(TABLE).await.unwrap();
    let choice = choose(first.files(), Effort::Everything, 1 << 30, &BTreeSet::new()).unwrap();
    let (rows, of_first) = rewritten(&first, &choice).await.unwrap();
    let (_, of_second) = rewritten(&second, &choice).await.unwrap();
    // Commits in between do not void it.
    commit_ranges(&mut writer, &[(0, 4, 5)]).await;
    assert_eq!(
        first.commit(&choice, rows, &of_first).await.unwrap(),
        CompactionEnding::Committed { version: 7 }
    );
    assert_eq!(
        second.commit(&choice, rows, &of_second).await.unwrap(),
        CompactionEnding::Overtaken
    );
    assert_eq!(totals(&store).await, (before.0 + 1, before.1 + 4));
    assert_eq!(second.files().len(), 2);
    // The loser's file is gone.
    let mut left = 0;
    let mut listed = store.object_store().list(None);
    while let Some(meta) = futures::StreamExt::next(&mut listed).await {
        left += usize::from(meta.unwrap().location.as_ref().ends_with("zstd.parquet"));
    }
    assert_eq!(left, 6);
}

/// Files that are older than a measure stay apart from those that have it, and what becomes of them lacks it too (P35).
#[tokio::test]
async fn a_file_that_lacks_a_state_becomes_one_that_lacks_it() {
    let store = in_memory();
    let young = spec_with(Users::Absent);
    let mut writer = store.table(&young).await.unwrap();
    let starts = BTreeMap::from([(tp(0), 0)]);
    let counts = BTreeMap::from([(Arc::from("clicks"), 1)]);
    writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
        .unwrap();
    for at in 0..3 {
        let list = [(0, at, at + 1)];
        let staged = writer
            .stage(once(panes_of(&young, &list)), None)
            .await
            .unwrap();
        writer.commit(&staged, &facts(&list)).await.unwrap();
    }
    let mut grown = store.table(&spec()).await.unwrap();
    for at in 3..6 {
        commit_ranges(&mut grown, &[(0, at, at + 1)]).await;
    }
    let before = totals(&store).await;
    let mut compactor = store.compactor(TABLE).await.unwrap();
    while compact_once(&mut compactor).await.unwrap().is_some() {}
    let lacking: Vec<usize> = compactor
        .files()
        .iter()
        .map(|file| file.missing_states.len())
        .collect();
    assert_eq!(lacking.iter().sum::<usize>(), 1, "{lacking:?}");
    assert_eq!(lacking.len(), 2);
    assert_eq!(totals(&store).await, before);
}

#[tokio::test]
async fn a_file_that_does_not_hold_what_the_log_says_is_not_merged() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..3 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let files = writer.committed().files.clone();
    let objects = store.object_store();
    let path = |file: &alluvium_plan::CommittedFile| object_store::path::Path::from(&*file.path);
    // Cut off in the middle, as a bad disk would.
    let whole = object_store::ObjectStoreExt::get(&objects, &path(&files[0]))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    object_store::ObjectStoreExt::put(
        &objects,
        &path(&files[0]),
        whole.slice(..whole.len() / 2).into(),
    )
    .await
    .unwrap();
    let mut compactor = store.compactor(TABLE).await.unwrap();
    let error = compact_once(&mut compactor).await.unwrap_err();
    assert!(error.to_string().contains(&files[0].path), "{error}");
    assert_eq!(compactor.files().len(), 3);
}

/// A writer and two that merge, with a store that fails before, after and long after the effect.
async fn campaign(seed: u64) -> (usize, usize) {
    let faults = Faults::of_every_kind();
    let objects = FaultyStore::new(seed, faults);
    let store = Store::over(Arc::new(objects.clone()), rules());
    let patiently = |error: StoreError| assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    let mut writer = loop {
        match store.table(&spec()).await {
            Ok(writer) => break writer,
            Err(error) => patiently(error),
        }
    };
    let starts = BTreeMap::from([(tp(0), 0), (tp(1), 0)]);
    let counts = BTreeMap::from([(Arc::from("clicks"), 2)]);
    while let Err(error) = writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
    {
        patiently(error);
    }
    let over = Arc::new(AtomicBool::new(false));
    let (won, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mergers: Vec<_> = (0..2)
        .map(|_| {
            let (store, over) = (store.clone(), over.clone());
            let (won, lost) = (won.clone(), lost.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut compactor) = store.compactor(TABLE).await else {
                        continue;
                    };
                    loop {
                        match compact_once(&mut compactor).await {
                            Ok(Some(CompactionEnding::Committed { .. })) => {
                                won.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(Some(CompactionEnding::Overtaken)) => {
                                lost.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(None) => break,
                            Err(error) => {
                                assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                                break;
                            }
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    const COMMITS: i64 = 60;
    for at in 0..COMMITS {
        let list = [(0, at, at + 1), (1, at, at + 1)];
        let staged = loop {
            match writer.stage(once(panes_of(&spec(), &list)), None).await {
                Ok(staged) => break staged,
                Err(error) => patiently(error),
            }
        };
        while let Err(error) = writer.commit(&staged, &facts(&list)).await {
            patiently(error);
        }
    }
    over.store(true, Ordering::Relaxed);
    for merger in mergers {
        merger.await.unwrap();
    }
    // Entries that are still on their way land before anybody counts.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let calm = Store::over(Arc::new(objects.without_faults()), rules());
    let sum: i128 = (0..COMMITS).map(i128::from).sum();
    assert_eq!(totals(&calm).await, (2 * COMMITS, 2 * sum), "seed {seed}");
    let report = audit(&calm.history(TABLE).await.unwrap());
    assert_eq!(report.faults, [], "seed {seed}");
    (won.load(Ordering::Relaxed), lost.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_or_doubled_whatever_the_store_does() {
    let (mut won, mut lost) = (0, 0);
    for seed in 0..12 {
        let (of_seed_won, of_seed_lost) = campaign(seed).await;
        won += of_seed_won;
        lost += of_seed_lost;
    }
    // A campaign in which nobody met proved nothing.
    assert!(won > 50 && lost > 5, "{won} won, {lost} lost");
}

#[tokio::test]
async fn a_file_ends_with_its_window() {
    const WINDOWS: i64 = 40;
    const ROWS: i64 = 10_000;
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(vec![
        Field::new(
            TableShape::WINDOW_START,
            DataType::Timestamp(
                datafusion::arrow::datatypes::TimeUnit::Microsecond,
                Some("UTC".into()),
            ),
            false,
        ),
        Field::new("clicks", DataType::Int64, false),
    ]));
    let rows = |range: std::ops::Range<i64>| {
        let starts = range.clone().map(|row| Some(row / ROWS * 60_000_000));
        let starts: TimestampMicrosecondArray = starts.collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(starts.with_timezone("UTC")),
            Arc::new(range.map(Some).collect::<Int64Array>()),
        ];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    };
    let objects = Arc::new(InMemory::new());
    let mut stager = crate::stage::Stager::new(
        objects.clone(),
        TABLE.into(),
        "t".into(),
        schema.clone(),
        PartitionBy::None,
        None,
    )
    // A file is full as soon as it has a row group.
    .with_file_bytes(1);
    // Batches that end within windows.
    let mut at = 0;
    while at < WINDOWS * ROWS {
        let end = (at + 7_777).min(WINDOWS * ROWS);
        stager.write(&rows(at..end)).await.unwrap();
        at = end;
    }
    let staged = stager.finish().await.unwrap();
    assert_eq!(staged.rows(), (WINDOWS * ROWS) as u64);
    assert!(staged.files() > 2, "{} files", staged.files());
    let mut whole = 0;
    let mut last = None;
    for file in &staged.files {
        let path = format!("t/{}", file.path);
        let size = u64::try_from(file.size).unwrap();
        let builder = crate::parquet_reader::open_file(objects.clone(), &path, size);
        let mut stream = builder.await.unwrap().build().unwrap();
        let mut starts = Vec::new();
        while let Some(batch) = futures::StreamExt::next(&mut stream).await {
            let batch = batch.unwrap();
            let column = batch.column(0);
            let column =
                column.as_primitive::<datafusion::arrow::datatypes::TimestampMicrosecondType>();
            starts.extend(column.values().iter().copied());
        }
        assert!(
            last.is_none_or(|last| last < starts[0]),
            "a window in two files"
        );
        last = starts.last().copied();
        whole += starts.len();
    }
    assert_eq!(whole as i64, WINDOWS * ROWS);
}
