//! A fetch session: what a broker already knows we want, so that requests carry only what changed (KIP-227).
//!
//! Owns the session's number and epoch. Does not own positions: they are the partitions'.

use std::collections::BTreeMap;

use alluvium_types::TopicPartition;

/// What is asked of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) offset: i64,
    pub(super) max_bytes: i32,
    pub(super) leader_epoch: i32,
    pub(super) last_epoch: i32,
}

/// The epoch that opens a session.
const OPENING: i32 = 0;
/// The epoch of a broker that keeps none.
const WITHOUT: i32 = -1;

/// A session with one broker over one connection.
#[derive(Debug)]
pub(super) struct Session {
    id: i32,
    epoch: i32,
    known: BTreeMap<TopicPartition, Ask>,
    /// Topics go by their ids.
    by_id: bool,
}

/// The part of a request that the session decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) id: i32,
    pub(super) epoch: i32,
    pub(super) asked: BTreeMap<TopicPartition, Ask>,
    pub(super) forgotten: Vec<TopicPartition>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            id: 0,
            epoch: OPENING,
            known: BTreeMap::new(),
            by_id: false,
        }
    }

    /// What to send so that the broker answers for exactly these partitions.
    pub(super) fn ask(&mut self, wanted: BTreeMap<TopicPartition, Ask>, by_id: bool) -> Change {
        if by_id != self.by_id && self.epoch > OPENING {
            self.restart();
        }
        self.by_id = by_id;
        let (asked, forgotten) = if self.epoch > OPENING {
            let changed = wanted
                .iter()
                .filter(|(name, ask)| self.known.get(name) != Some(ask))
                .map(|(name, ask)| (name.clone(), *ask))
                .collect();
            let gone = self
                .known
                .keys()
                .filter(|name| !wanted.contains_key(name))
                .cloned()
                .collect();
            (changed, gone)
        } else {
            (wanted.clone(), Vec::new())
        };
        self.known = wanted;
        Change {
            id: self.id,
            epoch: self.epoch,
            asked,
            forgotten,
        }
    }

    /// Whether the last request asked for `partition`, in so many words or by not changing what was asked before.
    pub(super) fn holds(&self, partition: &TopicPartition) -> bool {
        self.known.contains_key(partition)
    }

    /// The broker answered, naming the session it keeps; 0: none.
    pub(super) fn answered(&mut self, id: i32) {
        if id == 0 {
            self.id = 0;
            self.epoch = WITHOUT;
        } else {
            self.id = id;
            self.epoch = self.epoch.checked_add(1).unwrap_or(1).max(1);
        }
    }

    /// The broker has lost the session.
    pub(super) fn restart(&mut self) {
        *self = Self {
            by_id: self.by_id,
            ..Self::new()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(i32, i64)]) -> BTreeMap<TopicPartition, Ask> {
        list.iter()
            .map(|&(number, offset)| {
                let ask = Ask {
                    offset,
                    max_bytes: 1,
                    leader_epoch: 0,
                    last_epoch: -1,
                };
                (TopicPartition::new("t", number), ask)
            })
            .collect()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut session = Session::new();
        let first = session.ask(wanted(&[(0, 5), (1, 6)]), false);
        assert_eq!((first.id, first.epoch, first.asked.len()), (0, 0, 2));
        session.answered(77);
        let second = session.ask(wanted(&[(0, 9), (1, 6)]), false);
        assert_eq!((second.id, second.epoch), (77, 1));
        assert_eq!(second.asked, wanted(&[(0, 9)]));
        session.answered(77);
        let third = session.ask(wanted(&[(1, 6)]), false);
        assert_eq!((third.epoch, third.asked.len()), (2, 0));
        assert_eq!(third.forgotten, [TopicPartition::new("t", 0)]);
        session.restart();
        let fourth = session.ask(wanted(&[(1, 6)]), false);
        assert_eq!((fourth.id, fourth.epoch, fourth.asked.len()), (0, 0, 1));
    }

    #[test]
    fn a_broker_without_sessions_is_asked_for_all_each_time() {
        let mut session = Session::new();
        session.ask(wanted(&[(0, 5)]), false);
        session.answered(0);
        for _ in 0..2 {
            let next = session.ask(wanted(&[(0, 5)]), false);
            assert_eq!((next.id, next.epoch, next.asked.len()), (0, -1, 1));
            session.answered(0);
        }
    }

    #[test]
    fn a_change_of_names_opens_a_new_session() {
        let mut session = Session::new();
        session.ask(wanted(&[(0, 5)]), true);
        session.answered(7);
        let next = session.ask(wanted(&[(0, 5)]), false);
        assert_eq!((next.id, next.epoch, next.asked.len()), (0, 0, 1));
    }
}
