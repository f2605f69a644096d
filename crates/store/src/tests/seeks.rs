//! Positions that are moved by hand: what is passed over is never read and is told, everything else counts once.

use alluvium_types::TopicId;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    faulty::{Effect, Faults, FaultyStore},
    *,
};
use crate::{CommitKind, CommitRecord, Ending, Goal, Moved, StoreError, audit};

const TABLE: &str = "clicks_per_minute";
/// Of a broker that gives topics no ids.
const NO_IDS: &BTreeMap<Arc<str>, TopicId> = &BTreeMap::new();

fn to(targets: &[(i32, i64)]) -> BTreeMap<TopicPartition, Goal> {
    let targets = targets.iter();
    targets
        .map(|&(number, offset)| (tp(number), Goal::To(offset)))
        .collect()
}

async fn seek(
    writer: &mut TableWriter,
    targets: &[(i32, i64)],
) -> Result<BTreeMap<TopicPartition, Moved>, StoreError> {
    let sought = writer.seek(&to(targets), NO_IDS).await?;
    Ok(sought.moved)
}

async fn staged(writer: &TableWriter, list: &[(i32, i64, i64)]) -> crate::Staged {
    let panes = once(panes_of(&spec(), list));
    writer.stage(panes, None).await.unwrap()
}

#[tokio::test]
async fn what_is_passed_over_is_a_gap_that_the_audit_tells() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 40)]).await;
    commit_ranges(&mut writer, &[(0, 0, 10)]).await;

    let moved = seek(&mut writer, &[(0, 25), (1, 40)]).await.unwrap();
    assert_eq!(moved, BTreeMap::from([(tp(0), Moved { from: 10, to: 25 })]));
    // Twice is once.
    let version = writer.version();
    assert!(seek(&mut writer, &[(0, 25)]).await.unwrap().is_empty());
    assert_eq!(writer.version(), version);
    commit_ranges(&mut writer, &[(0, 25, 30), (1, 40, 50)]).await;

    let history = store.history(TABLE).await.unwrap();
    let report = audit(&history);
    assert_eq!(report.faults, []);
    assert_eq!(report.partitions[&tp(0)].covered, range(0, 30));
    let [gap] = &report.gaps[..] else {
        panic!("{:?}", report.gaps)
    };
    assert_eq!((&gap.partition, gap.offsets), (&tp(0), range(10, 25)));
    let record = &history[usize::try_from(gap.version).unwrap()];
    assert_eq!(record.kind, CommitKind::Seek);
    assert_eq!(CommitRecord::from_json(&record.to_json()).unwrap(), *record);
    let id = record.commit_id.as_deref().unwrap();
    let text = gap.to_string();
    assert!(
        text.starts_with("gap: offsets 10 to 24 of partition ") && text.contains(id),
        "{text}"
    );
    assert_eq!(totals(&store).await.0, 10 + 5 + 10);
}

#[tokio::test]
async fn offsets_of_another_topic_move_nothing() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0)]).await;
    let ids = |number| BTreeMap::from([(Arc::from("clicks"), TopicId::from_number(number))]);
    let none = (BTreeMap::new(), BTreeMap::new());
    let own = ids(7);
    writer.record_start(&none.0, &none.1, &own).await.unwrap();
    let goals = to(&[(0, 5)]);
    // Of a table that has nothing, too: its partitions halt over the id all the same.
    for has_events in [false, true] {
        if has_events {
            commit_ranges(&mut writer, &[(0, 0, 3)]).await;
        }
        let version = writer.version();
        let error = writer.seek(&goals, &ids(8)).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::OtherTopic { .. }), "{text}");
        assert!(
            text.contains("clicks was deleted and created again"),
            "{text}"
        );
        assert_eq!(writer.version(), version);
    }
    assert_eq!(writer.seek(&goals, &own).await.unwrap().moved.len(), 1);
}

#[tokio::test]
async fn only_a_table_that_has_nothing_goes_back() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 100), (1, 100)]).await;
    for target in [60, 90, 70] {
        let sought = writer.seek(&to(&[(0, target)]), NO_IDS).await.unwrap();
        assert!(sought.was_empty && sought.moved.len() == 1, "{sought:?}");
    }
    let early = BTreeMap::from([(tp(0), Goal::NotBefore(50)), (tp(1), Goal::NotBefore(80))]);
    assert_eq!(writer.seek(&early, NO_IDS).await.unwrap().moved.len(), 2);
    commit_ranges(&mut writer, &[(0, 50, 80)]).await;
    // Of the other partition nothing was read; but the table's start is decided.
    for targets in [&[(0, 75)][..], &[(1, 70)], &[(0, 90), (1, 70)]] {
        let refused = seek(&mut writer, targets).await;
        assert!(
            matches!(&refused, Err(StoreError::Backwards { .. })),
            "{refused:?}"
        );
    }
    let early = BTreeMap::from([(tp(0), Goal::NotBefore(50)), (tp(1), Goal::NotBefore(85))]);
    let sought = writer.seek(&early, NO_IDS).await.unwrap();
    assert!(!sought.was_empty);
    assert_eq!(
        sought.moved,
        BTreeMap::from([(tp(1), Moved { from: 80, to: 85 })])
    );
    let nobody = seek(&mut writer, &[(7, 5)]).await;
    assert!(
        matches!(nobody, Err(StoreError::NoPosition { .. })),
        "{nobody:?}"
    );

    let mut history = store.history(TABLE).await.unwrap();
    let report = audit(&history);
    assert_eq!(report.faults, []);
    assert_eq!(report.partitions[&tp(0)].covered, range(50, 80));
    assert_eq!(report.partitions[&tp(1)].covered, range(80, 85));
    assert_eq!(
        (report.gaps.len(), report.gaps[0].offsets),
        (1, range(80, 85))
    );
    // A history that goes back over what was read, or moves what stands elsewhere, is not proven.
    for (from, to, what) in [(80, 75, "overlap"), (81, 90, "but was recorded up to 80")] {
        let last = history.last_mut().unwrap();
        last.seeks = BTreeMap::from([(tp(0), Moved { from, to })]);
        last.recorded = BTreeMap::new();
        let faults = audit(&history).faults;
        assert!(
            faults.len() == 1 && faults[0].what.contains(what),
            "{faults:?}"
        );
    }
}

