//! The same questions, answered by the real store.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use alluvium_plan::{PartitionBy, Publisher};
use alluvium_query::{Limits, QueryEngine};
use alluvium_store::{CommitFacts, Store, StoreRules, TableSpec};
use alluvium_types::{Balance, Epoch, Header, OffsetRange, Reject, Stage, Timestamp};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::support::*;

/// A table of two small files.
async fn two_commits(objects: &Arc<InMemory>) -> Store {
    let store = Store::over(objects.clone(), StoreRules::default());
    let spec = TableSpec {
        name: "clicks_per_minute".into(),
        pipeline: "web".into(),
        shape: Arc::new(shape().await),
        partition_by: PartitionBy::Day,
        definition: "window: 1m\n".into(),
    };
    let mut writer = store.table(&spec).await.unwrap();
    writer
        .record_start(
            &BTreeMap::from([(partition(), 0)]),
            &BTreeMap::from([("clicks".into(), 1)]),
            &BTreeMap::new(),
        )
        .await
        .unwrap();
    for (epoch, clicks) in [
        vec![click(0, "CH", 1, 1.0, 10), click(2, "DE", 1, 1.0, 10)],
        vec![click(0, "CH", 2, 3.0, 10)],
    ]
    .into_iter()
    .enumerate()
    {
        let panes = fold(&clicks, 1).await;
        let staged = writer
            .stage(std::iter::once(Ok::<_, Infallible>(panes)), None)
            .await
            .unwrap();
        let start = epoch as i64 * 10;
        let facts = CommitFacts {
            ranges: BTreeMap::from([(partition(), OffsetRange::new(start, start + 10).unwrap())]),
            watermarks: BTreeMap::from([(partition(), Timestamp::from_micros(NOON + MINUTE))]),
            leader_epochs: BTreeMap::new(),
            balance: Balance {
                events_in: clicks.len() as u64,
                counted: clicks.len() as u64,
                ..Balance::default()
            },
            pipeline_version: "v1".into(),
            settings: Default::default(),
            epoch: Epoch(epoch as u64 + 1),
        };
        writer.commit(&staged, &facts).await.unwrap();
    }
    store
}

/// A bit that flipped in storage is told by whoever reads the file, and answers no query after the file was put back either.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_with_one_other_bit_is_refused_until_it_is_put_back() {
    let objects = Arc::new(InMemory::new());
    let store = two_commits(&objects).await;
    let table = store.read_table("clicks_per_minute").await.unwrap();
    let path = table.files[0].path.as_str();
    let good = bytes_of(&objects, path).await;
    // What a server keeps of files answers the next queries too.
    let publisher = Some(Arc::new(Publisher::default()));
    let engine = QueryEngine::new(store, publisher, None, Limits::default()).unwrap();
    let sql = "SELECT country, clicks, users, mean_ms FROM clicks_per_minute ORDER BY 1";
    for place in (0..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.to_vec();
        bytes[place] ^= 1 << (place % 8);
        put(&objects, path, bytes).await;
        let error = refused_in(engine.session(), sql).await;
        assert_eq!(error.code(), "58030", "{place}: {error:?}");
        let said = format!("the stored file {path} cannot be read: ");
        assert!(error.message.starts_with(&said), "{place}: {error:?}");
        assert!(
            error.message.contains("its checksum is"),
            "{place}: {error:?}"
        );
    }
    put(&objects, path, good[..good.len() - 1].to_vec()).await;
    let error = refused_in(engine.session(), sql).await;
    let sizes = format!(
        "it has {} bytes, and {} were written",
        good.len() - 1,
        good.len()
    );
    assert!(error.message.contains(&sizes), "{error:?}");
    put(&objects, path, good.to_vec()).await;
    assert_eq!(answer(&engine, sql).await, ["CH 2 2 2.0", "DE 1 1 1.0"]);
}

async fn put(objects: &InMemory, path: &str, bytes: Vec<u8>) {
    objects.put(&Path::from(path), bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_commits_is_what_sql_reads() {
    let store = two_commits(&Arc::new(InMemory::new())).await;
    let letters = [Reject {
        partition: partition(),
        offset: 4,
        timestamp: Some(Timestamp::from_micros(NOON)),
        key: None,
        headers: vec![Header {
            name: "h".into(),
            value: None,
        }],
        payload: Some(b"{".as_slice().into()),
        error: "not JSON".into(),
        column: None,
        stage: Stage::Decode,
        table: None,
    }];
    let mut dead = store.dead_letters("web").await.unwrap();
    dead.known(&BTreeMap::from([(partition(), 0)]))
        .await
        .unwrap();
    dead.commit(&letters, "v1", Timestamp::from_micros(NOON))
        .await
        .unwrap();

    let engine = QueryEngine::new(store, None, None, Limits::default()).unwrap();
    let answer = async |sql: &str| {
        let result = engine.session().query(sql, vec![]).await;
        let result = result.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        lines(&result.collect().await.unwrap())
    };
    assert_eq!(
        answer("SELECT window_start, country, final, clicks, users, p50_ms > 0, mean_ms FROM clicks_per_minute ORDER BY 1").await,
        [
            "2026-03-01T12:00:00Z CH true 2 2 true 2.0",
            "2026-03-01T12:02:00Z DE false 1 1 true 1.0"
        ]
    );
    assert_eq!(
        answer("SELECT measure(users), measure(clicks), measure(mean_ms) FROM clicks_per_minute WHERE window_start < '2026-03-01T12:01:00Z'").await,
        ["2 2 2.0"]
    );
    assert_eq!(
        answer("SELECT topic, partition, \"offset\", error, stage, \"table\", headers[1]['key'], payload FROM dead_letters.web").await,
        ["clicks 0 4 not JSON decode NULL h 7b"]
    );
    assert_eq!(
        answer("SELECT pipeline, committed, watermark FROM system.partitions").await,
        ["web 20 2026-03-01T12:01:00Z"]
    );
    assert_eq!(
        answer("SELECT kind, events_in, counted FROM system.commits WHERE kind = 'commit' ORDER BY version").await,
        ["commit 2 2", "commit 1 1"]
    );
}
