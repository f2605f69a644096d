//! What lies on storage: schemas, statistics, refusals (P35, P38, S8, S13), and the durable local folder.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use alluvium_types::ErrorClass;
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, path::Path};

use super::{
    faulty::{Faults, FaultyStore, Overwrites},
    *,
};
use crate::{StorageConfig, StoreError, action::Stats, durable::DurableFolder};

#[tokio::test]
async fn a_table_describes_itself() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 3), (1, 0, 4)]).await;
    let table = store.read_table("clicks_per_minute").await.unwrap();
    assert_eq!(
        *table.shape,
        *shape(Users::Counted),
        "types and metadata survive Delta's schema"
    );
    assert_eq!(store.tables().await.unwrap(), ["clicks_per_minute"]);
    let mut days: Vec<_> = table
        .files
        .iter()
        .map(|file| file.partition_values["_day"].clone())
        .collect();
    days.sort();
    assert_eq!(days, [Some("1970-01-01".into()), Some("1970-01-02".into())]);
    let second = table
        .files
        .iter()
        .find(|file| file.path.contains("1970-01-02"))
        .unwrap();
    let (least, greatest) = second.window_start.unwrap();
    assert!(least.micros() == DAY && (DAY..DAY + 1000).contains(&greatest.micros()));
    assert!(
        second
            .path
            .starts_with("tables/clicks_per_minute/_day=1970-01-02/")
    );
    assert!(second.missing_states.is_empty());
    let by_writer = writer.committed();
    assert_eq!(
        (by_writer.version, &by_writer.files, &by_writer.shape),
        (table.version, &table.files, &table.shape)
    );
    assert_eq!(by_writer.offsets, table.offsets);
    let a_minute = Some(Duration::from_secs(60));
    assert_eq!((by_writer.window, table.window), (a_minute, a_minute));
}

#[tokio::test]
async fn statistics_bound_every_value() {
    let store = in_memory();
    let writer = opened(&store, &[(0, 0)]).await;
    let long = |last: char| "é".repeat(40) + &last.to_string();
    let spec = spec();
    let batch = panes(&spec, &[(0, 1, 5), (61_500_001, 2, 6), (7, 3, 7)]);
    let countries = StringArray::from(vec![Some(long('a')), None, Some(long('z'))]);
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(countries);
    let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let staged = writer.stage(once(batch), None).await.unwrap();
    let stats: Stats = serde_json::from_str(staged.files[0].stats.as_ref().unwrap()).unwrap();
    assert_eq!(stats.num_records, Some(3));
    let least = stats.min_values["country"].as_str().unwrap();
    let greatest = stats.max_values["country"].as_str().unwrap();
    assert!(
        least <= long('a').as_str()
            && long('z').as_str() <= greatest
            && greatest.chars().count() <= 32
    );
    assert_eq!(stats.min_values["window_start"], "1970-01-01T00:00:00Z");
    assert_eq!(stats.max_values["window_start"], "1970-01-01T00:01:01.501Z");
    assert_eq!(stats.null_count["country"], 1);
    assert_eq!(
        stats.null_count["mean"],
        serde_json::json!({"sum": 0, "count": 0})
    );
    assert!(
        !stats.min_values.contains_key("bytes"),
        "a decimal is not safe in JSON"
    );
}

#[tokio::test]
async fn readers_are_told_the_bounds_of_keys() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 1)]).await;
    commit_ranges(&mut writer, &[(0, 1, 4)]).await;
    let table = store.read_table("clicks_per_minute").await.unwrap();
    let known: Vec<Vec<String>> = table
        .files
        .iter()
        .map(|file| {
            let bounds = file.bounds.iter();
            bounds
                .map(|bounds| {
                    let nulls = bounds.nulls.unwrap();
                    format!(
                        "{} {}..{} {nulls}",
                        bounds.column, bounds.least, bounds.greatest
                    )
                })
                .collect()
        })
        .collect();
    // The second has no country at all.
    assert_eq!(
        known,
        [
            ["window_end 60000000..60000999 0", "country CH..CH 0"],
            ["window_end 60000000..60000999 0", "country NULL..NULL 1"],
        ]
    );
    assert_eq!(writer.committed().files, table.files);
}

