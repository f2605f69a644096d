//! SQL as data: the records of `tests/sql`, asked of a running server over HTTP.
//!
//! Their format is that of sqllogictest, as far as they use it. The crate of that name would have the tests build most of the
//! tree anew: what it depends on asks crates below DataFusion for other features.

use std::{fmt, fs, io::Write, path::Path, process::Stdio, time::Duration};

use alluvium_query::Setting;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::{
    process::{Process, alluvium, results, wait_for},
    site::{broker_with, free_port},
};

const EVENTS: i64 = 288;

/// The fixture of `tests/sql`, loaded.
struct Server {
    _process: Process,
    _folder: tempfile::TempDir,
    url: String,
}

fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let (_broker, brokers) = broker_with(folder.path(), "orders:1");
    for name in ["pipelines", "schemas"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let pipeline = fs::read_to_string(fixture.join("pipeline.yaml")).unwrap();
    let pipeline = pipeline.replace("schema: schema.yaml", "schema: ../schemas/schema.yaml");
    fs::write(folder.path().join("pipelines/pipeline.yaml"), pipeline).unwrap();
    fs::copy(
        fixture.join("schema.yaml"),
        folder.path().join("schemas/schema.yaml"),
    )
    .unwrap();
    let port = free_port();
    let file = folder.path().join("alluvium.yaml");
    let server = format!(
        "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\nlisten: {{http: \"127.0.0.1:{port}\", postgres: off, flight: off}}\n"
    );
    fs::write(&file, server).unwrap();
    let events = fixture.join("events.ndjson");
    results(&[
        "produce",
        "--brokers",
        &brokers,
        "--topic",
        "orders",
        events.to_str().unwrap(),
    ]);
    let process = Process::start(
        alluvium().arg("run").arg("-c").arg(&file),
        &folder.path().join("server.log"),
    );
    let url = format!("http://127.0.0.1:{port}");
    let client = reqwest::blocking::Client::new();
    wait_for(
        "all events to be committed",
        Duration::from_secs(60),
        || {
            let committed = "SELECT min(committed) AS committed FROM system.partitions";
            let reply = ask(&client, &url, committed, "fresh").ok()?.1;
            let letters = "SELECT count(*) AS letters FROM dead_letters.pipeline";
            let letters = ask(&client, &url, letters, "fresh").ok()?.1;
            (reply[0][0] == json!(EVENTS) && letters[0][0] == json!(11)).then_some(())
        },
    );
    Server {
        _process: process,
        _folder: folder,
        url,
    }
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

type Rows = Vec<Vec<Value>>;

fn ask(
    client: &reqwest::blocking::Client,
    url: &str,
    sql: &str,
    read: &str,
) -> Result<(Vec<String>, Rows), Refused> {
    let reply = client
        .post(format!("{url}/v1/sql"))
        .json(&json!({ "sql": sql, "read": read }))
        .send()
        .map_err(|error| Refused(error.to_string()))?;
    let text = reply.text().map_err(|error| Refused(error.to_string()))?;
    // Objects keep the order of their keys as they were sent only as text, so columns are taken from their list.
    let body: Value = serde_json::from_str(&text).map_err(|error| Refused(error.to_string()))?;
    if let Some(error) = body.get("error") {
        let told = |key: &str| error[key].as_str().unwrap_or_default().replace('\n', " ");
        return Err(Refused(format!(
            "{}: {} {}",
            told("code"),
            told("message"),
            told("hint")
        )));
    }
    let columns: Vec<String> = body["columns"]
        .as_array()
        .expect("an answer has columns")
        .iter()
        .map(|column| column["name"].as_str().expect("a name").to_owned())
        .collect();
    let rows = body["rows"].as_array().expect("an answer has rows");
    let rows = rows
        .iter()
        .map(|row| columns.iter().map(|name| row[name].clone()).collect())
        .collect();
    Ok((columns, rows))
}

/// One session of a client.
struct Session {
    client: reqwest::blocking::Client,
    url: String,
    read: String,
}

impl Session {
    /// The rows as text; none for a setting.
    fn run(&mut self, sql: &str) -> Result<Option<Vec<String>>, Refused> {
        // Requests over HTTP have no session, so this one keeps what is set and sends it with the next ones.
        if let Some(Setting::SetRead(mode)) = Setting::of(sql) {
            self.read = mode.name().to_owned();
            return Ok(None);
        }
        let (_, rows) = ask(&self.client, &self.url, sql, &self.read)?;
        let line = |row: &Vec<Value>| row.iter().map(shown).collect::<Vec<_>>().join(" ");
        Ok(Some(rows.iter().map(line).collect()))
    }
}

/// One record: what is asked, and what must come.
struct Record {
    line: usize,
    sql: String,
    expected: Expected,
}

enum Expected {
    Done,
    Error(Regex),
    Rows { sorted: bool, rows: Vec<String> },
}

fn records(text: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, head)) = lines.next() {
        if head.trim().is_empty() || head.starts_with('#') {
            continue;
        }
        let mut until = |end: &str| {
            let mut taken = Vec::new();
            for (_, line) in lines.by_ref() {
                if line == end || line.is_empty() {
                    break;
                }
                taken.push(line.to_owned());
            }
            taken
        };
        let (sql, expected) = match head.split_once(' ') {
            Some(("statement", "ok")) => (until(""), Expected::Done),
            Some(("statement", rest)) => {
                let pattern = rest.strip_prefix("error").expect("statement ok or error");
                let pattern = Regex::new(pattern.trim()).expect("a pattern");
                (until(""), Expected::Error(pattern))
            }
            Some(("query", rest)) => {
                let sorted = rest.ends_with(" rowsort");
                let sql = until("----");
                let rows = until("");
                (sql, Expected::Rows { sorted, rows })
            }
            _ => panic!("line {}: no record begins with `{head}`", number + 1),
        };
        records.push(Record {
            line: number + 1,
            sql: sql.join("\n"),
            expected,
        });
    }
    records
}

