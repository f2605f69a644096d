//! Every range once, whoever commits and whatever the store does (P7–P16, P25).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use alluvium_types::TopicId;
use object_store::ObjectStoreExt as _;

use super::{
    faulty::{Faults, FaultyStore},
    *,
};
use crate::{
    Definition, Ending, StoreError, Verdict,
    action::{Draft, Entry, Place, our_info},
    audit,
};

const LAST: i64 = 60;

/// Writers race along the same two partitions, choose their own cuts, and forget or retry what they do not know.
async fn race(seed: u64, faults: Faults, writers: u64) -> (Store, FaultyStore, usize) {
    let objects = FaultyStore::new(seed, faults);
    let store = Store::over(Arc::new(objects.clone()), rules());
    let refused = Arc::new(AtomicUsize::new(0));
    let together = Arc::new(tokio::sync::Barrier::new(writers as usize));
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, refused, together) = (store.clone(), refused.clone(), together.clone());
            tokio::spawn(async move {
                together.wait().await;
                run_writer(store, refused, seed * 31 + writer).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Entries that are still on their way land before anybody counts.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    (store, objects, refused.load(Ordering::Relaxed))
}

async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert_eq!(
                error.class(),
                alluvium_types::ErrorClass::Transient,
                "{error}"
            ),
        }
    }
}

async fn run_writer(store: Store, refused: Arc<AtomicUsize>, seed: u64) {
    let mut random = seed;
    let mut draw = move |below: i64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as i64 % below
    };
    let spec = spec();
    let mut writer = patiently(|| store.table(&spec)).await;
    let starts = BTreeMap::from([(tp(0), draw(5)), (tp(1), draw(5))]);
    let counts = BTreeMap::from([(Arc::from("clicks"), 2)]);
    while let Err(error) = writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
    {
        assert_eq!(error.class(), alluvium_types::ErrorClass::Transient);
    }
    loop {
        // Some do not look before they go on, so that they judge in a stale snapshot.
        if draw(3) > 0 && writer.refresh().await.is_err() {
            continue;
        }
        let list: Vec<(i32, i64, i64)> = (0..2)
            .map(|partition| {
                let at = writer.checkpoint().offsets[&tp(partition)];
                (partition, at, (at + draw(5)).min(LAST))
            })
            .filter(|(_, start, end)| start < end)
            .collect();
        if list.is_empty() {
            let done = writer.checkpoint().offsets.values().all(|at| *at == LAST);
            if done || writer.refresh().await.is_err() {
                return;
            }
            continue;
        }
        let staged = writer
            .stage(once(panes_of(&spec, &list)), None)
            .await
            .unwrap();
        // Lets the rivals in between what was read and what is put, on one thread as on four.
        tokio::task::yield_now().await;
        for _ in 0..=draw(4) {
            match writer.commit(&staged, &facts(&list)).await {
                Ok(Ending::Committed { .. } | Ending::AlreadyDone) => break,
                Ok(Ending::Overtaken(_)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => assert_eq!(
                    error.class(),
                    alluvium_types::ErrorClass::Transient,
                    "{error}"
                ),
            }
        }
    }
}

