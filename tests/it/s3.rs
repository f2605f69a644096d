//! The same promises over an S3 server of other authors: tables, offsets and the fence of commits live in objects.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    kill::assert_exact,
    ledger,
    process::{Process, oracle_required, python, wait_for},
    site::{Load, Site, broker},
};

const BUCKET: &str = "lake";

/// Starts the server; `None`, said aloud, where it is not installed and need not be.
fn server(folder: &Path) -> Option<(Process, String)> {
    let asked = python("s3.py").arg("serve").output();
    let code = asked.as_ref().ok().and_then(|output| output.status.code());
    // Without a bucket it only says how it is used.
    if code != Some(2) {
        assert!(!oracle_required(), "moto is not there: {asked:?}");
        println!("skipped: {asked:?}");
        return None;
    }
    let log = folder.join("s3.log");
    let mut process = Process::start(python("s3.py").args(["serve", BUCKET]), &log);
    let endpoint = process.first(|line| line.starts_with("http").then(|| line.to_owned()));
    Some((process, endpoint))
}

fn fetch(endpoint: &str, folder: &Path) {
    let fetched = python("s3.py")
        .args(["fetch", endpoint, BUCKET])
        .arg(folder)
        .output()
        .expect("Python runs");
    assert!(
        fetched.status.success(),
        "{}",
        String::from_utf8_lossy(&fetched.stderr)
    );
}

#[test]
fn nothing_is_lost_or_counted_twice_over_s3() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_s3, endpoint)) = server(folder.path()) else {
        return;
    };
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "1s");
    fs::write(site.path("secret"), "test").unwrap();
    for name in ["one", "two"] {
        let file = site.path(&format!("{name}.yaml"));
        let text = fs::read_to_string(&file).unwrap();
        let storage = format!(
            "storage: {{root: \"s3://{BUCKET}/site\", endpoint: \"{endpoint}\", region: us-east-1, access_key: test, secret_key: {{file: secret}}, allow_http: true}}"
        );
        fs::write(&file, text.replace("storage: {root: ./data}", &storage)).unwrap();
    }
    let local = folder.path().join("fetched");
    let table = local.join("site/tables/per_key");
    // Without a look at the table the load stays below what the embedded broker keeps.
    let load = Load::start(&brokers, table.clone(), 4_000, 31);

    // A server that is killed, and one that goes on beside it: both commit into the same table.
    let mut servers = [site.run("one"), site.run("two")];
    for server in &servers {
        wait_for("a server to read", Duration::from_secs(60), || {
            server.reached().filter(|reached| reached.read > 0)
        });
    }
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(16) {
        thread::sleep(Duration::from_millis(3_300));
        servers[0].process.kill();
        servers[0] = site.run("one");
        kills += 1;
    }
    let ledger = load.finish();
    let produced: i64 = ledger.values().map(|(events, _)| events).sum();
    wait_for(
        "every event to be committed",
        Duration::from_secs(90),
        || {
            fetch(&endpoint, &local);
            (ledger::offsets(&table).values().sum::<i64>() >= produced).then_some(())
        },
    );
    for server in &mut servers {
        server.process.drain(Duration::from_secs(40));
    }
    fetch(&endpoint, &local);
    assert_exact(&table, &ledger, Duration::ZERO);
    println!(
        "{produced} events, {kills} kills, {} versions",
        ledger::version(&table) + 1
    );

    // A reader without a server finds the same in the bucket.
    let mut reader = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    let answer = reader
        .args([
            "sql",
            "--format",
            "csv",
            "select sum(events) as n from per_key",
            "-c",
        ])
        .arg(site.path("one.yaml"))
        .output()
        .unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(text.lines().nth(1), Some(produced.to_string().as_str()));
}