/// What is wrong with the answer to a record.
fn judge(record: Record, answer: Result<Option<Vec<String>>, Refused>) -> Option<String> {
    match (record.expected, answer) {
        (Expected::Error(pattern), Err(error)) if pattern.is_match(&error.0) => None,
        (Expected::Error(pattern), found) => Some(format!("expected {pattern}, found {found:?}")),
        (_, Err(error)) => Some(error.0),
        (Expected::Done, Ok(_)) => None,
        (Expected::Rows { sorted, mut rows }, Ok(Some(mut found))) => {
            if sorted {
                rows.sort();
                found.sort();
            }
            let same = rows.len() == found.len()
                && rows
                    .iter()
                    .zip(&found)
                    .all(|(row, found)| is_same(row, found));
            (!same).then(|| format!("expected {rows:#?}, found {found:#?}"))
        }
        (Expected::Rows { .. }, Ok(None)) => Some("no rows came".to_owned()),
    }
}

/// Equal, and doubles within 1e-9: what a quantile's bin is called depends on the rounding of a power.
fn is_same(row: &str, found: &str) -> bool {
    row == found
        || row.split(' ').count() == found.split(' ').count()
            && row.split(' ').zip(found.split(' ')).all(|(one, other)| {
                let (Ok(a), Ok(b)) = (one.parse::<f64>(), other.parse::<f64>()) else {
                    return one == other;
                };
                one == other || one.contains('.') && (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
            })
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) if text.is_empty() => "(empty)".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().expect("a double").to_string(),
        other => other.to_string(),
    }
}

/// The server knows no session, so the command keeps one: what is set goes with each statement.
fn a_script_keeps_its_settings(url: &str) {
    // What begins with a comment is asked of the server, which says how this request reads.
    let script = "SET alluvium.read = 'committed';\n/* asked */ SHOW alluvium.read;\nSHOW alluvium.read;\n\
                  SELECT sum(orders) AS orders FROM orders_per_minute;\nSHOW alluvium.as_of;\n";
    let mut child = alluvium()
        .args(["sql", "--url", url, "--format", "ndjson"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let read = json!({ "alluvium.read": "committed" });
    assert_eq!(lines[..2], [read.clone(), read], "{printed}");
    let as_of = lines[3]["alluvium.as_of"].as_str().unwrap();
    let as_of: Value = serde_json::from_str(as_of).unwrap();
    assert!(
        as_of["tables"]["public.orders_per_minute"]["version"].is_number(),
        "{as_of}"
    );
}

#[test]
fn every_record_is_answered_as_it_is_written() {
    let server = start();
    a_script_keeps_its_settings(&server.url);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the records are there");
    let (mut asked, mut wrong) = (0, Vec::new());
    for file in files {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let mut session = Session {
            client: reqwest::blocking::Client::new(),
            url: server.url.clone(),
            read: "fresh".into(),
        };
        for record in records(&fs::read_to_string(&file).unwrap()) {
            let (line, sql) = (record.line, record.sql.clone());
            let answer = session.run(&sql);
            asked += 1;
            if let Some(found) = judge(record, answer) {
                wrong.push(format!("{name}:{line}: {sql}\n{found}"));
            }
        }
    }
    assert!(asked > 800, "only {asked} records were found");
    assert!(
        wrong.is_empty(),
        "{} records:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}