async fn assert_exact(store: &Store, seed: u64) {
    let table = store.read_table("clicks_per_minute").await.unwrap();
    let report = audit(&store.history("clicks_per_minute").await.unwrap());
    assert_eq!(report.faults, [], "seed {seed}");
    let mut wanted = (0, 0);
    for partition in 0..2 {
        let audited = &report.partitions[&tp(partition)];
        assert_eq!(audited.covered.end(), LAST, "seed {seed}");
        assert_eq!(table.offsets[&tp(partition)], LAST, "seed {seed}");
        wanted.0 += LAST - audited.covered.start();
        wanted.1 += (audited.covered.start()..LAST)
            .map(i128::from)
            .sum::<i128>();
    }
    assert_eq!(totals(store).await, wanted, "seed {seed}");
    assert_eq!(report.balance.events_in as i64, wanted.0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rivals_commit_every_range_once() {
    let mut refused = 0;
    for seed in 0..40 {
        let (store, _, overtaken) = race(seed, Faults::default(), 5).await;
        assert_exact(&store, seed).await;
        refused += overtaken;
        // Which of two rivals is first is the machine's choice: enough races until some were lost.
        if seed >= 4 && refused >= 5 {
            break;
        }
    }
    assert!(
        refused >= 5,
        "only {refused} commits were overtaken: this race proved nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rivals_commit_every_range_once_whatever_the_store_does() {
    let faults = Faults {
        before: 60,
        after: 120,
        late: 120,
        exists: 60,
        reads: 20,
    };
    let mut hits = [0; 6];
    for seed in 100..106 {
        let (store, objects, _) = race(seed, faults, 4).await;
        // The judge reads without faults.
        let calm = Store::over(Arc::new(objects.without_faults()), rules());
        drop(store);
        assert_exact(&calm, seed).await;
        let seen = &objects.hits;
        for (hits, seen) in hits.iter_mut().zip([
            &seen.before,
            &seen.after,
            &seen.late,
            &seen.late_landed,
            &seen.exists,
            &seen.reads,
        ]) {
            *hits += seen.load(Ordering::Relaxed);
        }
    }
    let floors = [5, 5, 5, 1, 5, 5];
    assert!(
        hits.iter().zip(floors).all(|(hits, floor)| *hits >= floor),
        "too few faults took effect (before, after, late, late landed, exists, reads): {hits:?}"
    );
}

#[tokio::test]
async fn an_epoch_is_committed_done_or_overtaken() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 10), (1, 0)]).await;
    let verdict = |writer: &TableWriter, list: &[(i32, i64, i64)]| writer.judge(&ranges(list));
    assert_eq!(verdict(&writer, &[(0, 10, 20), (1, 0, 5)]), Verdict::Commit);
    assert!(matches!(
        verdict(&writer, &[(0, 11, 20)]),
        Verdict::Overtaken(_)
    ));
    assert!(
        matches!(verdict(&writer, &[(7, 0, 1)]), Verdict::Overtaken(why) if why.recorded.is_none())
    );
    let ending = commit_ranges(&mut writer, &[(0, 10, 20), (1, 0, 5)]).await;
    assert_eq!(ending, Ending::Committed { version: 2 });
    assert_eq!(verdict(&writer, &[(0, 10, 20), (1, 0, 5)]), Verdict::Done);
    assert_eq!(verdict(&writer, &[(0, 10, 15)]), Verdict::Done);
    let mixed = verdict(&writer, &[(0, 10, 20), (1, 5, 9)]);
    assert!(
        matches!(mixed, Verdict::Overtaken(why) if why.partition == tp(0) && why.recorded == Some(20))
    );
    assert_eq!(
        writer.checkpoint().watermark(),
        Some(Timestamp::from_micros(5_000_000))
    );
}

#[tokio::test]
async fn a_zombie_commits_nothing() {
    let store = in_memory();
    let mut zombie = opened(&store, &[(0, 0)]).await;
    let list = [(0, 0, 10)];
    let staged = zombie
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    let mut owner = store.table(&spec()).await.unwrap();
    commit_ranges(&mut owner, &[(0, 0, 4)]).await;
    // It still believes in its snapshot; the version it aims at is taken.
    assert_eq!(zombie.judge(&ranges(&list)), Verdict::Commit);
    let ending = zombie.commit(&staged, &facts(&list)).await.unwrap();
    assert!(matches!(ending, Ending::Overtaken(why) if why.recorded == Some(4)));
    assert_eq!(totals(&store).await, (4, 6));
    commit_ranges(&mut owner, &[(0, 4, 10)]).await;
    assert_eq!(
        zombie.commit(&staged, &facts(&list)).await.unwrap(),
        Ending::AlreadyDone
    );
    assert_eq!(totals(&store).await, (10, 45));
}

/// A leader's epoch is recorded for the offset that it was said of, and only for it; and of a topic that was restored none is.
#[tokio::test]
async fn the_leader_of_the_last_record_stands_beside_the_offset() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    let known = async || {
        let opened = store.table(&spec()).await.unwrap();
        opened.checkpoint().leader_epochs.clone()
    };
    let both = BTreeMap::from([(tp(0), 0), (tp(1), 7)]);
    for at in 0..3 {
        let list = [(0, at, at + 1), (1, at, at + 1)];
        let staged = writer
            .stage(once(panes_of(&spec(), &list)), None)
            .await
            .unwrap();
        let facts = CommitFacts {
            leader_epochs: both.clone(),
            ..facts(&list)
        };
        writer.commit(&staged, &facts).await.unwrap();
        assert_eq!(known().await, both);
    }
    // Watermarks move, offsets do not.
    let mark = Timestamp::from_micros(99_000_000);
    let moved = BTreeMap::from([(tp(0), mark)]);
    writer.commit_watermarks(&moved).await.unwrap();
    assert_eq!(known().await, both);
    // Somebody who does not know leaders.
    commit_ranges(&mut writer, &[(0, 3, 4)]).await;
    assert_eq!(known().await, BTreeMap::from([(tp(1), 7)]));
    let restored = TopicId::from_number(5);
    writer
        .continue_topic(&Arc::from("clicks"), restored)
        .await
        .unwrap();
    assert_eq!(known().await, BTreeMap::new());
}

