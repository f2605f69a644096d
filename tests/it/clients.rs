//! Clients of other authors against the doors of a running server.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{
    process::{Process, alluvium, oracle_required, python, results, wait_for},
    site::{broker_with, free_port},
};

const SCHEMA: &str = "version: 1
columns: {ts: timestamp, name: string, number: int, big: bigint, truth: boolean, day: date, price: 'decimal(10,2)',
  moment: timestamp, amount: double}
";

const EVENTS: &str = r#"{"ts":"2026-03-01T12:00:01Z","name":"ann","number":7,"big":9007199254740993,"truth":true,"day":"2026-02-28","price":12.50,"moment":"2026-02-28T23:59:59.123456Z","amount":0.25}
{"ts":"2026-03-01T12:00:02Z","name":"ann","number":7,"big":9007199254740993,"truth":true,"day":"2026-02-28","price":12.50,"moment":"2026-02-28T23:59:59.123456Z","amount":0.5}
{"ts":"2026-03-01T12:00:03Z","name":"bob","number":8,"big":-1,"truth":false,"day":"2026-03-01","price":-0.01,"moment":"2026-03-01T00:00:00Z","amount":-1.5}
"#;

/// A server with the table `every_type` of two rows.
struct Server {
    process: Process,
    folder: tempfile::TempDir,
    /// Its server file.
    file: PathBuf,
    /// The HTTP door.
    url: String,
    postgres: SocketAddr,
    flight: SocketAddr,
}

impl Server {
    /// Bytes that the server holds.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let Ok(status) = fs::read_to_string(path) else {
            return 0;
        };
        let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let held = held.and_then(|rest| rest.split_whitespace().next());
        held.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker_with(folder.path(), "types:1");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    write("schemas/types.yaml", SCHEMA);
    write(
        "pipelines/types.yaml",
        "version: 1
source: {kafka: {connection: main, topics: [types], start: earliest}}
decode: {json: {schema: ../schemas/types.yaml}}
event_time: {column: ts, max_delay: 1s, idle_after: 365d}
commit_every: 1s
tables:
  every_type:
    window: {tumbling: 1m}
    group_by: {name: name, number: number, big: big, truth: truth, day: day, price: price, moment: moment}
    measures:
      events: count(*)
      numbers: sum(number)
      bigs: sum(big)
      doubles: sum(amount)
      mean: avg(amount)
      prices: sum(price)
      least: min(name)
      names: approx_distinct(name)
      p50: approx_percentile_cont(amount, 0.5)
",
    );
    let (http, postgres, flight) = (free_port(), free_port(), free_port());
    let file = write(
        "alluvium.yaml",
        &format!(
            "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\n\
             listen: {{http: \"127.0.0.1:{http}\", postgres: \"127.0.0.1:{postgres}\", flight: \"127.0.0.1:{flight}\"}}\n"
        ),
    );
    let events = write("events.ndjson", EVENTS);
    results(&[
        "produce",
        "--brokers",
        &brokers,
        "--topic",
        "types",
        events.to_str().unwrap(),
    ]);
    let process = Process::start(
        alluvium().arg("run").arg("-c").arg(&file),
        &folder.path().join("server.log"),
    );
    let url = format!("http://127.0.0.1:{http}");
    let client = reqwest::blocking::Client::new();
    wait_for(
        "the events to be committed",
        Duration::from_secs(60),
        || {
            let status = client.get(format!("{url}/v1/status")).send().ok()?;
            let status: serde_json::Value = status.json().ok()?;
            let balance = &status["pipelines"][0]["tables"][0]["balance"];
            (balance["in"] == 3).then_some(())
        },
    );
    Server {
        process,
        folder,
        file,
        url,
        postgres: SocketAddr::from(([127, 0, 0, 1], postgres)),
        flight: SocketAddr::from(([127, 0, 0, 1], flight)),
    }
}

/// Runs a client to its end and returns what it printed; `None` when it is not here and may be missing.
fn run(client: &str, command: &mut Command) -> Option<String> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if !oracle_required() => {
            println!("skipped: {client} cannot be started: {error}");
            return None;
        }
        Err(error) => panic!("{client} cannot be started: {error}"),
    };
    let (printed, messages) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    if messages.contains("ModuleNotFoundError") && !oracle_required() {
        println!("skipped: {client}: {messages}");
        return None;
    }
    assert!(
        output.status.success(),
        "{client}: {}\n{printed}\n{messages}",
        output.status
    );
    Some(printed + &messages)
}

