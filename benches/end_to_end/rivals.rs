//! The same job in Flink SQL and in Kafka Streams: two Java projects beside this folder, built by Maven.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::usage::Outcome;

/// Builds a rival, unless the same sources were built already; Maven sees to that.
pub(crate) fn build(project: &str) {
    let built = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "package"])
        .current_dir(root().join("benches/rivals").join(project))
        .status()
        .expect("mvn, Debian package maven, builds the rivals");
    assert!(built.success(), "rival {project} does not build");
}

/// Runs a rival to the end of the topic. CPU time leaves out what the JVM used before `main`.
pub(crate) fn run(project: &str, brokers: &str, topic: &str, events: usize) -> Outcome {
    let state = tempfile::tempdir().unwrap();
    let jars = root().join("target/rivals").join(project).join("jars/*");
    let output = Command::new("java")
        // Without a limit the heap may take a quarter of the machine; this much is enough for both.
        .args(["-Xms512m", "-Xmx2g", "-XX:+UseG1GC"])
        // Flink serialises with reflection into these.
        .args(["--add-opens=java.base/java.util=ALL-UNNAMED"])
        .args(["--add-opens=java.base/java.lang=ALL-UNNAMED"])
        .args(["--add-opens=java.base/java.time=ALL-UNNAMED"])
        .arg("-cp")
        .arg(jars)
        .args(["alluvium.Race", brokers, topic, &events.to_string()])
        .arg(state.path())
        .stderr(Stdio::inherit())
        .output()
        .expect("java, Debian package openjdk-17-jre-headless, runs the rivals");
    assert!(output.status.success(), "rival {project} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("rival {project} printed nothing"));
    serde_json::from_str(last).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
