//! When asking once more is in vain: nothing that a query read has changed, and it depends on nothing else.

use std::sync::Arc;

use alluvium_plan::Publisher;
use alluvium_query::{Limits, QueryEngine, ReadMode, Setting};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_holds_until_a_table_changes() {
    let shed = Shed::new();
    let publisher = Arc::new(Publisher::default());
    let table = shed.table(Vec::new(), 0, None).await;
    let first = epoch(1, (0, 1), &[click(0, "CH", 1, 1.0, 10)]).await;
    for name in ["here", "other"] {
        publisher.publish(&name.into(), published(table.clone(), vec![first.clone()]));
    }
    shed.put("there", table.clone());
    let engine = QueryEngine::new(shed, Some(publisher.clone()), None, Limits::default()).unwrap();
    let session = engine.session();
    let ask = async |sql: &str| {
        let result = session.query(sql, vec![]).await.unwrap();
        (result.repeats, result.as_of)
    };
    for sql in [
        "SELECT * FROM here",
        "SELECT country, measure(users) FROM here GROUP BY 1",
        "SELECT * FROM here JOIN panes.other USING (country)",
        "SELECT count(*) FROM there WHERE window_start > '2026-03-01'",
        "SELECT 1",
    ] {
        let (repeats, as_of) = ask(sql).await;
        assert!(repeats, "{sql}");
        assert!(session.is_still(&as_of).await.unwrap(), "{sql}");
    }
    for sql in [
        "SELECT * FROM here WHERE window_start > now() - INTERVAL '1 hour'",
        "SELECT * FROM here WHERE country IN (SELECT country FROM other WHERE random() < 2)",
        "SELECT current_date, count(*) FROM here",
        "SELECT uuid() FROM here",
        "SELECT * FROM here, (SELECT count(*) FROM system.queries)",
        "SELECT table_name FROM information_schema.tables",
        "SHOW alluvium.read",
    ] {
        assert!(!ask(sql).await.0, "{sql}");
    }
    let (_, here) = ask("SELECT * FROM here").await;
    let (_, other) = ask("SELECT * FROM panes.other").await;
    let second = epoch(2, (1, 2), &[click(0, "CH", 1, 1.0, 10)]).await;
    publisher.publish(&"here".into(), published(table, vec![first, second]));
    assert!(!session.is_still(&here).await.unwrap());
    assert!(session.is_still(&other).await.unwrap());
    // What is committed has not changed, and is something else than what is fresh.
    session.set_read_mode(ReadMode::Committed);
    assert!(!session.is_still(&other).await.unwrap());
    let (_, committed) = ask("SELECT * FROM here").await;
    assert!(session.is_still(&committed).await.unwrap());
}

#[test]
fn a_setting_is_known_by_its_text() {
    for (sql, setting) in [
        (
            "SET alluvium.read = 'committed'",
            Some(Setting::SetRead(ReadMode::Committed)),
        ),
        (
            "set Alluvium.Read to fresh;",
            Some(Setting::SetRead(ReadMode::Fresh)),
        ),
        ("SHOW alluvium.read", Some(Setting::ShowRead)),
        ("show alluvium.as_of", Some(Setting::ShowAsOf)),
        ("SHOW TABLES", None),
        ("SET alluvium.read = 'sometimes'", None),
        ("SET alluvium.write = 'committed'", None),
        ("SELECT 1", None),
        ("SETTLE", None),
        ("", None),
    ] {
        assert_eq!(Setting::of(sql), setting, "{sql}");
    }
}
