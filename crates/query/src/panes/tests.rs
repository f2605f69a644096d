//! Of any files, those that are left out have no row that a predicate is true of.

use alluvium_types::Timestamp;
use datafusion::{
    arrow::array::{
        Array, AsArray, Int32Array, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
    },
    logical_expr::{col, lit},
    prelude::SessionContext,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

const TEXTS: [&str; 6] = ["", "CH", "CHE", "DE", "é", "\u{10ffff}"];

/// A row: minute, text, number.
type Row = (i64, Option<usize>, Option<i32>);

fn shape() -> TableShape {
    TableShape {
        group_columns: vec![
            Arc::new(Field::new("s", DataType::Utf8, true)),
            Arc::new(Field::new("n", DataType::Int32, true)),
        ],
        states: Vec::new(),
        measures: Vec::new(),
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let time = |minutes: i64| -> ArrayRef {
        let moments = rows.iter().map(|(minute, ..)| minute + minutes);
        Arc::new(TimestampMicrosecondArray::from_iter_values(moments).with_timezone("UTC"))
    };
    let texts = rows.iter().map(|(_, text, _)| text.map(|text| TEXTS[text]));
    let columns: Vec<ArrayRef> = vec![
        time(0),
        time(1),
        Arc::new(texts.collect::<StringArray>()),
        Arc::new(
            rows.iter()
                .map(|(.., number)| *number)
                .collect::<Int32Array>(),
        ),
    ];
    let options = RecordBatchOptions::new();
    RecordBatch::try_new_with_options(shape().pane_schema(), columns, &options).unwrap()
}

/// What the log may know of a file: nothing, some columns, all but the count of NULLs, or all.
fn file(number: usize, rows: &[Row], known: u8) -> CommittedFile {
    let batch = batch(rows);
    let schema = batch.schema();
    let bounds = ["window_end", "s", "n"].into_iter().filter_map(|name| {
        let column = batch.column_by_name(name).unwrap();
        let unknown = ScalarValue::try_from(column.data_type()).unwrap();
        let values = (0..column.len()).map(|row| ScalarValue::try_from_array(column, row).unwrap());
        let values: Vec<ScalarValue> = values.filter(|value| !value.is_null()).collect();
        let order = |one: &&ScalarValue, other: &&ScalarValue| one.partial_cmp(other).unwrap();
        let bounds = ColumnBounds {
            column: schema.field_with_name(name).unwrap().name().as_str().into(),
            least: values.iter().min_by(order).unwrap_or(&unknown).clone(),
            greatest: values.iter().max_by(order).unwrap_or(&unknown).clone(),
            nulls: (known != 2).then_some(column.null_count() as u64),
        };
        (known > 1 || known == 1 && name == "s").then_some(bounds)
    });
    let moments = || {
        rows.iter()
            .map(|(minute, ..)| Timestamp::from_micros(*minute))
    };
    CommittedFile {
        path: number.to_string(),
        size: 1,
        rows: (known > 0).then_some(rows.len() as u64),
        window_start: (known > 0).then(|| (moments().min().unwrap(), moments().max().unwrap())),
        bounds: bounds.collect(),
        partition_values: Default::default(),
        missing_states: Vec::new(),
        has_unique_keys: false,
        checksum: None,
    }
}

fn moment(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(
        Some(micros),
        Some("UTC".into()),
    ))
}

fn comparison() -> impl Strategy<Value = Expr> {
    let text = || select(&TEXTS[..]);
    let value = || {
        prop_oneof![
            text().prop_map(|text| (col("s"), lit(text))),
            (-3..4i32).prop_map(|number| (col("n"), lit(number))),
            (0..9i64).prop_map(|minute| (col("window_start"), moment(minute))),
            (0..9i64).prop_map(|minute| (col("window_end"), moment(minute))),
        ]
    };
    prop_oneof![
        (value(), 0..6).prop_map(|((column, value), operator)| match operator {
            0 => column.eq(value),
            1 => column.not_eq(value),
            2 => column.lt(value),
            3 => column.lt_eq(value),
            4 => column.gt(value),
            _ => column.gt_eq(value),
        }),
        (vec(text(), 1..4), any::<bool>(), any::<bool>()).prop_map(|(texts, many, negated)| {
            let more = (0..if many { 30 } else { 0 }).map(|number| lit(format!("CH {number}")));
            col("s").in_list(texts.into_iter().map(lit).chain(more).collect(), negated)
        }),
        (vec(-3..4i32, 1..4), any::<bool>(), any::<bool>()).prop_map(|(numbers, many, negated)| {
            let more = (0..if many { 30 } else { 0 }).map(|number| number + 100);
            col("n").in_list(numbers.into_iter().chain(more).map(lit).collect(), negated)
        }),
        (text(), any::<bool>()).prop_map(|(text, negated)| {
            let pattern = lit(format!("{text}%"));
            if negated {
                col("s").not_like(pattern)
            } else {
                col("s").like(pattern)
            }
        }),
        select(&["s", "n"][..]).prop_map(|name| col(name).is_null()),
        select(&["s", "n"][..]).prop_map(|name| col(name).is_not_null()),
    ]
}

fn predicate() -> impl Strategy<Value = Expr> {
    comparison().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.and(other)),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.or(other)),
            inner.prop_map(|one| !one),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_file_that_is_left_out_has_no_row_for_the_predicate(
        files in vec((vec((0..8i64, option::of(0..TEXTS.len()), option::of(-3..4i32)), 1..5), 0..4u8), 1..6),
        predicate in predicate(),
    ) {
        let committed = files.iter().enumerate();
        let committed = committed.map(|(number, (rows, known))| file(number, rows, *known)).collect();
        let rows = StoredRows::panes(&shape(), Arc::new(committed), std::iter::empty(), None).unwrap();
        let physical = rows.predicate(&SessionContext::new().state(), &[predicate]).unwrap().unwrap();
        let wanted = rows.wanted(Some(&physical)).unwrap();
        for (number, (held, _)) in files.iter().enumerate() {
            let batch = batch(held);
            let chosen = physical.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
            let path = number.to_string();
            if chosen.as_boolean().true_count() > 0 {
                prop_assert!(wanted.iter().any(|file| file.path == path), "file {} of {}", path, physical);
            }
        }
    }
}
