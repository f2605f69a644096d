use bytes::Bytes;
use proptest::prelude::*;

use super::super::{
    feed::Feed,
    record_batch::{self, HEADER},
};
use super::*;

/// One record to be: offset delta, timestamp delta, key, value.
type Plan<'a> = (i64, i64, Option<&'a [u8]>, Option<&'a [u8]>);

const TRANSACTIONAL: i16 = 16;
const CONTROL: i16 = 32;
const LOG_APPEND_TIME: i16 = 8;

fn number(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn blob(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => number(out, -1),
        Some(bytes) => {
            number(out, bytes.len() as i64);
            out.extend(bytes);
        }
    }
}

/// A record batch as a producer writes it.
fn batch(base: i64, attributes: i16, producer: i64, records: &[Plan<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (offset, timestamp, key, value) in records {
        let mut record = vec![0];
        number(&mut record, *timestamp);
        number(&mut record, *offset);
        blob(&mut record, *key);
        blob(&mut record, *value);
        number(&mut record, 1);
        blob(&mut record, Some(b"h"));
        blob(&mut record, (offset % 2 == 0).then_some(b"x"));
        number(&mut body, record.len() as i64);
        body.extend(record);
    }
    let last = records.last().map_or(0, |record| record.0) as i32;
    let mut summed = attributes.to_be_bytes().to_vec();
    summed.extend(last.to_be_bytes());
    summed.extend(1_000_i64.to_be_bytes());
    summed.extend(9_000_i64.to_be_bytes());
    summed.extend(producer.to_be_bytes());
    summed.extend(0_i16.to_be_bytes());
    summed.extend(0_i32.to_be_bytes());
    summed.extend((records.len() as i32).to_be_bytes());
    summed.extend(body);
    sealed(base, &summed)
}

/// A batch with a checksum that holds, whatever stands in it.
fn sealed(base: i64, summed: &[u8]) -> Vec<u8> {
    let mut out = base.to_be_bytes().to_vec();
    out.extend((summed.len() as i32 + 9).to_be_bytes());
    out.extend(3_i32.to_be_bytes());
    out.push(2);
    out.extend(crc_fast::crc32_iscsi(summed).to_be_bytes());
    out.extend(summed);
    out
}

/// The marker that ends a transaction.
fn marker(base: i64, producer: i64, commits: bool) -> Vec<u8> {
    let key = [0, 0, 0, u8::from(commits)];
    batch(
        base,
        TRANSACTIONAL | CONTROL,
        producer,
        &[(0, 0, Some(&key), Some(b"\0\0\0\0\0\0"))],
    )
}

fn read(bytes: Vec<u8>, aborted: &[(i64, i64)], start: i64) -> (Vec<RecordBatch>, Option<i64>) {
    let contents = record_batch::read(Bytes::from(bytes), aborted, start);
    (contents.batches, contents.damage.map(|(offset, _)| offset))
}

type Row = (i64, Option<Timestamp>, Option<Vec<u8>>);

/// What comes out of a range, in pieces of about `piece_bytes`.
fn unpacked(
    batches: Vec<RecordBatch>,
    range: (i64, i64),
    piece_bytes: usize,
) -> Result<Vec<Row>, Damaged> {
    let packed = PackedBatches {
        batches,
        piece_bytes,
        buffers: BufferPool::new(2),
        memory: MemoryBudget::new(1 << 20),
    };
    let range = OffsetRange::new(range.0, range.1).unwrap();
    let mut next = range.start();
    let mut rows = Vec::new();
    packed.unpack(range, &mut |piece| {
        assert_eq!(piece.range.start(), next, "pieces chain");
        next = piece.range.end();
        let raw = piece.records.finish(
            alluvium_types::TopicPartition::new("t", 0),
            piece.range,
            alluvium_types::Generation(1),
            Timestamp::default(),
            piece.reservation,
        );
        rows.extend(raw.records().map(|record| {
            (
                record.offset(),
                record.timestamp(),
                record.value().map(<[u8]>::to_vec),
            )
        }));
        ControlFlow::Continue(())
    })?;
    assert_eq!(next, range.end(), "pieces cover the range");
    Ok(rows)
}

#[test]
fn records_come_out_as_they_went_in_however_they_are_cut() {
    let mut bytes = batch(
        10,
        0,
        -1,
        &[(0, 5, Some(b"k"), Some(b"a")), (1, -2000, None, None)],
    );
    // Compaction left a hole in front of this one and in it.
    bytes.extend(batch(
        20,
        LOG_APPEND_TIME,
        -1,
        &[(0, 1, None, Some(b"b")), (4, 2, None, Some(b"c"))],
    ));
    let (batches, damage) = read(bytes, &[], 10);
    assert_eq!((batches.len(), damage), (2, None));
    let at = |millis| Some(Timestamp::from_millis(millis));
    let all = vec![
        (10, at(1005), Some(b"a".to_vec())),
        (11, None, None),
        (20, at(9000), Some(b"b".to_vec())),
        (24, at(9000), Some(b"c".to_vec())),
    ];
    for piece_bytes in [1, 40, 1 << 20] {
        assert_eq!(
            unpacked(batches.clone(), (10, 25), piece_bytes).unwrap(),
            all
        );
        for cut in 10..=25 {
            let mut rows = unpacked(batches.clone(), (10, cut), piece_bytes).unwrap();
            rows.extend(unpacked(batches.clone(), (cut, 25), piece_bytes).unwrap());
            assert_eq!(rows, all, "cut at {cut}");
        }
    }
}

/// The same batch with its records compressed.
fn compressed(whole: &[u8], codec: u8) -> Vec<u8> {
    let body = &whole[HEADER..];
    let packed = match codec {
        0 => body.to_vec(),
        2 => snap::raw::Encoder::new().compress_vec(body).unwrap(),
        4 => zstd::stream::encode_all(body, 1).unwrap(),
        unknown => panic!("codec {unknown}"),
    };
    let mut summed = whole[21..HEADER].to_vec();
    summed[1] |= codec;
    summed.extend(packed);
    sealed(i64::from_be_bytes(whole[..8].try_into().unwrap()), &summed)
}

#[test]
fn a_batch_larger_than_a_piece_comes_in_parts() {
    // Some records are larger than a part, and some have none beside them.
    let mut state = 3_u32;
    let values: Vec<Vec<u8>> = (0..900_u32)
        .map(|number| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = match number % 300 {
                7 => 3 * PART,
                8 => 1,
                _ => (state >> 20) as usize % 4000,
            };
            (0..size).map(|at| (at as u32 ^ state) as u8).collect()
        })
        .collect();
    let plans: Vec<Plan<'_>> = values
        .iter()
        .zip(0..)
        .map(|(value, at)| (at, at, None, Some(value.as_slice())))
        .collect();
    for codec in [0, 2, 4] {
        let mut bytes = compressed(&batch(10, 0, -1, &plans), codec);
        bytes.extend(compressed(&batch(2000, 0, -1, &plans[..400]), codec));
        bytes.extend(compressed(&batch(3000, 0, -1, &plans[..2]), codec));
        let (batches, _) = read(bytes, &[], 10);
        let rows = unpacked(batches.clone(), (10, 4000), 1 << 20).unwrap();
        assert_eq!(rows.len(), 900 + 400 + 2);
        for (at, row) in rows.iter().enumerate() {
            let (base, of_batch) = match at {
                0..900 => (10, at),
                900..1300 => (2000, at - 900),
                _ => (3000, at - 1300),
            };
            assert_eq!(row.0, base + of_batch as i64);
            assert!(row.2.as_ref() == Some(&values[of_batch]), "record {at}");
        }
        for cut in [11, 18, 317, 318, 909, 910, 1500, 2000, 2399, 3001] {
            let mut parts = unpacked(batches.clone(), (10, cut), 1 << 20).unwrap();
            parts.extend(unpacked(batches.clone(), (cut, 4000), 1 << 20).unwrap());
            assert!(parts == rows, "cut at {cut}");
        }
    }
}

