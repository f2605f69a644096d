//! Log checkpoints, ledger, clean-up, orphans and the audit (P37).

use std::sync::atomic::Ordering;

use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};

use super::{
    faulty::{Effect, Faults, FaultyStore},
    *,
};
use crate::{
    CommitKind, CommitRecord, Maintenance, StoreError, Vacuum,
    action::{Draft, Place, our_info},
    audit,
    log::{Put, TableLog},
};

const A_WEEK: u64 = 7 * 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_on_through_upkeep() {
    let objects = FaultyStore::new(5, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    let mut upkeep = store.upkeep(writer.name());
    let mut done = Vec::new();
    for at in 0..220 {
        commit_ranges(
            &mut writer,
            &[(at % 2, i64::from(at / 2), i64::from(at / 2) + 1)],
        )
        .await;
        // What is not due changes nothing, so a look may be spared.
        let is_due = upkeep.is_due(writer.version());
        let step = upkeep.run().await.unwrap();
        assert!(is_due || step == Maintenance::default(), "{step:?}");
        done.extend(step.checkpoint);
    }
    assert!(
        done.len() >= 10 && done.windows(2).all(|pair| pair[1] - pair[0] >= 20),
        "{done:?}"
    );
    let before = store.history("clicks_per_minute").await.unwrap();
    assert_eq!(before.len(), 222);
    assert!(audit(&before).is_proven());

    // A week later another server cleans up.
    objects.age.store(A_WEEK, Ordering::Relaxed);
    let mut other = store.table(&spec()).await.unwrap();
    assert_eq!(other.checkpoint(), writer.checkpoint());
    let cleaned = store.upkeep(other.name()).run().await.unwrap();
    assert!(cleaned.log_files_removed >= 200, "{cleaned:?}");
    assert!(
        cleaned.ledger_entries >= cleaned.log_files_removed - 15,
        "{cleaned:?}"
    );
    let left = other.maintenance_log().list().await.unwrap().entries.len();
    assert!(left < 40, "{left} entries are left");
    let after = store.history("clicks_per_minute").await.unwrap();
    assert_eq!(
        after, before,
        "log and ledger together are the whole history"
    );
    assert!(audit(&after).is_proven());

    // A third server goes by the log checkpoint alone, and everybody goes on.
    let third = store.table(&spec()).await.unwrap();
    assert_eq!(third.checkpoint(), writer.checkpoint());
    assert_eq!(third.committed().files.len(), 220);
    commit_ranges(&mut writer, &[(0, 110, 111)]).await;
    commit_ranges(&mut other, &[(1, 110, 111)]).await;
    let sum: i128 = (0..=110).sum();
    assert_eq!(totals(&store).await, (222, 2 * sum));
    // Cleaning up again writes nothing into the ledger twice.
    let again = store.upkeep(other.name()).run().await.unwrap();
    assert!(again.ledger_entries <= 25, "{again:?}");
    assert!(audit(&store.history("clicks_per_minute").await.unwrap()).is_proven());
}

#[tokio::test]
async fn a_broken_log_checkpoint_is_passed_over() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let mut upkeep = store.upkeep(writer.name());
    for at in 0..45 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
        upkeep.run().await.unwrap();
    }
    let folder = writer.maintenance_log().log_folder();
    let objects = store.object_store();
    let listed: Vec<_> = objects.list(Some(&folder)).try_collect().await.unwrap();
    let mut broken = 0;
    for meta in listed
        .iter()
        .filter(|meta| meta.location.as_ref().ends_with(".checkpoint.parquet"))
    {
        objects.put(&meta.location, "torn".into()).await.unwrap();
        broken += 1;
        let again = store.table(&spec()).await.unwrap();
        assert_eq!(again.checkpoint(), writer.checkpoint());
        assert_eq!(again.committed().files.len(), 45);
    }
    assert!(broken >= 2);
    objects
        .put(&folder.join("_last_checkpoint"), "{".into())
        .await
        .unwrap();
    assert_eq!(totals(&store).await, (45, 44 * 45 / 2));
}

