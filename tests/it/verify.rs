//! A table is what Kafka makes of its events a second time, and what is not is found and told.

use std::{collections::BTreeMap, fs, path::Path, process::Output, sync::Arc, time::Duration};

use datafusion::arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array},
    compute::take_record_batch,
    datatypes::Int64Type,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    forged::{forge, forge_range, one_more, read},
    ledger,
    process::{Process, alluvium, number, results, said, sql, wait_for},
    site::{Server, Site, TOPIC, broker, broker_with},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every kind of measure, filters of both kinds, and doubles whose sums depend on an order.
const TABLES: &str = "\
where: kind <> 'noise'
tables:
  everything:
    window: {tumbling: 1m}
    group_by: {key: key, level: level}
    measures:
      events: count(*)
      large: count(*) filter (where amount > 50)
      amount: sum(amount)
      mean_amount: avg(amount)
      weight: sum(weight)
      mean_weight: avg(weight)
      lightest: min(weight)
      last_kind: max(kind)
      users: approx_distinct(who)
      median: approx_percentile_cont(weight, 0.5)
      p99: approx_percentile_cont(weight, 0.99)
  large_only:
    where: amount > 50
    window: {tumbling: 5m}
    measures:
      events: count(*)
      ratio: sum(amount / divisor)
";
const COLUMNS: &str = "\
version: 1
columns:
  ts: timestamp
  key: string?
  kind: string
  amount: int
  level: double?
  weight: double
  who: string
  divisor: int
";

/// Writes a pipeline's tables and the columns of its events.
/// Sends lines, and returns how many.
fn produce(brokers: &str, folder: &Path, lines: &[String]) -> i64 {
    let file = folder.join("events.ndjson");
    fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    results(&["produce", "--brokers", brokers, "--topic", TOPIC, file]);
    lines.len() as i64
}

/// Events of all kinds: late ones, filtered ones, some that one table refuses and some that all do.
fn events(from: usize, count: usize) -> Vec<String> {
    (from..from + count)
        .map(|at| match at % 100 {
            17 => "{broken".to_owned(),
            18 => r#"{"ts":"2026-03-08T12:00:00Z","key":"k"}"#.to_owned(),
            _ => {
                let minute = (at / 40 + at % 3) % 60;
                let kind = ["noise", "good", "better", "best"][at % 4];
                let key = match at % 13 {
                    0 => "null".to_owned(),
                    key => format!("\"k{key}\""),
                };
                let level = ["0.0", "-0.0", "1.5", "null"][at % 4 / 2 + at % 2];
                let (amount, who) = (at % 97, at * at % 331);
                let weight = (at % 1009) as f64 * 0.1 * if at % 5 == 0 { -1.0 } else { 1.0 };
                let divisor = i32::from(at % 50 != 3);
                format!(
                    r#"{{"ts":"2026-03-08T12:{minute:02}:07Z","key":{key},"kind":"{kind}","amount":{amount},"level":{level},"weight":{weight},"who":"u{who}","divisor":{divisor}}}"#
                )
            }
        })
        .collect()
}

/// Waits until all of `events` are committed.
fn wait_for_commit(server: &Server, events: i64) {
    wait_for("all events to be committed", PATIENCE, || {
        (server.reached()?.committed == events).then_some(())
    });
}

fn drain(server: &mut Server) {
    server.process.drain(Duration::from_secs(30));
}

/// `alluvium verify events`.
fn verify(site: &Site, more: &[&str]) -> Output {
    let file = site.path("one.yaml");
    let mut command = alluvium();
    command.args(["verify", "events", "-c"]).arg(&file);
    command.args(more).output().unwrap()
}

/// Its results in JSON, by table, and its exit code.
fn verdicts(site: &Site, more: &[&str]) -> (Option<i32>, BTreeMap<String, Value>) {
    let output = verify(site, &[more, &["--format", "json"]].concat());
    let tables: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let by_name = |table: Value| (table["table"].as_str().unwrap().to_owned(), table);
    (
        output.status.code(),
        tables.into_iter().map(by_name).collect(),
    )
}

fn rows_in(site: &Site, query: &str) -> i64 {
    number(&sql(&site.path("one.yaml"), query)[0]["n"])
}

