//! Transactions of producers that nobody ends, and that hold readers of committed data back.
//!
//! Owns when one has been open for so long that a person should know. Kafka ends those of producers that died, after their own
//! `transaction.timeout.ms`; one that hangs for longer was lost by a broker, or its producer keeps it open.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use alluvium_source::PartitionView;
use alluvium_types::TopicPartition;

/// A transaction that is open for this long is told of.
const LONG: Duration = Duration::from_secs(300);
/// What the leader said longer ago says nothing about a transaction that may have ended since.
const NEWS_LASTS: Duration = Duration::from_secs(30);

/// Since when partitions have stood before their first open transaction.
#[derive(Debug, Default)]
pub(crate) struct OpenTransactions {
    open: BTreeMap<TopicPartition, Open>,
}

#[derive(Debug)]
struct Open {
    /// Where it begins.
    stable_end: i64,
    since: Instant,
    is_told: bool,
}

/// What one look came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// What is wrong, for as long as it is.
    pub(crate) trouble: Option<String>,
    /// The same, once.
    pub(crate) news: Option<String>,
    /// How many records wait behind those that have been open for long.
    pub(crate) held_back: BTreeMap<TopicPartition, i64>,
}

impl OpenTransactions {
    /// Looks at the assigned partitions.
    pub(crate) fn look(&mut self, views: &[PartitionView], now: Instant) -> Look {
        let mut look = Look::default();
        let mut open = BTreeMap::new();
        let mut long = 0;
        for view in views {
            let Some((end, stable_end)) = view.log_end.zip(view.stable_end) else {
                continue;
            };
            let is_old = view
                .heard
                .is_none_or(|heard| now.saturating_duration_since(heard) >= NEWS_LASTS);
            if stable_end >= end || is_old || view.halted.is_some() {
                continue;
            }
            let known = self.open.remove(&view.partition);
            let mut one = known
                .filter(|known| known.stable_end == stable_end)
                .unwrap_or(Open {
                    stable_end,
                    since: now,
                    is_told: false,
                });
            if now.duration_since(one.since) >= LONG {
                long += 1;
                look.held_back
                    .insert(view.partition.clone(), end - stable_end);
                let text = || {
                    format!(
                        "a transaction that is open for more than {} minutes holds {} back at offset {stable_end}, {} records \
                         before its end; `kafka-transactions.sh find-hanging` names it, `abort` ends it",
                        LONG.as_secs() / 60,
                        view.partition,
                        end - stable_end,
                    )
                };
                if !one.is_told {
                    one.is_told = true;
                    look.news.get_or_insert_with(text);
                }
                look.trouble.get_or_insert_with(text);
            }
            open.insert(view.partition.clone(), one);
        }
        if let (Some(text), 2..) = (&mut look.trouble, long) {
            text.push_str(&format!(" ({long} partitions are held back)"));
        }
        self.open = open;
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(number: i32, stable_end: i64, log_end: i64, heard: Instant) -> PartitionView {
        PartitionView {
            partition: TopicPartition::new("clicks", number),
            position: 0,
            log_end: Some(log_end),
            stable_end: Some(stable_end),
            heard: Some(heard),
            low: Some(0),
            halted: None,
        }
    }

    #[test]
    fn a_transaction_that_stays_open_is_told_once_and_shown_until_it_ends() {
        let mut open = OpenTransactions::default();
        let begun = Instant::now();
        let mut look = |views: &[(i32, i64, i64)], seconds| {
            let now = begun + Duration::from_secs(seconds);
            let heard = |&(number, stable_end, end): &_| view(number, stable_end, end, now);
            open.look(&views.iter().map(heard).collect::<Vec<_>>(), now)
        };
        let none = Look::default();
        assert_eq!(look(&[(0, 5, 9), (1, 7, 7)], 0), none);
        assert_eq!(look(&[(0, 5, 99), (1, 7, 8)], 299), none);
        let found = look(&[(0, 5, 105), (1, 7, 8)], 300);
        let text = found.trouble.unwrap();
        assert!(
            text.contains("clicks/0 back at offset 5, 100 records"),
            "{text}"
        );
        assert_eq!(found.news, Some(text));
        let found = look(&[(0, 5, 105), (1, 7, 8)], 599);
        assert!(
            found
                .trouble
                .unwrap()
                .ends_with("(2 partitions are held back)")
        );
        assert_eq!(found.held_back.into_values().collect::<Vec<_>>(), [100, 1]);
        assert!(found.news.unwrap().contains("clicks/1"));
        // The first goes on: the next transaction is another one.
        let found = look(&[(0, 50, 105), (1, 7, 8)], 600);
        assert!(found.trouble.unwrap().contains("clicks/1"));
        assert_eq!(found.news, None);
        assert_eq!(look(&[(0, 105, 105)], 601), none);
    }

    #[test]
    fn a_leader_that_says_nothing_says_nothing_about_transactions() {
        let mut open = OpenTransactions::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let stale = view(0, 5, 9, begun);
        let never = PartitionView {
            heard: None,
            ..stale.clone()
        };
        for seconds in [0, 29, 31, 400, 1000] {
            let look = open.look(&[stale.clone(), never.clone()], at(seconds));
            assert_eq!(look, Look::default());
        }
        // It is there again: what was seen before it went is no part of the five minutes.
        for seconds in [1001, 1300] {
            let look = open.look(&[view(0, 5, 9, at(seconds))], at(seconds));
            assert_eq!(look, Look::default());
        }
        let look = open.look(&[view(0, 5, 9, at(1301))], at(1301));
        assert!(look.trouble.unwrap().contains("4 records before its end"));
    }
}
