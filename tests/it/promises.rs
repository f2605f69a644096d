//! What a newcomer is promised: the demo balances, late and broken events are kept, other readers agree, and a
//! deployed table keeps its meaning.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    process::{Process, alluvium, number, oracle_required, python, results, sql, wait_for},
    site::{Load, Site, TOPIC, broker, broker_with},
};

/// What DuckDB reads in a table; `None`, said aloud, where DuckDB is not installed and need not be.
fn duckdb(root: &Path, table: &str, query: &str) -> Option<Vec<Value>> {
    let output = python("duckdb_reader.py")
        .arg(root)
        .args([table, query])
        .output();
    let required = oracle_required();
    match output {
        Ok(output) if output.status.success() => {
            Some(serde_json::from_slice(&output.stdout).expect("the reader prints JSON"))
        }
        Ok(output) if output.status.code() == Some(77) && !required => {
            println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) if !required => {
            println!("skipped: {error}");
            None
        }
        other => panic!("DuckDB could not read {table}: {other:?}"),
    }
}

#[test]
fn the_demo_balances_and_every_reader_agrees() {
    const EVENTS: i64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let place = dir.to_str().unwrap();
    results(&[
        "demo",
        "--events",
        &EVENTS.to_string(),
        "--seed",
        "5",
        "--dir",
        place,
    ]);
    let server_file = dir.join("alluvium.yaml");

    let balance = sql(
        &server_file,
        "select sum(events_in) as i, sum(counted) as c, sum(filtered) as f, sum(rejected) as r, sum(late) as l \
         from system.commits where \"table\" = 'clicks_per_minute'",
    );
    let figure = |name: &str| number(&balance[0][name]);
    assert_eq!(figure("i"), EVENTS);
    assert_eq!(figure("c") + figure("f") + figure("r"), EVENTS);
    let late = sql(
        &server_file,
        "select sum(events) as n from system.lateness \
         where \"table\" = 'clicks_per_minute' and more_than_seconds is not null",
    );
    assert!(
        figure("l") > 0 && number(&late[0]["n"]) == figure("l"),
        "{late:?}"
    );

    let clicks = sql(
        &server_file,
        "select sum(clicks) as n from clicks_per_minute",
    );
    assert_eq!(number(&clicks[0]["n"]), figure("c"));
    let rejects = sql(
        &server_file,
        "select count(*) as n from dead_letters.clicks",
    );
    assert_eq!(number(&rejects[0]["n"]), figure("r"));

    let file = server_file.to_str().unwrap();
    let proof = results(&["audit", "-c", file]);
    assert!(proof.contains("proven"), "{proof}");

    // What the page for analysts shows runs, and finds something.
    let page = fs::read_to_string("docs/sql.md").expect("the page is there");
    let shown: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(shown.len() >= 14, "{} queries", shown.len());
    for query in shown {
        assert!(!sql(&server_file, query).is_empty(), "{query}");
    }

    let root = dir.join("data");
    if let Some(rows) = duckdb(
        &root,
        "clicks_per_minute",
        "select sum(clicks) as n from panes",
    ) {
        assert_eq!(number(&rows[0]["n"]), figure("c"), "DuckDB counts the same");
    }
}

