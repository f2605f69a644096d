//! A file of a table that is damaged or gone: whoever asks is told which.

use alluvium_query::{Limits, QueryEngine, QueryError};
use bytes::Bytes;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    pruning::{compacted, file_of},
    support::*,
};

async fn put(objects: &InMemory, path: &str, bytes: Vec<u8>) {
    objects.put(&Path::from(path), bytes.into()).await.unwrap();
}

/// Everything from a third to two thirds of it is other than it was. Of a file of some size that is pages.
fn with_other_pages(bytes: &Bytes) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let third = bytes.len() / 3;
    for byte in &mut bytes[third..2 * third] {
        *byte ^= 0xA5;
    }
    bytes
}

/// The last bytes tell how long the footer is, and that it is one.
fn with_another_footer(bytes: &Bytes) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = bytes.len();
    for byte in &mut bytes[end - 40..end - 8] {
        *byte ^= 0xA5;
    }
    bytes
}

fn names(error: &QueryError, path: &str, sql: &str) {
    assert_eq!(error.code(), "58030", "{sql}: {error:?}");
    let said = format!("the stored file {path} cannot be read: ");
    assert!(error.message.starts_with(&said), "{sql}: {error:?}");
    let hint = error.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("put it back"), "{sql}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_however_it_is_read() {
    let questions = [
        // By aggregates of row groups that may be kept, by plain scans, and by scans of a filter.
        "SELECT country, measure(visits) AS n FROM visits GROUP BY country",
        "SELECT sum(visits) AS n, min(user_id) AS low, max(country) AS last FROM visits",
        "SELECT window_start, country, user_id, visits FROM visits",
        "SELECT country, visits FROM visits WHERE country = 'country 4' AND random() >= 0",
        "SELECT a.country FROM visits AS a JOIN visits AS b ON a.user_id = b.user_id",
    ];
    for damage in [with_other_pages, with_another_footer] {
        let (objects, engine) = compacted().await;
        let path = file_of(&objects).await;
        let bytes = bytes_of(&objects, &path).await;
        put(&objects, &path, damage(&bytes)).await;
        for sql in questions {
            names(&refused_in(engine.session(), sql).await, &path, sql);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_fails_is_not_taken_for_a_file_that_cannot_be_read() {
    let (_objects, engine) = compacted().await;
    for (sql, code) in [
        (
            "SELECT country FROM visits WHERE 10 / (user_id % 7) > 1",
            "22012",
        ),
        (
            "SELECT count(*) AS n FROM visits WHERE country = 'country 4' AND 10 / (user_id % 7) > 1",
            "22012",
        ),
        (
            "SELECT user_id FROM visits WHERE CAST(country AS BIGINT) = 4",
            "22000",
        ),
    ] {
        let error = refused_in(engine.session(), sql).await;
        assert_eq!(error.code(), code, "{sql}: {error:?}");
        assert!(!error.message.contains("stored file"), "{sql}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_small_files_the_damaged_one_is_named_and_the_others_are_read() {
    let shed = Shed::new();
    let panes = [
        fold(&[click(0, "CH", 1, 1.0, 10)], 1).await,
        fold(&[click(5, "DE", 1, 1.0, 10), click(5, "FR", 2, 3.0, 10)], 1).await,
    ];
    let files = vec![
        shed.file("whole", &panes[0], &[]).await,
        shed.file("damaged", &panes[1], &[]).await,
        // Files that lack a state are scanned, and not kept.
        shed.file(
            "old",
            &fold(&[click(9, "AT", 1, 1.0, 10)], 1).await,
            &["users"],
        )
        .await,
    ];
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let table = shed.table(files, 0, None).await;
    shed.put("t", table);
    let good = [
        bytes_of(&shed.objects, &paths[1]).await,
        bytes_of(&shed.objects, &paths[2]).await,
    ];
    for damage in [with_other_pages, with_another_footer] {
        for (number, bytes) in good.iter().enumerate() {
            let path = &paths[number + 1];
            put(&shed.objects, path, damage(bytes)).await;
            let engine = QueryEngine::new(shed.clone(), None, None, Limits::default()).unwrap();
            for sql in [
                "SELECT * FROM t",
                "SELECT country, measure(clicks) AS n FROM t GROUP BY country",
            ] {
                names(&refused_in(engine.session(), sql).await, path, sql);
            }
            let (others, countries) = match number {
                0 => ("window_start <> '2026-03-01T12:05:00Z'", vec!["AT", "CH"]),
                _ => (
                    "window_start < '2026-03-01T12:09:00Z'",
                    vec!["CH", "DE", "FR"],
                ),
            };
            let sql = format!("SELECT country FROM t WHERE {others} ORDER BY country");
            assert_eq!(answer(&engine, &sql).await, countries, "{sql}");
            put(&shed.objects, path, bytes.to_vec()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_is_named_too() {
    let (objects, engine) = compacted().await;
    let path = file_of(&objects).await;
    objects.delete(&Path::from(path.as_str())).await.unwrap();
    for sql in [
        "SELECT country, measure(visits) AS n FROM visits GROUP BY country",
        "SELECT country, user_id FROM visits",
    ] {
        let error = refused_in(engine.session(), sql).await;
        names(&error, &path, sql);
        assert!(error.message.contains("not found"), "{sql}: {error:?}");
    }
}
