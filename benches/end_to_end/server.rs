//! The contestant that is the product: `alluvium run`, up to the version of the table that covers every event.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use crate::usage::{self, Outcome};

/// The fields that the job needs, as the other contestants declare them too.
const SCHEMA: &str = "\
version: 1
columns: {ts: timestamp, country: string, latency_ms: double, bytes: bigint, is_bot: boolean}
";

/// The job: without bots, per minute and country: how many, how many bytes, how long on average.
const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [TOPIC], start: earliest, group: GROUP, drain: DRAIN}
decode:
  json: {schema: ../schemas/click.yaml}
event_time: {column: ts, max_delay: 2m, idle_after: 1m}
where: not is_bot
commit_every: 1s
tables:
  clicks:
    window: {tumbling: 1m}
    group_by: {country: country}
    measures:
      clicks: count(*)
      bytes: sum(bytes)
      mean_ms: avg(latency_ms)
";

/// A child that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// From the start of the process to the version of the table that covers every event.
pub(crate) fn alluvium(brokers: &str, topic: &str, events: usize, drain: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("schemas/click.yaml", SCHEMA);
    // A group of its own: in one that a killed member has not left yet, partitions wait for its session to end.
    let group = format!("bench-{}", std::process::id());
    let group = format!("{group}-{}", UNIX_EPOCH.elapsed().unwrap().as_millis());
    let pipeline = PIPELINE
        .replace("TOPIC", topic)
        .replace("GROUP", &group)
        .replace("DRAIN", drain);
    write("pipelines/bench.yaml", &pipeline);
    write(
        "alluvium.yaml",
        &format!(
            "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\nlisten: {{http: \"127.0.0.1:0\"}}\n"
        ),
    );
    let server = folder.path().join("alluvium.yaml");
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let begin = Instant::now();
    let mut run = Running(
        Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .arg("run")
            .arg("-c")
            .arg(&server)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let table = folder.path().join("data/tables/clicks/_delta_log");
    let mut follower = Offsets::default();
    while follower.advance(&table) < events as i64 {
        if let Some(status) = run.0.try_wait().unwrap() {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            panic!("alluvium ended with {status}:\n{log}");
        }
        assert!(
            begin.elapsed() < Duration::from_secs(600),
            "it takes too long"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let wall = begin.elapsed().as_secs_f64();
    let process = run.0.id().to_string();
    let (cpu, peak_mib) = (usage::cpu(&process), usage::peak_mib(&process));
    drop(run);
    let query = "select count(*) as g, sum(clicks) as c, sum(bytes) as b from clicks";
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["sql", "--format", "csv", "-c"])
        .arg(&server)
        .arg(query)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<u64> = text
        .lines()
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&output.stderr)))
        .split(',')
        .map(|figure| figure.parse().unwrap())
        .collect();
    Outcome {
        groups: figures[0],
        clicks: figures[1],
        bytes: figures[2],
        wall,
        cpu,
        peak_mib,
        broker_cpu: None,
    }
}

/// Follows the offsets that a table records, each log entry read once.
#[derive(Default)]
struct Offsets {
    next: i64,
    recorded: HashMap<String, i64>,
}

impl Offsets {
    /// The sum over all partitions, as of now. Offsets of the topic start at 0 and have no gaps.
    fn advance(&mut self, log: &Path) -> i64 {
        while let Ok(text) = fs::read_to_string(log.join(format!("{:020}.json", self.next))) {
            for line in text.lines() {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let (Some(id), Some(next)) = (
                    entry["txn"]["appId"].as_str(),
                    entry["txn"]["version"].as_i64(),
                ) else {
                    continue;
                };
                if id
                    .rsplit('/')
                    .next()
                    .is_some_and(|last| last.parse::<i32>().is_ok())
                {
                    self.recorded.insert(id.to_owned(), next);
                }
            }
            self.next += 1;
        }
        self.recorded.values().sum()
    }
}
