//! The deliberate absences of ARCHITECTURE.md, held true over the manifests and the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each crate with the crates of this workspace that it may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 9] = [
    ("types", &[]),
    ("functions", &["types"]),
    ("plan", &["types", "functions"]),
    ("engine", &["types", "functions", "plan"]),
    ("source", &["types"]),
    ("store", &["types", "functions", "plan"]),
    (
        "runtime",
        &["types", "functions", "plan", "engine", "source", "store"],
    ),
    ("query", &["types", "functions", "plan", "store"]),
    (
        "serve",
        &["types", "functions", "plan", "store", "query", "runtime"],
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust source of a crate with its product lines: tests and comments are left out.
fn sources(crate_name: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates").join(crate_name).join("src")];
    if crate_name == "alluvium" {
        folders = vec![root().join("crates/alluvium")];
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be listed") {
            let path = entry.expect("a listed entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && path.file_name().is_none_or(|name| name != "tests.rs")
                && !path.components().any(|part| part.as_os_str() == "tests")
            {
                let text = fs::read_to_string(&path).expect("a source is text");
                found.push((path, product_lines(&text)));
            }
        }
    }
    assert!(!found.is_empty(), "{crate_name} has sources");
    found
}

fn product_lines(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn assert_absent(crate_name: &str, words: &[&str], why: &str) {
    for (path, text) in sources(crate_name) {
        for word in words {
            assert!(
                !text.contains(word),
                "{}: `{word}` is deliberately absent: {why}",
                path.display()
            );
        }
    }
}

fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).expect("a manifest is text");
    let section = text
        .split("\n[")
        .find_map(|section| section.strip_prefix("dependencies]"))
        .unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_depend_to_the_left_only() {
    for (name, allowed) in MAY_DEPEND_ON {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        for dependency in dependencies(&manifest) {
            if let Some(ours) = dependency.strip_prefix("alluvium-") {
                assert!(allowed.contains(&ours), "{name} must not depend on {ours}");
            }
        }
    }
}

#[test]
fn the_light_crates_stay_light() {
    for name in ["types", "source"] {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        for dependency in dependencies(&manifest) {
            assert!(
                !["datafusion", "parquet", "deltalake-core", "tokio"].contains(&&*dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_engine_reads_no_clock_no_file_no_environment_and_never_logs() {
    let words = [
        "SystemTime",
        "Instant::now",
        "std::fs",
        "std::env",
        "env::var",
        "tracing::",
        "log::",
        "println!",
        "eprintln!",
        "thread::spawn",
        "Utc::now",
    ];
    assert_absent("engine", &words, "engine is a pure function of its input");
}

#[test]
fn the_store_has_never_heard_of_kafka_nor_the_source_of_tables() {
    for (path, text) in sources("store") {
        assert!(
            !text.to_lowercase().contains("kafka"),
            "{}: the store has never heard of Kafka",
            path.display()
        );
    }
    for (path, text) in sources("source") {
        let text = text.to_lowercase();
        assert!(
            !text.contains("delta") && !text.contains("parquet"),
            "{}: the source has never heard of tables",
            path.display()
        );
    }
}

#[test]
fn the_data_path_is_synchronous_and_bounded() {
    for name in ["types", "functions", "plan", "engine", "source"] {
        assert_absent(
            name,
            &["async fn", ".await"],
            "only store, query and the doors wait",
        );
    }
    for (name, _) in MAY_DEPEND_ON {
        assert_absent(
            name,
            &["unbounded(", "unbounded_channel"],
            "every channel is bounded, with its arithmetic",
        );
    }
    for name in ["types", "functions", "plan", "engine", "store"] {
        assert_absent(
            name,
            &["thread::spawn", "thread::Builder"],
            "only runtime starts threads for the data path",
        );
    }
}

#[test]
fn only_the_binary_reads_arguments_environment_and_signals() {
    for (name, _) in MAY_DEPEND_ON {
        assert_absent(
            name,
            &[
                "env::args",
                "env::var",
                "signal::",
                "set_global",
                "panic::set_hook",
            ],
            "only the binary reads arguments, environment or signals or installs anything global",
        );
    }
}

#[test]
fn doors_ask_for_somebody() {
    assert_absent(
        "serve",
        &["engine.session()"],
        "a door's session is its user's: `session_of` and `postgres_session_of` take what that one may do",
    );
}

#[test]
fn no_forks_and_one_copy_of_arrow_and_datafusion() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is text");
    for name in [
        "arrow",
        "datafusion",
        "parquet",
        "deltalake-core",
        "object_store",
    ] {
        let copies = lock.matches(&format!("\nname = \"{name}\"\n")).count();
        assert_eq!(copies, 1, "{name} is there once");
    }
    assert!(!lock.contains("git+"), "registry releases only");
}