/// Which files others commit by is seen as far as a writer reads on, and nothing of before it came.
#[tokio::test]
async fn a_writer_learns_by_which_files_others_commit() {
    let store = in_memory();
    let mut one = opened(&store, &[(0, 0), (1, 0)]).await;
    commit_ranges(&mut one, &[(0, 0, 1)]).await;
    let mut other = store.table(&spec()).await.unwrap();
    assert_eq!(other.take_definitions(), BTreeSet::new());
    let list = [(1, 0, 1)];
    let staged = other
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    let settings = BTreeMap::from([("group".to_owned(), "another".to_owned())]);
    let newer = CommitFacts {
        pipeline_version: "newer".into(),
        settings: Arc::new(settings.clone()),
        ..facts(&list)
    };
    other.commit(&staged, &newer).await.unwrap();
    let newer = Definition {
        version: "newer".into(),
        settings,
    };
    assert_eq!(other.take_definitions(), BTreeSet::from([newer.clone()]));
    // As a server commits that says no settings.
    let ours = Definition {
        version: facts(&list).pipeline_version.to_string(),
        ..Definition::default()
    };
    assert_eq!(one.take_definitions(), BTreeSet::from([ours.clone()]));
    commit_ranges(&mut one, &[(0, 1, 2)]).await;
    assert_eq!(one.take_definitions(), BTreeSet::from([ours, newer]));
    assert_eq!(one.take_definitions(), BTreeSet::new());
}

#[tokio::test]
async fn a_lost_reply_is_found_by_its_commit_id() {
    let objects = FaultyStore::new(
        1,
        Faults {
            after: 1000,
            ..Faults::default()
        },
    );
    let calm_store = Store::over(Arc::new(objects.without_faults()), rules());
    opened(&calm_store, &[(0, 0)]).await;
    let store = Store::over(Arc::new(objects), rules());
    let mut writer = store.table(&spec()).await.unwrap();
    for at in 0..5 {
        let list = [(0, at, at + 1)];
        let ending = commit_ranges(&mut writer, &list).await;
        assert_eq!(ending, Ending::Committed { version: at + 2 });
    }
    assert_eq!(totals(&calm_store).await, (5, 10));
}

#[tokio::test]
async fn an_unknown_ending_is_resolved_by_committing_the_same_again() {
    let rules = StoreRules {
        commit_timeout: Duration::ZERO,
        ..rules()
    };
    let objects = FaultyStore::new(
        3,
        Faults {
            late: 1000,
            ..Faults::default()
        },
    );
    let quiet = objects.without_faults();
    let calm_store = Store::over(Arc::new(quiet), rules);
    opened(&calm_store, &[(0, 0)]).await;
    let mut writer = Store::over(Arc::new(objects), rules)
        .table(&spec())
        .await
        .unwrap();
    let list = [(0, 0, 7)];
    let staged = writer
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    let error = writer.commit(&staged, &facts(&list)).await.unwrap_err();
    assert!(matches!(error, StoreError::EndingUnknown { .. }), "{error}");
    // The put lands only now; its files were left alone.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let ending = writer.commit(&staged, &facts(&list)).await.unwrap();
    assert_eq!(ending, Ending::Committed { version: 2 });
    assert_eq!(totals(&calm_store).await, (7, 21));
}