fn psql(address: SocketAddr, command: &str) -> Option<String> {
    let mut psql = Command::new("psql");
    psql.args([
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "--username=analyst",
        "--host",
    ])
    .arg(address.ip().to_string())
    .arg(format!("--port={}", address.port()))
    .args(["--dbname=alluvium", "--command", command]);
    run("psql", &mut psql)
}

#[test]
fn psql_describes_and_asks() {
    let server = start();
    for (command, expected) in [
        ("\\d", vec!["every_type", "public"]),
        ("\\dt", vec!["every_type", "table"]),
        ("\\dt+", vec!["every_type"]),
        ("\\dt panes.*", vec!["panes", "every_type"]),
        (
            "\\d every_type",
            vec![
                "window_start",
                "timestamp with time zone",
                "bigint",
                "numeric",
            ],
        ),
        ("\\d+ every_type", vec!["window_start", "names"]),
        ("\\dn", vec!["public", "panes", "dead_letters", "system"]),
        ("\\dv system.*", vec!["partitions"]),
        ("\\di", vec![]),
        ("\\ds", vec![]),
        ("\\dm", vec![]),
        ("\\df every_*", vec![]),
        ("\\du", vec!["Role name"]),
        ("\\dp", vec!["Access privileges"]),
        ("\\l", vec!["alluvium"]),
        ("\\dT", vec!["List of data types"]),
        ("\\dx", vec!["List of installed extensions"]),
        ("\\conninfo", vec!["analyst"]),
        ("\\encoding", vec!["UTF8"]),
        (
            "SELECT name, events FROM every_type ORDER BY 1",
            vec!["ann  |      2", "(2 rows)"],
        ),
        ("SELECT 1; SELECT 2 AS two", vec!["two", "2"]),
        ("SHOW alluvium.as_of", vec!["tables"]),
        ("EXPLAIN SELECT 1", vec!["plan"]),
    ] {
        let Some(printed) = psql(server.postgres, command) else {
            return;
        };
        for word in expected {
            assert!(printed.contains(word), "{command}: no {word} in\n{printed}");
        }
    }
    let copied = server.folder.path().join("copied.csv");
    let copy = format!(
        "\\copy (SELECT name, events FROM every_type ORDER BY 1) TO '{}' WITH (FORMAT csv, HEADER)",
        copied.display()
    );
    psql(server.postgres, &copy).expect("psql is here");
    assert_eq!(
        fs::read_to_string(copied).unwrap(),
        "name,events\nann,2\nbob,1\n"
    );
}

#[test]
fn psycopg_and_sqlalchemy_find_what_they_expect() {
    let server = start();
    let mut script = python("postgres_clients.py");
    script
        .arg(server.postgres.ip().to_string())
        .arg(server.postgres.port().to_string());
    run("postgres_clients.py", &mut script);
}

#[test]
fn dashboards_find_what_they_expect() {
    let server = start();
    let mut script = python("dashboards.py");
    script
        .arg(server.postgres.ip().to_string())
        .arg(server.postgres.port().to_string());
    run("dashboards.py", &mut script);
}

#[test]
fn readers_of_delta_tables_merge_the_panes() {
    let server = start();
    let mut script = python("delta_readers.py");
    script.arg(server.folder.path().join("data"));
    run("delta_readers.py", &mut script);
}

/// The Java clients, built by Maven; `None` when it is not here.
fn java_clients() -> Option<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = BUILT.get_or_init(|| {
        let mut maven = Command::new("mvn");
        maven
            .args(["--batch-mode", "--quiet", "package"])
            .current_dir(root.join("tests/java"));
        if oracle_required() {
            return run("mvn", &mut maven).is_some();
        }
        // Without a network there is nothing to build with.
        match maven.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => true,
            _ => {
                println!("skipped: the Java clients cannot be built here");
                false
            }
        }
    });
    built.then(|| root.join("target/clients/jars/*"))
}

#[test]
fn jdbc_finds_what_it_expects() {
    let Some(jars) = java_clients() else {
        return;
    };
    let server = start();
    java(&jars, "alluvium.Postgres", server.postgres);
}

fn java(jars: &Path, class: &str, door: SocketAddr) {
    let mut java = Command::new("java");
    // What Arrow's memory asks for.
    java.arg("--add-opens=java.base/java.nio=ALL-UNNAMED")
        .arg("-cp")
        .arg(jars)
        .arg(class)
        .arg(door.ip().to_string())
        .arg(door.port().to_string());
    run("java", &mut java);
}