#[tokio::test]
async fn a_new_measure_is_welcome_and_a_changed_one_is_not() {
    let store = in_memory();
    let old = spec_with(Users::Absent);
    let mut writer = store.table(&old).await.unwrap();
    writer
        .record_start(
            &BTreeMap::from([(tp(0), 0)]),
            &BTreeMap::from([(Arc::from("clicks"), 1)]),
            &BTreeMap::new(),
        )
        .await
        .unwrap();
    let list = [(0, 0, 3)];
    let staged = writer
        .stage(once(panes_of(&old, &list)), None)
        .await
        .unwrap();
    writer.commit(&staged, &facts(&list)).await.unwrap();

    let mut grown = store.table(&spec()).await.unwrap();
    assert_eq!(*grown.committed().shape, *shape(Users::Counted));
    commit_ranges(&mut grown, &[(0, 3, 5)]).await;
    // A server that has not been updated yet goes on, and meets the new schema in the middle of a commit.
    let list = [(0, 5, 6)];
    writer.refresh().await.unwrap();
    let staged = writer
        .stage(once(panes_of(&old, &list)), None)
        .await
        .unwrap();
    writer.commit(&staged, &facts(&list)).await.unwrap();
    for files in [
        store.read_table("clicks_per_minute").await.unwrap().files,
        writer.committed().files,
    ] {
        let lacking: Vec<usize> = files.iter().map(|file| file.missing_states.len()).collect();
        assert_eq!(lacking, [1, 0, 1]);
    }
    // Started anew with its old file it is refused: the file no longer says what the table is.
    assert!(matches!(
        store.table(&old).await,
        Err(StoreError::Changed { .. })
    ));

    let refused = |change: &dyn Fn(&mut TableSpec)| {
        let mut spec = spec();
        change(&mut spec);
        let store = store.clone();
        async move { store.table(&spec).await.unwrap_err() }
    };
    let error = refused(&|spec| spec.definition = spec.definition.replace("1m", "5m")).await;
    let text = error.to_string();
    assert!(matches!(error, StoreError::Changed { .. }));
    assert!(
        text.contains("window: 1m") && text.contains("window: 5m"),
        "{text}"
    );
    let error = refused(&|spec| spec.definition.push_str("where: country = 'CH'\n")).await;
    assert!(matches!(error, StoreError::Changed { why, .. } if why.contains("where")));
    let error = refused(&|spec| spec.partition_by = PartitionBy::Month).await;
    assert!(matches!(error, StoreError::Changed { .. }));
    let error = refused(&|spec| spec.pipeline = "orders".into()).await;
    assert!(matches!(error, StoreError::OtherPipeline { .. }));
}

#[tokio::test]
async fn offsets_that_would_expire_are_refused() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let mut metadata = writer.snapshot_mut().metadata.clone();
    let property = "delta.setTransactionRetentionDuration".to_owned();
    metadata
        .configuration
        .insert(property, "interval 1 minute".into());
    let line = serde_json::json!({"metaData": metadata}).to_string();
    let next = writer.maintenance_log().entry_path(2);
    store.object_store().put(&next, line.into()).await.unwrap();
    // Also somebody who has the table open notices, at his next commit.
    let list = [(0, 0, 1)];
    let staged = writer
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    let error = writer.commit(&staged, &facts(&list)).await.unwrap_err();
    assert!(
        matches!(error, StoreError::ExpiringOffsets { .. }),
        "{error}"
    );
    assert!(matches!(
        store.table(&spec()).await,
        Err(StoreError::ExpiringOffsets { .. })
    ));
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let mut objects = FaultyStore::new(0, Faults::default());
    Store::over(Arc::new(objects.clone()), rules())
        .prove()
        .await
        .unwrap();
    objects.overwrites = Overwrites::Always;
    let error = Store::over(Arc::new(objects), rules())
        .prove()
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalPut { .. }));
}

