//! How far late events are behind the watermark.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Seconds that the events of each bucket are behind at most; those of one more bucket are further behind.
const UP_TO: [u64; 8] = [1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800];
/// What the last bucket is called where it is written.
const BEYOND: &str = "more";

/// How many events were how far behind their partition's watermark. Those of any stretches add up to those of all.
///
/// Written as what is in the buckets, by the seconds that they go up to: `{"10": 3, "more": 1}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Lateness([u64; UP_TO.len() + 1]);

/// Events that are behind by about as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatenessBucket {
    /// They are behind by more than so many seconds, except in the first: there by more than nothing.
    pub more_than: u64,
    /// ... and by no more than so many. `None`: however far.
    pub up_to: Option<u64>,
    /// How many.
    pub events: u64,
}

impl Lateness {
    /// One more event, so far behind.
    pub fn note(&mut self, behind: Duration) {
        let is_within = |up_to: &u64| behind <= Duration::from_secs(*up_to);
        let bucket = UP_TO.iter().position(is_within).unwrap_or(UP_TO.len());
        self.0[bucket] += 1;
    }

    /// Adds another stretch's events.
    pub fn add(&mut self, other: &Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            *mine += others;
        }
    }

    /// How many events there are in all buckets.
    pub fn events(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events() == 0
    }

    /// The buckets that have events, least behind first.
    pub fn buckets(&self) -> impl Iterator<Item = LatenessBucket> {
        let all = self.0.into_iter().enumerate();
        all.filter(|(_, events)| *events > 0)
            .map(|(bucket, events)| LatenessBucket {
                more_than: bucket.checked_sub(1).map_or(0, |before| UP_TO[before]),
                up_to: UP_TO.get(bucket).copied(),
                events,
            })
    }
}

impl From<Lateness> for BTreeMap<String, u64> {
    fn from(lateness: Lateness) -> Self {
        let name =
            |up_to: Option<u64>| up_to.map_or_else(|| BEYOND.into(), |up_to| up_to.to_string());
        let buckets = lateness.buckets();
        buckets
            .map(|bucket| (name(bucket.up_to), bucket.events))
            .collect()
    }
}

impl From<BTreeMap<String, u64>> for Lateness {
    /// Of a version with other buckets, events go where they fit whole.
    fn from(written: BTreeMap<String, u64>) -> Self {
        let mut lateness = Self::default();
        for (name, events) in written {
            let up_to: Option<u64> = name.parse().ok();
            let fits = |most: &u64| up_to.is_some_and(|up_to| up_to <= *most);
            let bucket = UP_TO.iter().position(fits).unwrap_or(UP_TO.len());
            lateness.0[bucket] += events;
        }
        lateness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(behind: &[Duration]) -> Lateness {
        let mut lateness = Lateness::default();
        for behind in behind {
            lateness.note(*behind);
        }
        lateness
    }

    #[test]
    fn a_bucket_has_its_upper_bound_and_not_its_lower() {
        let tick = Duration::from_micros(1);
        for (bucket, up_to) in UP_TO.into_iter().enumerate() {
            let bound = Duration::from_secs(up_to);
            let found: Vec<_> = of(&[bound, bound + tick]).buckets().collect();
            let more_than = if bucket == 0 { 0 } else { UP_TO[bucket - 1] };
            let expected = [
                LatenessBucket {
                    more_than,
                    up_to: Some(up_to),
                    events: 1,
                },
                LatenessBucket {
                    more_than: up_to,
                    up_to: UP_TO.get(bucket + 1).copied(),
                    events: 1,
                },
            ];
            assert_eq!(found, expected);
        }
        assert_eq!(of(&[Duration::MAX]).buckets().next().unwrap().up_to, None);
    }

    #[test]
    fn stretches_add_up_and_come_back_as_written() {
        let (one, other) = (
            [Duration::ZERO, Duration::from_secs(61)],
            [Duration::from_secs(62), Duration::from_secs(1 << 40)],
        );
        let mut sum = of(&one);
        sum.add(&of(&other));
        assert_eq!(sum, of(&[one, other].concat()));
        assert_eq!((sum.events(), sum.is_empty()), (4, false));
        let written: BTreeMap<String, u64> = sum.into();
        let expected = [("1", 1), ("600", 2), ("more", 1)];
        assert_eq!(written, expected.map(|(name, n)| (name.into(), n)).into());
        assert_eq!(Lateness::from(written), sum);
        let strange = [("7", 2), ("700000", 1), ("soon", 1)].map(|(name, n)| (name.into(), n));
        let read: BTreeMap<String, u64> = Lateness::from(BTreeMap::from(strange)).into();
        assert_eq!(read, [("10".to_owned(), 2), ("more".into(), 2)].into());
    }
}