#[test]
fn a_late_event_counts_a_broken_one_is_kept_and_a_future_one_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "500ms");
    let events = folder.path().join("events.ndjson");
    let produce = |lines: &[&str]| {
        fs::write(&events, lines.join("\n") + "\n").unwrap();
        let file = events.to_str().unwrap();
        results(&["produce", "--brokers", &brokers, "--topic", TOPIC, file]);
    };
    let server_file = site.path("one.yaml");
    let mut server = site.run("one");
    let count = |key: &str, events: i64| {
        let query =
            format!("select coalesce(sum(events), 0) as n from per_key where key = '{key}'");
        wait_for("the event to be counted", Duration::from_secs(60), || {
            (number(&sql(&server_file, &query)[0]["n"]) == events).then_some(())
        });
    };
    produce(&[
        r#"{"ts":"2026-03-08T12:00:00Z","key":"today","amount":1}"#,
        r#"{"ts":"2026-03-01T12:00:00Z","key":"last week","amount":1}"#,
    ]);
    count("today", 1);
    count("last week", 1);

    // A week late, broken in two ways, and ten years ahead of its record's timestamp.
    produce(&[
        r#"{"ts":"2026-03-01T12:00:30Z","key":"last week","amount":2}"#,
        r#"{"ts":"2026-03-08T12:00:01Z","key":"#,
        r#"{"ts":"2026-03-08T12:00:01Z","key":"typed wrongly","amount":"two"}"#,
        r#"{"ts":"2099-01-01T00:00:00Z","key":"ahead","amount":1}"#,
        r#"{"ts":"2026-03-08T12:00:02Z","key":"today","amount":1}"#,
    ]);
    count("last week", 2);
    count("today", 2);
    // They may be in other partitions, and so in a later commit than what is counted.
    let letters = wait_for("the letters", Duration::from_secs(60), || {
        let query =
            "select stage, \"column\", error, payload from dead_letters.events order by error";
        let letters = sql(&server_file, query);
        (letters.len() >= 3).then_some(letters)
    });
    assert_eq!(letters.len(), 3, "{letters:?}");
    let stages: Vec<&str> = letters
        .iter()
        .filter_map(|row| row["stage"].as_str())
        .collect();
    assert_eq!(
        stages.iter().filter(|stage| **stage == "decode").count(),
        2,
        "{letters:?}"
    );
    assert_eq!(
        stages
            .iter()
            .filter(|stage| **stage == "event_time")
            .count(),
        1,
        "{letters:?}"
    );
    assert!(
        letters
            .iter()
            .all(|row| !row["error"].as_str().unwrap_or_default().is_empty())
    );
    assert_eq!(
        number(
            &sql(
                &server_file,
                "select count(*) as n from per_key where key = 'ahead'"
            )[0]["n"]
        ),
        0
    );
    server.process.drain(Duration::from_secs(30));

    // A file that changes what a deployed table means is refused with both texts.
    let pipeline = site.path("pipelines/events.yaml");
    let text = fs::read_to_string(&pipeline).unwrap();
    fs::write(&pipeline, text.replace("tumbling: 1m", "tumbling: 5m")).unwrap();
    let log = folder.path().join("refused.log");
    let mut refused = Process::start(alluvium().arg("run").arg("-c").arg(&server_file), &log);
    let status = wait_for(
        "the changed file to be refused",
        Duration::from_secs(60),
        || refused.ended(),
    );
    assert_eq!(status.code(), Some(2), "{}", refused.messages());
    let messages = refused.messages();
    assert!(
        messages.contains("1m") && messages.contains("5m"),
        "{messages}"
    );
    let last = last_word(&messages);
    assert!(
        last.starts_with("pipeline events: the definition of tables/per_key has changed"),
        "{messages}"
    );
}

/// The error that stands at the end, where those look first who come later.
fn last_word(messages: &str) -> &str {
    let (_, error) = messages.rsplit_once("\nerror: ").unwrap_or_default();
    let is_logged = |line: &str| line.contains(" INFO ") || line.contains(" ERROR ");
    assert!(!error.lines().any(is_logged), "{messages}");
    error
}

