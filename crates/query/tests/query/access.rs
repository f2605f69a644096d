//! What a user reads: the relations that its roles grant, whatever it writes and however it asks.

use std::time::Duration;

use alluvium_plan::{Grant, RoleLimits, User};
use alluvium_query::{Access, ErrorKind, Limits, QueryEngine, QueryError, Session};

use crate::support::*;

/// An engine with the tables `clicks`, `orders` and `secrets`.
async fn engine() -> QueryEngine {
    let shed = Shed::new();
    for name in ["clicks", "orders", "secrets"] {
        shed.put(name, shed.table(vec![], 40, None).await);
    }
    QueryEngine::new(shed, None, None, Limits::default()).unwrap()
}

fn user(grants: &[Grant], limits: RoleLimits) -> Access {
    let user = User {
        password: None,
        token: None,
        certificate: None,
        grants: grants.iter().cloned().collect(),
        limits,
    };
    Access::of("ana", &user)
}

fn relation(schema: &str, name: &str) -> Grant {
    Grant::Relation(schema.into(), name.into())
}

/// A session for each way of writing.
fn sessions(engine: &QueryEngine, access: &Access) -> [Session; 2] {
    [
        engine.session_of(access.clone()),
        engine.postgres_session_of(access.clone()),
    ]
}

