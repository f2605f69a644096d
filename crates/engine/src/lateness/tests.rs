//! Lateness depends on offsets and times, never on how events were cut into batches.

use proptest::prelude::*;

use super::*;

fn observed(first_offset: i64, event_times: &[i64], cap: i64, tables: TableSet) -> ObservedBatch {
    ObservedBatch {
        partition: TopicPartition::new("t", 0),
        range: OffsetRange::new(first_offset, first_offset + event_times.len() as i64).unwrap(),
        tables,
        event_times: event_times.to_vec(),
        cap: Timestamp::from_micros(cap),
        oldest_record: None,
    }
}

/// How many are late in each table.
fn late(
    times: &mut PartitionTimes,
    batches: &mut [ObservedBatch],
    delay: Duration,
    tables: usize,
) -> Vec<u64> {
    let settled = times.settle(batches, delay, tables);
    settled.iter().map(Lateness::events).collect()
}

#[test]
fn late_is_older_than_the_watermark_just_before() {
    let delay = Duration::from_micros(10);
    let both = TableSet::all(2);
    let first = TableSet::all(1);
    let mut times = PartitionTimes::default();
    let mut batches = [
        observed(8, &[149, 150, 300], 200, first),
        // The first event of all cannot be late; 90 is exactly at the watermark, 89 below it.
        observed(0, &[100, 90, 89, 160, 149], 1000, both),
    ];
    assert_eq!(late(&mut times, &mut batches, delay, 2), [3, 2]);
    assert_eq!(batches[0].range.start(), 0);
    // 300 was capped at 200.
    assert_eq!(times.newest(), Some(Timestamp::from_micros(200)));
    let mut next = [observed(20, &[189, 190], 1000, both)];
    assert_eq!(late(&mut times, &mut next, delay, 2), [1, 1]);
    let mut known = PartitionTimes::new(Some(Timestamp::from_micros(i64::MIN)));
    assert_eq!(late(&mut known, &mut next, Duration::MAX, 2), [0, 0]);
}

#[test]
fn how_late_is_told_from_the_watermark_on() {
    let (second, delay) = (1_000_000, Duration::from_secs(10));
    let mut times = PartitionTimes::default();
    // The watermark is at 90 s after the first, and at 190 s after the fourth.
    let seconds = [100, 90, 89, 200, 100, 191];
    let event_times = seconds.map(|time| time * second);
    let mut batches = [observed(0, &event_times, 1000 * second, TableSet::all(1))];
    let late = times.settle(&mut batches, delay, 1);
    let found: Vec<_> = late[0]
        .buckets()
        .map(|bucket| (bucket.up_to, bucket.events))
        .collect();
    assert_eq!(found, [(Some(1), 1), (Some(600), 1)]);
}

#[test]
fn what_is_behind_a_lifted_watermark_is_late_too() {
    let delay = Duration::from_micros(10);
    let one = TableSet::all(1);
    let mut times = PartitionTimes::new(Some(Timestamp::from_micros(110)));
    for (lifted, watermark) in [(90, 100), (200, 200), (150, 200)] {
        times.lift(Timestamp::from_micros(lifted));
        assert_eq!(
            times.watermark(delay),
            Some(Timestamp::from_micros(watermark))
        );
    }
    let mut batches = [observed(0, &[199, 200, 150, 220, 209, 210], 1000, one)];
    assert_eq!(late(&mut times, &mut batches, delay, 1), [3]);
    assert_eq!(times.newest(), Some(Timestamp::from_micros(220)));
}

proptest! {
    #[test]
    fn any_cut_and_order_settles_the_same(
        event_times in prop::collection::vec(0i64..1000, 1..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        epochs in prop::collection::vec(any::<bool>(), 10),
        rotate in any::<prop::sample::Index>(),
        cap in 0i64..1500,
        delay in 0u64..300,
        micros in prop::sample::select(vec![1, 1_000_000, 3_600_000_000_u64]),
    ) {
        let unit = micros as i64;
        let event_times: Vec<i64> = event_times.into_iter().map(|time| time * unit).collect();
        let cap = cap * unit;
        let delay = Duration::from_micros(delay * micros);
        let tables = TableSet::all(1);
        let mut whole = PartitionTimes::default();
        let expected = whole.settle(&mut [observed(0, &event_times, cap, tables)], delay, 1);

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(event_times.len())).collect();
        cuts.extend([0, event_times.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts
            .windows(2)
            .map(|cut| observed(cut[0] as i64, &event_times[cut[0]..cut[1]], cap, tables))
            .collect();
        let mut times = PartitionTimes::default();
        let mut late = Lateness::default();
        let mut epoch = Vec::new();
        for (position, piece) in pieces.into_iter().enumerate() {
            epoch.push(piece);
            if epochs[position % 10] {
                let turn = rotate.index(epoch.len());
                epoch.rotate_left(turn);
                late.add(&times.settle(&mut epoch, delay, 1)[0]);
                epoch.clear();
            }
        }
        late.add(&times.settle(&mut epoch, delay, 1)[0]);
        prop_assert_eq!(vec![late], expected);
        prop_assert_eq!(times, whole);
    }
}