/// That a table has nothing is known of one version only: read in between and moved back to where it stood, it looks the same.
#[tokio::test]
async fn what_was_read_meanwhile_is_not_gone_over_again() {
    let objects = FaultyStore::new(0, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut slow = opened(&store, &[(0, 100)]).await;
    let mut writer = store.table(&spec()).await.unwrap();
    let meanwhile = async move {
        seek(&mut writer, &[(0, 0)]).await.unwrap();
        commit_ranges(&mut writer, &[(0, 0, 100)]).await;
    };
    objects.lose_next_reply(Effect::Never, meanwhile, Duration::ZERO);
    let refused = seek(&mut slow, &[(0, 0)]).await;
    assert!(!objects.is_reply_to_come());
    assert!(
        matches!(refused, Err(StoreError::Backwards { recorded: 100, .. })),
        "{refused:?}"
    );
    assert_eq!(totals(&store).await.0, 100);
    assert_eq!(audit(&store.history(TABLE).await.unwrap()).faults, []);
}

#[tokio::test]
async fn what_is_in_flight_is_passed_over_or_overtaken() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    let mut by_hand = store.table(&spec()).await.unwrap();
    commit_ranges(&mut writer, &[(0, 0, 10), (1, 0, 10)]).await;
    for (in_flight, target, done) in [
        // All of it is passed over.
        (&[(0, 10, 20)][..], (0, 30), true),
        // It reaches beyond.
        (&[(0, 30, 50)][..], (0, 40), false),
        // Another partition is in it too.
        (&[(0, 40, 50), (1, 10, 20)][..], (0, 60), false),
    ] {
        let files = staged(&writer, in_flight).await;
        seek(&mut by_hand, &[target]).await.unwrap();
        let ending = writer.commit(&files, &facts(in_flight)).await.unwrap();
        match done {
            true => assert_eq!(ending, Ending::AlreadyDone),
            false => assert!(matches!(ending, Ending::Overtaken(_)), "{ending:?}"),
        }
    }
    assert_eq!(totals(&store).await.0, 20);
    assert_eq!(audit(&store.history(TABLE).await.unwrap()).faults, []);
}

/// Two writers commit, and a person moves partitions about, each with what it saw last, under faults of every kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_offset_counts_once_or_lies_in_a_gap() {
    let (mut gaps, mut refused) = (0, 0);
    for seed in 0..12 {
        let faults = Faults::of_every_kind();
        let objects = FaultyStore::new(seed, faults);
        let store = Store::over(Arc::new(objects.clone()), rules());
        let calm = Store::over(Arc::new(objects.without_faults()), rules());
        drop(opened(&calm, &[(0, 50), (1, 50)]).await);
        let writers = (0..2).map(|number| tokio::spawn(commits(store.clone(), seed * 2 + number)));
        let writers: Vec<_> = writers.collect();
        refused += tokio::spawn(seeks(store.clone(), seed)).await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        // Entries that are still on their way land before anybody counts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let report = audit(&calm.history(TABLE).await.unwrap());
        assert_eq!(report.faults, [], "seed {seed}");
        let length = |range: OffsetRange| range.end() - range.start();
        let covered = report.partitions.values();
        let covered: i64 = covered.map(|partition| length(partition.covered)).sum();
        let passed_over: i64 = report.gaps.iter().map(|gap| length(gap.offsets)).sum();
        let expected = covered - passed_over;
        assert_eq!(totals(&calm).await.0, expected, "seed {seed}");
        gaps += report.gaps.len();
    }
    assert!(gaps > 0, "nothing was ever passed over");
    assert!(refused > 0, "nothing was ever refused");
}

async fn commits(store: Store, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    for _ in 0..12 {
        let Ok(mut writer) = store.table(&spec()).await else {
            continue;
        };
        for _ in 0..2 {
            let at = |number| writer.checkpoint().offsets[&tp(number)];
            let both = [(0, at(0), at(0) + 3), (1, at(1), at(1) + 2)];
            let list = &both[chance.random_range(0..2)..];
            let Ok(files) = writer.stage(once(panes_of(&spec(), list)), None).await else {
                break;
            };
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..3))).await;
            // After an error it dies, and what it has put may land or not.
            if writer.commit(&files, &facts(list)).await.is_err() {
                break;
            }
        }
    }
}

/// How often it was refused.
async fn seeks(store: Store, seed: u64) -> usize {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut refused = 0;
    for _ in 0..10 {
        let Ok(mut writer) = store.table(&spec()).await else {
            continue;
        };
        let number = chance.random_range(0..2);
        let by = chance.random_range(-4..8);
        let target = writer.checkpoint().offsets[&tp(number)] + by;
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..3))).await;
        let ending = writer.seek(&to(&[(number, target)]), NO_IDS).await;
        refused += usize::from(matches!(ending, Err(StoreError::Backwards { .. })));
    }
    refused
}
