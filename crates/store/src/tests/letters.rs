//! Every dead letter once (P21, P22).

use std::sync::atomic::Ordering;

use alluvium_types::{Header, Reject, Stage};
use object_store::ObjectStoreExt as _;

use super::{
    faulty::{Effect, Faults, FaultyStore},
    *,
};
use crate::{DeadLetters, Found, LettersWritten, Look, StoreError};

fn letter(partition: i32, offset: i64, table: Option<&str>) -> Reject {
    Reject {
        partition: tp(partition),
        offset,
        timestamp: (offset % 2 == 0).then(|| Timestamp::from_millis(offset)),
        key: Some("k".into()),
        headers: (0..offset % 3)
            .map(|header| Header {
                name: "h".into(),
                value: (header > 0).then(|| "v".into()),
            })
            .collect(),
        payload: (offset % 4 != 0).then(|| "{broken".into()),
        error: format!("offset {offset} is broken"),
        column: None,
        stage: Stage::Decode,
        table: table.map(Into::into),
    }
}

const KEYS: [&str; 4] = ["topic", "partition", "offset", "table"];

/// (partition, offset, table) of every stored letter, sorted.
async fn stored(store: &Store) -> Vec<(i32, i64, Option<String>)> {
    let (_, files) = store.read_dead_letters("clicks").await.unwrap();
    let mut keys = Vec::new();
    for file in files {
        for batch in read_columns(store.object_store(), &file.path, file.size, &KEYS)
            .await
            .unwrap()
        {
            let tables = batch.column(3).as_string::<i32>();
            for row in 0..batch.num_rows() {
                keys.push((
                    batch
                        .column(1)
                        .as_primitive::<datafusion::arrow::datatypes::Int32Type>()
                        .value(row),
                    batch.column(2).as_primitive::<Int64Type>().value(row),
                    tables.iter().nth(row).unwrap().map(str::to_owned),
                ));
            }
        }
    }
    keys.sort();
    keys
}

async fn write(
    letters: &mut DeadLetters,
    rejects: &[Reject],
) -> Result<LettersWritten, StoreError> {
    letters
        .commit(rejects, "v1", Timestamp::from_micros(5))
        .await
}

#[tokio::test]
async fn a_letter_is_written_once_also_after_a_restart() {
    let store = in_memory();
    let mut letters = store.dead_letters("clicks").await.unwrap();
    let batch = [
        letter(0, 3, None),
        letter(0, 3, None),
        letter(0, 3, Some("a")),
        letter(1, 3, None),
    ];
    let written = write(&mut letters, &batch).await.unwrap();
    assert_eq!(
        written,
        LettersWritten {
            version: Some(1),
            letters: 3
        }
    );
    assert_eq!(
        write(&mut letters, &batch).await.unwrap(),
        LettersWritten::default()
    );

    let mut restarted = store.dead_letters("clicks").await.unwrap();
    let from = BTreeMap::from([(tp(0), 3), (tp(1), 4)]);
    assert_eq!(
        restarted.known(&from).await.unwrap(),
        2,
        "what lies before the offsets is not needed"
    );
    let more = [letter(0, 3, None), letter(0, 4, None), letter(1, 2, None)];
    // The last one lies before what was read as known: the set must reach back by itself.
    assert_eq!(write(&mut restarted, &more).await.unwrap().letters, 2);
    assert_eq!(write(&mut restarted, &batch).await.unwrap().letters, 0);
    // The first writer has not seen them.
    assert_eq!(
        write(&mut letters, &more).await.unwrap(),
        LettersWritten::default()
    );
    let keys: Vec<_> = stored(&store)
        .await
        .into_iter()
        .map(|(partition, offset, _)| (partition, offset))
        .collect();
    assert_eq!(keys, [(0, 3), (0, 3), (0, 4), (1, 2), (1, 3)]);
    assert_eq!(store.dead_letter_tables().await.unwrap(), ["clicks"]);
}

