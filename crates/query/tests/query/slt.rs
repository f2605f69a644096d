//! Runs `tests/sql/*.slt`: text in, text out, in sqllogictest's format.
//!
//! `query` … `----` … compares rows; `statement ok` runs; `statement error CODE` … `----` … compares the message.

use std::{fs, path::PathBuf, sync::Arc};

use alluvium_plan::Publisher;
use alluvium_query::{Limits, QueryEngine, Session};

use crate::support::*;

async fn engine() -> QueryEngine {
    let shed = Shed::new();
    let early = fold(
        &[
            click(0, "CH", 1, 10.0, 100),
            click(0, "CH", 2, 30.0, 200),
            click(1, "DE", 1, 5.0, 50),
        ],
        1,
    )
    .await;
    let late = fold(&[click(0, "CH", 1, 20.0, 7), click(61, "CH", 3, 1.0, 1)], 1).await;
    let files = vec![
        shed.file("a", &early, &[]).await,
        shed.file("b", &late, &[]).await,
    ];
    let table = shed.table(files, 5, Some(2)).await;
    let memory = vec![epoch(1, (5, 6), &[click(61, "JP", 4, 2.0, 2)]).await];
    let publisher = Arc::new(Publisher::default());
    publisher.publish(&"clicks_per_minute".into(), published(table, memory));
    QueryEngine::new(shed, Some(publisher), None, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sql_file_gives_what_it_says() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut cases = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let session = engine().await.session();
        let mut line = 1;
        for record in text.split("\n\n") {
            let place = format!("{}:{line}", path.display());
            line += record.matches('\n').count() + 2;
            let lines: Vec<&str> = record
                .lines()
                .filter(|line| !line.starts_with('#'))
                .collect();
            if let Some((head, body)) = lines.split_first() {
                run(&session, &place, head, body).await;
                cases += 1;
            }
        }
    }
    assert!(cases > 20, "only {cases} cases were found");
}

async fn run(session: &Session, place: &str, head: &str, body: &[&str]) {
    let cut = body
        .iter()
        .position(|line| *line == "----")
        .unwrap_or(body.len());
    let sql = body[..cut].join("\n");
    let expected = body.get(cut + 1..).unwrap_or_default();
    let outcome = match session.query(&sql, vec![]).await {
        Ok(result) => result.collect().await,
        Err(error) => Err(error),
    };
    match head.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["query"] => match outcome {
            Ok(batches) => assert_eq!(lines(&batches), expected, "{place}"),
            Err(error) => panic!("{place}: {error:?}"),
        },
        ["statement", "ok"] => assert!(outcome.is_ok(), "{place}: {outcome:?}"),
        ["statement", "error", code] => {
            let error = outcome.expect_err(place);
            assert_eq!(error.code(), *code, "{place}: {error:?}");
            if let Some(message) = expected.first() {
                assert_eq!(error.message, *message, "{place}");
            }
        }
        other => panic!("{place}: {other:?} is not known"),
    }
}