async fn rows(session: &Session, sql: &str) -> Result<Vec<String>, QueryError> {
    let result = session.query(sql, vec![]).await?;
    Ok(lines(&result.collect().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_grant_is_read_by_no_way_of_writing() {
    let engine = engine().await;
    let access = user(&[relation("public", "clicks")], RoleLimits::default());
    for session in sessions(&engine, &access) {
        rows(&session, "SELECT * FROM clicks").await.unwrap();
        rows(
            &session,
            "SELECT country, measure(clicks) FROM clicks GROUP BY 1",
        )
        .await
        .unwrap();
        // A name of its own is not a table's.
        let own = "WITH orders AS (SELECT 7 AS x) SELECT x FROM orders";
        assert_eq!(rows(&session, own).await.unwrap(), ["7"]);
        for sql in [
            "SELECT * FROM orders",
            "SELECT * FROM public.orders",
            "SELECT * FROM alluvium.public.orders",
            "SELECT * FROM \"orders\"",
            "SELECT * FROM nothing_there",
            "SELECT * FROM panes.clicks",
            "SELECT * FROM panes.orders",
            "SELECT * FROM dead_letters.orders",
            "SELECT * FROM system.partitions",
            "SELECT * FROM system.tables",
            "WITH o AS (SELECT * FROM orders) SELECT count(*) FROM o",
            "WITH clicks AS (SELECT * FROM orders) SELECT count(*) FROM clicks",
            "SELECT (SELECT count(*) FROM orders)",
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM orders)",
            "SELECT count(*) FROM clicks WHERE country IN (SELECT country FROM orders)",
            "SELECT count(*) FROM clicks JOIN orders USING (country)",
            "SELECT count(*) FROM clicks, orders",
            "SELECT country FROM clicks UNION ALL SELECT country FROM orders",
            "SELECT * FROM (SELECT * FROM (SELECT * FROM orders) a) b",
            "SELECT CASE WHEN (SELECT count(*) FROM orders) > 1 THEN 1 END",
            "SELECT count(*) FROM orders WHERE false",
            "SELECT country, measure(clicks) FROM orders GROUP BY 1",
            "EXPLAIN SELECT * FROM orders",
            "EXPLAIN ANALYZE SELECT * FROM orders",
            "DESCRIBE orders",
        ] {
            let refused = rows(&session, sql).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::NotGranted, "{sql}: {refused}");
            assert_eq!(refused.code(), "42501");
            assert!(refused.message.starts_with("permission denied for table "));
            let described = session.describe(sql, vec![]).await;
            assert!(described.is_err(), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_and_what_is_not_are_refused_alike() {
    let engine = engine().await;
    let access = user(&[relation("public", "clicks")], RoleLimits::default());
    for session in sessions(&engine, &access) {
        let refused = async |name: &str| {
            let sql = format!("SELECT * FROM {name}");
            let refused = rows(&session, &sql).await.unwrap_err();
            let text = format!("{refused} {:?}", refused.hint);
            text.replace(name, "it")
        };
        assert_eq!(refused("orders").await, refused("sredro").await);
        // Nor do words of help name what may not be read.
        let help = rows(&session, "SELECT * FROM clicks WHERE secret")
            .await
            .unwrap_err();
        assert!(!format!("{help:?}").contains("orders"));
    }
    // Who may read all of a schema is told what there is in it, and nothing of others.
    let all = user(&[Grant::Schema("public".into())], RoleLimits::default());
    for session in sessions(&engine, &all) {
        let unknown = rows(&session, "SELECT * FROM nothing_there")
            .await
            .unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::UnknownTable);
        let denied = rows(&session, "SELECT * FROM panes.orders")
            .await
            .unwrap_err();
        assert_eq!(denied.kind, ErrorKind::NotGranted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_what_may_be_read_and_nothing_else() {
    let engine = engine().await;
    let access = user(
        &[relation("public", "clicks"), relation("panes", "orders")],
        RoleLimits::default(),
    );
    const OURS: &str = "table_schema IN ('public', 'panes', 'dead_letters', 'system')";
    for session in sessions(&engine, &access) {
        let tables = format!(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE {OURS} ORDER BY 1, 2"
        );
        assert_eq!(
            rows(&session, &tables).await.unwrap(),
            ["panes orders", "public clicks"]
        );
        let columns = format!(
            "SELECT DISTINCT table_schema, table_name FROM information_schema.columns WHERE {OURS} ORDER BY 1, 2"
        );
        assert_eq!(
            rows(&session, &columns).await.unwrap(),
            ["panes orders", "public clicks"]
        );
        let shown = rows(&session, "SHOW TABLES").await.unwrap().join("\n");
        assert!(
            shown.contains("clicks") && !shown.contains("secrets"),
            "{shown}"
        );
    }
    let postgres = engine.postgres_session_of(access);
    for sql in [
        "SELECT relname FROM pg_catalog.pg_class WHERE relname IN ('clicks', 'orders', 'secrets', 'partitions') ORDER BY 1",
        "SELECT DISTINCT c.relname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE c.relname IN ('clicks', 'orders', 'secrets', 'partitions') ORDER BY 1",
    ] {
        assert_eq!(
            rows(&postgres, sql).await.unwrap(),
            ["clicks", "orders"],
            "{sql}"
        );
    }
    // Who may read everything sees everything, also after others have asked.
    let owner = engine.postgres_session_of(Access::unrestricted());
    let all = "SELECT count(DISTINCT relname) FROM pg_catalog.pg_class WHERE relname IN ('clicks', 'orders', 'secrets', 'partitions')";
    assert_eq!(rows(&owner, all).await.unwrap(), ["4"]);
    assert!(rows(&postgres, all).await.unwrap() == ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_postgres_hears_its_name() {
    let engine = engine().await;
    let access = user(&[Grant::Everything], RoleLimits::default());
    let session = engine.postgres_session_of(access);
    for sql in ["SELECT current_user", "SELECT session_user"] {
        assert_eq!(rows(&session, sql).await.unwrap(), ["ana"], "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_goes_as_far_as_its_limits_and_others_further() {
    let engine = engine().await;
    let limited = |limits| user(&[Grant::Everything], limits);
    let few = limited(RoleLimits {
        rows: Some(10),
        ..RoleLimits::default()
    });
    let brief = limited(RoleLimits {
        timeout: Some(Duration::from_secs(1)),
        ..RoleLimits::default()
    });
    let numbers = |count: u32| format!("SELECT value FROM generate_series(1, {count})");
    let long = "SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b";
    for session in sessions(&engine, &few) {
        assert_eq!(rows(&session, &numbers(10)).await.unwrap().len(), 10);
        let many = rows(&session, &numbers(11)).await.unwrap_err();
        assert_eq!(many.kind, ErrorKind::TooManyRows, "{many}");
    }
    for session in sessions(&engine, &brief) {
        let slow = rows(&session, long).await.unwrap_err();
        assert_eq!(slow.kind, ErrorKind::Timeout, "{slow}");
        assert!(slow.message.contains("than 1 s"), "{slow}");
    }
    assert_eq!(
        rows(&engine.session(), &numbers(11)).await.unwrap().len(),
        11
    );
    let small = limited(RoleLimits {
        bytes: Some(10_000),
        ..RoleLimits::default()
    });
    for session in sessions(&engine, &small) {
        assert_eq!(rows(&session, &numbers(1000)).await.unwrap().len(), 1000);
        let wide = rows(&session, &numbers(2000)).await.unwrap_err();
        assert_eq!(wide.kind, ErrorKind::TooManyBytes, "{wide}");
    }
    let memory = limited(RoleLimits {
        memory: Some(16 << 20),
        ..RoleLimits::default()
    });
    let session = engine.session_of(memory);
    let much = "SELECT array_length(array_agg(value)) FROM generate_series(1, 5000000)";
    let refused = rows(&session, much).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Memory, "{refused}");
    assert_eq!(rows(&engine.session(), much).await.unwrap(), ["5000000"]);
    // What was taken is given back: a small query still has room.
    assert_eq!(
        rows(
            &session,
            "SELECT count(DISTINCT value) FROM generate_series(1, 1000)"
        )
        .await
        .unwrap(),
        ["1000"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_opens_only_so_many_bytes_of_files() {
    let shed = Shed::new();
    let mut files = Vec::new();
    for minute in 0..3 {
        let panes = fold(&[click(minute, "CH", 1, 1.0, 10)], 1).await;
        files.push(shed.file(&format!("f{minute}"), &panes, &[]).await);
    }
    let two = files[0].size + files[1].size;
    shed.put("clicks", shed.table(files, 0, None).await);
    let engine = QueryEngine::new(shed, None, None, Limits::default()).unwrap();
    let limits = RoleLimits {
        scan: Some(two),
        ..RoleLimits::default()
    };
    let access = user(&[relation("public", "clicks")], limits);
    let all = "SELECT measure(clicks) FROM clicks";
    let narrow = format!("{all} WHERE window_start < '2026-03-01T12:02:00Z'");
    for session in sessions(&engine, &access) {
        let refused = rows(&session, all).await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.code()),
            (ErrorKind::TooMuchToRead, "54000")
        );
        assert_eq!(rows(&session, &narrow).await.unwrap(), ["2"]);
    }
    assert_eq!(rows(&engine.session(), all).await.unwrap(), ["3"]);
}
