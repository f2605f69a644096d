//! The law that everything rests on: any split of the input into batches, workers and epochs, in any
//! order, gives the same merged result, the same rejects and the same balance.

use std::collections::BTreeMap;

use datafusion::arrow::{
    array::{Array, AsArray},
    compute::concat_batches,
    datatypes::{DataType, Float64Type},
};
use proptest::prelude::*;

use super::*;
use crate::{PartitionTimes, once::finish_measures};

/// Offsets between two records that hold none, as transactions leave them (P1).
const GAP: i64 = 2;

fn every_kind() -> Arc<Plan> {
    pipeline(
        "where: flag or flag is null",
        "
  every_kind:
    window: {tumbling: 1m}
    group_by: {s: \"coalesce(s, 'ZZ')\", d: d}
    measures:
      events: count(*)
      known: count(n)
      some: count(*) filter (where n >= 3)
      total: sum(n)
      wide: sum(big)
      money: sum(m)
      doubles: sum(d * 1.7)
      low: min(d)
      lowest: min(s)
      high: max(m)
      mean: avg(n)
      mean_big: avg(big)
      mean_d: avg(d)
      people: approx_distinct(big)
      names: approx_distinct(s)
      middle: approx_percentile_cont(d, 0.5)
      top: approx_percentile_cont(d, 0.99) filter (where n > 1)
  fragile:
    window: {tumbling: 10s}
    where: n <> 2 and 10 / (n - 2) > -100
    group_by: {k: 100 / n}
    measures: {events: count(*), q: sum(10 / big) filter (where n > 0)}
  whole:
    window: {tumbling: 1h}
    measures: {events: count(*), people: approx_distinct(big)}
",
    )
}

fn optional<T: std::fmt::Debug + Clone>(
    values: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.8, values)
}

/// An event, or something that should have been one; with its Kafka timestamp.
fn event() -> impl Strategy<Value = (Option<i64>, Option<Vec<u8>>)> {
    let good = (
        0u32..3600,
        optional(-3i32..5),
        optional(prop_oneof![0i64..40, Just(i64::MAX)]),
        optional(prop_oneof![Just(0.0), Just(-0.0), Just(0.5), Just(2.5)]),
        optional("[a-c]"),
        optional(any::<bool>()),
    )
        .prop_map(|(second, n, big, d, s, flag)| {
            let mut fields = Vec::new();
            fields.extend(n.map(|n| format!("\"n\":{n}")));
            fields.extend(big.map(|big| format!("\"big\":{big},\"m\":{}.25", big % 1000)));
            fields.extend(d.map(|d: f64| format!("\"d\":{d:?}")));
            fields.extend(s.map(|s| format!("\"s\":\"{s}\",\"s\":\"{s}\"")));
            fields.extend(flag.map(|flag| format!("\"flag\":{flag}")));
            Some(at(second, &fields.join(",")).into_bytes())
        });
    let value = prop_oneof![
        12 => good,
        1 => Just(None),
        1 => Just(Some(b"{\"ts\":17}".to_vec())),
        1 => Just(Some(b"not JSON".to_vec())),
    ];
    // Noon and an hour; `accept` takes event times up to an hour back and five minutes ahead.
    let written = optional(0i64..7200)
        .prop_map(|second| second.map(|second| 1_772_366_400_000_000 + second * 1_000_000));
    (written, value)
}

/// How the input is taken apart: after each event whether the batch ends there, and for each batch the
/// fold that it goes to and when.
#[derive(Clone, Debug)]
struct Split {
    ends: Vec<bool>,
    folds: Vec<u8>,
    turns: Vec<u32>,
    /// For each fold whether its panes are merged before they meet the others.
    merged_before: Vec<bool>,
}

fn split() -> impl Strategy<Value = Split> {
    (1u32..100, 1u8..6).prop_flat_map(|(percent, folds)| {
        (
            prop::collection::vec(prop::bool::weighted(f64::from(percent) / 100.0), 64),
            prop::collection::vec(0..folds, 64),
            // In order they follow each other, and are folded together.
            prop_oneof![Just(vec![0; 64]), prop::collection::vec(any::<u32>(), 64)],
            prop::collection::vec(any::<bool>(), 8),
        )
            .prop_map(|(ends, folds, turns, merged_before)| Split {
                ends,
                folds,
                turns,
                merged_before,
            })
    })
}

/// What must not depend on the split.
struct Outcome {
    tables: Vec<RecordBatch>,
    balances: Vec<Balance>,
    #[allow(clippy::type_complexity)]
    rejects: Vec<(
        i64,
        Option<Arc<str>>,
        Stage,
        String,
        Option<String>,
        Option<Bytes>,
    )>,
    late: Vec<alluvium_types::Lateness>,
    newest: Option<Timestamp>,
}

