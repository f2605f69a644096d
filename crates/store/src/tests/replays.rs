//! Panes of replayed letters are in a table once, with the cursor that says so (P23).

use alluvium_types::ErrorClass;

use super::{
    faulty::{Faults, FaultyStore},
    *,
};
use crate::{ReplayEnding, Replayed, StoreError, audit};

const TABLE: &str = "clicks_per_minute";
const LETTERS: i64 = 12;

fn replayed(after: Option<i64>, up_to: i64) -> Replayed {
    let letters = (up_to - after.unwrap_or(0)) as u64;
    Replayed {
        after,
        up_to,
        letters,
        counted: letters,
        filtered: 0,
        refused: 0,
    }
}

/// One pane for each version of letters after the cursor.
async fn replay(writer: &mut TableWriter, up_to: i64) -> Result<ReplayEnding, StoreError> {
    let after = writer.checkpoint().replayed;
    let clicks: Vec<(i64, i64, i128)> = (after.unwrap_or(0)..up_to)
        .map(|at| (at * DAY, 1, 100))
        .collect();
    let staged = writer.stage(once(panes(&spec(), &clicks)), None).await?;
    let done = replayed(after, up_to);
    loop {
        match writer.commit_replay(&staged, &done, "v2").await {
            // The same again: it may have landed (P10).
            Err(StoreError::EndingUnknown { .. }) => {}
            ending => return ending,
        }
    }
}

#[tokio::test]
async fn a_cursor_moves_once_and_only_on() {
    let store = in_memory();
    let mut one = opened(&store, &[(0, 0)]).await;
    let mut other = store.table(&spec()).await.unwrap();
    assert_eq!(one.checkpoint().replayed, None);
    assert!(matches!(
        replay(&mut one, 3).await.unwrap(),
        ReplayEnding::Committed { .. }
    ));
    // Who has not seen it is told; an append meanwhile does no harm.
    commit_ranges(&mut one, &[(0, 0, 5)]).await;
    assert_eq!(
        replay(&mut other, 2).await.unwrap(),
        ReplayEnding::Overtaken
    );
    assert_eq!(other.checkpoint().replayed, Some(3));
    assert!(matches!(
        replay(&mut other, 4).await.unwrap(),
        ReplayEnding::Committed { .. }
    ));
    assert_eq!(totals(&store).await, (4 + 5, 400 + 10));
    // Nothing that the pipeline wants came of it, and still the cursor moves.
    let staged = other.stage(once(panes(&spec(), &[])), None).await.unwrap();
    let nothing = Replayed {
        letters: 1,
        counted: 0,
        filtered: 1,
        ..replayed(Some(4), 6)
    };
    assert!(matches!(
        other.commit_replay(&staged, &nothing, "v2").await.unwrap(),
        ReplayEnding::Committed { .. }
    ));
    assert_eq!(
        store.table(&spec()).await.unwrap().checkpoint().replayed,
        Some(6)
    );

    let mut history = store.history(TABLE).await.unwrap();
    let report = audit(&history);
    assert!(report.is_proven(), "{:?}", report.faults);
    assert_eq!(report.replayed, 4);
    // A history in which letters were taken twice, or passed over, is not proven.
    for (after, up_to) in [(None, 3), (Some(5), 6), (Some(3), 3)] {
        let last = history
            .iter_mut()
            .rev()
            .find(|record| record.replayed.is_some());
        last.unwrap().replayed = Some(replayed(after, up_to));
        assert_eq!(audit(&history).faults.len(), 1, "{after:?} to {up_to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_counted_once_whatever_the_store_does() {
    let mut overtaken = 0;
    for seed in 0..12 {
        let faults = Faults::of_every_kind();
        let objects = FaultyStore::new(seed, faults);
        let store = Store::over(Arc::new(objects.clone()), rules());
        let calm = Store::over(Arc::new(objects.without_faults()), rules());
        drop(opened(&calm, &[(0, 0)]).await);
        let replays: Vec<_> = (0..3)
            .map(|server| {
                let store = store.clone();
                tokio::spawn(async move {
                    let patiently = |error: StoreError| {
                        assert_eq!(error.class(), ErrorClass::Transient, "{error}")
                    };
                    let mut lost = 0;
                    loop {
                        let mut writer = match store.table(&spec()).await {
                            Ok(writer) => writer,
                            Err(error) => {
                                patiently(error);
                                continue;
                            }
                        };
                        while let at = writer.checkpoint().replayed.unwrap_or(0)
                            && at < LETTERS
                        {
                            let up_to = (at + 1 + server % 3).min(LETTERS);
                            match replay(&mut writer, up_to).await {
                                Ok(ReplayEnding::Committed { .. }) => {}
                                Ok(ReplayEnding::Overtaken) => lost += 1,
                                // It dies, and somebody begins anew.
                                Err(error) => {
                                    patiently(error);
                                    break;
                                }
                            }
                        }
                        if writer.checkpoint().replayed == Some(LETTERS) {
                            return lost;
                        }
                    }
                })
            })
            .collect();
        for replay in replays {
            overtaken += replay.await.unwrap();
        }
        // Entries that are still on their way land before anybody counts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(
            totals(&calm).await,
            (LETTERS, i128::from(LETTERS) * 100),
            "seed {seed}"
        );
        let report = audit(&calm.history(TABLE).await.unwrap());
        assert_eq!(report.faults, [], "seed {seed}");
        assert_eq!(report.replayed, LETTERS as u64, "seed {seed}");
    }
    assert!(overtaken > 0, "nobody was overtaken");
}