#[tokio::test]
async fn orphans_are_swept_when_they_are_old() {
    let objects = FaultyStore::new(6, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 3)]).await;
    // A writer is killed between staging and commit (S4).
    let orphan = writer
        .stage(once(panes_of(&spec(), &[(0, 3, 5)])), None)
        .await
        .unwrap();
    let upkeep = || store.upkeep(writer.name());
    assert_eq!(upkeep().run().await.unwrap().orphans_removed, 0);
    objects.age.store(A_WEEK, Ordering::Relaxed);
    assert_eq!(upkeep().run().await.unwrap().orphans_removed, 1);
    let path = Path::from(format!("tables/clicks_per_minute/{}", orphan.files[0].path));
    assert!(objects.head(&path).await.is_err());
    assert_eq!(totals(&store).await, (3, 3));
}

#[tokio::test]
async fn files_of_before_the_sweep_are_not_committed() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let list = [(0, 0, 1)];
    let mut staged = writer
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    staged
        .staged_at
        .make_older(store.rules().orphan_retention / 2);
    let error = writer.commit(&staged, &facts(&list)).await.unwrap_err();
    assert!(matches!(error, StoreError::StagedTooOld { .. }));
}

/// A file is as old as what is known of it: from before it was put, not from when its writer heard that it was.
#[tokio::test]
async fn files_age_from_before_they_are_put() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let list = [(0, 0, 1)];
    let panes = once(panes_of(&spec(), &list)).inspect(|_| crate::clock::suspend(72 * AN_HOUR));
    let staged = writer.stage(panes, None).await.unwrap();
    let error = writer.commit(&staged, &facts(&list)).await.unwrap_err();
    assert!(matches!(error, StoreError::StagedTooOld { .. }));
}

/// No reply, and days of sleep before the next put: fresh when the commit was begun is not fresh when it is put. Nor is it when
/// the put itself was on its way for days.
#[tokio::test]
async fn a_commit_that_slept_for_days_names_no_swept_file() {
    for effect in [Effect::Never, Effect::LandsAfterwards] {
        a_commit_sleeps_for_days(effect).await;
    }
}

async fn a_commit_sleeps_for_days(effect: Effect) {
    let objects = FaultyStore::new(13, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    let mut writer = opened(&store, &[(0, 0)]).await;
    let list = [(0, 0, 3)];
    let staged = writer
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    let (others, behind) = (store.clone(), objects.clone());
    let meanwhile = async move {
        let log = others.table_log("clicks_per_minute");
        assert_eq!(swept_days_later(&others, &behind, &log).await, 1);
    };
    objects.lose_next_reply(effect, meanwhile, 72 * AN_HOUR);
    let ending = writer.commit(&staged, &facts(&list)).await;
    assert!(!objects.is_reply_to_come());
    assert!(
        matches!(ending, Err(StoreError::StagedTooOld { .. })),
        "{ending:?}"
    );
    commit_ranges(&mut writer, &list).await;
    assert_eq!(totals(&store).await, (3, 3));
}

/// A table of so many commits, kept up meanwhile.
async fn kept_up(store: &Store, commits: i64) -> TableWriter {
    let mut writer = opened(store, &[(0, 0)]).await;
    let mut upkeep = store.upkeep("clicks_per_minute");
    for _ in 0..commits {
        let at = writer.checkpoint().offsets[&tp(0)];
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
        upkeep.run().await.unwrap();
    }
    writer
}

/// A put that was given up lands after all.
async fn land_late(log: &TableLog, table_id: &str, version: i64, kind: &str) {
    let place = Place {
        table_id,
        version,
        follows: Some("one of then"),
    };
    let entry = Draft {
        operation: "WRITE",
        info: our_info(kind, "clicks"),
        ..Draft::default()
    }
    .encode(place, "late", 0);
    assert_eq!(log.put_entry(version, entry).await.unwrap(), Put::Landed);
}

/// A put that was given up lands in a place of the log that clean-up has freed: nobody reads it as a version of the table,
/// and an auditor is not told of it either.
#[tokio::test]
async fn a_late_put_into_a_freed_place_is_no_part_of_the_history() {
    let objects = FaultyStore::new(14, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let writer = kept_up(&store, 50).await;
    let before = store.history("clicks_per_minute").await.unwrap();
    let clean_up = async |age| {
        objects.age.store(age, Ordering::Relaxed);
        let mut other = store.upkeep("clicks_per_minute");
        other.run().await.unwrap().log_files_removed
    };
    assert!(clean_up(A_WEEK).await > 10);
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), before);

    let log = writer.maintenance_log();
    let table_id = log.load().await.unwrap().unwrap().metadata.id;
    land_late(log, &table_id, 5, "commit").await;
    let after = store.history("clicks_per_minute").await.unwrap();
    assert_eq!(after, before, "the ledger knows what version 5 was");
    assert!(audit(&after).is_proven());
    // Nor does the next clean-up write it into the ledger.
    assert!(clean_up(2 * A_WEEK).await > 0);
    assert!(log.read_entry(5).await.unwrap().is_none());
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), before);
}

