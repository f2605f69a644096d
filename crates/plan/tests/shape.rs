//! A stored schema says everything about its table: shapes survive the way into a schema and back.

#![allow(clippy::unwrap_used, reason = "a test says so when it fails")]

use std::sync::Arc;

use alluvium_plan::{Finish, MeasureShape, StateKind, StateShape, TableShape};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use proptest::{collection::vec, prelude::*, sample::select};

/// A state of the type that its fold makes of `input`.
fn state(kind: StateKind, input: &DataType) -> DataType {
    kind.fold()
        .return_type(std::slice::from_ref(input))
        .unwrap()
}

fn shape() -> impl Strategy<Value = TableShape> {
    let group = select(vec![
        DataType::Utf8,
        DataType::Int32,
        DataType::Boolean,
        DataType::Date32,
        DataType::Decimal128(12, 3),
        TableShape::window_type(),
    ]);
    let kind = select(vec![
        StateKind::Count,
        StateKind::Sum,
        StateKind::Min,
        StateKind::Max,
        StateKind::Avg,
        StateKind::Hll,
        StateKind::DdSketch,
    ]);
    let input = select(vec![DataType::Int64, DataType::Float64]);
    let groups = vec((group, any::<bool>()), 0..4);
    let states = vec(
        (
            kind,
            input,
            vec(
                (0..=1000u32).prop_map(|rank| f64::from(rank) / 1000.0),
                1..4,
            ),
            any::<u32>(),
        ),
        1..6,
    );
    (groups, states).prop_map(|(groups, states)| {
        let mut shape = TableShape {
            group_columns: groups
                .into_iter()
                .enumerate()
                .map(|(at, (data_type, nullable))| {
                    Arc::new(Field::new(format!("g{at}"), data_type, nullable))
                })
                .collect(),
            states: Vec::new(),
            measures: Vec::new(),
        };
        let mut measures = Vec::new();
        for (at, (kind, input, ranks, order)) in states.into_iter().enumerate() {
            // A sketch of doubles: the fold takes nothing else before coercion.
            let input = match kind {
                StateKind::DdSketch => DataType::Float64,
                _ => input,
            };
            let data_type = state(kind, &input);
            let finishes = match kind {
                StateKind::Avg => vec![Finish::Average],
                StateKind::Hll => vec![Finish::Distinct],
                StateKind::DdSketch => ranks.into_iter().map(Finish::Quantile).collect(),
                _ => vec![Finish::Value],
            };
            for (number, finish) in finishes.into_iter().enumerate() {
                let measure = MeasureShape {
                    name: format!("m{at}_{number}").into(),
                    expression: "say(\"x\", 'ü')".into(),
                    state: at,
                    finish,
                    data_type: finish.data_type(&data_type),
                };
                measures.push((order.wrapping_mul(number as u32 + 1), measure));
            }
            shape.states.push(StateShape {
                name: format!("m{at}_0").into(),
                kind,
                data_type,
            });
        }
        // Measures that share a state need not stand side by side in the file.
        measures.sort_by_key(|(order, _)| *order);
        shape.measures = measures.into_iter().map(|(_, measure)| measure).collect();
        shape
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shape_survives_its_schema(shape in shape()) {
        let schema = shape.pane_schema();
        prop_assert_eq!(&TableShape::from_pane_schema(&schema).unwrap(), &shape);
        // A partition column is passed over.
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new("_day", DataType::Date32, true)));
        prop_assert_eq!(&TableShape::from_pane_schema(&Schema::new(fields)).unwrap(), &shape);
    }
}

#[test]
fn other_schemas_are_refused() {
    assert!(TableShape::from_pane_schema(&Schema::empty()).is_err());
    let text = Schema::new(vec![
        Field::new("window_start", DataType::Utf8, false),
        Field::new("window_end", DataType::Utf8, false),
    ]);
    assert!(TableShape::from_pane_schema(&text).is_err());
}
