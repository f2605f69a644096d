//! When rows are the same, and what is said of those that are not.

use alluvium_plan::{Finish, MeasureShape, StateKind, StateShape};
use datafusion::arrow::{
    array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field},
};

use super::*;

/// `n: count(*)` and `x: sum(x)` of doubles, by `k`.
fn shape() -> TableShape {
    let state = |name: &str, kind, data_type| StateShape {
        name: name.into(),
        kind,
        data_type,
    };
    let measure = |name: &str, state, data_type| MeasureShape {
        name: name.into(),
        expression: name.to_owned(),
        state,
        finish: Finish::Value,
        data_type,
    };
    TableShape {
        group_columns: vec![Arc::new(Field::new("k", DataType::Utf8, true))],
        states: vec![
            state("n", StateKind::Count, DataType::Int64),
            state("x", StateKind::Sum, DataType::Float64),
        ],
        measures: vec![
            measure("n", 0, DataType::Int64),
            measure("x", 1, DataType::Float64),
        ],
    }
}

const ROUNDING: Rounding = Rounding {
    state: 1,
    count: 2,
    magnitude: 3,
};

fn wider() -> TableShape {
    let mut shape = shape();
    for (name, kind, data_type) in [
        ("_2", StateKind::Count, DataType::Int64),
        ("_3", StateKind::Sum, DataType::Float64),
    ] {
        shape.states.push(StateShape {
            name: name.into(),
            kind,
            data_type,
        });
    }
    shape
}

/// Window, group, `n`, `x`.
type Line = (i64, Option<&'static str>, i64, Option<f64>);

fn panes(shape: &TableShape, rows: &[Line]) -> RecordBatch {
    let moments = |add: i64| -> ArrayRef {
        let times: Vec<i64> = rows.iter().map(|row| row.0 + add).collect();
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
    };
    let sums: ArrayRef = Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>());
    let counts: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>());
    let mut columns = vec![
        moments(0),
        moments(60),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()) as ArrayRef,
        counts.clone(),
        sums,
    ];
    if shape.states.len() > 2 {
        columns.push(counts);
        let magnitudes = rows.iter().map(|row| row.3.map(f64::abs));
        columns.push(Arc::new(magnitudes.collect::<Float64Array>()));
    }
    RecordBatch::try_new(shape.pane_schema(), columns).unwrap()
}

/// Each side cut into batches of two rows.
fn compare(
    stored: &[Line],
    recomputed: &[Line],
    undecided: &[Line],
) -> Result<Comparison, EngineError> {
    let (shape, wider) = (shape(), wider());
    let cut = |shape: &TableShape, rows: &[Line]| -> Vec<Result<RecordBatch, EngineError>> {
        rows.chunks(2).map(|rows| Ok(panes(shape, rows))).collect()
    };
    let sides = Sides {
        stored: cut(&shape, stored).into_iter(),
        recomputed: cut(&wider, recomputed).into_iter(),
        undecided: cut(&wider, undecided).into_iter(),
    };
    compare_panes(&shape, &wider, &[ROUNDING], sides, 2)
}

#[test]
fn the_same_rows_are_equal_however_they_are_cut() {
    let rows: Vec<Line> = (0..7)
        .map(|at| (at / 2 * 60, (at % 2 == 1).then_some("a"), at, Some(0.5)))
        .collect();
    let found = compare(&rows, &rows, &[]).unwrap();
    assert!(found.is_equal());
    assert_eq!((found.equal, found.rows()), (7, 7));
    assert!(compare(&[], &[], &[]).unwrap().is_equal());
}

#[test]
fn every_kind_of_difference_is_told_with_its_place() {
    let stored = [
        (0, None, 1, None),
        (0, Some("a"), 5, Some(1.0)),
        (60, None, 1, None),
    ];
    let recomputed = [
        (0, Some("a"), 4, Some(1.0)),
        (60, None, 1, None),
        (120, None, 2, None),
    ];
    let found = compare(&stored, &recomputed, &[]).unwrap();
    assert_eq!(
        (
            found.equal,
            found.differing,
            found.only_stored,
            found.only_recomputed
        ),
        (1, 1, 1, 1)
    );
    assert!(!found.is_equal());
    assert_eq!(found.first.len(), 2, "no more than were asked for");
    assert_eq!(found.first[0].kind, DifferenceKind::OnlyStored);
    assert_eq!(found.first[1].key[2], ScalarValue::from("a"));
    let DifferenceKind::Measures(measures) = &found.first[1].kind else {
        panic!("{:?}", found.first[1]);
    };
    assert_eq!(
        measures[..],
        [DifferingMeasure {
            name: "n".into(),
            stored: ScalarValue::Int64(Some(5)),
            recomputed: ScalarValue::Int64(Some(4)),
        }]
    );
}

#[test]
fn doubles_are_equal_as_far_as_an_order_can_tell() {
    let row = |n, x| [(0, None, n, x)];
    let differ = |stored, recomputed| {
        let found = compare(&row(1000, stored), &row(1000, recomputed), &[]).unwrap();
        found.differing == 1
    };
    let sum = 1234.5;
    assert!(!differ(Some(sum), Some(sum * (1.0 + 1e-14))));
    assert!(differ(Some(sum), Some(sum * (1.0 + 1e-11))));
    assert!(differ(Some(sum), None) && differ(None, Some(0.0)));
    assert!(!differ(Some(f64::NAN), Some(-f64::NAN)) && !differ(Some(0.0), Some(-0.0)));
    assert!(differ(Some(sum), Some(f64::NAN)) && differ(Some(sum), Some(f64::INFINITY)));
    // One value has no order.
    let next = sum + f64::EPSILON * 1024.0;
    let one = compare(&row(1, Some(sum)), &row(1, Some(next)), &[]).unwrap();
    assert_eq!(one.differing, 1);
}

#[test]
fn rows_about_which_nothing_is_certain_are_set_aside() {
    let stored = [(0, None, 1, None), (0, Some("a"), 5, None)];
    let recomputed = [(0, None, 1, None), (60, None, 2, None)];
    let undecided = [
        (0, Some("a"), 1, None),
        (0, Some("b"), 1, None),
        (60, None, 1, None),
    ];
    let found = compare(&stored, &recomputed, &undecided).unwrap();
    assert_eq!((found.equal, found.undecided, found.rows()), (1, 2, 3));
    assert!(!found.is_equal() && found.first.is_empty());
}

#[test]
fn a_side_that_is_not_in_order_is_an_error() {
    let row = |window| (window, None, 1, None);
    for rows in [
        &[row(60), row(0)][..],
        &[row(0), row(60), row(60)],
        &[row(0), row(0)],
    ] {
        let error = compare(rows, &[], &[]).unwrap_err();
        assert!(matches!(error, EngineError::Unordered { .. }), "{error}");
        assert!(compare(&[], rows, &[]).is_err());
    }
}
