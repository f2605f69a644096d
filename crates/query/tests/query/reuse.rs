//! What aggregations made of row groups is used again, and changes no answer.

use alluvium_query::QueryEngine;

use crate::{pruning::compacted, support::answer};

/// How many row groups a query took from what was kept, and how many it read.
async fn reused(engine: &QueryEngine, sql: &str) -> Option<(usize, usize)> {
    let plan = answer(engine, &format!("EXPLAIN ANALYZE {sql}")).await;
    let plan = plan.join("\n");
    let line = plan
        .lines()
        .find(|line| line.contains("ReusedPartialsExec"))?;
    let number = |name: &str| -> usize {
        let said = line.split(&format!("{name}=")).nth(1).unwrap();
        let digits = said.split(|letter: char| !letter.is_ascii_digit());
        digits.into_iter().next().unwrap().parse().unwrap()
    };
    Some((number("row_groups_kept"), number("row_groups_read")))
}

/// The same rows by a query whose rows nobody may keep: it asks for chance.
fn by_chance(sql: &str) -> String {
    match sql.contains("WHERE ") {
        true => sql.replacen("WHERE ", "WHERE random() >= 0 AND ", 1),
        false => sql.replacen("FROM visits", "FROM visits WHERE random() >= 0", 1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_is_not_read_again() {
    let (_, engine) = compacted().await;
    // The first asks of all three row groups, some of the others of fewer.
    let questions = [
        "SELECT measure(visits) AS n FROM visits",
        "SELECT date_trunc('hour', window_start) AS hour, measure(visits) AS n FROM visits GROUP BY 1 ORDER BY 1",
        "SELECT country, measure(visits) AS n FROM visits GROUP BY country ORDER BY n DESC LIMIT 3",
        "SELECT country, measure(visits) FILTER (WHERE user_id > 500000) AS n FROM visits GROUP BY country ORDER BY 1",
        "SELECT country, measure(visits) AS n FROM visits WHERE country IN ('country 2', 'country 3') GROUP BY 1 ORDER BY 1",
        "SELECT country, measure(visits) AS n FROM visits WHERE country = 'country 4' GROUP BY 1 ORDER BY 1",
        "SELECT sum(visits) AS n, count(*) AS rows, min(user_id) AS low, max(user_id) AS high, avg(visits) AS mean FROM visits",
        "SELECT country, sum(CASE WHEN user_id % 2 = 0 THEN visits ELSE 0 END) AS n FROM visits GROUP BY 1 ORDER BY 1",
        "SELECT upper(country) AS name, count(DISTINCT visits) AS n FROM visits GROUP BY 1 ORDER BY 1",
        "SELECT date_trunc('hour', window_start) AS hour, measure(visits) AS n FROM visits \
         WHERE window_start >= '2026-03-01T13:00:00Z' AND window_start < '2026-03-01T14:00:00Z' GROUP BY 1 ORDER BY 1",
        "SELECT country, n FROM (SELECT country, measure(visits) AS n FROM visits GROUP BY country) AS t WHERE n > 10 ORDER BY 1",
        "SELECT country, measure(visits) AS n FROM visits GROUP BY country \
         UNION ALL SELECT 'all', measure(visits) FROM visits ORDER BY 1",
    ];
    for sql in questions {
        let first = answer(&engine, sql).await;
        let again = answer(&engine, sql).await;
        assert!(!first.is_empty(), "{sql}");
        assert_eq!(first, again, "{sql}");
        let (kept, read) = reused(&engine, sql).await.expect(sql);
        assert!(kept > 0, "{sql}");
        assert_eq!(read, 0, "{sql}");
        let other = by_chance(sql);
        if !sql.contains("UNION") {
            assert_eq!(reused(&engine, &other).await, None, "{other}");
        }
        assert_eq!(answer(&engine, &other).await, first, "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_moves_is_all_that_is_read() {
    let (_, engine) = compacted().await;
    let since = |time: &str| {
        format!(
            "SELECT measure(visits) AS n FROM visits WHERE window_start >= '2026-03-01T{time}Z'"
        )
    };
    let count = async |sql: &str| -> i64 { answer(&engine, sql).await[0].parse().unwrap() };
    // The edge lies in the first of three row groups.
    let (early, later) = (since("12:10:00"), since("12:20:00"));
    let before = count(&early).await;
    let (kept, read) = reused(&engine, &later).await.unwrap();
    assert_eq!((kept, read), (2, 1));
    let after = count(&later).await;
    assert_eq!(reused(&engine, &later).await, Some((3, 0)));
    let between = "SELECT measure(visits) AS n FROM visits \
                   WHERE window_start >= '2026-03-01T12:10:00Z' AND window_start < '2026-03-01T12:20:00Z'";
    assert!(after > 0 && before > after);
    assert_eq!(before - after, count(between).await);
    // Row groups beyond the edge are not looked at.
    let (kept, read) = reused(&engine, between).await.unwrap();
    assert_eq!((kept, read), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_question_has_another_answer() {
    let (_, engine) = compacted().await;
    let all = answer(&engine, "SELECT measure(visits) AS n FROM visits").await;
    let of = |condition: &str| format!("SELECT measure(visits) AS n FROM visits WHERE {condition}");
    let mut answers = vec![all];
    for condition in [
        "country = 'country 4'",
        "country = 'country 5'",
        "country <> 'country 5'",
        "user_id > 500000",
        "user_id > 500001.5",
        "user_id > 500000 OR country = 'country 4'",
        "user_id > 500000 AND country = 'country 4'",
        "visits > 3",
    ] {
        let sql = match condition {
            // A measure cannot choose what measure() sees.
            "visits > 3" => format!("SELECT sum(visits) AS n FROM visits WHERE {condition}"),
            _ => of(condition),
        };
        let found = answer(&engine, &sql).await;
        assert_eq!(found, answer(&engine, &by_chance(&sql)).await, "{sql}");
        answers.push(found);
    }
    // Both sides of a word that only looks like the end of one.
    let tricky = of("country = 'country 4\") AND (\"'");
    assert_eq!(
        answer(&engine, &tricky).await,
        answer(&engine, &by_chance(&tricky)).await
    );
    // The bound that is a fraction chooses as many or one fewer; all others differ.
    answers.dedup();
    assert!(answers.len() >= 8, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_same_each_time_is_not_kept() {
    let (_, engine) = compacted().await;
    for sql in [
        "SELECT measure(visits) AS n FROM visits WHERE random() < 0.5",
        "SELECT country FROM visits GROUP BY country LIMIT 2",
        "SELECT country, array_agg(user_id ORDER BY visits) AS users FROM visits WHERE user_id < 1000 GROUP BY 1",
        "SELECT country, visits, count(*) AS n FROM visits GROUP BY GROUPING SETS ((country), (visits))",
    ] {
        assert_eq!(reused(&engine, sql).await, None, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_again_and_again_within_one_query_is_the_same_each_time() {
    let (_, engine) = compacted().await;
    let all: i64 = answer(&engine, "SELECT measure(visits) AS n FROM visits").await[0]
        .parse()
        .unwrap();
    let recursive = "WITH RECURSIVE steps(step, n) AS (SELECT 0 AS step, CAST(0 AS BIGINT) AS n UNION ALL \
                     SELECT steps.step + 1, all_of_them.n FROM steps, (SELECT sum(visits) AS n FROM visits) AS all_of_them \
                     WHERE steps.step < 3) SELECT step, n FROM steps ORDER BY step";
    let wanted: Vec<String> = (0..4)
        .map(|step| format!("{step} {}", if step == 0 { 0 } else { all }))
        .collect();
    assert_eq!(answer(&engine, recursive).await, wanted);
}
