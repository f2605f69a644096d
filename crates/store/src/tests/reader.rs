//! A version for reading: it is the table that was asked for, stays what it was, and comes from nothing that was written.

use super::*;
use crate::{CommitKind, StoreError, TableReader};

/// Clicks in all files of a version.
async fn clicks(reader: &TableReader) -> i64 {
    let mut sum = 0;
    for file in reader.files() {
        let mut rows = reader.open(file, 1 << 10).await.unwrap();
        while let Some(batch) = rows.next().await {
            let batch = batch.unwrap();
            assert_eq!(batch.schema(), spec().shape.pane_schema());
            let clicks = batch.column_by_name("clicks").unwrap();
            sum += clicks
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .sum::<i64>();
        }
    }
    sum
}

#[tokio::test]
async fn a_reader_stays_at_its_version() {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 5), (1, 0)]).await;
    commit_ranges(&mut writer, &[(0, 5, 25), (1, 0, 10)]).await;
    let reader = store.reader(&spec()).await.unwrap();
    commit_ranges(&mut writer, &[(0, 25, 30)]).await;
    assert_eq!(reader.version() + 1, writer.version());
    assert_eq!(reader.checkpoint().offsets[&tp(0)], 25);
    assert_eq!(clicks(&reader).await, 30);
    assert_eq!(clicks(&store.reader(&spec()).await.unwrap()).await, 35);
    assert!(reader.lacked_measures().is_empty());
}

#[tokio::test]
async fn a_reader_changes_nothing_and_refuses_another_table() {
    let store = in_memory();
    let missing = store.reader(&spec()).await.unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(store.tables().await.unwrap().is_empty());

    let narrow = spec_with(Users::Absent);
    store.table(&narrow).await.unwrap();
    let reader = store.reader(&spec()).await.unwrap();
    assert_eq!(reader.lacked_measures(), [Arc::from("users")]);
    let history = store.history("clicks_per_minute").await.unwrap();
    let kinds: Vec<CommitKind> = history.into_iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [CommitKind::Create], "no measure was added");

    let other = TableSpec {
        definition: definition(Users::Absent).replace("window: 1m", "window: 1h"),
        ..narrow.clone()
    };
    let changed = store.reader(&other).await.unwrap_err();
    assert!(matches!(changed, StoreError::Changed { .. }), "{changed}");
    let foreign = TableSpec {
        pipeline: "others".into(),
        ..narrow
    };
    let refused = store.reader(&foreign).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::OtherPipeline { .. }),
        "{refused}"
    );
}
