//! Files of a table that are damaged where they lie: whoever reads one is told, and nothing else ends for it.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    process::{alluvium, results, wait_for},
    site::{Site, TOPIC, broker},
};

/// The Parquet files below a folder, but for those of its log.
fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true if path.ends_with("_delta_log") => {}
            true => found.extend(files(&path)),
            false => found.extend(
                path.extension()
                    .is_some_and(|e| e == "parquet")
                    .then_some(path),
            ),
        }
    }
    found
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success());
}

/// Flips one bit in every `step` bytes but for the first and the last ones, which are Parquet's mark.
fn damage(bytes: &[u8], step: usize, seed: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = bytes.len() - 12;
    for place in (4 + seed % step..end).step_by(step) {
        bytes[place] ^= 1 << (seed % 8);
    }
    bytes
}

#[test]
fn a_damaged_file_ends_neither_a_server_nor_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "300ms");
    let events = folder.path().join("events.ndjson");
    let mut produced = 0;
    let mut produce = |count: i64| {
        let lines: String = (produced..produced + count)
            .map(|n| {
                format!(
                    "{{\"ts\":\"2026-03-08T12:{:02}:00Z\",\"key\":\"k{}\",\"amount\":1}}\n",
                    n % 60,
                    n % 211
                )
            })
            .collect();
        fs::write(&events, lines).unwrap();
        let file = events.to_str().unwrap();
        results(&["produce", "--brokers", &brokers, "--topic", TOPIC, file]);
        produced += count;
        produced
    };
    let server_file = site.path("one.yaml");
    let patience = Duration::from_secs(60);
    let mut server = site.run("one");
    let all = produce(20_000);
    wait_for("the events", patience, || {
        (site.counted() == all).then_some(())
    });
    server.process.drain(Duration::from_secs(30));

    let largest = files(&site.table())
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .expect("a file");
    let good = fs::read(&largest).unwrap();
    let audited_with = |options: &[&str], code: i32, words: &[&str]| {
        let mut asked = alluvium();
        let output = asked
            .args(["audit", "per_key", "-c"])
            .arg(&server_file)
            .args(options)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
    };
    let audited = |code: i32, words: &[&str]| audited_with(&[], code, words);
    // The history of it all is as good as ever; what is lost is the file.
    let recorded = format!(" has 100 bytes, and {} were committed", good.len());
    let name = largest.file_name().unwrap().to_str().unwrap();
    audited(0, &["proven", "every file is there"]);
    fs::write(&largest, &good[..100]).unwrap();
    audited(1, &["fault", name, &recorded]);
    fs::remove_file(&largest).unwrap();
    audited(1, &["fault", name, " is gone"]);
    fs::write(&largest, &good).unwrap();
    let whole = "every file has the bytes that were committed";
    audited_with(&["--checksums"], 0, &["proven", whole]);
    let json = ["--checksums", "--format", "json"];
    audited_with(&json, 0, &["\"files_without_checksum\":0"]);
    let (data, copy) = (site.path("data"), site.path("copy"));
    copied(&data, &copy);
    let mut named = 0;
    for seed in 0..12 {
        fs::write(&largest, damage(&good, good.len() / (1 + seed), 31 * seed)).unwrap();
        audited_with(&["--checksums"], 1, &["fault", name, "is damaged"]);
        for command in [&["sql", "-c"][..], &["compact", "-c"]] {
            let mut asked = alluvium();
            asked.args(command).arg(&server_file);
            match command[0] {
                "sql" => {
                    asked.arg("select key, sum(events), sum(amount) from per_key group by key")
                }
                _ => asked.arg("per_key"),
            };
            let output = asked.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            // Not by a signal.
            let code = output.status.code();
            assert!(code.is_some_and(|code| code <= 2), "{code:?} {text}");
            if command[0] == "sql" && code != Some(0) {
                assert!(text.contains(name), "{text}");
                named += 1;
            }
            // Where a changed bit reads well, queries may not notice, and merges must.
            if command[0] == "compact" {
                assert!(largest.exists(), "it was merged: {text}");
                assert!(code == Some(0) || text.contains(name), "{text}");
            }
        }
    }
    assert!(named > 0);
    fs::remove_dir_all(&data).unwrap();
    copied(&copy, &data);
    fs::write(&largest, damage(&good, 1_000, 5)).unwrap();

    // A server reads on and answers what it can, and all once the file is what it was.
    let mut server = site.run("one");
    wait_for("the server to answer", patience, || server.reached());
    let ask = || {
        let body = "{\"sql\":\"select sum(events) as n from per_key\"}";
        let client = reqwest::blocking::Client::new();
        let asked = client.post(format!("{}/v1/sql", server.url)).body(body);
        let answer = asked.header("content-type", "application/json").send();
        answer.ok().map(|answer| answer.status().as_u16())
    };
    for _ in 0..5 {
        ask();
    }
    let reached = wait_for("it to answer", patience, || server.reached());
    let before = reached.committed;
    produce(1_000);
    wait_for("it to commit more", patience, || {
        (server.reached()?.committed > before).then_some(())
    });
    // Files go on coming, and the damaged one is not merged with them, which is told.
    let mut all = 0;
    let why = wait_for("it to say what is not merged", patience, || {
        all = produce(20);
        server
            .reason()
            .filter(|why| why.contains("cannot be merged"))
    });
    assert!(why.contains("per_key") && why.contains(name), "{why}");
    assert_eq!(server.metric("alluvium_compaction_failing"), 1.0);
    assert!(
        server.process.ended().is_none(),
        "{}",
        server.process.messages()
    );
    fs::write(&largest, &good).unwrap();
    wait_for("all events", patience, || {
        (site.counted() == all).then_some(())
    });
}