/// Right below the entries that were left it looks like one of them, but for what the next one follows.
#[tokio::test]
async fn a_late_put_into_the_newest_place_that_was_freed_is_no_commit() {
    let objects = FaultyStore::new(16, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let writer = kept_up(&store, 50).await;
    let before = store.history("clicks_per_minute").await.unwrap();
    objects.age.store(A_WEEK, Ordering::Relaxed);
    assert!(clean(&store).await.log_files_removed > 10);
    let log = writer.maintenance_log();
    let newest_freed = log.list().await.unwrap().entries.keys().next().unwrap() - 1;
    assert!(newest_freed > 10);
    let table_id = log.load().await.unwrap().unwrap().metadata.id;
    land_late(log, &table_id, newest_freed, "commit").await;
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), before);
    objects.age.store(2 * A_WEEK, Ordering::Relaxed);
    assert_eq!(clean(&store).await.ledger_entries, 0);
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), before);
}

async fn clean(store: &Store) -> Maintenance {
    store.upkeep("clicks_per_minute").run().await.unwrap()
}

/// A table that is put back from a copy which is older than its ledger comes to versions again that the ledger has of a former life.
#[tokio::test]
async fn a_table_put_back_to_before_its_ledger_has_a_history_of_its_own() {
    let objects = FaultyStore::new(17, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    drop(kept_up(&store, 30).await);
    let copy = copied(&objects).await;
    drop(kept_up(&store, 30).await);
    let later_copy = copied(&objects).await;
    drop(kept_up(&store, 30).await);
    let former = store.history("clicks_per_minute").await.unwrap();
    objects.age.store(A_WEEK, Ordering::Relaxed);
    assert!(clean(&store).await.ledger_entries > 60);

    let mut week = 1;
    let mut go_on = async |copied: i64, more: &[i64]| {
        let mut events = copied;
        for more in more {
            drop(kept_up(&store, *more).await);
            events += more;
            let now = store.history("clicks_per_minute").await.unwrap();
            let report = audit(&now);
            assert!(report.is_proven(), "{events}: {:?}", report.faults);
            let versions: Vec<i64> = now.iter().map(|record| record.version).collect();
            assert_eq!(versions, (0..events + 2).collect::<Vec<_>>());
            // Up to the copy it is what it was, and nothing of a former life behind it.
            let split = usize::try_from(copied + 2).unwrap();
            assert_eq!(now[..split], former[..split], "{events}");
            let formerly =
                |record: &CommitRecord| former.iter().any(|other| other.is_same_as(record));
            assert!(!now[split..].iter().any(formerly), "{events}");
            assert_eq!(totals(&store).await.0, events);
            week += 1;
            objects.age.store(week * A_WEEK, Ordering::Relaxed);
            let removed = clean(&store).await.log_files_removed;
            assert!(removed >= 20 || *more < 20, "{events}: {removed}");
            assert_eq!(
                store.history("clicks_per_minute").await.unwrap(),
                now,
                "{events}"
            );
        }
    };
    put_back(&objects, copy).await;
    // Fewer versions than the ledger has, then as many and more.
    go_on(30, &[5, 45, 60]).await;
    // Now the ledger has two commits of most versions that this copy has or comes to.
    put_back(&objects, later_copy).await;
    go_on(60, &[5, 45, 60]).await;
    let log = Path::from("tables/clicks_per_minute/_delta_log");
    let left = all(&objects, &log).await.len();
    assert!(left < 60, "{left}");
}

async fn all(objects: &FaultyStore, folder: &Path) -> Vec<Path> {
    let listed: Vec<_> = objects.list(Some(folder)).try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.location).collect()
}

/// What lies in the table's folder.
async fn copied(objects: &FaultyStore) -> Vec<(Path, bytes::Bytes)> {
    let mut copy = Vec::new();
    for path in all(objects, &Path::from("tables/clicks_per_minute")).await {
        let got = objects.get(&path).await.unwrap();
        copy.push((path, got.bytes().await.unwrap()));
    }
    copy
}

