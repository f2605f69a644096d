use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
            DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, LargeStringArray,
            StringArray, StringViewArray, TimestampMicrosecondArray, UInt8Array, UInt64Array,
        },
        datatypes::{Int32Type, Int64Type},
    },
    logical_expr::EmitTo,
};
use datasketches::{
    hash::value::raw_bytes,
    hll::{HllSketch, HllType},
};
use proptest::prelude::*;

use super::{Estimate, SketchAgg, Union, UnionAgg, codec, group::Group};
use crate::{
    scalar::Definition as _,
    single_state::{Definition, Rows},
};

fn fold<D: Definition>(values: ArrayRef) -> Vec<u8> {
    let mut states = D::states(values.data_type()).unwrap();
    states.grow(1);
    let groups = vec![0; values.len()];
    states
        .update(&values, &Rows::new(&values, &groups, None))
        .unwrap();
    let states = states.emit(EmitTo::All).unwrap();
    states.as_binary::<i32>().value(0).to_vec()
}

fn integers(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    fold::<SketchAgg>(Arc::new(Int64Array::from_iter_values(values)))
}

fn union(sketches: &[Vec<u8>]) -> Vec<u8> {
    fold::<UnionAgg>(Arc::new(BinaryArray::from_iter_values(sketches)))
}

fn estimate(sketch: &[u8]) -> datafusion::common::Result<i64> {
    let sketches: ArrayRef = Arc::new(BinaryArray::from_iter_values([sketch]));
    Ok(Estimate::call(&[sketches])?
        .as_primitive::<Int64Type>()
        .value(0))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_split_order_and_repetition_gives_the_same_bytes(
        // Around the numbers at which a list becomes a set, the set grows and becomes an array.
        count in prop_oneof![
            0..10_i64, 20..30_i64, 44..52_i64, 380..400_i64, 1_000..3_000_i64
        ],
        start in any::<i32>(),
        parts in 1..6_usize,
        stride in prop_oneof![Just(1_usize), Just(7), Just(13)],
    ) {
        let values: Vec<i64> = (0..count).map(|value| value + i64::from(start)).collect();
        let whole = integers(values.iter().copied());
        let sketches: Vec<Vec<u8>> = (0..parts)
            .map(|part| {
                // Every part has some values of the next one too.
                let own = values.iter().enumerate().filter(|(place, _)| {
                    (place / stride) % parts == part || (place / stride + 1) % (parts + 3) == part
                });
                integers(own.map(|(_, &value)| value).rev())
            })
            .collect();
        let forward = union(&sketches);
        let backward: Vec<Vec<u8>> = sketches.iter().rev().cloned().collect();
        prop_assert_eq!(&hex(&forward), &hex(&whole));
        prop_assert_eq!(&hex(&union(&[union(&backward), whole.clone()])), &hex(&whole));
        let guess = estimate(&whole).unwrap() as f64;
        prop_assert!((guess - count as f64).abs() <= 0.08 * count as f64, "{guess} of {count}");
        if count < 8 {
            prop_assert_eq!(guess as i64, count);
        }
        // Another reader that asks for its plain estimate gets the same answer.
        let read = HllSketch::deserialize(&whole).unwrap();
        prop_assert_eq!(read.estimate(), read.composite_estimate());
    }

    /// Merged as bytes or by the crate, in any mixture of values and sketches.
    #[test]
    fn merging_bytes_is_what_the_crate_does(
        parts in proptest::collection::vec(
            (any::<u16>(), prop_oneof![0..10_i64, 20..60_i64, 300..500_i64, 1_000..4_000_i64], any::<bool>()),
            1..6,
        ),
    ) {
        let mut expected = codec::empty();
        let mut group = Group::default();
        for (start, count, as_values) in parts {
            let values = (0..count).map(|value| value + i64::from(start));
            values.clone().for_each(|value| expected.update_value(value));
            let before = group.heap_size() as isize;
            let grown = if as_values {
                values.map(|value| group.add(value)).sum()
            } else {
                group.merge(&integers(values)).unwrap()
            };
            prop_assert_eq!(group.heap_size() as isize - before, grown);
        }
        prop_assert_eq!(hex(&group.bytes()), hex(&codec::write(&expected)));
    }

    #[test]
    fn damaged_bytes_never_panic(
        count in prop_oneof![0..10_i64, 20..60_i64, 400..800_i64],
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let sound = integers(0..count);
        let mut bytes = sound.clone();
        let cut = length.index(bytes.len());
        prop_assert!(estimate(&bytes[..cut]).is_err());
        for (place, byte) in damage {
            let place = place.index(bytes.len().min(60));
            bytes[place] = byte;
        }
        for bytes in [bytes, noise] {
            if let Ok(sketch) = codec::read(&bytes) {
                let _ = sketch.composite_estimate();
                let mut merged = codec::empty();
                merged.update(&codec::read(&sound).unwrap());
                merged.update(&sketch);
                for value in 0..2_000_i64 {
                    merged.update_value(value);
                }
                let _ = codec::write(&merged);
                let mut group = Group::default();
                group.merge(&bytes).unwrap();
                group.merge(&sound).unwrap();
                group.merge(&bytes).unwrap();
                let _ = group.bytes();
            }
        }
    }
}

#[test]
fn a_changed_register_is_found_out() {
    let sound = integers(0..10_000);
    assert_eq!(sound.len(), 4136);
    for place in (16..40).chain([40, 41, 4135]) {
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        let error = estimate(&bytes).unwrap_err().to_string();
        assert!(error.contains("damaged HLL sketch"), "{place}: {error}");
    }
}

