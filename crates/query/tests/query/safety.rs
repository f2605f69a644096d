//! Queries only read, and one query harms nobody: Q2 to Q7 and Q10 of the list of failures.

use std::time::{Duration, Instant};

use alluvium_query::{Access, ErrorKind, Limits, Position, QueryEngine};
use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type},
    scalar::ScalarValue,
};
use futures::StreamExt;

use crate::support::*;

async fn engine(limits: Limits) -> QueryEngine {
    let shed = Shed::new();
    let panes = fold(&[click(0, "CH", 1, 1.0, 10), click(1, "DE", 2, 3.0, 20)], 1).await;
    let file = shed.file("a", &panes, &[]).await;
    shed.put("clicks_per_minute", shed.table(vec![file], 0, None).await);
    QueryEngine::new(shed, None, None, limits).unwrap()
}

/// Why it is refused; for clients of Postgres it must be refused as well.
async fn refused(engine: &QueryEngine, sql: &str) -> alluvium_query::QueryError {
    refused_in(engine.postgres_session_of(Access::unrestricted()), sql).await;
    refused_in(engine.session(), sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_reading_is_offered() {
    let engine = engine(Limits::default()).await;
    let target = std::env::temp_dir().join(format!("alluvium-copy-{}", std::process::id()));
    let copy = format!("COPY (SELECT 1) TO '{}'", target.display());
    for sql in [
        "CREATE TABLE t AS SELECT 1",
        "CREATE TABLE t (a INT)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE SCHEMA s",
        "CREATE DATABASE d",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "DROP TABLE clicks_per_minute",
        "DROP VIEW clicks_per_minute",
        "INSERT INTO clicks_per_minute SELECT * FROM clicks_per_minute",
        "UPDATE clicks_per_minute SET country = 'x'",
        "DELETE FROM clicks_per_minute",
        "TRUNCATE TABLE clicks_per_minute",
        "MERGE INTO clicks_per_minute USING clicks_per_minute AS s ON true WHEN MATCHED THEN DELETE",
        &copy,
        "COPY clicks_per_minute TO '/tmp/alluvium-copy.parquet' STORED AS PARQUET",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/alluvium-copy.csv'",
        "EXPLAIN ANALYZE INSERT INTO clicks_per_minute SELECT * FROM clicks_per_minute",
        "EXPLAIN CREATE TABLE t AS SELECT 1",
        "SELECT * INTO t FROM clicks_per_minute",
        "SET datafusion.execution.batch_size = 1",
        "SET datafusion.catalog.location = '/etc'",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "COMMIT",
        "ALTER TABLE clicks_per_minute ADD COLUMN x INT",
        "GRANT SELECT ON clicks_per_minute TO x",
    ] {
        let error = refused(&engine, sql).await;
        let right = matches!(error.kind, ErrorKind::ReadOnly | ErrorKind::Syntax);
        assert!(right, "{sql}: {error:?}");
        if !sql.starts_with("MERGE") && !sql.starts_with("CREATE FUNCTION") {
            assert_eq!(error.kind, ErrorKind::ReadOnly, "{sql}: {error:?}");
        }
    }
    assert!(!target.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_can_be_named_as_a_table() {
    let engine = engine(Limits::default()).await;
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM \"tables/clicks_per_minute/a.parquet\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
    ] {
        let error = refused(&engine, sql).await;
        assert!(
            matches!(
                error.kind,
                ErrorKind::UnknownTable | ErrorKind::UnknownFunction | ErrorKind::Syntax
            ),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monstrous_text_is_an_error_and_not_the_end_of_the_process() {
    let engine = engine(Limits::default()).await;
    for sql in [
        format!("SELECT {}1", "1+".repeat(2_000)),
        format!("SELECT 1 WHERE {}1=2", "1=2 OR ".repeat(10_000)),
        format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("SELECT {}1{}", "abs(".repeat(100), ")".repeat(100)),
        format!("SELECT {}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("SELECT {}true", "NOT ".repeat(10_000)),
        format!(
            "{}SELECT 1{}",
            "SELECT * FROM (".repeat(1_000),
            ") t".repeat(1_000)
        ),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(2_000)),
        format!("SELECT 1 -- {}", "x".repeat(70_000)),
    ] {
        let error = refused(&engine, &sql).await;
        assert!(
            matches!(error.kind, ErrorKind::TooComplex | ErrorKind::TooLong),
            "{}…: {error:?}",
            &sql[..40]
        );
    }
    // Just below the limits everything works.
    for sql in [
        format!("SELECT {}1", "1+".repeat(990)),
        format!("SELECT 1 WHERE {}1=1", "1=2 OR ".repeat(330)),
        format!("SELECT {}1{}", "(".repeat(60), ")".repeat(60)),
        format!("SELECT {}1{}", "abs(".repeat(60), ")".repeat(60)),
        format!("SELECT {}1{} AS pg_abs", "abs(".repeat(60), ")".repeat(60)),
        format!(
            "SELECT count(*) FROM clicks_per_minute WHERE country IN ('x'{})",
            ",'y'".repeat(5_000)
        ),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(60)),
    ] {
        for session in [
            engine.session(),
            engine.postgres_session_of(Access::unrestricted()),
        ] {
            let result = session.query(&sql, vec![]).await;
            let result = result.unwrap_or_else(|error| panic!("{}…: {error:?}", &sql[..60]));
            result.collect().await.unwrap();
        }
    }
}

/// What only clients of Postgres could hope for.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_server_is_read_by_functions_of_postgres() {
    let engine = engine(Limits::default()).await;
    for sql in [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_read_binary_file('/etc/passwd')",
        "SELECT pg_ls_dir('/etc')",
        "SELECT * FROM pg_stat_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_sleep(1000)",
        "SELECT dblink('host=127.0.0.1', 'SELECT 1')",
        "CREATE EXTENSION plpython3u",
        "DO $$ BEGIN END $$",
        "CALL something()",
        "LOAD 'library'",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "COPY clicks_per_minute FROM PROGRAM 'id'",
        "SELECT set_config('alluvium.read', 'committed', false)",
        "SELECT * FROM pg_catalog.pg_shadow",
    ] {
        refused(&engine, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runaway_is_ended() {
    let limits = Limits {
        timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let engine = engine(limits).await;
    let begun = Instant::now();
    let sql = "SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b";
    let error = refused(&engine, sql).await;
    assert_eq!(error.code(), "57014", "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // A reader that sleeps over the deadline gets an error and not a short result that looks whole.
    let result = engine
        .session()
        .query("SELECT * FROM generate_series(1, 100000000)", vec![])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let error = result.collect().await.unwrap_err();
    assert_eq!(error.code(), "57014", "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_files_are_refused_before_they_are_read() {
    let shed = Shed::new();
    let mut files = Vec::new();
    for minute in 0..10 {
        let at = minute;
        let panes = fold(
            &[click(at, "CH", 1, 1.0, 10), click(at, "DE", 2, 3.0, 20)],
            1,
        )
        .await;
        files.push(shed.file(&format!("f{minute}"), &panes, &[]).await);
    }
    let all: u64 = files.iter().map(|file| file.size).sum();
    shed.put("clicks_per_minute", shed.table(files, 0, None).await);
    let limits = Limits {
        max_scan: all - 1,
        ..Limits::default()
    };
    let engine = QueryEngine::new(shed, None, None, limits).unwrap();
    let sql = "SELECT count(*) FROM clicks_per_minute";
    let error = refused(&engine, sql).await;
    assert_eq!(error.code(), "54000", "{error:?}");
    assert!(
        error.message.contains("20 rows of 10 files"),
        "{}",
        error.message
    );
    assert!(
        error.hint.as_ref().unwrap().contains("window_start"),
        "{error:?}"
    );
    // What the log's bounds rule out is not counted.
    let narrow =
        format!("{sql} WHERE window_start >= (SELECT '2026-03-01T12:00:00Z'::timestamptz) OR true");
    refused(&engine, &narrow).await;
    let narrow = format!("{sql} WHERE window_start < '2026-03-01T12:05:00Z'");
    let result = engine.session().query(&narrow, vec![]).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()), ["10"]);
    // Twice the same files are twice the reading.
    let twice = format!("{narrow} UNION ALL {sql} WHERE window_start >= '2026-03-01T12:04:00Z'");
    refused(&engine, &twice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_rows_and_places_are_limited() {
    let engine = engine(Limits {
        memory: 4 << 20,
        max_rows: 100_000,
        concurrent: 1,
        ..Limits::default()
    })
    .await;
    let greedy = "SELECT array_length(array_agg(value)) FROM generate_series(1, 10000000)";
    let error = refused(&engine, greedy).await;
    assert_eq!(error.code(), "53200", "{error:?}");
    let error = refused(&engine, "SELECT * FROM generate_series(1, 1000000)").await;
    assert_eq!(error.code(), "54000", "{error:?}");
    let held = engine
        .session()
        .query("SELECT * FROM generate_series(1, 1000000)", vec![])
        .await
        .unwrap();
    let error = refused(&engine, "SELECT 1").await;
    assert_eq!(error.code(), "53300", "{error:?}");
    drop(held);
    let result = engine.session().query("SELECT 1", vec![]).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()), ["1"]);
}

/// Ways to make much of little: with one value, with every row, by operators, and while a query is planned.
const GROWING: [&str; 32] = [
    "SELECT length(repeat('Alluvium', 500000000))",
    "SELECT sum(length(repeat(md5(value::text), 100000))) FROM generate_series(1, 100000) AS t(value)",
    "SELECT length(lpad('x', 1000000000)), length(rpad('x', 1000000000, 'ab'))",
    "SELECT max(length(lpad(value::text, 100000))) FROM generate_series(1, 100000) AS t(value)",
    "SELECT length(replace(repeat('a', 1000000), 'a', repeat('b', 1000000)))",
    "SELECT max(length(replace(repeat(value::text, 1000), '1', repeat('b', 100000)))) FROM generate_series(1, 100000) AS t(value)",
    "SELECT length(regexp_replace(repeat('a', 1000000), '.', repeat('b', 10000), 'g'))",
    "SELECT cardinality(generate_series(1, 1000000000))",
    "SELECT cardinality(range(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1 second'))",
    "SELECT max(cardinality(range(0, 1000 * value))) FROM generate_series(1, 100000) AS t(value)",
    "SELECT cardinality(array_repeat('x', 1000000000))",
    "SELECT cardinality(array_repeat(array_repeat(1, 1000000), 1000000))",
    "SELECT cardinality(array_resize([1], 1000000000, 1))",
    "SELECT length(array_to_string(range(0, 1000000), repeat('x', 1000000)))",
    "SELECT cardinality(array_replace_all(array_repeat('x', 100000), 'x', repeat('y', 100000)))",
    // Doubled again and again, by the query or by a recursion.
    "WITH a AS (SELECT repeat(value::text, 1000) AS t FROM generate_series(1, 10000) AS t(value)), b AS (SELECT t || t || t || t AS t FROM a), \
     c AS (SELECT t || t || t || t AS t FROM b), d AS (SELECT concat(t, t, t, t) AS t FROM c) SELECT max(length(t)) FROM d",
    "WITH RECURSIVE d(n, t) AS (SELECT 1, 'x' UNION ALL SELECT n + 1, t || t FROM d WHERE n < 34) SELECT max(length(t)) FROM d",
    "WITH RECURSIVE d(n, t) AS (SELECT 1, [1] UNION ALL SELECT n + 1, array_concat(t, t) FROM d WHERE n < 34) SELECT max(cardinality(t)) FROM d",
    // All alive at once before the outermost function sees them.
    "SELECT max(length(concat(repeat(value::text, 800), repeat(value::text, 801), repeat(value::text, 802), repeat(value::text, 803), \
     repeat(value::text, 804), repeat(value::text, 805), repeat(value::text, 806), repeat(value::text, 807)))) FROM generate_series(100000, 200000) AS t(value)",
    // Many times the same column, of which room is made for as many whole ones.
    "SELECT max(length(concat(t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t))) \
     FROM (SELECT repeat(value::text, 500) AS t FROM generate_series(100000, 200000) AS t(value))",
    // A constant for each row.
    "SELECT max(length(repeat('x', 1000000) || value::text)) FROM generate_series(1, 100000) AS t(value)",
    "SELECT repeat('x', 1000000) AS t FROM generate_series(1, 100000)",
    "SELECT max(length(CASE WHEN value > 7 THEN repeat('x', 1000000) ELSE value::text END)) FROM generate_series(1, 100000) AS t(value)",
    "SELECT repeat('a', 9000000), repeat('b', 9000000), repeat('c', 9000000)",
    // Operators that repeat rows, and that keep them.
    "SELECT max(length(t) + a.value) FROM (SELECT repeat(value::text, 100000) AS t FROM generate_series(1, 10) AS t(value)) AS b CROSS JOIN generate_series(1, 100000) AS a(value) WHERE length(t) > a.value",
    "SELECT max(length(t || k::text)) FROM (SELECT value % 2 AS k, repeat(value::text, 100000) AS t FROM generate_series(1, 10) AS t(value)) AS b JOIN generate_series(1, 100000) AS a(value) ON b.k = a.value % 3",
    "SELECT max(length(t)), max(u) FROM (SELECT repeat(value::text, 10000) AS t, unnest(range(0, 100000)) AS u FROM generate_series(1, 10) AS t(value))",
    "SELECT max(length(t)), max(c) FROM (SELECT t, count(*) OVER () AS c FROM (SELECT repeat(value::text, 1000) AS t FROM generate_series(1, 100000) AS t(value)))",
    "SELECT cardinality(array_agg(repeat(value::text, 1000))) FROM generate_series(1, 100000) AS t(value)",
    "SELECT length(string_agg(repeat(value::text, 1000), ',')) FROM generate_series(1, 100000) AS t(value)",
    // While it is planned.
    "SELECT value FROM generate_series(1, 1000) AS t(value) WHERE length(repeat('x', 2000000000)) > value",
    "SELECT value FROM generate_series(1, 1000) AS t(value) ORDER BY length(lpad(value::text, 2000000000))",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_much_of_little_is_refused() {
    let narrow = engine(Limits {
        memory: 64 << 20,
        ..Limits::default()
    })
    .await;
    for sql in GROWING {
        // Not by the end of its time, which has another code.
        let error = refused(&narrow, sql).await;
        assert_eq!(error.code(), "53200", "{sql}: {error:?}");
        assert!(error.hint.is_some(), "{sql}: {error:?}");
    }
    // Before there is a plan, the arguments of such a table must be numbers.
    let sql = "SELECT count(*) FROM generate_series(1, length(repeat('x', 2000000000)))";
    assert_eq!(refused(&narrow, sql).await.kind, ErrorKind::Invalid);
    // A plan that is to be read shows the call.
    let sql = "EXPLAIN SELECT repeat('x', 10000000) || 'y'";
    let result = narrow.session().query(sql, vec![]).await.unwrap();
    let plan = lines(&result.collect().await.unwrap()).concat();
    assert!(plan.len() < 10_000 && plan.contains("repeat"), "{plan}");
    // What is large and has a use is answered.
    let engine = engine(Limits::default()).await;
    // And in order, as without a constant that long.
    let sql = "SELECT value, repeat('x', 1000) FROM generate_series(1, 50000) AS t(value)";
    let result = engine.session().query(sql, vec![]).await.unwrap();
    let batches = result.collect().await.unwrap();
    let values = batches.iter().flat_map(|batch| {
        let column = batch.column(0).as_primitive::<Int64Type>();
        column.values().iter().copied()
    });
    assert!(values.eq(1..=50_000));
    for (sql, answer) in [
        ("SELECT length(repeat('Alluvium', 1000000))", "8000000"),
        ("SELECT length(lpad('x', 10000000, 'ab'))", "10000000"),
        ("SELECT cardinality(range(0, 1000000))", "1000000"),
        (
            "SELECT cardinality(generate_series(DATE '2020-01-01', DATE '2029-12-31', INTERVAL '1 day'))",
            "3653",
        ),
        (
            "SELECT sum(length(repeat(value::text, 100) || value::text)) FROM generate_series(10000, 29999) AS t(value)",
            "10100000",
        ),
        (
            "SELECT max(length(replace(repeat('ab', 100000), 'b', 'ccc')))",
            "400000",
        ),
        (
            "SELECT sum(length(regexp_replace(repeat(value::text, 100), '1', 'seven', 'g'))) FROM generate_series(1000, 1999) AS t(value)",
            "920000",
        ),
        (
            "SELECT length(string_agg(md5(value::text), ',')) FROM generate_series(1, 100000) AS t(value)",
            "3299999",
        ),
        (
            "SELECT count(*), max(length(t)) FROM (SELECT repeat('x', 3000) AS t FROM generate_series(1, 100000))",
            "100000 3000",
        ),
        (
            "SELECT count(*) FROM (SELECT repeat(value::text, 10000) AS t FROM generate_series(1, 5) AS t(value)) CROSS JOIN generate_series(1, 5) AS u(value) WHERE length(t) > u.value",
            "25",
        ),
        (
            "SELECT count(u), max(length(t)) FROM (SELECT repeat(value::text, 100) AS t, unnest(range(0, 1000)) AS u FROM generate_series(1, 9) AS t(value))",
            "9000 100",
        ),
        (
            "SELECT max(c) FROM (SELECT count(*) OVER () AS c FROM generate_series(1, 100000))",
            "100000",
        ),
    ] {
        for session in [
            engine.session(),
            engine.postgres_session_of(Access::unrestricted()),
        ] {
            let result = session.query(sql, vec![]).await;
            let result = result.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let rows = result.collect().await;
            let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            assert_eq!(lines(&rows), [answer], "{sql}");
        }
    }
}

/// Memory of a process that does nothing else.
#[cfg(target_os = "linux")]
#[test]
fn what_makes_much_of_little_is_never_there() {
    const ALONE: &str = "ALLUVIUM_TEST_ALONE";
    const BUDGET: u64 = 64;
    /// Threads, pieces of outcomes that no reservation knows yet, and what the allocator keeps.
    const BESIDE: u64 = 150;
    if std::env::var_os(ALONE).is_none() {
        let own = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "safety::what_makes_much_of_little_is_never_there",
            ])
            .arg("--nocapture")
            .env(ALONE, "1")
            // What is freed goes back to the system, so that one query's peak is not the next one's beginning.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&own.stdout) + String::from_utf8_lossy(&own.stderr);
        assert!(own.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    fn mebibytes(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >> 10
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = runtime.block_on(engine(Limits {
        memory: (BUDGET as usize) << 20,
        ..Limits::default()
    }));
    let ordinary = "SELECT country, count(*) FROM clicks_per_minute GROUP BY country";
    runtime.block_on(async {
        let result = engine.session().query(ordinary, vec![]).await.unwrap();
        result.collect().await.unwrap();
    });
    let before = mebibytes("VmRSS");
    for sql in GROWING {
        runtime.block_on(refused_in(engine.session(), sql));
        let most = mebibytes("VmHWM") - before;
        assert!(most < BUDGET + BESIDE, "{most} MiB after {sql}");
    }
}

/// Whoever waits for a place gets one when it is free, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_a_place_and_is_let_in() {
    let engine = engine(Limits {
        concurrent: 1,
        ..Limits::default()
    })
    .await;
    let many = "SELECT * FROM generate_series(1, 1000000)";
    let held = engine.session().query(many, vec![]).await.unwrap();
    let waiting = {
        let engine = engine.clone();
        tokio::spawn(async move {
            let result = engine.session().query("SELECT 1", vec![]).await?;
            result.collect().await
        })
    };
    // It is in the list while it waits.
    while engine.running(&Access::unrestricted()).len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(lines(&waiting.await.unwrap().unwrap()), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_only_so_many_bytes() {
    let engine = engine(Limits {
        max_bytes: 1 << 20,
        ..Limits::default()
    })
    .await;
    let wide = |rows: u32| format!("SELECT repeat('x', 1000) FROM generate_series(1, {rows})");
    let error = refused(&engine, &wide(2_000)).await;
    assert_eq!(
        (error.kind, error.code()),
        (ErrorKind::TooManyBytes, "54000")
    );
    assert!(error.message.contains("1024.0 KB"), "{error:?}");
    assert!(error.hint.unwrap().contains("query: {bytes: …}"));
    let result = engine.session().query(&wide(900), vec![]).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()).len(), 900);
    // The rows count, not the buffers that they are slices of.
    let few =
        "SELECT * FROM (SELECT repeat('x', 1000) AS x FROM generate_series(1, 8000)) LIMIT 10";
    let result = engine.session().query(few, vec![]).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()).len(), 10);
}

/// More than its memory holds, and less.
const MANY_GROUPS: &str = "SELECT count(*) FROM (SELECT DISTINCT repeat(md5(value::text), 8) FROM generate_series(1, 100000) AS t(value))";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_memory_may_take_so_much_of_the_disk() {
    for (limits, whose) in [
        (
            Limits {
                disk: 1 << 20,
                ..Limits::default()
            },
            "all queries together",
        ),
        (
            Limits {
                disk_of_one: Some(1 << 20),
                ..Limits::default()
            },
            "this query",
        ),
    ] {
        let engine = engine(Limits {
            memory: 24 << 20,
            ..limits
        })
        .await;
        let error = refused(&engine, MANY_GROUPS).await;
        assert_eq!(
            (error.kind, error.code()),
            (ErrorKind::Disk, "53100"),
            "{error:?}"
        );
        assert!(error.message.contains(whose), "{error:?}");
        assert!(error.hint.unwrap().contains("alluvium.yaml"));
    }
    let engine = engine(Limits {
        memory: 24 << 20,
        ..Limits::default()
    })
    .await;
    // It is given back when the query ends, so that it does for query after query.
    for _ in 0..2 {
        let result = engine.session().query(MANY_GROUPS, vec![]).await.unwrap();
        assert_eq!(lines(&result.collect().await.unwrap()), ["100000"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_query_may_have_less_memory_than_all() {
    let engine = engine(Limits {
        memory_of_one: Some(4 << 20),
        ..Limits::default()
    })
    .await;
    let greedy = "SELECT array_length(array_agg(value)) FROM generate_series(1, 5000000)";
    let error = refused(&engine, greedy).await;
    assert_eq!(error.code(), "53200", "{error:?}");
    assert!(
        error.message.contains("that one query may have"),
        "{error:?}"
    );
}

/// Where both want a core, ingestion has it: threads of queries stand behind those of the rest of the process.
#[cfg(target_os = "linux")]
#[test]
fn threads_of_queries_give_way() {
    /// Names and niceness of this process's threads.
    fn threads() -> Vec<(String, i64)> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let stats = tasks.filter_map(|task| {
            // One that has ended meanwhile is nobody's concern.
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            // The nineteenth field, the third is the first one behind the name.
            Some((
                name.to_owned(),
                rest.split_whitespace().nth(16)?.parse().ok()?,
            ))
        });
        stats.collect()
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = runtime.block_on(engine(Limits::default()));
    let session = engine.session();
    let result = runtime.block_on(async {
        let counted = session.query("SELECT count(*) FROM clicks_per_minute", vec![]);
        counted.await.unwrap().collect().await.unwrap()
    });
    assert_eq!(lines(&result), ["2"]);
    let clients = alluvium_query::runtime_for_clients("these-clients").unwrap();
    clients.block_on(async { tokio::spawn(async {}).await.unwrap() });
    let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let own = own
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(16)
        .unwrap();
    let ordinary: i64 = own.parse().unwrap();
    // Those that were started by such a thread stand where it stands, and no further behind.
    let behind = (ordinary + 10).min(19);
    assert!(ordinary < behind);
    for name in ["alluvium-query", "these-clients"] {
        // A thread has its name a moment before it gives way, and may have to wait for a core in between.
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let all = threads();
            let named = all.iter().filter(|(thread, _)| thread == name);
            let nice: Vec<i64> = named.map(|(_, nice)| *nice).collect();
            if nice.len() >= 2 && nice.iter().all(|nice| *nice == behind) {
                break;
            }
            assert!(Instant::now() < patience, "{all:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_hang_up_leave_nothing_running() {
    let engine = engine(Limits {
        concurrent: 4,
        ..Limits::default()
    })
    .await;
    for number in 0..40 {
        let session = engine.session();
        let sql = "SELECT a.value FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 100000) b";
        if number % 2 == 0 {
            let mut result = session.query(sql, vec![]).await.unwrap();
            result.stream.next().await.unwrap().unwrap();
        } else {
            let query = session.query(sql, vec![]);
            let _ = tokio::time::timeout(Duration::from_millis(1), query).await;
        }
    }
    let result = engine.session().query("SELECT 1", vec![]).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_values_and_never_text() {
    let engine = engine(Limits::default()).await;
    let session = engine.session();
    let count = "SELECT count(*) FROM clicks_per_minute WHERE country = $1";
    for (value, rows) in [
        ("CH", "1"),
        ("CH' OR '1'='1", "0"),
        ("'; DROP TABLE clicks_per_minute; --", "0"),
        ("\\' OR 1=1 --", "0"),
        ("\u{0}", "0"),
    ] {
        let result = session.query(count, vec![value.into()]).await.unwrap();
        assert_eq!(lines(&result.collect().await.unwrap()), [rows], "{value}");
    }
    let window = "SELECT country, $2 + 1 FROM clicks_per_minute WHERE window_start >= $1";
    let params = vec!["2026-03-01T12:01:00Z".into(), ScalarValue::Int64(Some(41))];
    let result = session.query(window, params).await.unwrap();
    assert_eq!(lines(&result.collect().await.unwrap()), ["DE 42"]);
    let error = session.query(count, vec![]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UndefinedParameter);
    assert!(error.message.contains("$1"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_where_and_what_to_do() {
    let engine = engine(Limits::default()).await;
    let error = refused(&engine, "SELECT * FROM click_per_minute").await;
    assert_eq!(error.code(), "42P01");
    assert_eq!(error.message, "there is no table click_per_minute");
    assert_eq!(
        error.hint.as_deref(),
        Some("did you mean clicks_per_minute?")
    );
    let error = refused(&engine, "SELECT\n  contry FROM clicks_per_minute").await;
    assert_eq!(error.code(), "42703");
    assert_eq!(error.hint.as_deref(), Some("did you mean country?"));
    assert_eq!(error.position, Some(Position { line: 2, column: 3 }));
    let error = refused(&engine, "SELECT 1 +").await;
    assert_eq!(error.code(), "42601");
    let error = refused(&engine, "SELECT 1; SELECT 2").await;
    assert_eq!(error.code(), "42601");
    let error = refused(&engine, "").await;
    assert_eq!(error.message, "the query is empty");
    let error = refused(&engine, "SELECT summ(clicks) FROM clicks_per_minute").await;
    assert_eq!(error.code(), "42883");
    assert!(error.hint.is_some(), "{error:?}");
    let error = refused(
        &engine,
        "SELECT 1 / (clicks - clicks) FROM clicks_per_minute",
    )
    .await;
    assert_eq!(error.code(), "22012");
    let error = refused(&engine, "SELECT country::int FROM clicks_per_minute").await;
    assert_eq!(error.code(), "22000", "{error:?}");
    let error = refused(&engine, "SET alluvium.read = 'sometimes'").await;
    assert_eq!(error.code(), "42804");
}