/// Nothing but that lies in the table's folder then.
async fn put_back(objects: &FaultyStore, copy: Vec<(Path, bytes::Bytes)>) {
    for path in all(objects, &Path::from("tables/clicks_per_minute")).await {
        objects.delete(&path).await.unwrap();
    }
    for (path, bytes) in copy {
        objects.put(&path, bytes.into()).await.unwrap();
    }
}

/// An older log checkpoint would do, but whether storage is about to answer is not known then, nor what else it withholds.
#[tokio::test]
async fn nothing_is_cleaned_up_by_a_storage_that_fails() {
    let objects = FaultyStore::new(15, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let writer = kept_up(&store, 50).await;
    objects.age.store(A_WEEK, Ordering::Relaxed);
    let log = writer.maintenance_log();
    let listing = log.list().await.unwrap();
    let checkpoints: Vec<_> = listing.complete_checkpoints().collect();
    assert!(checkpoints.len() >= 2);
    let newest = checkpoints[0].1[0].clone();
    // At the first reading of the newest one, at the second, and so on.
    for readings in 0.. {
        *objects.withheld.lock().unwrap() = Some((newest.clone(), readings));
        let before = objects.hits.reads.load(Ordering::Relaxed);
        let done = store.upkeep(writer.name()).run().await;
        if objects.hits.reads.load(Ordering::Relaxed) == before {
            assert!(readings >= 2, "for the table, and for the clean-up");
            assert!(done.unwrap().log_files_removed > 10);
            break;
        }
        assert!(done.is_err(), "{done:?}");
        let left = log.list().await.unwrap().entries.len();
        assert_eq!(left, listing.entries.len());
    }
}

/// Nor is one that says it created the table, of somebody who stood still since before it was there.
#[tokio::test]
async fn a_late_first_version_of_another_table_is_no_part_of_the_history() {
    let objects = FaultyStore::new(15, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = kept_up(&store, 50).await;
    let before = store.history("clicks_per_minute").await.unwrap();
    objects.age.store(A_WEEK, Ordering::Relaxed);
    store.upkeep("clicks_per_minute").run().await.unwrap();

    land_late(writer.maintenance_log(), "another", 0, "create").await;
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), before);
    commit_ranges(&mut writer, &[(0, 50, 51)]).await;
    let after = store.history("clicks_per_minute").await.unwrap();
    assert_eq!(after.len(), before.len() + 1);
    assert!(audit(&after).is_proven());
}

/// Where a table was dropped and another one made, the ledger has commits of both.
#[tokio::test]
async fn the_history_of_a_dropped_table_is_not_the_next_ones() {
    let objects = FaultyStore::new(16, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let fill = async |rows: i64| {
        kept_up(&store, rows).await;
        store.history("clicks_per_minute").await.unwrap()
    };
    let clean_up = async |age| {
        objects.age.store(age, Ordering::Relaxed);
        let done = store.upkeep("clicks_per_minute").run().await.unwrap();
        assert!(done.log_files_removed > 20, "{done:?}");
    };
    let first = fill(50).await;
    clean_up(A_WEEK).await;
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), first);

    objects.age.store(0, Ordering::Relaxed);
    let folder = Path::from("tables/clicks_per_minute");
    let dropped: Vec<_> = objects.list(Some(&folder)).try_collect().await.unwrap();
    for object in dropped {
        objects.delete(&object.location).await.unwrap();
    }
    let second = fill(40).await;
    assert_eq!(second.len(), 42, "only of the table that is there");
    assert!(audit(&second).is_proven());
    assert_ne!(first[1].commit_id, second[1].commit_id);
    clean_up(A_WEEK).await;
    assert_eq!(store.history("clicks_per_minute").await.unwrap(), second);
}

#[tokio::test]
async fn an_entry_that_a_listing_lacks_is_no_gap() {
    let objects = FaultyStore::new(17, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in 0..5 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
    }
    *objects.unlisted.lock().unwrap() = Some(writer.maintenance_log().entry_path(4));
    let history = store.history("clicks_per_minute").await.unwrap();
    assert!(audit(&history).is_proven());
    assert!(objects.unlisted.lock().unwrap().is_none());
}