#[test]
fn bytes_are_those_of_the_data_sketches_family() {
    let texts = StringArray::from(vec![
        Some("apple"),
        None,
        Some(""),
        Some("banana"),
        Some("apple"),
    ]);
    let ours = fold::<SketchAgg>(Arc::new(texts));
    let mut theirs = HllSketch::new(12, HllType::Hll8).unwrap();
    theirs.update(raw_bytes::from_str("apple"));
    theirs.update(raw_bytes::from_str("banana"));
    let mut expected = theirs.serialize();
    // Only the order of coupons may differ.
    let (head, coupons) = expected.split_at_mut(8);
    let mut coupons: Vec<u32> = coupons
        .chunks(4)
        .map(|coupon| u32::from_le_bytes(coupon.try_into().unwrap()))
        .collect();
    coupons.sort_unstable();
    let mut expected = head.to_vec();
    expected.extend(coupons.iter().flat_map(|coupon| coupon.to_le_bytes()));
    assert_eq!(hex(&ours), hex(&expected));
    assert_eq!(hex(&ours[..8]), "0201070c03080208");
}

/// Spark writes lists and sets with their empty places.
#[test]
fn tables_with_empty_places_are_read() {
    let compact = integers([1, 2, 3]);
    let mut updatable = compact.clone();
    updatable[5] &= !8;
    updatable.resize(8 + 8 * 4, 0);
    assert_eq!(estimate(&updatable).unwrap(), 3);
    assert_eq!(union(&[updatable]), compact);
}

#[test]
fn values_of_one_meaning_hash_alike() {
    let one = integers([7, 0]);
    assert_eq!(
        fold::<SketchAgg>(Arc::new(Int32Array::from(vec![7, 0]))),
        one
    );
    assert_eq!(
        fold::<SketchAgg>(Arc::new(UInt8Array::from(vec![7, 0]))),
        one
    );
    assert_eq!(
        fold::<SketchAgg>(Arc::new(UInt64Array::from(vec![7, 0]))),
        one
    );
    assert_eq!(
        fold::<SketchAgg>(Arc::new(Date32Array::from(vec![7, 0]))),
        one
    );
    let timestamps = TimestampMicrosecondArray::from(vec![7, 0]).with_timezone("UTC");
    assert_eq!(fold::<SketchAgg>(Arc::new(timestamps)), one);
    let flags = BooleanArray::from(vec![true, false]);
    assert_eq!(fold::<SketchAgg>(Arc::new(flags)), integers([0, 1]));

    let texts = fold::<SketchAgg>(Arc::new(StringArray::from(vec!["a", "bc"])));
    let large = LargeStringArray::from(vec!["a", "bc"]);
    assert_eq!(fold::<SketchAgg>(Arc::new(large)), texts);
    let views = StringViewArray::from(vec!["a", "bc"]);
    assert_eq!(fold::<SketchAgg>(Arc::new(views)), texts);
    let dictionary: DictionaryArray<Int32Type> = ["a", "bc", "a"].into_iter().collect();
    assert_eq!(fold::<SketchAgg>(Arc::new(dictionary)), texts);
    let binary = BinaryArray::from_iter_values(["a", "bc"]);
    assert_eq!(fold::<SketchAgg>(Arc::new(binary)), texts);

    let doubles = Float64Array::from(vec![1.5, 0.0, -0.0, f64::NAN, -f64::NAN]);
    let doubles = fold::<SketchAgg>(Arc::new(doubles));
    assert_eq!(estimate(&doubles).unwrap(), 3);
    let floats = Float32Array::from(vec![1.5, -0.0, f32::NAN]);
    assert_eq!(fold::<SketchAgg>(Arc::new(floats)), doubles);

    let decimals = Decimal128Array::from(vec![7, 0]);
    assert_eq!(estimate(&fold::<SketchAgg>(Arc::new(decimals))).unwrap(), 2);
}

#[test]
fn groups_of_few_values_are_small() {
    let groups: Vec<usize> = (0..3_000).map(|row| row / 3).collect();
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3_000));
    let mut states = SketchAgg::states(values.data_type()).unwrap();
    states.grow(1_000);
    states
        .update(&values, &Rows::new(&values, &groups, None))
        .unwrap();
    let size = states.heap_size();
    assert!(size < 1_000 * 250, "{size}");

    // One group grows to all its registers, and the running size with it.
    let many: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5_000));
    states
        .update(&many, &Rows::new(&many, &vec![17; 5_000], None))
        .unwrap();
    assert!((4_000..4_200).contains(&(states.heap_size() - size)));
    states.emit(EmitTo::First(17)).unwrap();
    states.emit(EmitTo::First(1)).unwrap();
    assert!(states.heap_size() < size);
}

#[test]
fn a_scalar_union_is_null_when_either_side_is() {
    let (left, right) = (integers([1, 2]), integers([2, 3]));
    let lefts: ArrayRef = Arc::new(BinaryArray::from(vec![Some(left.as_slice()), None]));
    let rights: ArrayRef = Arc::new(BinaryArray::from(vec![
        Some(right.as_slice()),
        Some(right.as_slice()),
    ]));
    let unions = Union::call(&[lefts, rights]).unwrap();
    let unions = unions.as_binary::<i32>();
    assert_eq!(unions.value(0), integers([1, 2, 3]));
    assert!(unions.is_null(1));
}

#[test]
fn a_sketch_of_another_size_is_refused() {
    for (lg_k, kind) in [(10, HllType::Hll8), (12, HllType::Hll4)] {
        let mut foreign = HllSketch::new(lg_k, kind).unwrap();
        (0..1_000_i64).for_each(|value| foreign.update(value));
        let error = estimate(&foreign.serialize()).unwrap_err().to_string();
        assert!(error.contains("only HLL_8 with lgK 12"), "{error}");
    }
}