#[test]
fn damage_behind_a_part_is_named_by_its_batch() {
    let value = vec![b'v'; PART];
    let plans: Vec<Plan<'_>> = (0..6).map(|at| (at, 0, None, Some(&value[..]))).collect();
    let mut last_is_wrong = plans.clone();
    last_is_wrong[5].0 = 4;
    let (batches, _) = read(batch(10, 0, -1, &last_is_wrong), &[], 10);
    let mut taken = 0;
    let packed = PackedBatches {
        batches,
        piece_bytes: 1 << 20,
        buffers: BufferPool::new(2),
        memory: MemoryBudget::new(1 << 20),
    };
    let damaged = packed.unpack(OffsetRange::new(10, 15).unwrap(), &mut |piece| {
        taken += piece.records.len();
        ControlFlow::Continue(())
    });
    assert_eq!(damaged.unwrap_err().offset, 10);
    assert!(taken > 0, "parts before it were handed out");
}

#[test]
fn aborted_records_and_markers_are_passed_over() {
    let value =
        |text: &'static str| -> Vec<Plan<'static>> { vec![(0, 0, None, Some(text.as_bytes()))] };
    let mut bytes = Vec::new();
    // Producer 7 aborts a transaction that began before this response, commits the next one, and aborts a third.
    bytes.extend(batch(10, TRANSACTIONAL, 7, &value("aborted before")));
    bytes.extend(batch(11, TRANSACTIONAL, 8, &value("committed")));
    bytes.extend(marker(12, 7, false));
    bytes.extend(batch(13, TRANSACTIONAL, 7, &value("second")));
    bytes.extend(batch(14, 0, 7, &value("outside of a transaction")));
    bytes.extend(marker(15, 8, true));
    bytes.extend(marker(16, 7, true));
    bytes.extend(batch(17, TRANSACTIONAL, 7, &value("aborted after")));
    bytes.extend(marker(18, 7, false));
    let (batches, damage) = read(bytes, &[(7, 17), (7, 4)], 10);
    assert_eq!((batches.len(), damage), (9, None));
    let delivered: Vec<i64> = batches
        .iter()
        .filter(|batch| batch.delivered)
        .map(|batch| batch.header.base_offset)
        .collect();
    assert_eq!(delivered, [11, 13, 14]);
}

