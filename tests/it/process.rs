//! The real binary as child processes that end with their test.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The binary under test.
pub(crate) fn alluvium() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    command.env("NO_COLOR", "1");
    command
}

/// A script of `tests/python`, in the Python that has what the scripts need.
pub(crate) fn python(script: &str) -> Command {
    let python = std::env::var("ALLUVIUM_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    command.arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/python")
            .join(script),
    );
    command
}

/// Whether a test may not skip what needs such a script.
pub(crate) fn oracle_required() -> bool {
    std::env::var_os("ALLUVIUM_REQUIRE_ORACLE").is_some()
}

/// Runs the binary to its end and returns its results.
pub(crate) fn results(arguments: &[&str]) -> String {
    let output = alluvium()
        .args(arguments)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("results are text")
}

/// All that a command says.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// What `alluvium sql` reads in storage.
pub(crate) fn sql(server_file: &Path, query: &str) -> Vec<Value> {
    let file = server_file.to_str().expect("a path in UTF-8");
    let text = results(&["sql", "-c", file, "--format", "json", query]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A number of a result, which may be written as text.
pub(crate) fn number(value: &Value) -> i64 {
    value
        .to_string()
        .trim_matches('"')
        .parse()
        .unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// A child that is killed when its test ends.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose messages go to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let messages = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file can be written");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(messages)
            .spawn()
            .expect("the binary starts");
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// The first line of its results that `find` makes something of.
    pub(crate) fn first<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        let stdout = self.child.stdout.as_mut().expect("stdout is piped");
        for line in BufReader::new(stdout).lines() {
            if let Some(found) = find(&line.expect("results are text")) {
                return found;
            }
        }
        panic!("the process ended early:\n{}", self.messages());
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its log.
    pub(crate) fn messages(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success(), "the process is there to be signalled");
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a running process can be killed");
        self.child.wait().expect("a killed process ends");
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process can be asked")
    }

    /// SIGTERM, and waits for an end with code 0.
    pub(crate) fn drain(&mut self, patience: Duration) {
        self.signal("TERM");
        let status = wait_for("the process to drain", patience, || self.ended());
        assert!(
            status.success(),
            "drained with {status}:\n{}",
            self.messages()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // It may end between the question and the signal; either way it is gone then.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}
