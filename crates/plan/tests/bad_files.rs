//! Typical mistakes of people, as files, and word for word what they are told.
//!
//! Every folder of `tests/bad_files` is a case: `server.yaml`, or else pipelines (all other `.yaml`
//! files but `schema.yaml`, which stands for the click schema where a case has none of its own).
//! `ALLUVIUM_BLESS=1` writes `expected.txt` anew: read what changed before it is kept.

#![allow(clippy::unwrap_used, reason = "a test says so when it fails")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use alluvium_plan::{
    Color, Connections, Diagnostics, Environment, SourceFile, check_schema, is_schema,
    load_pipelines, load_server,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A secret that no message may show.
const SECRET: &str = "hunter2";

fn environment() -> Environment {
    [
        ("KAFKA_PASSWORD", SECRET),
        ("NOT_A_TIME", SECRET),
        ("EMPTY", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// What a case is told; `None` when it is taken without a word.
fn told(case: &Path) -> Option<Diagnostics> {
    let mut read_file = |path: &Path| match fs::read(case.join(path)) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && path == Path::new("schema.yaml") =>
        {
            fs::read(root().join("schemas/click.yaml"))
        }
        read => read,
    };
    let source = |name: &str| SourceFile::from_bytes(name, fs::read(case.join(name)).unwrap());
    if case.join("server.yaml").exists() {
        let loaded = source("server.yaml")
            .and_then(|source| load_server(&source, &mut read_file, &environment()));
        return match loaded {
            Ok((_, warnings)) => (!warnings.is_empty()).then_some(warnings),
            Err(told) => Some(told),
        };
    }
    let mut names: Vec<String> = fs::read_dir(case)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && name != "schema.yaml")
        .collect();
    names.sort();
    let sources: Result<Vec<_>, _> = names.iter().map(|name| source(name)).collect();
    sources
        .and_then(|sources| load_pipelines(&sources, &mut read_file, &environment(), None))
        .err()
}

#[test]
fn every_mistake_is_told_word_for_word() {
    let folder = root().join("tests/bad_files");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 30, "only {} cases", cases.len());
    let bless = std::env::var_os("ALLUVIUM_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let Some(told) = told(&case) else {
            wrong.push(format!("{name}: taken without a word"));
            continue;
        };
        let text = told.render(Color::Plain);
        assert!(!text.contains(SECRET), "{name} tells a secret:\n{text}");
        for diagnostic in &told.0 {
            let place = match diagnostic.line_and_column() {
                Some((line, column)) => format!("[{}:{line}:{column}]", diagnostic.file.path),
                None => diagnostic.file.path.clone(),
            };
            if !text.contains(&place) {
                wrong.push(format!("{name}: does not name {place}:\n{text}"));
            }
            if diagnostic.help.is_none() {
                wrong.push(format!("{name}: no help: {}", diagnostic.message));
            }
        }
        let expected = case.join("expected.txt");
        if bless {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{name} is now told:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_schema_is_checked_by_itself() {
    let schema = |text: &str| SourceFile::new("schemas/event.yaml", text);
    let right = schema("version: 1\ncolumns:\n  ts: timestamp\n  key: string?\n");
    assert!(is_schema(&right));
    assert!(!check_schema(&right, &Environment::default()).has_errors());
    let wrong = schema("version: 1\ncolumns:\n  ts: timestamp\n  key: strng\n  n: {typ: int}\n");
    let found = check_schema(&wrong, &Environment::default()).to_string();
    for place in ["schemas/event.yaml:4:8", "schemas/event.yaml:5:"] {
        assert!(found.contains(place), "{found}");
    }
    let pipeline = SourceFile::new("p.yaml", "version: 1\nsource: {}\ncolumns: {}\n");
    assert!(!is_schema(&pipeline));
}

/// What stands in several files is told of each that can be read, however wrong it is otherwise.
#[test]
fn a_connection_and_a_table_are_judged_beside_other_mistakes() {
    let path = root().join("pipelines/clicks.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let beside = |name: &str, text: &str| SourceFile {
        path: root().join("pipelines").join(name).display().to_string(),
        text: text.into(),
    };
    let sources = [
        beside("one.yaml", &text.replace("version: 1", "version: 7")),
        beside("two.yaml", &text),
    ];
    let connections = Connections {
        known: vec!["other".into()],
        file: "alluvium.yaml".into(),
    };
    let mut read = |path: &Path| fs::read(path);
    let told = load_pipelines(&sources, &mut read, &environment(), Some(&connections));
    let told = told.unwrap_err().render(Color::Plain);
    assert!(told.contains("version"), "{told}");
    let unknown = "the connection `main` is not in alluvium.yaml";
    assert_eq!(told.matches(unknown).count(), 2, "{told}");
    assert_eq!(told.matches("connection: main").count(), 2, "{told}");
    assert!(told.contains("is already written by"), "{told}");
}
