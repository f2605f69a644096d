//! Order, uniqueness and memory of a merge.

use alluvium_plan::{Finish, MeasureShape, StateKind, StateShape};
use datafusion::arrow::{
    array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, TimestampMicrosecondType},
};
use proptest::prelude::*;

use super::*;
use crate::testing::budget;

fn shape() -> TableShape {
    TableShape {
        group_columns: vec![Arc::new(Field::new("k", DataType::Utf8, true))],
        states: vec![
            StateShape {
                name: "n".into(),
                kind: StateKind::Count,
                data_type: DataType::Int64,
            },
            StateShape {
                name: "low".into(),
                kind: StateKind::Min,
                data_type: DataType::Int64,
            },
        ],
        measures: vec![MeasureShape {
            name: "n".into(),
            expression: "count(*)".into(),
            state: 0,
            finish: Finish::Value,
            data_type: DataType::Int64,
        }],
    }
}

type Row = (i64, Option<String>, i64, Option<i64>);

fn pane(rows: &[Row]) -> RecordBatch {
    let moment = |add: i64| -> ArrayRef {
        let times = rows.iter().map(|row| row.0 + add).collect::<Vec<_>>();
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        moment(0),
        moment(60),
        Arc::new(
            rows.iter()
                .map(|row| row.1.clone())
                .collect::<StringArray>(),
        ),
        Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(shape().pane_schema(), columns).unwrap()
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Row> {
    batches
        .iter()
        .flat_map(|batch| {
            assert_eq!(batch.schema(), shape().pane_schema());
            (0..batch.num_rows()).map(|row| {
                let low = batch.column(4).as_primitive::<Int64Type>();
                (
                    batch
                        .column(0)
                        .as_primitive::<TimestampMicrosecondType>()
                        .value(row),
                    batch
                        .column(2)
                        .as_string::<i32>()
                        .iter()
                        .nth(row)
                        .unwrap()
                        .map(str::to_owned),
                    batch.column(3).as_primitive::<Int64Type>().value(row),
                    low.iter().nth(row).unwrap(),
                )
            })
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_keys_become_one_row_in_order(
        parts in prop::collection::vec(
            prop::collection::vec(
                prop::collection::vec(
                    (-2i64..3, prop::option::of("[ab]{0,2}"), 0i64..5, prop::option::of(-9i64..9)),
                    0..30,
                ),
                0..3,
            ),
            0..4,
        ),
    ) {
        let mut expected: std::collections::BTreeMap<(i64, Option<String>), (i64, Option<i64>)> =
            Default::default();
        for (window, key, n, low) in parts.iter().flatten().flatten() {
            let state = expected.entry((*window, key.clone())).or_default();
            state.0 += n;
            state.1 = state.1.into_iter().chain(*low).min();
        }
        let panes = parts
            .iter()
            .map(|part| part.iter().map(|rows| pane(rows)).collect())
            .collect();
        let merged: Vec<_> = merge_panes(&shape(), panes, &budget())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let expected: Vec<Row> =
            expected.into_iter().map(|((window, key), (n, low))| (window, key, n, low)).collect();
        prop_assert_eq!(rows_of(&merged), expected);
    }

    /// Merging parts first and the results then, side by side, is merging all at once.
    #[test]
    fn sorted_parts_merge_to_the_same(
        parts in prop::collection::vec(
            prop::collection::vec(
                (-2i64..3, prop::option::of("[ab]{0,2}"), 0i64..5, prop::option::of(-9i64..9)),
                0..30,
            ),
            0..5,
        ),
        cut in 1usize..9,
        batch_rows in 1usize..9,
    ) {
        let panes: Vec<Vec<RecordBatch>> = parts.iter().map(|rows| vec![pane(rows)]).collect();
        let whole: Vec<_> = merge_panes(&shape(), panes.clone(), &budget())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let sorted: Vec<SortedPart> = panes
            .into_iter()
            .map(|part| {
                let merged: Vec<RecordBatch> = merge_panes(&shape(), vec![part], &budget())
                    .unwrap()
                    .collect::<Result<_, _>>()
                    .unwrap();
                let pieces: Vec<RecordBatch> = merged
                    .iter()
                    .flat_map(|batch| {
                        (0..batch.num_rows())
                            .step_by(cut)
                            .map(|start| batch.slice(start, cut.min(batch.num_rows() - start)))
                    })
                    .collect();
                Box::new(pieces.into_iter().map(Ok)) as SortedPart
            })
            .collect();
        let side_by_side: Vec<_> = merge_sorted(&shape(), sorted, batch_rows, &budget())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        prop_assert_eq!(rows_of(&side_by_side), rows_of(&whole));
    }
}

#[test]
fn a_part_that_fails_fails_the_merge() {
    let broken: SortedPart = Box::new(
        [
            Ok(pane(&[(0, Some("a".into()), 1, None)])),
            Err("the file ends here".into()),
        ]
        .into_iter(),
    );
    let whole: SortedPart = Box::new([Ok(pane(&[(0, Some("b".into()), 1, None)]))].into_iter());
    let merged = merge_sorted(&shape(), vec![broken, whole], 10, &budget()).unwrap();
    let error = merged.collect::<Result<Vec<_>, _>>().unwrap_err();
    assert!(
        format!("{error:?}").contains("the file ends here"),
        "{error:?}"
    );
}

/// Many keys: the result comes in several batches, still in order, and a key that lies across the border
/// of two batches is still one row.
#[test]
fn a_merge_streams() {
    let part = |step: i64| -> Vec<RecordBatch> {
        let rows: Vec<Row> = (0..40_000)
            .map(|row| {
                (
                    row * 7919 % 40_000 / 100,
                    Some(format!("key {:05}", row * 7919 % 40_000)),
                    step,
                    None,
                )
            })
            .collect();
        rows.chunks(8192).map(pane).collect()
    };
    let budget = budget();
    let mut merged = merge_panes(&shape(), vec![part(1), part(10), part(100)], &budget).unwrap();
    let first = merged.next().unwrap().unwrap();
    assert!(
        first.num_rows() < 10_000,
        "{} rows at once",
        first.num_rows()
    );
    assert!(budget.used() > 120_000 * 8);
    let mut batches = vec![first];
    for batch in merged.by_ref() {
        batches.push(batch.unwrap());
    }
    let found = rows_of(&batches[..1]);
    assert_eq!(found[0], (0, Some("key 00000".into()), 111, None));
    assert_eq!(
        batches.iter().map(RecordBatch::num_rows).sum::<usize>(),
        40_000
    );
    let starts: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_primitive::<TimestampMicrosecondType>()
                .values()
                .to_vec()
        })
        .collect();
    assert!(starts.is_sorted());
    assert!(batches.iter().all(|batch| {
        batch
            .column(3)
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .all(|&n| n == 111)
    }));
    drop(merged);
    assert_eq!(budget.used(), 0);
}

#[test]
fn nothing_merges_to_nothing() {
    let merged = merge_panes(&shape(), vec![Vec::new(), vec![pane(&[])]], &budget()).unwrap();
    assert_eq!(merged.count(), 0);
}

#[test]
fn foreign_columns_are_an_error() {
    let wrong = pane(&[(0, None, 1, None)]).project(&[0, 1, 2]).unwrap();
    assert!(merge_panes(&shape(), vec![vec![wrong]], &budget()).is_err());
}