#[test]
fn a_flood_of_broken_events_stops_its_pipeline_while_its_tables_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "500ms");
    let file = site.path("pipelines/events.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        format!("{text}dead_letters: {{stop_if: \"20% over 1m\"}}\n"),
    )
    .unwrap();
    let events = folder.path().join("events.ndjson");
    let produce = |line: &str, count: usize| {
        fs::write(&events, format!("{line}\n").repeat(count)).unwrap();
        let file = events.to_str().unwrap();
        results(&["produce", "--brokers", &brokers, "--topic", TOPIC, file]);
    };
    let mut server = site.run("one");
    let asked = |url: &str| {
        let query = "select coalesce(sum(events), 0) as n from per_key";
        let text = results(&["sql", "--url", url, "--format", "json", query]);
        let rows: Vec<Value> = serde_json::from_str(&text).expect("rows");
        number(&rows[0]["n"])
    };
    let patience = Duration::from_secs(60);
    wait_for("the server to answer", patience, || server.reached());
    produce(
        r#"{"ts":"2026-03-08T12:00:00Z","key":"good","amount":1}"#,
        10,
    );
    wait_for("the good events", patience, || {
        (site.counted() == 10).then_some(())
    });
    produce(r#"{"ts":"2026-03-08T12:00:00Z","key":"#, 5_000);
    let pipeline = |url: &str| -> Option<Value> {
        let status = reqwest::blocking::get(format!("{url}/v1/status"));
        let status: Value = status.ok()?.json().ok()?;
        let pipelines = status.as_array().or_else(|| status["pipelines"].as_array());
        pipelines?.first().cloned()
    };
    let stopped = wait_for("the pipeline to stop", patience, || {
        pipeline(&server.url).filter(|pipeline| pipeline["state"] == "stopped")
    });
    let reason = stopped["reason"].to_string();
    assert!(reason.contains("stop_if"), "{reason}");
    // Whether or not its letters were committed before, there is one to look at.
    let place = format!(" of {TOPIC}/");
    assert!(
        reason.contains(", the last at offset ")
            && reason.contains(&place)
            && reason.contains("(stage decode"),
        "{reason}"
    );

    // The process stays, says that it lives and how much waits, and answers.
    let waiting = |pipeline: &Value| -> i64 {
        let partitions = pipeline["partitions"].as_array().expect("partitions");
        partitions
            .iter()
            .filter_map(|partition| partition["lag"].as_i64())
            .sum()
    };
    let before = waiting(&stopped);
    produce(r#"{"ts":"2026-03-08T12:00:00Z","key":"#, 7_000);
    wait_for("the lag to grow", patience, || {
        let grown = waiting(&pipeline(&server.url)?) - before;
        (grown >= 7_000).then_some(())
    });
    assert!(
        server.process.ended().is_none(),
        "{}",
        server.process.messages()
    );
    let alive = reqwest::blocking::get(format!("{}/livez", server.url)).unwrap();
    assert!(alive.status().is_success());
    assert_eq!(asked(&server.url), 10);

    // Nor are its tables as they were when it stopped: another server goes on with them.
    fs::write(&file, text).unwrap();
    let mut other = site.run("two");
    produce(
        r#"{"ts":"2026-03-08T12:00:00Z","key":"good","amount":1}"#,
        5,
    );
    wait_for("what the other server commits", patience, || {
        (asked(&server.url) == 15).then_some(())
    });
    other.process.drain(Duration::from_secs(40));

    // Its end is no success.
    server.process.signal("TERM");
    let status = wait_for("its end", patience, || server.process.ended());
    let messages = server.process.messages();
    assert_eq!(status.code(), Some(1), "{messages}");
    assert!(last_word(&messages).contains("stop_if"), "{messages}");
}

#[test]
fn servers_of_other_settings_say_which_differ() {
    const CONFLICT: &str = "alluvium_pipeline_version_conflict";
    let patience = Duration::from_secs(60);
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "500ms");
    let load = Load::start(&brokers, site.table(), 500, 11);
    let mut one = site.run("one");
    wait_for("a commit", patience, || (site.counted() > 0).then_some(()));
    assert_eq!((one.reason(), one.metric(CONFLICT)), (None, 0.0));

    let pipeline = site.path("pipelines/events.yaml");
    let text = fs::read_to_string(&pipeline).unwrap();
    let other = text.replace("idle_after: 10s", "idle_after: 11s");
    fs::write(&pipeline, other).unwrap();
    let two = site.run("two");
    for (server, differs) in [
        (&one, "`idle_after` is 11s there and 10s here"),
        (&two, "`idle_after` is 10s there and 11s here"),
    ] {
        wait_for(differs, patience, || {
            server.reason().filter(|why| why.contains(differs))
        });
        assert_eq!(server.metric(CONFLICT), 1.0);
    }

    // The way out: the same files, and a restart of who is behind.
    one.process.drain(Duration::from_secs(30));
    let one = site.run("one");
    wait_for("commits of both", patience, || {
        (one.reached()?.committed > 0).then_some(())
    });
    assert_eq!((one.reason(), one.metric(CONFLICT)), (None, 0.0));
    load.finish();
}

#[test]
fn a_server_of_another_group_says_so_though_others_always_commit_first() {
    let patience = Duration::from_secs(60);
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "300ms");
    let load = Load::start(&brokers, site.table(), 500, 12);
    let servers = [("one", None), ("two", Some("another"))].map(|(name, group)| {
        if let Some(group) = group {
            let file = site.path("pipelines/events.yaml");
            let text = fs::read_to_string(&file).unwrap();
            let other = format!("start: earliest\n    group: {group}");
            fs::write(&file, text.replace("start: earliest", &other)).unwrap();
        }
        let server = site.run(name);
        wait_for("its partitions", patience, || {
            server.reached().filter(|reached| reached.read > 0)
        });
        server
    });
    // Every partition has events for every commit, so of two commits of the same events one comes first, and often the same one's.
    wait_for("one of them to say it", patience, || {
        let mut reasons = servers.iter().filter_map(|server| server.reason());
        reasons.find(|why| why.contains("`group` is"))
    });
    load.finish();
}

