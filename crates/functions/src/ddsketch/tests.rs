use proptest::prelude::*;
use sketches_ddsketch::{Config, DDSketch};

use super::{codec, sketch::Sketch};

const RANKS: [f64; 11] = [0.0, 0.001, 0.1, 0.25, 0.29, 0.5, 0.7, 0.9, 0.99, 0.999, 1.0];

fn sketch(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    for &value in values {
        sketch.add(value);
    }
    sketch
}

fn judge(values: &[f64]) -> DDSketch {
    let mut sketch = DDSketch::new(Config::defaults());
    for &value in values {
        sketch.add(value);
    }
    sketch
}

fn answers(sketch: &Sketch) -> Vec<Option<u64>> {
    RANKS
        .iter()
        .map(|&rank| sketch.quantile(rank).map(f64::to_bits))
        .collect()
}

/// Through bytes and back, as every state goes once it is stored.
fn stored(sketch: &Sketch) -> Sketch {
    codec::read(&codec::write(sketch)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn value() -> impl Strategy<Value = f64> {
    // Seventeen places, which 2048 bins just hold.
    let magnitude = (-5.0..12.0_f64).prop_map(|exponent| 10_f64.powf(exponent));
    prop_oneof![
        6 => magnitude.clone(),
        2 => magnitude.prop_map(|magnitude| -magnitude),
        1 => Just(0.0),
        1 => Just(-0.0),
        2 => (-50..50_i32).prop_map(f64::from),
    ]
}

/// Values over all of the doubles, so that the lowest bins become one.
fn wide_value() -> impl Strategy<Value = f64> {
    (-12.0..308.0_f64, any::<bool>()).prop_map(|(exponent, negative)| {
        let magnitude = 10_f64.powf(exponent);
        if negative { -magnitude } else { magnitude }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_quantile_is_the_element_at_its_rank_within_one_percent(
        mut values in proptest::collection::vec(value(), 1..300),
        ranks in proptest::collection::vec(0.0..=1.0, 5),
    ) {
        let sketch = stored(&sketch(&values));
        values.sort_by(f64::total_cmp);
        for rank in ranks.into_iter().chain(RANKS) {
            let exact = values[(rank * (values.len() - 1) as f64).floor() as usize];
            let quantile = sketch.quantile(rank).unwrap();
            prop_assert!(
                (quantile - exact).abs() <= 0.010_000_001 * exact.abs(),
                "rank {rank}: {quantile} for {exact}"
            );
        }
        prop_assert_eq!(sketch.quantile(0.0), Some(values[0] + 0.0));
        prop_assert_eq!(sketch.quantile(1.0), Some(values[values.len() - 1] + 0.0));
    }

    #[test]
    fn any_split_and_order_of_merges_answers_alike(
        values in proptest::collection::vec(prop_oneof![value(), wide_value()], 1..400),
        places in proptest::collection::vec(0..7_usize, 400),
        order in Just((0..7_usize).collect::<Vec<_>>()).prop_shuffle(),
        reverse in any::<bool>(),
    ) {
        let whole = stored(&sketch(&values));
        let mut parts = vec![Sketch::default(); 7];
        let mut dealt: Vec<(f64, usize)> = values.iter().copied().zip(places).collect();
        if reverse {
            dealt.reverse();
        }
        for (value, place) in dealt {
            parts[place].add(value);
        }
        let mut merged = Sketch::default();
        for place in order {
            // Some parts are merged as they are, some by way of their bytes.
            let part = if place % 2 == 0 { parts[place].clone() } else { stored(&parts[place]) };
            merged.merge(&part).unwrap();
        }
        prop_assert_eq!(&merged.positive, &whole.positive);
        prop_assert_eq!(&merged.negative, &whole.negative);
        prop_assert_eq!(merged.zeros, whole.zeros);
        prop_assert_eq!(answers(&merged), answers(&whole));
    }

    #[test]
    fn bytes_are_those_of_the_crate(
        values in proptest::collection::vec(prop_oneof![4 => value(), 1 => wide_value()], 0..300),
    ) {
        // The crate keeps the sign of a zero that comes first.
        let values: Vec<f64> = values.into_iter().map(|value| value + 0.0).collect();
        let (ours, theirs) = (sketch(&values), judge(&values));
        prop_assume!(ours.sum.is_finite());
        prop_assert_eq!(hex(&codec::write(&ours)), hex(&theirs.to_java_bytes()));
        let read = DDSketch::from_java_bytes(&codec::write(&ours)).unwrap();
        prop_assert_eq!(read.count() as u64, ours.count());
        // Where the crate answers neither with a bin's middle beyond all values nor with a bin's
        // middle where we know the extreme, both answers are one.
        for rank in RANKS {
            let element = (rank * (values.len() as f64 - 1.0)) as usize;
            if element == 0 || element + 1 >= values.len() {
                continue;
            }
            let theirs = read.quantile(rank).unwrap().unwrap();
            prop_assert_eq!(
                ours.quantile(rank),
                Some(theirs.clamp(ours.min, ours.max))
            );
        }
    }

    #[test]
    fn damaged_bytes_never_panic(
        values in proptest::collection::vec(value(), 0..40),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = codec::write(&sketch(&values));
        prop_assert!(codec::read(&bytes[..length.index(bytes.len())]).is_err() || values.is_empty());
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for bytes in [bytes, noise] {
            if let Ok(mut read) = codec::read(&bytes) {
                let _ = answers(&read);
                let _ = read.merge(&sketch(&values));
                let _ = answers(&read);
                let _ = codec::write(&read);
            }
        }
    }
}

/// Written by Java's `DDSketchWithExactSummaryStatistics.encode()`.
#[test]
fn bytes_are_those_of_java() {
    let simple = "a00588000000000000f03f8c0000000000001440840000000000002e4002fd4a815abf52f03f0000\
                  00000000000005050002440228021e021602";
    let negative = "a084408800000000000008c08c000000000000144084000000000000084002fd4a815abf52f03f\
                    0000000000000000050244025c02070200026c02";
    let empty = "02fd4a815abf52f03f0000000000000000";
    assert_eq!(
        hex(&codec::write(&sketch(&[1.0, 2.0, 3.0, 4.0, 5.0]))),
        simple
    );
    assert_eq!(
        hex(&codec::write(&sketch(&[-3.0, -1.0, 2.0, 5.0]))),
        negative
    );
    assert_eq!(hex(&codec::write(&Sketch::default())), empty);
    let mut versioned = vec![2];
    versioned.extend(codec::write(&sketch(&[4.0])));
    assert_eq!(codec::read(&versioned).unwrap().quantile(0.5), Some(4.0));
}

#[test]
fn an_almost_full_sketch_merges_with_one_that_reaches_beyond_both_ends() {
    let gamma = Config::defaults().gamma;
    let bin = |key: i32| gamma.powi(key) * 1.001;
    let inner: Vec<f64> = (0..1930).map(bin).collect();
    let outer = [bin(-300), bin(2000)];
    let mut merged = sketch(&inner);
    merged.merge(&sketch(&outer)).unwrap();
    let all: Vec<f64> = inner.iter().chain(&outer).copied().collect();
    assert_eq!(answers(&merged), answers(&sketch(&all)));
    assert_eq!(merged.count(), 1932);
}

#[test]
fn an_empty_sketch_has_no_quantile() {
    assert_eq!(stored(&Sketch::default()).quantile(0.5), None);
}

#[test]
fn the_largest_doubles_stay_finite() {
    let sketch = stored(&sketch(&[f64::MAX, f64::MAX, f64::MAX, -f64::MAX]));
    let median = sketch.quantile(0.5).unwrap();
    assert!(median > 0.99 * f64::MAX && median.is_finite(), "{median}");
    assert_eq!(sketch.quantile(0.0), Some(-f64::MAX));
}

#[test]
fn a_sketch_of_few_values_is_small() {
    let sketch = sketch(&[1.0, 2.0, 1000.0]);
    assert!(sketch.heap_size() <= 64, "{}", sketch.heap_size());
}

#[test]
fn another_accuracy_is_refused() {
    let mut other = DDSketch::new(Config::new(0.02, 2048, 1e-9));
    other.add(1.0);
    let error = codec::read(&other.to_java_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("relative error of 1 %"),
        "{error}"
    );
}
