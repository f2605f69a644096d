//! `alluvium run` as a process that is measured, up to the version of its tables that covers every event.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tempfile::TempDir;

use super::usage::{self, Outcome};

/// A child that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a server is to do.
pub(crate) struct Job<'j> {
    pub(crate) brokers: &'j str,
    pub(crate) topic: &'j str,
    pub(crate) schema: &'j str,
    /// A pipeline file, with `TOPIC` and `GROUP` where those names belong.
    pub(crate) pipeline: &'j str,
    /// The tables that it fills.
    pub(crate) tables: &'j [&'j str],
    /// More lines of the server file.
    pub(crate) settings: &'j str,
    /// Properties of the connection, as YAML between braces.
    pub(crate) properties: &'j str,
}

/// `alluvium run` over a storage of its own.
pub(crate) struct Server {
    folder: Folder,
    alluvium: PathBuf,
    tables: Vec<PathBuf>,
    begin: Instant,
    run: Running,
}

/// Where a server's files are.
struct Folder {
    path: PathBuf,
    /// Deletes it in the end.
    _temporary: Option<TempDir>,
}

impl Folder {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Server {
    /// The server that was built with the bench, over an empty storage.
    pub(crate) fn start(job: &Job<'_>) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder {
            path: temporary.path().to_owned(),
            _temporary: Some(temporary),
        };
        Self::start_in(folder, Path::new(env!("CARGO_BIN_EXE_alluvium")), job)
    }

    /// Another server, over what lies in a folder that stays.
    pub(crate) fn of(alluvium: &Path, folder: &Path, job: &Job<'_>) -> Self {
        let folder = Folder {
            path: folder.to_owned(),
            _temporary: None,
        };
        Self::start_in(folder, alluvium, job)
    }

    fn start_in(folder: Folder, alluvium: &Path, job: &Job<'_>) -> Self {
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("schemas/click.yaml", job.schema);
        // A group of its own: in one that a killed member has not left yet, partitions wait for its session to end.
        let group = format!("bench-{}", std::process::id());
        let group = format!("{group}-{}", UNIX_EPOCH.elapsed().unwrap().as_millis());
        let pipeline = job
            .pipeline
            .replace("TOPIC", job.topic)
            .replace("GROUP", &group);
        write("pipelines/bench.yaml", &pipeline);
        let brokers = job.brokers;
        write(
            "alluvium.yaml",
            &format!(
                "version: 1\nstorage: {{root: ./data}}\n\
                 connections: {{kafka: {{main: {{brokers: \"{brokers}\", properties: {{{}}}}}}}}}\n\
                 listen: {{http: \"127.0.0.1:0\"}}\n{}",
                job.properties, job.settings
            ),
        );
        let begin = Instant::now();
        let run = spawn(alluvium, folder.path());
        let log_of = |table: &&str| {
            let tables = folder.path().join("data/tables");
            tables.join(table).join("_delta_log")
        };
        Self {
            tables: job.tables.iter().map(log_of).collect(),
            folder,
            alluvium: alluvium.to_owned(),
            begin,
            run,
        }
    }

    /// Kills the process, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.run.0.kill().unwrap();
        self.run.0.wait().unwrap();
    }

    /// Starts it again over the same storage.
    pub(crate) fn start_again(&mut self) {
        self.begin = Instant::now();
        self.run = spawn(&self.alluvium, self.folder.path());
    }

    /// Waits for a line of the log since the last start; how long that took since then.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> Duration {
        while !self.log().contains(text) {
            self.check();
            assert!(
                self.begin.elapsed() < Duration::from_secs(60),
                "no line says {text}"
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.begin.elapsed()
    }

    /// Waits until every table covers so many events; what that took since the start, without counts.
    pub(crate) fn wait_for(&mut self, events: usize) -> Outcome {
        let mut followers: Vec<Offsets> = self.tables.iter().map(|_| Offsets::default()).collect();
        loop {
            let mut covered = followers
                .iter_mut()
                .zip(&self.tables)
                .map(|(follower, log)| follower.advance(log));
            if covered.all(|covered| covered >= events as i64) {
                break;
            }
            self.check();
            assert!(
                self.begin.elapsed() < Duration::from_secs(1800),
                "it takes too long"
            );
            thread::sleep(Duration::from_millis(5));
        }
        let wall = self.begin.elapsed().as_secs_f64();
        let process = self.run.0.id().to_string();
        Outcome {
            groups: 0,
            clicks: 0,
            bytes: 0,
            wall,
            cpu: usage::cpu(&process),
            peak_mib: usage::peak_mib(&process),
            broker_cpu: None,
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> String {
        self.run.0.id().to_string()
    }

    /// How the process ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.run.0.try_wait().unwrap()
    }

    /// The versions of its first table so far.
    pub(crate) fn versions(&self) -> usize {
        (0..)
            .take_while(|version| self.tables[0].join(format!("{version:020}.json")).exists())
            .count()
    }

    /// Where its HTTP door listens, once it does.
    pub(crate) fn address(&self) -> Option<String> {
        self.named("HTTP listens on ")
    }

    /// What follows these words in its log.
    pub(crate) fn named(&self, words: &str) -> Option<String> {
        let log = self.log();
        let (_, rest) = log.split_once(words)?;
        rest.split_whitespace().next().map(str::to_owned)
    }

    fn check(&mut self) {
        if let Some(status) = self.run.0.try_wait().unwrap() {
            panic!("alluvium ended with {status}:\n{}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Kills the process; what it has committed stays.
    pub(crate) fn stop(self) -> Storage {
        drop(self.run);
        Storage {
            folder: self.folder,
            alluvium: self.alluvium,
        }
    }
}

fn spawn(alluvium: &Path, folder: &Path) -> Running {
    let log = fs::File::create(folder.join("log")).unwrap();
    let run = Command::new(alluvium)
        .arg("run")
        .arg("-c")
        .arg(folder.join("alluvium.yaml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Running(run.unwrap())
}

/// What a server has left behind.
pub(crate) struct Storage {
    folder: Folder,
    alluvium: PathBuf,
}

impl Storage {
    /// The numbers in the one row that a query answers.
    pub(crate) fn sql(&self, query: &str) -> Vec<u64> {
        let text = self.run(&["sql", "--format", "csv"], &[query]);
        text.lines()
            .nth(1)
            .unwrap_or_else(|| panic!("no answer to {query}"))
            .split(',')
            .map(|figure| figure.parse().unwrap())
            .collect()
    }

    /// Runs a command over it to its end; what it prints.
    pub(crate) fn run(&self, command: &[&str], further: &[&str]) -> String {
        let output = Command::new(&self.alluvium)
            .args(command)
            .arg("-c")
            .arg(self.folder.path().join("alluvium.yaml"))
            .args(further)
            .output()
            .unwrap();
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {messages}");
        String::from_utf8(output.stdout).unwrap()
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
