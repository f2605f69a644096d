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

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
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

/// What cannot be taken: with a key and headers, so that the dead letter has every type that one can have.
const BROKEN: &str = r#"{"ts":"2026-03-01T12:00:04Z","name":"eve","number":"none"}"#;

/// Ends after minutes if nobody stops it.
const ENDLESS: &str = "SELECT sum(a.value * b.value % 7) FROM generate_series(1, 3000000) AS a(value) \
     CROSS JOIN generate_series(1, 3000000) AS b(value)";

/// A server with the table `every_type` of two rows, and one dead letter.
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
      mean_price: avg(price)
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
    produce_broken(&brokers);
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
            (balance["in"] == 4).then_some(())
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

fn produce_broken(brokers: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let text = Header {
        key: "trace",
        value: Some("a, \"b\" (c)"),
    };
    let empty = Header {
        key: "empty",
        value: None::<&str>,
    };
    let record = BaseRecord::to("types")
        .partition(0)
        .key(&b"\x00\xff"[..])
        .payload(BROKEN)
        .headers(OwnedHeaders::new().insert(text).insert(empty));
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
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

fn psql_at(address: SocketAddr) -> Command {
    let mut psql = Command::new("psql");
    psql.args([
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "--username=analyst",
        "--host",
    ])
    .arg(address.ip().to_string())
    .arg(format!("--port={}", address.port()))
    .arg("--dbname=alluvium");
    psql
}

fn psql(address: SocketAddr, command: &str) -> Option<String> {
    run("psql", psql_at(address).args(["--command", command]))
}

/// The first number of psql's version; `None` when it is not here and may be missing.
fn psql_version() -> Option<u32> {
    let told = run("psql", Command::new("psql").arg("--version"))?;
    let version = told.split_whitespace().find_map(|word| {
        let digits = word.split('.').next()?;
        digits.parse().ok()
    });
    Some(version.unwrap_or_else(|| panic!("no version in {told}")))
}

#[test]
fn psql_describes_and_asks() {
    let server = start();
    for (command, expected) in [
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
        ("\\d panes.every_type", vec!["mean", "bytea"]),
        (
            "\\d+ dead_letters.types",
            vec!["headers", "payload", "bytea"],
        ),
        (
            "\\d system.queries",
            vec!["View \"system.queries\"", "query"],
        ),
        ("\\d every*", vec!["every_type", "window_start"]),
        ("\\dt panes.*", vec!["panes", "every_type"]),
        ("\\dv system.*", vec!["partitions"]),
        (
            "\\dn+",
            vec![
                "public",
                "panes",
                "dead_letters",
                "system",
                "Access privileges",
            ],
        ),
        ("\\dn pub*", vec!["public"]),
        ("\\df every_*", vec!["(0 rows)"]),
        ("\\dfS abs", vec!["abs"]),
        ("\\dconfig server*", vec!["server_version", "16"]),
        ("\\l+", vec!["alluvium", "UTF8"]),
        ("\\sf version", vec!["built into Alluvium"]),
        ("\\conninfo", vec!["analyst"]),
        ("\\encoding", vec!["UTF8"]),
        (
            "SELECT name, events FROM every_type ORDER BY 1",
            vec!["ann  |      2", "(2 rows)"],
        ),
        ("SELECT 1; SELECT 2 AS two", vec!["two", "2"]),
        ("SHOW alluvium.as_of", vec!["tables"]),
        ("EXPLAIN SELECT 1", vec!["plan"]),
        // Values that hold others, and bytes.
        (
            "SELECT headers, key, payload FROM dead_letters.types",
            vec![
                r#"{"(trace,\"\\\\x612c2022622220286329\")","(empty,)"}"#,
                "\\x00ff",
                "\\x7b227473223a",
            ],
        ),
        (
            "SELECT mean_price FROM panes.every_type WHERE name = 'bob'",
            vec!["(-0.01,1)"],
        ),
        (
            "SELECT ARRAY['a b', NULL, '', 'x']",
            vec![r#"{"a b",NULL,"",x}"#],
        ),
        (
            "SELECT timestamp '2026-03-01 12:00:00' AS t",
            vec![" 2026-03-01 12:00:00\n"],
        ),
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

/// No command of psql that describes something is answered with an error.
#[test]
fn psql_describes_whatever_it_can_describe() {
    const ALL: &str = r"\d \dS \d+ \dS+ \da \daS \dA \dA+ \dAc \dAc+ \dAf \dAf+ \dAo \dAo+ \dAp \dAp+ \db \db+ \dc \dc+ \dcS
        \dC \dC+ \dconfig \dconfig+ \dd \ddS \dD \dD+ \dDS \ddp \dE \des \des+ \det \det+ \deu \deu+ \dew \dew+ \df \df+ \dfS
        \dfS+ \dfa \dfn \dfp \dft \dfw \dF \dF+ \dFd \dFd+ \dFp \dFp+ \dFt \dFt+ \dg \dg+ \dgS \di \di+ \diS \dl \dl+ \dL \dL+
        \dLS \dm \dm+ \dn \dn+ \dnS \dnS+ \do \do+ \doS \dO \dO+ \dOS \dp \dP \dP+ \dPi \dPn \dPt \drds \dRp \dRs \dRs+ \ds
        \ds+ \dt \dt+ \dtS \dtS+ \dT \dT+ \dTS \dTS+ \dtv \dtvmsE \du \du+ \duS \dv \dv+ \dvS \dvS+ \dx \dx+ \dX \dy \dy+ \l
        \l+ \list \z \lo_list \conninfo \encoding";
    let server = start();
    // One conversation, as a person has it: it goes on after whatever is wrong.
    let commands: Vec<&str> = ALL.split_whitespace().collect();
    let mut psql = psql_at(server.postgres);
    for command in &commands {
        psql.args(["--command", command]);
    }
    psql.arg("--set=ON_ERROR_STOP=0");
    let Some(printed) = run("psql", &mut psql) else {
        return;
    };
    let wrong: Vec<&str> = printed
        .lines()
        .filter(|line| line.contains("ERROR:"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn psql_points_at_mistakes_and_takes_parameters() {
    let Some(version) = psql_version() else {
        return;
    };
    let server = start();
    for (query, told) in [
        (
            "SELECT eventz\nFROM every_type",
            vec![
                "ERROR:  there is no column eventz",
                "LINE 1: SELECT eventz",
                "\n               ^",
                "HINT:  did you mean events?",
            ],
        ),
        (
            "SELECT *\nFROM every_typ",
            vec!["every_typ", "LINE 2:", "did you mean every_type?"],
        ),
        ("SELEC 1", vec!["ERROR:", "LINE 1: SELEC"]),
    ] {
        let refused = psql_at(server.postgres)
            .args(["--command", query])
            .output()
            .unwrap();
        let messages = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{query}");
        for words in told {
            assert!(
                messages.contains(words),
                "{query}: no {words} in\n{messages}"
            );
        }
    }

    let script = server.folder.path().join("parameters.sql");
    // Before version 16 psql itself puts values in.
    let bound = match version {
        16.. => {
            "SELECT events FROM every_type WHERE name = $1 AND number = $2::int \\bind ann 7 \\g\n"
        }
        _ => "SELECT events FROM every_type WHERE name = :'name' AND number = :number;\n",
    };
    fs::write(&script, format!("\\set name ann\n\\set number 7\n{bound}SELECT 41 + 1 AS answer \\gset\n\\echo :answer\nSELECT price, mean FROM every_type \\gdesc\n")).unwrap();
    let printed = run("psql", psql_at(server.postgres).arg("--file").arg(&script)).unwrap();
    for words in [
        "      2\n(1 row)",
        "42",
        "price  | numeric",
        "mean   | double precision",
    ] {
        assert!(printed.contains(words), "no {words} in\n{printed}");
    }
}

#[test]
fn psql_ends_a_long_query_within_a_second() {
    if psql_version().is_none() {
        return;
    }
    let server = start();
    let psql = psql_at(server.postgres)
        .args(["--command", ENDLESS])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let running = "SELECT count(*) FROM system.queries WHERE query LIKE '%3000000%'";
    wait_for("the query to run", Duration::from_secs(20), || {
        let counted = self::psql(server.postgres, &format!("COPY ({running}) TO STDOUT"))?;
        // The one that counts is one of them.
        let counted: i64 = counted.trim().parse().ok()?;
        (counted > 1).then_some(())
    });
    let begun = Instant::now();
    let sent = Command::new("kill")
        .args(["-INT", &psql.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let ended = psql.wait_with_output().unwrap();
    let took = begun.elapsed();
    let messages = String::from_utf8_lossy(&ended.stderr);
    assert!(messages.contains("cancel"), "{messages}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn psycopg_and_sqlalchemy_find_what_they_expect() {
    let server = start();
    let mut script = python("postgres_clients.py");
    script
        .arg(server.postgres.ip().to_string())
        .arg(server.postgres.port().to_string());
    if run("postgres_clients.py", &mut script).is_none() {
        return;
    }
    // Each refusal is counted once, whichever message it answers.
    let metrics = reqwest::blocking::get(format!("{}/metrics", server.url)).unwrap();
    let metrics = metrics.text().unwrap();
    let counted = metrics
        .lines()
        .filter(|line| line.contains(r#"door="postgres""#));
    let unknown: Vec<_> = counted
        .filter(|line| line.contains(r#"code="42883""#))
        .collect();
    assert!(
        unknown.len() == 1 && unknown[0].ends_with(" 2"),
        "{unknown:?}"
    );
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

/// What the pages for analysts show is run as it stands there, over the demo's tables.
#[test]
fn pages_show_what_runs() {
    if psql_version().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let demo = folder.path().join("demo");
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let mut command = alluvium();
    command.args(["demo", "--rate", "500", "--dir"]).arg(&demo);
    for (door, port) in ["--http", "--postgres", "--flight"].iter().zip(&ports) {
        command.args([door, &format!("127.0.0.1:{port}")[..]]);
    }
    let _process = Process::start(&mut command, &folder.path().join("demo.log"));
    let client = reqwest::blocking::Client::new();
    let url = format!("http://127.0.0.1:{}/v1/status", ports[0]);
    wait_for("a second version", Duration::from_secs(90), || {
        let status: serde_json::Value = client.get(&url).send().ok()?.json().ok()?;
        let balance = &status["pipelines"][0]["tables"][0]["balance"];
        (balance["in"].as_i64()? > 0).then_some(())
    });
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients");
    let mut pages: Vec<PathBuf> = fs::read_dir(pages)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.sort();
    let mut script = python("pages.py");
    script
        .arg(env!("CARGO_BIN_EXE_alluvium"))
        .arg(&demo)
        .args(&ports)
        .args(&pages);
    let jars = java_clients();
    if let Some(jars) = &jars {
        script.env("ALLUVIUM_JARS", jars);
    }
    let Some(printed) = run("pages.py", &mut script) else {
        return;
    };
    let by_java = usize::from(jars.is_some());
    for (page, blocks) in [
        ("alluvium-sql", 2),
        ("delta-readers", 3),
        ("flight-sql", 1 + by_java),
        ("jdbc", by_java),
        ("psql", 3),
        ("python", 2),
    ] {
        let said = format!("{page}.md: {blocks} blocks");
        assert!(printed.contains(&said), "not {said} in\n{printed}");
    }
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
        .arg(&server.url)
        .arg(format!("postgres://analyst@{}/alluvium", server.postgres))
        .arg(format!("grpc://{}", server.flight));
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