#[test]
fn jdbc_of_flight_sql_finds_what_it_expects() {
    let Some(jars) = java_clients() else {
        return;
    };
    let server = start();
    java(&jars, "alluvium.FlightSql", server.flight);
}

#[test]
fn adbc_finds_what_it_expects() {
    let server = start();
    let mut script = python("flight_clients.py");
    script
        .arg(server.flight.ip().to_string())
        .arg(server.flight.port().to_string());
    run("flight_clients.py", &mut script);
}

#[test]
fn the_prompt_talks_over_storage_and_over_a_server() {
    let server = start();
    let mut script = python("prompt.py");
    script
        .arg(env!("CARGO_BIN_EXE_alluvium"))
        .arg(&server.file)
        .arg(&server.url);
    run("prompt.py", &mut script);
}

/// A client of Postgres that speaks as little as it can.
struct Raw(TcpStream);

impl Raw {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(socket)
    }

    /// Says who it is and waits until it may ask.
    fn enter(address: SocketAddr) -> io::Result<Self> {
        let mut raw = Self::connect(address);
        let mut message = vec![0, 3, 0, 0];
        message.extend(b"user\0raw\0database\0alluvium\0\0");
        let length = message.len() as i32 + 4;
        raw.0.write_all(&length.to_be_bytes())?;
        raw.0.write_all(&message)?;
        raw.until(b'Z')?;
        Ok(raw)
    }

    fn ask(&mut self, sql: &str) -> io::Result<()> {
        let length = sql.len() as i32 + 5;
        self.0.write_all(b"Q")?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(sql.as_bytes())?;
        self.0.write_all(b"\0")
    }

    /// Reads messages up to one of this kind, and returns how many there were.
    fn until(&mut self, kind: u8) -> io::Result<usize> {
        for count in 1.. {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap());
            let mut body = vec![0; length as usize - 4];
            self.0.read_exact(&mut body)?;
            if head[0] == kind {
                return Ok(count);
            }
            if head[0] == b'E' && kind != b'E' {
                let text = String::from_utf8_lossy(&body).into_owned();
                return Err(io::Error::other(text));
            }
        }
        unreachable!("counting ends only with an answer")
    }
}

/// Q9 and Q10: those who say nothing, say too much, or go away in the middle harm nobody.
#[test]
fn rude_clients_of_postgres_harm_nobody() {
    let server = start();
    let address = server.postgres;
    let answers = |what: &str| {
        let begin = Instant::now();
        let mut client = Raw::enter(address).unwrap_or_else(|error| panic!("{what}: {error}"));
        client.ask("SELECT count(*) FROM every_type").unwrap();
        client
            .until(b'Z')
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(begin.elapsed() < Duration::from_secs(5), "{what}: slow");
    };
    answers("nobody else");

    let silent: Vec<Raw> = (0..1_000).map(|_| Raw::connect(address)).collect();
    answers("beside a thousand who say nothing");
    drop(silent);

    let before = server.memory();
    for first in [b'Q', b'P', b'B', b'p', 0xFF] {
        // A gigabyte is announced, and begun: before it is known who speaks, and after.
        let mut stranger = Raw::connect(address);
        let mut client = Raw::enter(address).unwrap();
        for raw in [&mut stranger, &mut client] {
            let flood = vec![b'x'; 64 << 10];
            // It may be hung up on while it writes.
            let _ = raw.0.write_all(&[first]);
            let _ = raw.0.write_all(&0x3FFF_FFFF_i32.to_be_bytes());
            for _ in 0..512 {
                if raw.0.write_all(&flood).is_err() {
                    break;
                }
            }
        }
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0xFF; 100]] {
        let mut raw = Raw::connect(address);
        let _ = raw.0.write_all(garbage);
    }
    answers("beside those who say too much");
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 150 << 20, "grown by {} MiB", grown >> 20);

    for turn in 0..100 {
        let mut client = Raw::enter(address).unwrap_or_else(|error| panic!("{turn}: {error}"));
        client
            .ask("SELECT value, repeat('x', 1000) FROM generate_series(1, 9000000) AS t(value)")
            .unwrap();
        client
            .until(b'D')
            .unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        // It goes without a word, with a result on its way.
    }
    answers("after a hundred who went away");
}