#[tokio::test]
async fn a_snapshot_that_grew_old_is_loaded_anew_before_a_put() {
    let rules = StoreRules {
        commit_timeout: Duration::ZERO,
        ..rules()
    };
    let store = Store::over(Arc::new(InMemory::new()), rules);
    let mut sleeper = opened(&store, &[(0, 0)]).await;
    let mut owner = store.table(&spec()).await.unwrap();
    for at in 0..3 {
        commit_ranges(&mut owner, &[(0, at, at + 1)]).await;
    }
    // Clean-up took the entry that the sleeper would put next, so its slot is free again (O3).
    let slot = owner.maintenance_log().entry_path(2);
    store.object_store().delete(&slot).await.unwrap();
    let list = [(0, 0, 3)];
    let staged = sleeper
        .stage(once(panes_of(&spec(), &list)), None)
        .await
        .unwrap();
    sleeper
        .snapshot_mut()
        .read_at
        .make_older(Duration::from_secs(86_400));
    // The rest of the log has a hole now, which a reader must not take for its end.
    let error = sleeper.commit(&staged, &facts(&list)).await.unwrap_err();
    assert!(matches!(error, StoreError::LostEntry { .. }), "{error}");
    assert!(
        store.object_store().head(&slot).await.is_err(),
        "nothing was put into the old slot"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_start_wins_and_the_others_adopt_it() {
    let store = in_memory();
    let writers = (1..=6).map(|start| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut writer = store.table(&spec()).await.unwrap();
            let counts = BTreeMap::from([(Arc::from("clicks"), 2)]);
            let starts = BTreeMap::from([(tp(0), start), (tp(1), start)]);
            let ids = BTreeMap::from([(Arc::from("clicks"), TopicId::from_number(start))]);
            writer.record_start(&starts, &counts, &ids).await.unwrap();
            writer.checkpoint().clone()
        })
    });
    let seen = futures::future::join_all(writers).await;
    let first = seen[0].as_ref().unwrap();
    assert_eq!(first.offsets[&tp(0)], first.offsets[&tp(1)]);
    assert_eq!(first.topics["clicks"].number(), first.offsets[&tp(0)]);
    assert!(seen.iter().all(|other| other.as_ref().unwrap() == first));
    let history = store.history("clicks_per_minute").await.unwrap();
    assert_eq!(history.len(), 2, "one creation, one start");
    let mut writer = store.table(&spec()).await.unwrap();
    let counts = BTreeMap::from([(Arc::from("clicks"), 3)]);
    let starts = BTreeMap::from([(tp(0), 99), (tp(2), 8)]);
    writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
        .unwrap();
    assert_eq!(writer.checkpoint().offsets[&tp(0)], first.offsets[&tp(0)]);
    assert_eq!(writer.checkpoint().offsets[&tp(2)], 8);
    assert_eq!(
        writer.checkpoint().partition_counts[&Arc::from("clicks")],
        3
    );
}

#[tokio::test]
async fn a_table_from_before_learns_its_topic_once_and_no_id_passes_for_an_offset() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    commit_ranges(&mut writer, &[(0, 0, 5)]).await;
    assert_eq!(writer.checkpoint().topics, BTreeMap::new());
    let offsets = writer.checkpoint().offsets.clone();
    let ids = |number| BTreeMap::from([(Arc::from("clicks"), TopicId::from_number(number))]);
    let none = (BTreeMap::new(), BTreeMap::new());
    for number in [i64::MAX, 12] {
        writer
            .record_start(&none.0, &none.1, &ids(number))
            .await
            .unwrap();
        assert_eq!(writer.checkpoint().topics, ids(i64::MAX));
        assert_eq!(writer.checkpoint().offsets, offsets);
    }
    for _ in 0..2 {
        let word = TopicId::from_number(12);
        writer.continue_topic(&"clicks".into(), word).await.unwrap();
        assert_eq!(writer.checkpoint().topics, ids(12));
    }
    commit_ranges(&mut writer, &[(0, 5, 9)]).await;
    let history = store.history("clicks_per_minute").await.unwrap();
    let kinds: Vec<String> = history
        .iter()
        .map(|record| record.kind.to_string())
        .collect();
    assert_eq!(
        kinds,
        ["create", "start", "commit", "start", "start", "commit"]
    );
    assert!(history[3].recorded.is_empty() && history[4].recorded.is_empty());
    let report = audit(&history);
    assert!(report.is_proven(), "{:?}", report.faults);
}