#[tokio::test]
async fn a_store_is_proven_once_and_by_an_answer_only() {
    let objects = FaultyStore::new(0, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    objects.is_away.store(true, Ordering::Relaxed);
    let error = store.prove().await.unwrap_err();
    assert_eq!(error.class(), alluvium_types::ErrorClass::Transient);
    objects.is_away.store(false, Ordering::Relaxed);
    store.prove().await.unwrap();
    objects.is_away.store(true, Ordering::Relaxed);
    store.prove().await.unwrap();
}

#[tokio::test]
async fn who_may_not_delete_commits_all_the_same_and_hears_of_it() {
    let objects = FaultyStore::new(0, Faults::default());
    objects.keeps_all.store(true, Ordering::Relaxed);
    let store = Store::over(Arc::new(objects.clone()), rules());
    store.prove().await.unwrap();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..30 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    let left = writer
        .stage(once(panes_of(&spec(), &[(0, 30, 31)])), None)
        .await
        .unwrap();
    writer.discard(&left).await;
    assert_eq!(totals(&store).await.0, 30);

    // A year later there is something to delete.
    objects.age.store(365 * 86_400, Ordering::Relaxed);
    let mut upkeep = store.upkeep("clicks_per_minute");
    upkeep.run().await.unwrap_err();
    assert!(
        upkeep
            .failing()
            .is_some_and(|why| why.contains("nobody may delete")),
        "{:?}",
        upkeep.failing()
    );
    assert!(upkeep.take_clock_ahead().is_some());
    assert_eq!(totals(&store).await.0, 30);
}

#[tokio::test]
async fn a_batch_of_another_shape_is_refused_and_leaves_nothing() {
    let store = in_memory();
    let writer = opened(&store, &[(0, 0)]).await;
    let wrong = panes_of(&spec_with(Users::Absent), &[(0, 0, 2)]);
    let batches = [
        Ok::<_, NoError>(panes_of(&spec(), &[(0, 0, 2), (1, 0, 2)])),
        Ok(wrong),
    ];
    let error = writer.stage(batches.into_iter(), None).await.unwrap_err();
    assert_eq!(error.class(), alluvium_types::ErrorClass::Bug);
    let staged = writer
        .stage(once(panes_of(&spec(), &[(0, 0, 2)])), None)
        .await
        .unwrap();
    writer.discard(&staged).await;
    use futures::TryStreamExt as _;
    let folder = Path::from("tables/clicks_per_minute");
    let left: Vec<_> = store
        .object_store()
        .list(Some(&folder))
        .try_collect()
        .await
        .unwrap();
    assert!(
        left.iter()
            .all(|meta| meta.location.as_ref().contains("_delta_log")),
        "{left:?}"
    );
}

#[tokio::test]
async fn memory_of_staging_is_counted_and_given_back() {
    let store = in_memory();
    let writer = opened(&store, &[(0, 0)]).await;
    let budget = alluvium_types::MemoryBudget::new(1 << 30);
    let rows: Vec<_> = (0..50_000)
        .map(|row| (row * 60_000_000, row, i128::from(row)))
        .collect();
    let staged = writer
        .stage(once(panes(&spec(), &rows)), Some(&budget))
        .await
        .unwrap();
    assert_eq!(staged.rows(), 50_000);
    assert_eq!(staged.files() as i64, 50_000 / 1440 + 1);
    assert!(budget.peak() > 0 && budget.used() == 0);
}

#[tokio::test]
async fn a_local_folder_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/yet/there");
    let config = StorageConfig {
        root: root.to_str().unwrap().to_owned(),
        secret_key: Some("hush".into()),
        ..StorageConfig::default()
    };
    assert!(!format!("{config:?}").contains("hush"));
    let store = Store::open(&config).await.unwrap();
    store.prove().await.unwrap();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let mut upkeep = store.upkeep(writer.name());
    let mut checkpoints = 0;
    for at in 0..60 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
        checkpoints += usize::from(upkeep.run().await.unwrap().checkpoint.is_some());
    }
    assert_eq!(checkpoints, 1);
    let again = Store::open(&config).await.unwrap();
    assert_eq!(totals(&again).await, (60, 59 * 30));
    assert_eq!(
        again.table(&spec()).await.unwrap().checkpoint(),
        writer.checkpoint()
    );
    let objects = again.object_store();
    let key = Path::from("a/b/c");
    objects.put(&key, "1".into()).await.unwrap();
    objects.put(&key, "2".into()).await.unwrap();
    let refused = objects
        .put_opts(&key, "3".into(), PutMode::Create.into())
        .await;
    assert!(matches!(
        refused,
        Err(object_store::Error::AlreadyExists { .. })
    ));
    assert_eq!(objects.get(&key).await.unwrap().bytes().await.unwrap(), "2");
    // Neither a put that has happened nor one that was refused leaves anything else behind.
    let new = Path::from("a/b/new");
    let create = async || {
        objects
            .put_opts(&new, "4".into(), PutMode::Create.into())
            .await
    };
    create().await.unwrap();
    create().await.unwrap_err();
    let names = std::fs::read_dir(root.join("a/b")).unwrap();
    let names: BTreeSet<_> = names.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from(["c".into(), "new".into()]));
}