/// Servers with partitions of their own would spend their time on each other's letters otherwise.
#[tokio::test]
async fn letters_of_others_are_read_only_where_they_can_be_the_same() {
    let store = in_memory();
    let mut one = store.dead_letters("clicks").await.unwrap();
    let mut other = store.dead_letters("clicks").await.unwrap();
    assert_eq!(
        write(&mut one, &[letter(0, 7, None)])
            .await
            .unwrap()
            .version,
        Some(1)
    );
    let (_, files) = store.read_dead_letters("clicks").await.unwrap();
    store
        .object_store()
        .delete(&object_store::path::Path::from(files[0].path.as_str()))
        .await
        .unwrap();
    // It has not seen the version that it is refused for.
    let written = write(&mut other, &[letter(1, 3, None), letter(0, 8, None)]).await;
    assert_eq!(
        written.unwrap(),
        LettersWritten {
            version: Some(2),
            letters: 2
        }
    );
    let from = BTreeMap::from([(tp(0), 9), (tp(1), 4), (tp(2), 0)]);
    assert_eq!(other.known(&from).await.unwrap(), 0);
    let again = BTreeMap::from([(tp(1), 3)]);
    assert_eq!(
        other.known(&again).await.unwrap(),
        1,
        "the other file has partition 0 only"
    );
    // Behind the last letter of another partition, and where a file may hold what is sought.
    assert_eq!(
        write(&mut other, &[letter(1, 5, None)])
            .await
            .unwrap()
            .letters,
        1
    );
    write(&mut other, &[letter(0, 7, None)])
        .await
        .expect_err("the first letter's file is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rivals_write_every_letter_once_whatever_the_store_does() {
    let faults = Faults {
        before: 60,
        after: 120,
        late: 120,
        exists: 60,
        reads: 20,
    };
    let mut hits = 0;
    for seed in 0..4 {
        let objects = FaultyStore::new(seed, faults);
        let store = Store::over(Arc::new(objects.clone()), rules());
        let tasks: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut letters = loop {
                        match store.dead_letters("clicks").await {
                            Ok(letters) => break letters,
                            Err(error) => {
                                assert_eq!(error.class(), alluvium_types::ErrorClass::Transient)
                            }
                        }
                    };
                    for start in 0..12 {
                        // Overlapping stretches, at another pace for each writer.
                        let rejects: Vec<_> = (start..start + 2 + writer)
                            .map(|offset| letter(0, offset, None))
                            .collect();
                        while let Err(error) = write(&mut letters, &rejects).await {
                            assert_eq!(
                                error.class(),
                                alluvium_types::ErrorClass::Transient,
                                "{error}"
                            );
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let calm = Store::over(Arc::new(objects.without_faults()), rules());
        let offsets: Vec<_> = stored(&calm)
            .await
            .into_iter()
            .map(|(_, offset, _)| offset)
            .collect();
        assert_eq!(offsets, (0..16).collect::<Vec<_>>(), "seed {seed}");
        hits += objects.hits.after.load(Ordering::Relaxed)
            + objects.hits.late_landed.load(Ordering::Relaxed);
    }
    assert!(
        hits >= 5,
        "only {hits} replies were lost: this race proved nothing"
    );
}

#[tokio::test]
async fn letters_that_were_kept_long_enough_leave_once_and_stay_away() {
    const KEEP: Duration = Duration::from_secs(90 * 86_400);
    let objects = FaultyStore::new(9, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    let mut letters = store.dead_letters("clicks").await.unwrap();
    for offset in 0..3 {
        write(&mut letters, &[letter(0, offset, None)])
            .await
            .unwrap();
    }
    let upkeep = || store.upkeep_of_dead_letters(&"clicks".into(), KEEP);
    assert_eq!(upkeep().run().await.unwrap().files_expired, 0);
    assert_eq!(stored(&store).await.len(), 3);

    // Two servers find them too old at the same moment; each file leaves once.
    objects.age.store(91 * 86_400, Ordering::Relaxed);
    let (mut one, mut other) = (upkeep(), upkeep());
    let (one, other) = tokio::join!(one.run(), other.run());
    assert_eq!(one.unwrap().files_expired + other.unwrap().files_expired, 3);
    assert_eq!(stored(&store).await, []);
    assert!(layout_moves(&store.dead_letters_log("clicks")).await > 0);
    // What was known stays known to who knew it, and a younger letter is kept.
    write(&mut letters, &[letter(0, 2, None), letter(0, 7, None)])
        .await
        .unwrap();
    assert_eq!(stored(&store).await, [(0, 7, None)]);
}

/// Letters land and their reply is lost; while their writer sleeps, a log checkpoint is written past them. From there on the
/// log does not tell whose version that was, only that it is not the one that was judged.
#[tokio::test]
async fn letters_that_landed_unheard_keep_their_file() {
    let objects = FaultyStore::new(11, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    let mut letters = store.dead_letters("clicks").await.unwrap();
    write(&mut letters, &[letter(0, 1, None)]).await.unwrap();
    let others = store.clone();
    let meanwhile = async move { checkpointed(&others, &others.dead_letters_log("clicks")).await };
    // Longer than a quarter of the log's retention: the log is read anew.
    objects.lose_next_reply(Effect::Lands, meanwhile, 7 * AN_HOUR);
    write(&mut letters, &[letter(0, 2, None)]).await.unwrap();
    assert!(!objects.is_reply_to_come());
    write(&mut letters, &[letter(0, 2, None), letter(0, 3, None)])
        .await
        .unwrap();
    let wanted = [(0, 1, None), (0, 2, None), (0, 3, None)];
    assert_eq!(stored(&store).await, wanted);
}

/// No reply, and days of sleep before the next put: by then the file may have been swept.
#[tokio::test]
async fn letters_that_slept_for_days_name_no_swept_file() {
    let objects = FaultyStore::new(12, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    let mut letters = store.dead_letters("clicks").await.unwrap();
    let (others, behind) = (store.clone(), objects.clone());
    let meanwhile = async move {
        let log = others.dead_letters_log("clicks");
        assert_eq!(swept_days_later(&others, &behind, &log).await, 1);
    };
    objects.lose_next_reply(Effect::Never, meanwhile, 72 * AN_HOUR);
    let batch = [letter(0, 2, None)];
    // The sweep's own version stands in the way of the first file, and the letters are written anew.
    assert_eq!(write(&mut letters, &batch).await.unwrap().letters, 1);
    assert_eq!(stored(&store).await, [(0, 2, None)]);
}

#[tokio::test]
async fn letters_are_read_back_whole_by_the_version_they_came_in() {
    let store = in_memory();
    assert_eq!(
        store
            .letters("clicks")
            .await
            .unwrap()
            .versions_after(None)
            .count(),
        0
    );
    let mut letters = store.dead_letters("clicks").await.unwrap();
    let first: Vec<Reject> = (0..7).map(|offset| letter(0, offset, None)).collect();
    let second = [letter(1, 2, Some("a")), letter(0, 9, Some("b"))];
    write(&mut letters, &first).await.unwrap();
    write(&mut letters, &second).await.unwrap();
    let found = store.letters("clicks").await.unwrap();
    let versions: Vec<i64> = found.versions_after(None).collect();
    assert_eq!(versions, [1, 2]);
    assert_eq!(found.versions_after(Some(1)).collect::<Vec<_>>(), [2]);
    for (version, rejects) in [(1, &first[..]), (2, &second[..])] {
        let read = found.read(version).await.unwrap();
        let wanted: Vec<crate::Letter> = rejects
            .iter()
            .map(|reject| crate::Letter {
                partition: reject.partition.clone(),
                offset: reject.offset,
                timestamp: reject.timestamp,
                key: reject.key.clone(),
                headers: reject.headers.clone(),
                payload: reject.payload.clone(),
                table: reject.table.clone(),
                pipeline_version: "v1".into(),
            })
            .collect();
        assert_eq!(read, wanted);
    }
}

/// Letters that were removed are missed, and those that have expired are not.
#[tokio::test]
async fn letters_that_were_removed_are_missed() {
    let objects = FaultyStore::new(5, Faults::default());
    let store = Store::over(Arc::new(objects.clone()), rules());
    opened(&store, &[(0, 0)]).await;
    let table = "clicks_per_minute";
    let look = async |refused| {
        let found = store.find_letters(table, refused, Look::Bytes).await;
        found.unwrap()
    };
    // None was ever written.
    let found = look(0).await;
    assert_eq!((found.letters, found.are_too_few), (None, false));
    assert!(look(1).await.are_too_few);

    let mut letters = store.dead_letters("clicks").await.unwrap();
    for offset in 0..3 {
        write(&mut letters, &[letter(0, offset, None)])
            .await
            .unwrap();
    }
    for (refused, are_too_few) in [(0, false), (3, false), (4, true)] {
        let found = look(refused).await;
        assert_eq!((found.letters, found.are_too_few), (Some(3), are_too_few));
        assert_eq!(found.files.lost, []);
    }
    let (_, files) = store.read_dead_letters("clicks").await.unwrap();
    let gone = object_store::path::Path::from(files[1].path.as_str());
    store.object_store().delete(&gone).await.unwrap();
    let lost = look(3).await.files.lost;
    assert_eq!(lost.len(), 1);
    assert_eq!(
        (&lost[0].path, &lost[0].found),
        (&files[1].path, &Found::Nothing)
    );

    objects.age.store(30 * 86_400, Ordering::Relaxed);
    let mut upkeep = store.upkeep_of_dead_letters(&"clicks".into(), Duration::from_secs(86_400));
    upkeep.run().await.unwrap();
    let found = look(3).await;
    assert!(found.letters < Some(3), "{found:?}");
    assert!(!found.are_too_few, "they have expired");
}