#[tokio::test]
async fn watermarks_move_without_events_and_never_back() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    assert_eq!(writer.committed().watermark, None);
    let moved = |seconds: i64| {
        BTreeMap::from([
            (tp(0), Timestamp::from_micros(seconds)),
            (tp(1), Timestamp::from_micros(seconds)),
        ])
    };
    assert_eq!(
        writer.commit_watermarks(&moved(7)).await.unwrap(),
        Ending::Committed { version: 2 }
    );
    assert_eq!(
        writer.commit_watermarks(&moved(6)).await.unwrap(),
        Ending::AlreadyDone
    );
    assert_eq!(
        writer.committed().watermark,
        Some(Timestamp::from_micros(7))
    );
    let mut other = store.table(&spec()).await.unwrap();
    commit_ranges(&mut other, &[(0, 0, 3)]).await;
    // The offsets it re-records are no longer those it knows.
    assert!(matches!(
        writer.commit_watermarks(&moved(9)).await.unwrap(),
        Ending::Overtaken(_)
    ));
    assert_eq!(other.checkpoint().offsets[&tp(0)], 3);
    let mut older = facts(&[(0, 3, 4)]);
    older.watermarks.insert(tp(0), Timestamp::from_micros(1));
    let staged = other
        .stage(once(panes_of(&spec(), &[(0, 3, 4)])), None)
        .await
        .unwrap();
    other.commit(&staged, &older).await.unwrap();
    assert_eq!(
        other.checkpoint().watermarks[&tp(0)],
        Timestamp::from_micros(3_000_000)
    );
    assert_eq!(
        store.read_table("clicks_per_minute").await.unwrap().offsets[&tp(0)],
        4
    );
}

#[tokio::test]
async fn an_epoch_whose_events_were_all_filtered_moves_the_offsets() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let staged = writer
        .stage(std::iter::empty::<Result<RecordBatch, NoError>>(), None)
        .await
        .unwrap();
    assert_eq!((staged.files(), staged.rows(), staged.bytes()), (0, 0, 0));
    writer.commit(&staged, &facts(&[(0, 0, 9)])).await.unwrap();
    assert_eq!(
        store.read_table("clicks_per_minute").await.unwrap().offsets[&tp(0)],
        9
    );
    let mut broken = facts(&[(0, 9, 10)]);
    broken.balance.filtered = 5;
    let staged = writer
        .stage(std::iter::empty::<Result<RecordBatch, NoError>>(), None)
        .await
        .unwrap();
    let error = writer.commit(&staged, &broken).await.unwrap_err();
    assert_eq!(error.class(), alluvium_types::ErrorClass::Bug);
}

#[tokio::test]
async fn commit_ids_are_remembered_up_to_a_bound() {
    let store = in_memory();
    let writer = opened(&store, &[(0, 0)]).await;
    let log = writer.maintenance_log();
    let entry = |version: i64| {
        let draft = Draft {
            info: our_info("commit", "clicks"),
            ..Draft::default()
        };
        let place = Place {
            table_id: "t",
            version,
            follows: None,
        };
        Entry::parse(version, &draft.encode(place, &version.to_string(), 0)).unwrap()
    };
    let mut snapshot = log.load().await.unwrap().unwrap();
    for version in 0..2000 {
        snapshot.remember(&entry(version));
    }
    // Whoever sleeps loads the table anew, and what was known before is kept.
    let mut newest = log.load().await.unwrap().unwrap();
    newest.inherit(&mut snapshot);
    newest.remember(&entry(2000));
    let known = |version: &i64| newest.version_of(&version.to_string()).is_some();
    let count = (0..=2000).filter(known).count();
    assert!(
        count <= 1024 && (1000..=2000).all(|version| known(&version)),
        "{count}"
    );
}

#[tokio::test]
async fn a_reader_that_fails_on_the_way_shows_one_version_and_not_parts_of_two() {
    let faults = Faults {
        reads: 300,
        ..Faults::default()
    };
    let objects = FaultyStore::new(5, faults);
    let right = Store::over(Arc::new(objects.without_faults()), rules());
    let wrong = Store::over(Arc::new(objects.clone()), rules());
    let mut writer = opened(&right, &[(0, 0)]).await;
    let spec = spec();
    let mut follower = patiently(|| wrong.table(&spec)).await;
    let mut recorded = BTreeMap::from([(writer.version(), 0)]);
    let mut failed_on_the_way = 0;
    for at in 0..40 {
        commit_ranges(&mut writer, &[(0, at, at + 1)]).await;
        recorded.insert(writer.version(), at + 1);
        if at % 4 != 3 {
            continue;
        }
        loop {
            let before = follower.version();
            let read = follower.refresh().await;
            failed_on_the_way += usize::from(read.is_err() && follower.version() > before);
            let shown = follower.committed();
            assert_eq!(shown.files.len() as i64, shown.offsets[&tp(0)]);
            assert_eq!(shown.offsets[&tp(0)], recorded[&shown.version]);
            if read.is_ok() {
                break;
            }
        }
    }
    assert!(failed_on_the_way > 3, "{failed_on_the_way}");
}