#[tokio::test]
async fn staging_files_of_a_killed_writer_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let store = DurableFolder::open(folder.path()).unwrap();
    store.put(&Path::from("t/kept"), "1".into()).await.unwrap();
    std::fs::write(folder.path().join("t/left#17"), "torn").unwrap();
    std::fs::write(folder.path().join("t/left#x"), "not ours").unwrap();
    assert_eq!(
        store
            .sweep_staging(&Path::from("t"), Duration::from_secs(60))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        store
            .sweep_staging(&Path::from("t"), Duration::ZERO)
            .await
            .unwrap(),
        1
    );
    let left = std::fs::read_dir(folder.path().join("t")).unwrap().count();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn an_s3_root_is_understood() {
    let config = StorageConfig {
        root: "s3://bucket/some/prefix".into(),
        endpoint: Some("http://127.0.0.1:1".into()),
        region: Some("us-east-1".into()),
        access_key: Some("k".into()),
        secret_key: Some("s".into()),
        allow_http: true,
    };
    let store = Store::open(&config).await.unwrap();
    assert!(store.object_store().to_string().contains("some/prefix"));
    let wrong = StorageConfig {
        root: "gs://bucket".into(),
        ..config
    };
    let error = Store::open(&wrong).await.unwrap_err();
    assert_eq!(error.class(), alluvium_types::ErrorClass::Config);
}

/// What a log checkpoint says is held against the snapshot that it was written from, in every part of it.
#[tokio::test]
async fn snapshots_are_the_same_in_all_or_not_at_all() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 5)]).await;
    commit_ranges(&mut writer, &[(0, 5, 9)]).await;
    let log = store.table_log("clicks_per_minute");
    let snapshot = log.load().await.unwrap().unwrap();
    assert!(snapshot.is_same_as(&log.load().await.unwrap().unwrap()));
    let differs = |change: &dyn Fn(&mut crate::snapshot::Snapshot)| {
        let mut other = snapshot.clone();
        change(&mut other);
        !snapshot.is_same_as(&other) && !other.is_same_as(&snapshot)
    };
    assert!(differs(&|other| other.version -= 1));
    assert!(differs(&|other| *other
        .txns
        .values_mut()
        .next()
        .unwrap() += 1));
    assert!(differs(&|other| drop(other.txns.pop_first())));
    assert!(differs(&|other| other.metadata.id.push('0')));
    assert!(differs(&|other| drop(
        Arc::make_mut(&mut other.files).pop()
    )));
    assert!(differs(
        &|other| Arc::make_mut(&mut other.files)[0].size += 1
    ));
}

#[tokio::test]
async fn a_table_is_shared_when_others_commit_in_between() {
    let store = in_memory();
    opened(&store, &[(0, 0)]).await;
    let log = store.table_log("clicks_per_minute");
    let mut snapshot = log.load().await.unwrap().unwrap();
    for (version, is_shared) in [(5, false), (6, false), (8, true), (9, false)] {
        snapshot.commits_up_to(version);
        assert_eq!(snapshot.is_shared(), is_shared, "{version}");
    }
}

async fn remove_all(store: &Store) {
    let objects = store.object_store();
    let listed: Vec<_> = objects.list(None).try_collect().await.unwrap();
    for meta in listed {
        objects.delete(&meta.location).await.unwrap();
    }
}

/// Stages and commits offsets of partition 0, for better or worse.
async fn try_to_commit(
    writer: &mut TableWriter,
    from: i64,
    to: i64,
) -> Result<crate::Ending, StoreError> {
    let list = [(0, from, to)];
    let staged = writer.stage(once(panes_of(&spec(), &list)), None).await?;
    writer.commit(&staged, &facts(&list)).await
}

const HALF_A_MINUTE: Duration = Duration::from_secs(31);
const SEVEN_HOURS: Duration = Duration::from_secs(7 * 3600);

