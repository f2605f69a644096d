//! The decoder along layouts against the general one: the same events taken, with the same values, and the same refused,
//! with the same words.

use std::{
    iter,
    sync::{Arc, LazyLock},
};

use alluvium_engine::JsonDecoder;
use alluvium_plan::{EpochUnit, EventColumn, UnknownFields};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// So often has an event to come until the decoder takes for granted that strings nobody wants stay as they are in it.
const UNTIL_IT_STAYS: usize = 18;

/// Columns of every type; the letters of the first byte's bits choose which are required.
static COLUMNS: LazyLock<Vec<EventColumn>> = LazyLock::new(|| {
    let moment = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let column = |name: &str, data_type, epoch_unit| EventColumn {
        name: name.into(),
        data_type,
        optional: true,
        epoch_unit,
    };
    vec![
        column("i", DataType::Int32, None),
        column("n", DataType::Int64, None),
        column("d", DataType::Float64, None),
        column("b", DataType::Boolean, None),
        column("m", DataType::Decimal128(12, 3), None),
        column("day", DataType::Date32, None),
        column("t", moment(), None),
        column("ms", moment(), Some(EpochUnit::Millis)),
        column("s", DataType::Utf8, None),
        column("ä\"", DataType::Utf8, None),
    ]
});

/// The first byte says which columns are required, the second which are wanted; the events follow, with zero bytes
/// between them.
///
/// # Panics
/// When the two ways of the decoder differ.
pub fn decode(data: &[u8]) {
    let [required, wanted, events @ ..] = data else {
        return;
    };
    let chosen = |bits: u8, position: usize| bits >> (position % 8) & 1 == 1;
    let columns: Vec<EventColumn> = COLUMNS
        .iter()
        .enumerate()
        .map(|(position, column)| EventColumn {
            optional: !chosen(*required, position),
            ..column.clone()
        })
        .collect();
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .filter(|(position, _)| chosen(*wanted, *position))
        .map(|(_, column)| Field::new(&*column.name, column.data_type.clone(), column.optional))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let unknown = match required.count_ones() % 2 {
        0 => UnknownFields::Ignore,
        _ => UnknownFields::Reject,
    };
    compare(&columns, &schema, unknown, events);
}

fn compare(columns: &[EventColumn], schema: &SchemaRef, unknown: UnknownFields, events: &[u8]) {
    let decoder =
        || JsonDecoder::with_schema(columns, schema, unknown).expect("columns of the schema");
    let (mut predicting, mut general) = (decoder(), decoder().without_layouts());
    let split = || events.split(|byte| *byte == 0);
    // What is learned from an event shows when it, and others, come again.
    for event in split()
        .take(1)
        .flat_map(|event| iter::repeat_n(event, UNTIL_IT_STAYS))
        .chain(split().flat_map(|event| [event, event]))
        .chain(split())
    {
        let (one, other) = (predicting.decode(Some(event)), general.decode(Some(event)));
        assert_eq!(
            one.map_err(|error| error.message),
            other.map_err(|error| error.message),
            "{:?}",
            String::from_utf8_lossy(event)
        );
    }
    let (one, other) = (predicting.finish(), general.finish());
    assert_eq!(
        one.expect("rows fit the schema"),
        other.expect("rows fit the schema")
    );
}