/// A history in which partition 0 goes 0, 10, 20, 30.
async fn history() -> Vec<CommitRecord> {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    for at in [0, 10, 20] {
        commit_ranges(&mut writer, &[(0, at, at + 10)]).await;
    }
    writer
        .commit_watermarks(&BTreeMap::from([(tp(0), Timestamp::from_micros(i64::MAX))]))
        .await
        .unwrap();
    store.history("clicks_per_minute").await.unwrap()
}

#[tokio::test]
async fn an_audit_finds_what_is_wrong() {
    let good = history().await;
    let report = audit(&good);
    assert!(report.is_proven(), "{:?}", report.faults);
    assert_eq!(report.partitions[&tp(0)].covered, range(0, 30));
    assert_eq!((report.commits, report.balance.counted), (3, 30));
    let kinds: Vec<_> = good.iter().map(|record| record.kind.to_string()).collect();
    assert_eq!(
        kinds,
        ["create", "start", "commit", "commit", "commit", "watermark"]
    );

    let faults = |break_it: &dyn Fn(&mut Vec<CommitRecord>)| {
        let mut broken = good.clone();
        break_it(&mut broken);
        let faults = audit(&broken).faults;
        assert!(!faults.is_empty());
        faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let text = faults(&|history| {
        history[3].ranges.insert(tp(0), range(12, 20));
    });
    assert!(
        text.contains("version 3: gap") && text.contains("offsets 10 to 11 are missing"),
        "{text}"
    );
    let id = |version: usize| good[version].commit_id.as_deref().unwrap();
    assert!(text.contains(id(3)) && text.contains(id(2)), "{text}");
    let text = faults(&|history| {
        history[3].ranges.insert(tp(0), range(5, 20));
    });
    assert!(
        text.contains("overlap") && text.contains("offsets 5 to 9 count twice"),
        "{text}"
    );
    assert!(text.contains(id(3)) && text.contains(id(2)), "{text}");
    // What covered them first is named, not what came last.
    let text = faults(&|history| {
        history[4].ranges.insert(tp(0), range(2, 12));
    });
    assert!(
        text.contains("offsets 2 to 11 count twice, the first time by version 2 (commit ")
            && text.contains(" and 1 more"),
        "{text}"
    );
    // And nobody who covered other offsets.
    let text = faults(&|history| {
        history[4].ranges.insert(tp(0), range(2, 8));
    });
    assert!(
        text.contains("offsets 2 to 7 count twice, the first time by version 2 (commit ")
            && !text.contains(" more"),
        "{text}"
    );
    let text = faults(&|history| {
        history.remove(3);
    });
    assert!(
        text.contains("unproven: versions 3 to 3") && text.contains("gap"),
        "{text}"
    );
    let text = faults(&|history| {
        history.drain(..3);
    });
    assert!(text.contains("unproven: versions 0 to 2"), "{text}");
    let text = faults(&|history| history[2].balance.as_mut().unwrap().filtered = 1);
    assert!(text.contains("the balance does not hold"), "{text}");
    let text = faults(&|history| {
        history[4].recorded.insert(tp(0), 29);
    });
    assert!(
        text.contains("recorded at 29, but its ranges end at 30"),
        "{text}"
    );
    let text = faults(&|history| {
        history[5].kind = CommitKind::Other("WRITE".into());
        history[5].changes_rows = true;
    });
    assert!(text.contains("`WRITE` changed rows"), "{text}");
    let text = faults(&|history| history.clear());
    assert!(text.contains("there is no history"), "{text}");
}

#[tokio::test]
async fn a_record_survives_the_ledger() {
    for record in history().await {
        assert_eq!(CommitRecord::from_json(&record.to_json()).unwrap(), record);
    }
}

#[tokio::test]
async fn a_look_finds_what_no_version_names_and_nothing_else() {
    let objects = FaultyStore::new(3, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 5)]).await;
    objects.age.store(4 * A_WEEK, Ordering::Relaxed);
    let look = async || {
        let found = store.vacuum("clicks_per_minute", Vacuum::Look).await;
        let found = found.unwrap().into_iter();
        found.map(|orphan| orphan.path).collect::<Vec<_>>()
    };
    assert!(look().await.is_empty());
    let orphan = "tables/clicks_per_minute/orphan.zstd.parquet";
    objects
        .put(&Path::from(orphan), "nobody's".into())
        .await
        .unwrap();
    assert_eq!(look().await, [orphan]);
}