/// A folder that is removed under its writer: whatever is put there afterwards, nobody can read what came before (S9).
#[tokio::test]
async fn a_table_that_is_removed_under_its_writer_stops_it() {
    for (left, asleep) in [
        (0, HALF_A_MINUTE),
        (1, HALF_A_MINUTE),
        (3, HALF_A_MINUTE),
        // After so long the log could have been cleaned up, too.
        (0, SEVEN_HOURS),
        (2, SEVEN_HOURS),
    ] {
        let store = in_memory();
        let mut writer = opened(&store, &[(0, 0)]).await;
        commit_ranges(&mut writer, &[(0, 0, 5)]).await;
        remove_all(&store).await;
        for at in 0..left {
            // Half a minute may pass until somebody looks.
            commit_ranges(&mut writer, &[(0, 5 + at, 6 + at)]).await;
        }
        crate::clock::suspend(asleep);
        let error = try_to_commit(&mut writer, 5 + left, 9).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Config, "{error}");
        let text = error.to_string();
        let wanted = match left {
            0 => "tables/clicks_per_minute is gone: it had version 2",
            _ => "tables/clicks_per_minute/_delta_log/00000000000000000000.json is gone",
        };
        assert!(text.contains(wanted), "{left}: {text}");
        let again = try_to_commit(&mut writer, 5 + left, 9).await.unwrap_err();
        assert_eq!(again.to_string(), text);
    }
}

/// Also when it was there a moment before, and whoever looks then finds what was put since.
#[tokio::test]
async fn a_table_that_is_removed_after_a_look_is_found_out_by_the_next_one() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..3 {
        crate::clock::suspend(HALF_A_MINUTE);
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    remove_all(&store).await;
    commit_ranges(&mut writer, &[(0, 3, 4)]).await;
    crate::clock::suspend(HALF_A_MINUTE);
    let error = try_to_commit(&mut writer, 4, 5).await.unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}

/// Also when another server has created it anew meanwhile: its entry of that version is no witness.
#[tokio::test]
async fn a_table_that_is_removed_and_created_anew_under_its_writer_stops_it() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 5)]).await;
    remove_all(&store).await;
    let mut other = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut other, &[(0, 0, 3)]).await;
    crate::clock::suspend(HALF_A_MINUTE);
    let error = try_to_commit(&mut writer, 5, 9).await.unwrap_err();
    assert!(error.to_string().contains("created anew"), "{error}");
    commit_ranges(&mut other, &[(0, 3, 9)]).await;
}

/// A writer that has committed nothing yet, too.
#[tokio::test]
async fn a_table_that_is_removed_before_the_first_commit_is_found_out() {
    let store = in_memory();
    opened(&store, &[(0, 0)]).await;
    let mut writer = store.table(&spec()).await.unwrap();
    remove_all(&store).await;
    crate::clock::suspend(SEVEN_HOURS);
    let error = try_to_commit(&mut writer, 0, 5).await.unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}

/// An entry that was cleaned up is asked for, and stood in for by a log checkpoint.
#[tokio::test]
async fn what_a_log_checkpoint_stands_in_for_may_be_gone() {
    let store = Store::over(Arc::new(InMemory::new()), unhurried());
    let log = store.table_log("clicks_per_minute");
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 5)]).await;
    checkpointed(&store, &log).await;
    for version in 0..=2 {
        let entry = log.entry_path(version);
        store.object_store().delete(&entry).await.unwrap();
    }
    for (at, asleep) in [(5, HALF_A_MINUTE), (6, SEVEN_HOURS), (7, HALF_A_MINUTE)] {
        crate::clock::suspend(asleep);
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    assert_eq!(totals(&store).await, (8, (0..8).sum()));
}

#[test]
fn intervals_are_those_of_delta() {
    for (text, seconds) in [
        ("interval 24 hours", Some(86_400)),
        ("INTERVAL 1 week", Some(7 * 86_400)),
        ("interval 90 Seconds", Some(90)),
        ("interval 5 minutes", Some(300)),
        ("interval 2 days", Some(172_800)),
        ("24 hours", None),
        ("interval 1 month", None),
        ("interval two days", None),
        ("interval 2 days 3 hours", None),
    ] {
        let read = crate::snapshot::parse_interval(text);
        assert_eq!(read.map(|read| read.as_secs()), seconds, "{text}");
    }
}
