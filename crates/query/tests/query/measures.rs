//! `measure()` answers what folding the events at the coarser grain answers, and refuses the rest with a hint.

use alluvium_query::{ErrorKind, Limits, QueryEngine};

use crate::support::*;

fn clicks() -> Vec<Click> {
    (0..300)
        .map(|number: i64| Click {
            minute: number * 11 % 150,
            country: if number % 4 == 0 { "CH" } else { "DE" },
            user: number * 17 % 83,
            latency: Some(1.0 + (number * number % 400) as f64),
            bytes: number,
        })
        .collect()
}

/// `minutes`: the events by minute, in three files; `hours`: the same events folded by hour.
async fn engine() -> QueryEngine {
    let shed = Shed::new();
    let clicks = clicks();
    let mut files = Vec::new();
    for (number, part) in clicks.chunks(100).enumerate() {
        files.push(
            shed.file(&format!("m{number}"), &fold(part, 1).await, &[])
                .await,
        );
    }
    shed.put("minutes", shed.table(files, 0, Some(30)).await);
    let hours = shed.file("h", &fold(&clicks, 60).await, &[]).await;
    shed.put("hours", shed.table(vec![hours], 0, None).await);
    QueryEngine::new(shed, None, None, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_way_of_writing_it_equals_folding_at_that_grain() {
    let engine = engine().await;
    let hours = "SELECT window_start, country, clicks, bytes, users, p50_ms, p99_ms, slowest FROM hours \
        ORDER BY window_start, country";
    let measures = "measure(clicks), measure(bytes), measure(users), measure(p50_ms), measure(p99_ms), measure(slowest)";
    let expected = answer(&engine, hours).await;
    assert_eq!(expected.len(), 6);
    for sql in [
        format!(
            "SELECT date_trunc('hour', window_start), country, {measures} FROM minutes GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        format!(
            "WITH m AS (SELECT *, date_trunc('hour', window_start) AS hour FROM minutes), n AS (SELECT * FROM m) \
             SELECT hour, country, {measures} FROM n GROUP BY hour, country ORDER BY hour, country"
        ),
    ] {
        assert_eq!(answer(&engine, &sql).await, expected, "{sql}");
    }
    let renamed = "SELECT hour, x.country, measure(c), measure(b), measure(u), measure(p), measure(q), measure(s) FROM \
        (SELECT date_trunc('hour', window_start) hour, country, clicks c, bytes b, users u, p50_ms p, p99_ms q, \
         slowest s FROM minutes WHERE country IN ('CH', 'DE') ORDER BY window_start) AS x \
        GROUP BY hour, x.country ORDER BY hour, x.country";
    assert_eq!(answer(&engine, renamed).await, expected);
    // An average is within rounding.
    let means = |table: &str| {
        format!("SELECT round(measure(mean_ms), 6) FROM {table} GROUP BY country ORDER BY country")
    };
    assert_eq!(
        answer(&engine, &means("minutes")).await,
        answer(&engine, &means("hours")).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_wherever_an_aggregate_may() {
    let engine = engine().await;
    let whole = answer(&engine, "SELECT measure(users) FROM hours").await;
    assert_eq!(whole, ["83"]);
    for (sql, expected) in [
        ("SELECT measure(users) FROM minutes", vec!["83"]),
        ("SELECT measure(users) + 1 AS more FROM minutes", vec!["84"]),
        (
            "SELECT measure(clicks) FROM minutes WHERE final",
            vec!["60"],
        ),
        ("SELECT measure(clicks) FROM minutes WHERE false", vec!["0"]),
        (
            "SELECT measure(users) FROM minutes WHERE country = 'XX'",
            vec!["NULL"],
        ),
        (
            "SELECT country FROM minutes GROUP BY country HAVING measure(clicks) > 100",
            vec!["DE"],
        ),
        (
            "SELECT country FROM minutes GROUP BY country ORDER BY measure(clicks)",
            vec!["CH", "DE"],
        ),
        (
            "SELECT country, measure(clicks) c FROM minutes GROUP BY country ORDER BY c DESC LIMIT 1",
            vec!["DE 225"],
        ),
        (
            "SELECT measure(clicks) FILTER (WHERE country = 'CH'), measure(clicks) FROM minutes",
            vec!["75 300"],
        ),
        // Beside plain aggregates, which see final rows and not panes.
        (
            "SELECT measure(clicks), sum(clicks), count(*), max(window_end) > min(window_start) FROM minutes",
            vec!["300 300 225 true"],
        ),
        (
            "SELECT final, measure(clicks), sum(clicks * 2) FROM minutes GROUP BY final ORDER BY 1",
            vec!["false 240 480", "true 60 120"],
        ),
        (
            "SELECT m.country, m.c, h.c FROM (SELECT country, measure(clicks) c FROM minutes GROUP BY country) m \
             JOIN (SELECT country, sum(clicks) c FROM hours GROUP BY country) h ON m.country = h.country ORDER BY 1",
            vec!["CH 75 75", "DE 225 225"],
        ),
        (
            "SELECT measure(clicks) FROM minutes WHERE country IN (SELECT country FROM hours WHERE clicks > 40)",
            vec!["225"],
        ),
        ("SELECT (SELECT measure(users) FROM minutes)", vec!["83"]),
        (
            "SELECT measure(clicks) FROM minutes UNION ALL SELECT measure(clicks) FROM hours",
            vec!["300", "300"],
        ),
        (
            "SELECT measure(\"clicks\") FROM alluvium.public.minutes AS \"M\" GROUP BY \"M\".country ORDER BY 1",
            vec!["75", "225"],
        ),
        (
            "SELECT country AS a, country AS b, measure(clicks) FROM minutes GROUP BY a, b ORDER BY 1",
            vec!["CH CH 75", "DE DE 225"],
        ),
    ] {
        assert_eq!(answer(&engine, sql).await, expected, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_panes_is_never_taken_for_a_count_of_rows() {
    // One minute in two files is two panes and one row.
    let shed = Shed::new();
    let events = [click(0, "CH", 1, 1.0, 10)];
    let files = vec![
        shed.file("a", &fold(&events, 1).await, &[]).await,
        shed.file("b", &fold(&events, 1).await, &[]).await,
    ];
    shed.put("t", shed.table(files, 0, None).await);
    let engine = QueryEngine::new(shed, None, None, Limits::default()).unwrap();
    assert_eq!(
        answer(&engine, "SELECT count(*), count(users), sum(clicks), max(clicks), measure(clicks), measure(users) FROM t")
            .await,
        ["1 1 2 2 2 1"]
    );
    assert_eq!(answer(&engine, "SELECT count(*) FROM panes.t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_be_computed_from_is_refused_with_a_hint() {
    let engine = engine().await;
    for (sql, part) in [
        (
            "SELECT measure(users) FROM (SELECT * FROM minutes WHERE clicks > 1) t",
            "rows chosen by a measure",
        ),
        (
            "SELECT measure(users) FROM minutes WHERE clicks > 1",
            "rows chosen by a measure",
        ),
        (
            "SELECT measure(users) FROM (SELECT * FROM minutes LIMIT 5) t",
            "a limit",
        ),
        (
            "SELECT measure(users) FROM (SELECT * FROM minutes ORDER BY clicks LIMIT 5) t",
            "a limit",
        ),
        (
            "SELECT measure(users) FROM (SELECT DISTINCT users FROM minutes) t",
            "DISTINCT",
        ),
        (
            "SELECT measure(users) FROM (SELECT * FROM minutes UNION ALL SELECT * FROM hours) t",
            "a union",
        ),
        (
            "SELECT measure(m.users) FROM minutes m JOIN hours h ON m.country = h.country",
            "a join",
        ),
        ("SELECT measure(m.users) FROM minutes m, hours h", "a join"),
        (
            "SELECT measure(u) FROM (SELECT country, measure(users) u FROM minutes GROUP BY country) t",
            "another aggregation",
        ),
        ("SELECT measure(country) FROM minutes", "country is none"),
        ("SELECT measure(users + 1) FROM minutes", "is none"),
        ("SELECT measure(DISTINCT users) FROM minutes", "DISTINCT"),
        (
            "SELECT measure(users) FROM minutes GROUP BY clicks",
            "grouped by a measure",
        ),
        (
            "SELECT measure(users) FILTER (WHERE clicks > 1) FROM minutes",
            "filtered by a measure",
        ),
        (
            "SELECT country, measure(users) FROM minutes GROUP BY ROLLUP (country)",
            "ROLLUP",
        ),
        (
            "SELECT measure(users) OVER () FROM minutes",
            "not an aggregate",
        ),
        ("SELECT measure(x) FROM (VALUES (1)) t(x)", "no table's"),
        ("SELECT measure(users) FROM panes.minutes", "panes.minutes"),
        (
            "SELECT (SELECT measure(users) FROM minutes m WHERE m.country = h.country) FROM hours h",
            "correlated",
        ),
    ] {
        let error = engine
            .session()
            .query(sql, vec![])
            .await
            .err()
            .unwrap_or_else(|| panic!("{sql} ran"));
        assert_eq!(error.kind, ErrorKind::Unsupported, "{sql}: {error:?}");
        assert!(error.message.contains(part), "{sql}: {error:?}");
        assert!(error.hint.is_some(), "{sql}: {error:?}");
    }
    let error = engine
        .session()
        .query(
            "SELECT measure(user) FROM (SELECT users, country AS user FROM minutes) t",
            vec![],
        )
        .await;
    assert_eq!(
        error.unwrap_err().hint.as_deref(),
        Some("did you mean measure(users)?")
    );
}
