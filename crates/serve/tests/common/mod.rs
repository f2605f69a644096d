//! A table to ask, for the tests of each door.

use std::{collections::BTreeMap, sync::Arc};

use alluvium_plan::{
    CommittedTable, Finish, MeasureShape, MemoryEpoch, PublishedTable, StateKind, StateShape,
    TableShape,
};
use alluvium_types::{Epoch, OffsetRange, TopicPartition};
use datafusion::arrow::{
    array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field},
};

/// Table `clicks` with one row in memory: Switzerland, 3 clicks.
pub(crate) fn clicks() -> PublishedTable {
    let shape = TableShape {
        group_columns: vec![Arc::new(Field::new("country", DataType::Utf8, false))],
        states: vec![StateShape {
            name: "clicks".into(),
            kind: StateKind::Count,
            data_type: DataType::Int64,
        }],
        measures: vec![MeasureShape {
            name: "clicks".into(),
            expression: "count(*)".into(),
            state: 0,
            finish: Finish::Value,
            data_type: DataType::Int64,
        }],
    };
    let time =
        |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"));
    let noon = 1_772_366_400_000_000;
    let panes = RecordBatch::try_new(
        shape.pane_schema(),
        vec![
            time(noon),
            time(noon + 60_000_000),
            Arc::new(StringArray::from(vec!["CH"])),
            Arc::new(Int64Array::from(vec![3])),
        ],
    )
    .unwrap();
    let partition = TopicPartition::new("clicks", 0);
    PublishedTable {
        committed: CommittedTable {
            shape: Arc::new(shape),
            window: Some(std::time::Duration::from_secs(60)),
            version: 4,
            files: Arc::default(),
            offsets: Arc::new(BTreeMap::from([(partition.clone(), 10)])),
            watermarks: Arc::default(),
            watermark: None,
        },
        memory: vec![Arc::new(MemoryEpoch {
            epoch: Epoch(1),
            ranges: BTreeMap::from([(partition, OffsetRange::new(10, 13).unwrap())]),
            panes: vec![panes],
        })],
    }
}