#[test]
fn tables_are_what_kafka_makes_of_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "300ms");
    site.write(TABLES, COLUMNS);
    let mut server = site.run("one");
    let mut sent = 0;
    for round in 0..4 {
        sent += produce(&brokers, folder.path(), &events(round * 3_000, 3_000));
        // What it had not committed is read again.
        if round == 1 {
            server.process.kill();
            server = site.run("one");
        }
    }
    let audited = || {
        let text = results(&[
            "audit",
            "everything",
            "--format",
            "json",
            "-c",
            site.path("one.yaml").to_str().unwrap(),
        ]);
        let reports: Value = serde_json::from_str(&text).unwrap();
        reports[0]["balance"].clone()
    };
    let table = site.path("data/tables/everything");
    wait_for("all events to be committed", PATIENCE, || {
        (ledger::version(&table) > 1 && number(&audited()["in"]) == sent).then_some(())
    });

    // Beside a server that runs.
    let (code, tables) = verdicts(&site, &[]);
    assert_eq!(code, Some(0), "{tables:#?}");
    let everything = &tables["everything"];
    assert_eq!(everything["verdict"], "equal");
    assert_eq!(number(&everything["events"]), sent);
    assert_eq!(everything["notes"], json!([]));
    assert_eq!(everything["rounded"], json!(["weight", "mean_weight"]));
    assert_eq!(everything["partitions"].as_array().unwrap().len(), 6);
    let rows = rows_in(&site, "select count(*) as n from everything");
    assert_eq!(number(&everything["rows"]["equal"]), rows);
    assert!(rows > 1_000, "{rows}");
    assert!(number(&audited()["rejected"]) > 200 && number(&audited()["filtered"]) > 2_000);
    assert_eq!(tables["large_only"]["verdict"], "equal");
    assert_eq!(tables["large_only"]["rounded"], json!([]));
    drain(&mut server);

    // And after its files were merged, for people.
    let file = site.path("one.yaml").display().to_string();
    results(&["compact", "-c", &file]);
    let output = verify(&site, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in [
        "everything, version ",
        &format!("12,000 events read again; {} rows compared", grouped(rows)),
        "equal: every row, in every measure (weight, mean_weight: as far as the order in which doubles are added up can tell)",
        "equal: every row, in every measure\n",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let sheet = said(&verify(&site, &["--format", "csv"]));
    assert!(sheet.contains("large_only,equal,"), "{sheet}");

    // Some windows only: those that lie between two moments whole.
    let between = [
        "--from",
        "2026-03-08T12:10:00Z",
        "--to",
        "2026-03-08T13:20:30+01:00",
    ];
    let (code, tables) = verdicts(&site, &between);
    assert_eq!(code, Some(0), "{tables:#?}");
    for (table, last) in [("everything", "12:20:00"), ("large_only", "12:20:00")] {
        let rows = rows_in(
            &site,
            &format!(
                "select count(*) as n from {table} where window_start >= timestamp '2026-03-08 12:10:00' and window_end <= timestamp '2026-03-08 {last}'"
            ),
        );
        assert!(rows > 0);
        assert_eq!(number(&tables[table]["rows"]["equal"]), rows, "{table}");
        assert_eq!(number(&tables[table]["events"]), sent, "{table}");
    }
    let nothing = said(&verify(&site, &["--from", "2027-03-08T12:10:00Z"]));
    assert_eq!(
        nothing.matches("equal: no row is there").count(),
        2,
        "{nothing}"
    );
}

fn grouped(rows: i64) -> String {
    match rows {
        1_000.. => format!("{},{:03}", rows / 1_000, rows % 1_000),
        _ => rows.to_string(),
    }
}

/// `per_key` of the site's own pipeline, with events in one commit or few.
fn small_table(folder: &Path, brokers: &str) -> Site {
    let site = Site::new(brokers, "300ms");
    let mut server = site.run("one");
    let lines: Vec<String> = (0..500)
        .map(|at| {
            let (minute, key) = (at % 4, at % 10);
            format!(r#"{{"ts":"2026-03-08T12:0{minute}:00Z","key":"k{key}","amount":3}}"#)
        })
        .collect();
    let sent = produce(brokers, folder, &lines);
    wait_for_commit(&server, sent);
    drain(&mut server);
    let file = site.path("one.yaml").display().to_string();
    results(&["compact", "-c", &file]);
    site
}

#[test]
fn rows_that_were_changed_by_hand_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = small_table(folder.path(), &brokers);
    let table = site.table();
    let files = ledger::files(&table);
    assert_eq!(files.len(), 1, "{files:?}");
    let path = files.first().unwrap();
    let rows = read(&table.join(path));
    let all = rows.num_rows();
    assert_eq!(verify(&site, &[]).status.code(), Some(0));
    let (first_key, first_count) = {
        let keys = rows.column_by_name("key").unwrap().as_string::<i32>();
        let counts = rows.column_by_name("events").unwrap();
        (
            keys.value(0).to_owned(),
            counts.as_primitive::<Int64Type>().value(0),
        )
    };

    // A file in whose first row one number is another.
    let entry = forge(&table, Some(path), Some(&one_more(&rows, "events")));
    let output = verify(&site, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let words = format!(
        "[2026-03-08T12:00:00Z, 2026-03-08T12:01:00Z), key = '{first_key}': events is {} in the table, {first_count} from Kafka",
        first_count + 1
    );
    for words in [
        words.as_str(),
        "different: 1 rows differ, 0 are in the table only, 0 come from Kafka only",
        "note: its history is not proven",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Windows without it are equal.
    let later = verify(&site, &["--from", "2026-03-08T12:01:00Z"]);
    assert_eq!(later.status.code(), Some(0), "{}", said(&later));
    fs::remove_file(entry).unwrap();

    // Its rows a second time: everything doubles.
    let entry = forge(&table, None, Some(&rows));
    let (code, tables) = verdicts(&site, &[]);
    assert_eq!(code, Some(1));
    let doubled = &tables["per_key"];
    assert_eq!(doubled["verdict"], "different");
    assert_eq!(number(&doubled["rows"]["differing"]), all as i64);
    let differences = doubled["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 10);
    let first = &differences[0];
    assert_eq!(first["row"]["key"], json!(first_key));
    assert_eq!(
        first["measures"]["events"],
        json!({"table": 2 * first_count, "kafka": first_count})
    );
    fs::remove_file(entry).unwrap();

    // A row less, and a row that nobody sent.
    let entry = forge(&table, Some(path), Some(&rows.slice(1, all - 1)));
    let output = verify(&site, &[]);
    let text = said(&output);
    let words =
        format!("key = '{first_key}': the table does not have this row, from Kafka it comes");
    assert!(text.contains(&words), "{text}");
    assert!(
        text.contains("0 rows differ, 0 are in the table only, 1 come from Kafka only"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
    fs::remove_file(entry).unwrap();
    let stranger = {
        let mut columns: Vec<ArrayRef> = rows.slice(0, 1).columns().to_vec();
        let at = rows.schema().index_of("key").unwrap();
        columns[at] = Arc::new(StringArray::from(vec!["stranger"]));
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    };
    let entry = forge(&table, None, Some(&stranger));
    let text = said(&verify(&site, &[]));
    let words = "key = 'stranger': the table has this row, from Kafka it does not come";
    assert!(text.contains(words), "{text}");
    fs::remove_file(entry).unwrap();

    // Rows that no writer of ours would put in that order.
    let order: Vec<u64> = (0..all as u64).rev().collect();
    let order = UInt64Array::from(order);
    let backwards = take_record_batch(&rows, &order).unwrap();
    let entry = forge(&table, Some(path), Some(&backwards));
    let output = verify(&site, &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("are not in the order of their windows"),
        "{text}"
    );
    fs::remove_file(entry).unwrap();
    assert_eq!(verify(&site, &[]).status.code(), Some(0));
}

#[test]
fn a_gap_and_an_overlap_are_told_with_their_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = small_table(folder.path(), &brokers);
    let table = site.table();
    let recorded = ledger::offsets(&table).into_iter();
    let (partition, end) = recorded.max_by_key(|(_, end)| *end).unwrap();
    assert!(end > 3, "{partition} {end}");
    let file = site.path("one.yaml");
    let audit = || {
        let output = alluvium()
            .args(["audit", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    assert_eq!(audit().0, Some(0));
    let last = ledger::version(&table);

    let gap = forge_range(&table, "events", &partition, [end + 5, end + 9]);
    let (code, text) = audit();
    assert_eq!(code, Some(1), "{text}");
    let words = format!("offsets {end} to {} are missing", end + 4);
    let by = format!("(commit forged-{})", last + 1);
    for words in [words.as_str(), by.as_str(), "gap: partition"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    fs::remove_file(gap).unwrap();
    assert_eq!(audit().0, Some(0));

    let overlap = forge_range(&table, "events", &partition, [end - 3, end + 2]);
    let (code, text) = audit();
    assert_eq!(code, Some(1), "{text}");
    let words = format!("offsets {} to {} count twice", end - 3, end - 1);
    for words in [words.as_str(), by.as_str(), "overlap: partition"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    fs::remove_file(overlap).unwrap();
}

#[test]
fn a_file_that_is_damaged_or_gone_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = small_table(folder.path(), &brokers);
    let name = ledger::files(&site.table()).pop_first().unwrap();
    let path = site.table().join(&name);
    let whole = fs::read(&path).unwrap();
    let refused = |way_out: &str| {
        let output = verify(&site, &[]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for words in [name.as_str(), way_out, "A stored file cannot be read"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    };
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused("put the file back from a copy");
    fs::remove_file(&path).unwrap();
    refused("if it is still not there, put it back");
    fs::write(&path, &whole).unwrap();
    assert_eq!(verify(&site, &[]).status.code(), Some(0));
}

#[test]
fn refused_events_count_where_they_were_replayed_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "300ms");
    let file = site.path("one.yaml").display().to_string();
    // Of each hundred 10 have no amount and 5 divide by nought.
    let lines = |count: usize| -> Vec<String> {
        (0..count)
            .map(|at| {
                let (minute, key) = (at % 7, at % 11);
                let amount = if at % 10 == 4 { "" } else { "\"amount\":3," };
                let divisor = i32::from(at % 20 != 1);
                format!(
                    r#"{{"ts":"2026-03-08T12:0{minute}:00Z","key":"k{key}",{amount}"divisor":{divisor}}}"#
                )
            })
            .collect()
    };
    let verdict = |wanted: [&str; 2]| {
        let (code, tables) = verdicts(&site, &[]);
        let found = ["per_key", "ratios"].map(|table| tables[table]["verdict"].clone());
        assert_eq!(found, wanted.map(Value::from), "{tables:#?}");
        let is_equal = wanted == ["equal"; 2];
        assert_eq!(code, Some(i32::from(!is_equal)), "{tables:#?}");
        tables
    };
    let no_notes = |tables: &BTreeMap<String, Value>| {
        assert!(
            tables.values().all(|table| table["notes"] == json!([])),
            "{tables:#?}"
        );
    };

    site.write_ratios("int");
    let mut server = site.run("one");
    let mut sent = produce(&brokers, folder.path(), &lines(2_000));
    wait_for_commit(&server, sent);
    drain(&mut server);
    no_notes(&verdict(["equal"; 2]));

    // Mended, and read on: what was refused is not part of the tables, though it would be taken today.
    site.write_ratios("int?");
    no_notes(&verdict(["equal"; 2]));
    let mut server = site.run("one");
    sent += produce(&brokers, folder.path(), &lines(1_000));
    wait_for("the rest", PATIENCE, || {
        (rows_in(&site, "select sum(events) as n from per_key") == 2_800).then_some(())
    });
    drain(&mut server);
    let tables = verdict(["equal"; 2]);
    no_notes(&tables);
    assert_eq!(number(&tables["per_key"]["events"]), sent);

    // Replayed: what one table takes and the other refuses again.
    results(&["replay", "events", "--skip-refused", "-c", &file]);
    assert_eq!(
        rows_in(&site, "select sum(events) as n from per_key"),
        3_000
    );
    no_notes(&verdict(["equal"; 2]));

    // With the former file what was replayed cannot be computed again, and that is said.
    site.write_ratios("int");
    let tables = verdict(["different"; 2]);
    let notes = tables["per_key"]["notes"].to_string();
    assert!(
        notes.contains("200 events are refused today that a replay took"),
        "{notes}"
    );
    assert!(
        notes.contains("100 events are refused today that its commits took"),
        "{notes}"
    );
}

#[test]
fn what_kafka_does_not_have_any_more_is_not_computed() {
    let folder = tempfile::tempdir().unwrap();
    let one = format!("{TOPIC}:1");
    let (former_broker, former) = broker_with(folder.path(), &one);
    let site = small_table(folder.path(), &former);
    assert_eq!(verify(&site, &[]).status.code(), Some(0));

    // More than the embedded broker keeps: it drops the oldest.
    let mut rng = StdRng::seed_from_u64(3);
    let mut filler = || -> String {
        // Nothing that could be packed tighter.
        (0..1_000)
            .map(|_| char::from(rng.random_range(b'#'..b'Z')))
            .collect()
    };
    let lines: Vec<String> = (0..9_000)
        .map(|_| format!(r#"{{"filler":"{}"}}"#, filler()))
        .collect();
    produce(&former, folder.path(), &lines);
    let output = verify(&site, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "per_key cannot be verified: the table was started at offset 0 of events/0, and Kafka's log begins at ",
        "offsets are gone",
        "help: its events are gone for good; `alluvium audit`",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (code, tables) = verdicts(&site, &[]);
    assert_eq!(code, Some(1));
    assert_eq!(tables["per_key"]["verdict"], "refused");
    assert!(
        tables["per_key"]["refused"]["why"]
            .as_str()
            .unwrap()
            .contains("offset 0")
    );

    // A topic of the same name with other events, and none at all.
    drop(former_broker);
    let point_to = |brokers: &str, before: &str| {
        let file = site.path("one.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(before, brokers)).unwrap();
    };
    let (fresh_broker, fresh) = broker_with(folder.path(), &one);
    produce(&fresh, folder.path(), &events(0, 1_000));
    point_to(&fresh, &former);
    let output = verify(&site, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("topic events was deleted and created again")
            && text.contains("continued_by: {events: "),
        "{text}"
    );
    drop(fresh_broker);
    let (_empty_broker, empty): (Process, String) = broker_with(folder.path(), "others:1");
    point_to(&empty, &fresh);
    let output = verify(&site, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("there is no topic events on the broker"),
        "{text}"
    );
}

#[test]
fn a_table_of_another_definition_is_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = small_table(folder.path(), &brokers);
    let pipeline = site.path("pipelines/events.yaml");
    let written = fs::read_to_string(&pipeline).unwrap();
    let refused = |words: &[&str], more: &[&str]| {
        let output = verify(&site, more);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for words in words {
            assert!(text.contains(words), "{words}: {text}");
        }
    };
    let rewrite = |from: &str, to: &str| fs::write(&pipeline, written.replace(from, to)).unwrap();

    rewrite("{tumbling: 1m}", "{tumbling: 2m}");
    refused(
        &["the definition of tables/per_key has changed: `window: 1m` is no longer there"],
        &[],
    );
    rewrite("per_key:", "per_other_key:");
    refused(&["there is no table at tables/per_other_key"], &[]);

    // A measure that is younger than the table.
    let more = "amount: sum(amount)\n      largest: max(amount)";
    rewrite("amount: sum(amount)", more);
    refused(
        &[
            "it has no measure largest yet",
            "restart the pipeline's servers",
        ],
        &[],
    );
    let mut server = site.run("one");
    let lines: Vec<String> = (0..200)
        .map(|at| {
            format!(
                r#"{{"ts":"2026-03-08T13:0{}:00Z","key":"k","amount":{at}}}"#,
                at % 3
            )
        })
        .collect();
    produce(&brokers, folder.path(), &lines);
    wait_for("the new events", PATIENCE, || {
        (rows_in(&site, "select sum(events) as n from per_key") == 700).then_some(())
    });
    drain(&mut server);
    refused(
        &[
            "1 of the files that hold these windows are older than the measure largest",
            "help: verify later windows: `--from 2026-03-08T12:04:00Z`",
        ],
        &[],
    );
    let later = verify(&site, &["--from", "2026-03-08T12:04:00Z"]);
    assert_eq!(later.status.code(), Some(0), "{}", said(&later));

    // Nor is what cannot be meant.
    let file = site.path("one.yaml").display().to_string();
    let usage = |arguments: &[&str], words: &str| {
        let mut command = alluvium();
        let output = command
            .arg("verify")
            .args(arguments)
            .args(["-c", &file])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    };
    usage(&["evnts"], "there are: events");
    usage(
        &["events", "--from", "yesterday"],
        "write a time like 2026-03-01T12:00:00Z",
    );
    usage(
        &[
            "events",
            "--from",
            "2026-03-01T12:00:00Z",
            "--to",
            "2026-03-01T12:00:00Z",
        ],
        "no window lies between",
    );
}