#[test]
fn a_batch_that_is_cut_off_waits_for_the_next_answer() {
    let first = batch(10, 0, -1, &[(0, 0, None, Some(b"a"))]);
    let second = batch(11, 0, -1, &[(0, 0, None, Some(b"b"))]);
    for kept in 0..second.len() {
        let mut bytes = first.clone();
        bytes.extend(&second[..kept]);
        let (batches, damage) = read(bytes, &[], 10);
        assert_eq!((batches.len(), damage), (1, None), "{kept}");
    }
}

#[test]
fn damage_is_named_by_its_offset_and_nothing_behind_it_is_read() {
    let good = batch(10, 0, -1, &[(0, 0, None, Some(b"a"))]);
    let mut wrong = batch(11, 0, -1, &[(0, 0, None, Some(b"b"))]);
    *wrong.last_mut().unwrap() ^= 1;
    let mut old = good.clone();
    old[16] = 1;
    let unknown_codec = batch(11, 7, -1, &[(0, 0, None, None)]);
    for bad in [wrong, old, unknown_codec] {
        let mut bytes = good.clone();
        bytes.extend(bad);
        bytes.extend(batch(12, 0, -1, &[(0, 0, None, None)]));
        let (batches, damage) = read(bytes, &[], 10);
        assert_eq!((batches.len(), damage), (1, Some(11)));
    }
}

#[test]
fn what_the_checksum_cannot_see_is_found_when_unpacking() {
    let record = |offset| (offset, 0, None, Some(b"a".as_slice()));
    for (what, records) in [
        ("offsets that fall", vec![record(1), record(0), record(2)]),
        ("an offset twice", vec![record(1), record(1)]),
        ("an offset behind the last", vec![record(9), record(2)]),
    ] {
        let (batches, _) = read(batch(10, 0, -1, &records), &[], 10);
        let damaged = unpacked(batches, (10, 13), 100).unwrap_err();
        assert_eq!(damaged.offset, 10, "{what}");
    }
    // More records than there are, and fewer.
    for count in [0_i32, 1, 3, i32::MAX] {
        let whole = batch(10, 0, -1, &[record(0), record(1)]);
        let mut summed = whole[21..].to_vec();
        summed[36..40].copy_from_slice(&count.to_be_bytes());
        let (batches, _) = read(sealed(10, &summed), &[], 10);
        assert!(unpacked(batches, (10, 12), 100).is_err(), "{count}");
    }
}

#[test]
fn a_feed_stops_where_a_worker_could_not_go_on() {
    let mut bytes = Vec::new();
    for base in 10..14 {
        bytes.extend(batch(base, 0, -1, &[(0, 0, None, Some(b"a"))]));
    }
    let mut feed = Feed::starting_at(crate::Recorded::at(10), 1 << 20);
    let sent = bytes.len();
    let mut data = kafka_protocol::messages::fetch_response::PartitionData::default()
        .with_records(Some(bytes.into()));
    assert!(feed.receive(&mut data));
    assert_eq!(
        feed.bytes(),
        sent,
        "what waits keeps it from asking for more"
    );
    let taken = feed.take(10, 1 << 20, Some(12)).unwrap();
    assert_eq!((taken.range.end(), taken.records), (12, 2));
    assert_eq!(feed.bytes(), sent / 2);
    assert!(feed.take(12, 1 << 20, Some(12)).is_none());
    assert!(feed.waits_from(12) && !feed.waits_from(13));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_records_are_refused_or_read_but_never_fatal(
        at in 0usize..200,
        bytes in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        let whole = batch(10, 0, -1, &[
            (0, 5, Some(b"key"), Some(b"value")),
            (3, -2000, None, Some(b"another")),
            (4, 0, None, None),
        ]);
        // The checksum is made to hold, so that everything behind it is met.
        let mut summed = whole[21..].to_vec();
        for (offset, byte) in bytes.iter().enumerate() {
            let place = (at + offset) % summed.len();
            summed[place] = *byte;
        }
        let (batches, _) = read(sealed(10, &summed), &[], 10);
        let body = whole.len() - HEADER;
        prop_assert!(body > 0);
        for batch in &batches {
            let end = batch.header.last_offset.saturating_add(1).min(1 << 40);
            if end > 10 {
                let _ = unpacked(batches.clone(), (10, end), 1 << 16);
            }
        }
    }
}