#[test]
fn a_topic_that_was_made_anew_while_nobody_read_is_not_read_for_the_old_one() {
    let one = format!("{TOPIC}:1");
    for drain in ["direct", "portable"] {
        let folder = tempfile::tempdir().unwrap();
        let (former_broker, former) = broker_with(folder.path(), &one);
        let site = Site::new(&former, "500ms");
        let pipeline = site.path("pipelines/events.yaml");
        let text = fs::read_to_string(&pipeline).unwrap();
        let read_by = format!("start: earliest\n    drain: {drain}");
        fs::write(&pipeline, text.replace("start: earliest", &read_by)).unwrap();
        let events = folder.path().join("events.ndjson");
        let line = r#"{"ts":"2026-03-08T12:00:00Z","key":"good","amount":1}"#;
        let produce = |brokers: &str, count: usize| {
            fs::write(&events, format!("{line}\n").repeat(count)).unwrap();
            let file = events.to_str().unwrap();
            results(&["produce", "--brokers", brokers, "--topic", TOPIC, file]);
        };
        let server_file = site.path("one.yaml");
        let patience = Duration::from_secs(60);
        let mut server = site.run("one");
        produce(&former, 600);
        wait_for("the events", patience, || {
            (site.counted() == 600).then_some(())
        });
        server.process.drain(Duration::from_secs(30));

        // A fresh broker has a topic of that name with another id, and more events than before.
        drop(former_broker);
        let (_fresh_broker, fresh) = broker_with(folder.path(), &one);
        produce(&fresh, 3_000);
        let text = fs::read_to_string(&server_file).unwrap();
        fs::write(&server_file, text.replace(&former, &fresh)).unwrap();
        let mut server = site.run("one");
        let halted = wait_for("the partition to halt", patience, || {
            let halted = server.halts()?;
            (halted.len() == 1).then_some(halted)
        });
        assert!(
            halted.iter().all(|why| why.contains("created again")),
            "{drain}: {halted:?}"
        );
        let metrics = reqwest::blocking::get(format!("{}/metrics", server.url)).unwrap();
        let metrics = metrics.text().unwrap();
        for metric in [
            "alluvium_partition_halts_total",
            "alluvium_partition_halted",
        ] {
            assert!(
                metrics
                    .lines()
                    .any(|line| line.starts_with(metric) && line.ends_with(" 1")),
                "{metric} in {metrics}"
            );
        }
        let ready = reqwest::blocking::get(format!("{}/readyz?verbose", server.url)).unwrap();
        let (code, said) = (ready.status().as_u16(), ready.text().unwrap());
        assert_eq!(code, 503, "none of its partitions goes on: {said}");
        assert!(said.contains("1 of 1 partitions halted"), "{said}");
        assert_eq!(
            site.counted(),
            600,
            "{drain}: nothing of the new topic counts"
        );
        server.process.drain(Duration::from_secs(30));

        // The operator's word, with the id that the halt names: from the recorded offsets on, here 600 in all.
        let id = halted[0]
            .split(&format!("continued_by: {{{TOPIC}: "))
            .nth(1)
            .and_then(|rest| rest.split('}').next())
            .expect("the halt says what to write");
        let text = fs::read_to_string(&pipeline).unwrap();
        let word = format!("start: earliest\n    continued_by: {{{TOPIC}: {id}}}");
        fs::write(&pipeline, text.replace("start: earliest", &word)).unwrap();
        let mut server = site.run("one");
        wait_for("the rest", patience, || {
            (site.counted() == 3_000).then_some(())
        });
        server.process.drain(Duration::from_secs(30));
    }
}