fn outcome(plan: &Arc<Plan>, input: &[Record], split: &Split) -> Outcome {
    let mut batches: Vec<Vec<Record>> = vec![Vec::new()];
    for (position, record) in input.iter().enumerate() {
        batches.last_mut().unwrap().push(record.clone());
        if split.ends[position % 64] {
            batches.push(Vec::new());
        }
    }
    batches.retain(|batch| !batch.is_empty());
    let mut order: Vec<usize> = (0..batches.len()).collect();
    order.sort_by_key(|&batch| split.turns[batch % 64]);

    let budget = budget();
    let tables = TableSet::all(plan.tables.len());
    let mut folds: BTreeMap<u8, EpochFold> = BTreeMap::new();
    for position in order {
        let mut raw = batch(&batches[position]);
        // The gap behind its last record belongs to it, so that the next one follows.
        raw.range = OffsetRange::new(raw.range.start(), raw.range.end() + GAP).unwrap();
        folds
            .entry(split.folds[position % 64])
            .or_insert_with(|| EpochFold::new(plan.clone(), budget.clone()).unwrap())
            .push(&raw, tables)
            .unwrap();
    }
    let parts: Vec<EpochPart> = folds
        .into_values()
        .map(|fold| fold.finish().unwrap())
        .collect();

    let merged = |position: usize| {
        let shape = &plan.tables[position].shape;
        let merge = |panes: Vec<Vec<RecordBatch>>| -> Vec<RecordBatch> {
            merge_panes(shape, panes, &budget)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap()
        };
        let panes = parts
            .iter()
            .zip(&split.merged_before)
            .rev()
            .map(|(part, merged_before)| {
                let panes = part.tables[position].panes.clone();
                if *merged_before {
                    merge(vec![panes])
                } else {
                    panes
                }
            })
            .collect();
        let merged = concat_batches(&shape.pane_schema(), &merge(panes)).unwrap();
        finish_measures(shape, &merged).unwrap()
    };
    let balances = (0..plan.tables.len())
        .map(|position| {
            let mut sum = Balance::default();
            for part in &parts {
                sum.add(&part.tables[position].balance.checked().unwrap());
            }
            sum
        })
        .collect();
    let mut rejects: Vec<_> = parts
        .iter()
        .flat_map(|part| &part.rejects)
        .cloned()
        .map(|reject| {
            (
                reject.offset,
                reject.table,
                reject.stage,
                reject.error,
                reject.column,
                reject.payload,
            )
        })
        .collect();
    rejects.sort_by_key(|reject| (reject.0, reject.1.clone()));
    let mut observed: Vec<ObservedBatch> = parts
        .iter()
        .flat_map(|part| part.observed.clone())
        .collect();
    let mut times = PartitionTimes::default();
    let late = times.settle(&mut observed, plan.event_time.max_delay, plan.tables.len());
    Outcome {
        tables: (0..plan.tables.len()).map(merged).collect(),
        balances,
        rejects,
        late,
        newest: times.newest(),
    }
}

/// Equal bit for bit; doubles within 1e-9.
fn assert_same(left: &RecordBatch, right: &RecordBatch) {
    assert_eq!(left.schema(), right.schema());
    assert_eq!(rows(left).len(), rows(right).len());
    for (field, (a, b)) in left
        .schema_ref()
        .fields()
        .iter()
        .zip(left.columns().iter().zip(right.columns()))
    {
        if *field.data_type() != DataType::Float64 {
            assert_eq!(a, b, "column {}", field.name());
            continue;
        }
        assert_eq!(a.nulls(), b.nulls(), "column {}", field.name());
        let (a, b) = (
            a.as_primitive::<Float64Type>(),
            b.as_primitive::<Float64Type>(),
        );
        let exact = ["low", "middle", "top"].contains(&field.name().as_str());
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            let close = if exact {
                a == b
            } else {
                (a - b).abs() <= 1e-9 * a.abs().max(1.0)
            };
            assert!(close, "column {}: {a} and {b}", field.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_result(
        events in prop::collection::vec(event(), 1..150),
        one in split(),
        other in split(),
    ) {
        let plan = every_kind();
        let input: Vec<Record> = events
            .into_iter()
            .enumerate()
            .map(|(position, (written, value))| (position as i64 * (1 + GAP), written, value))
            .collect();
        let whole = Split { ends: vec![false; 64], folds: vec![0; 64], turns: vec![0; 64], merged_before: vec![false; 8] };
        let alone = Split { ends: vec![true; 64], ..other.clone() };
        let expected = outcome(&plan, &input, &whole);
        for split in [one, other, alone] {
            let found = outcome(&plan, &input, &split);
            for (expected, found) in expected.tables.iter().zip(&found.tables) {
                assert_same(expected, found);
            }
            prop_assert_eq!(&expected.balances, &found.balances);
            prop_assert_eq!(&expected.rejects, &found.rejects);
            prop_assert_eq!(&expected.late, &found.late);
            prop_assert_eq!(expected.newest, found.newest);
        }
        let counted: u64 = expected.balances[2].counted;
        let events: i64 = (0..expected.tables[2].num_rows())
            .map(|row| expected.tables[2].column(2)
                .as_primitive::<datafusion::arrow::datatypes::Int64Type>().value(row))
            .sum();
        prop_assert_eq!(events as u64, counted);
    }
}
