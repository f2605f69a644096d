//! Merging of files while everything else goes on: few files are left, and every answer is the same.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    kill::assert_exact,
    ledger,
    process::{alluvium, results, wait_for},
    site::{Load, Site, broker},
};

/// How often each kind of commit is in a table's log.
fn kinds(table: &Path) -> BTreeMap<String, i64> {
    let mut kinds = BTreeMap::new();
    for (_, entries) in ledger::log(table) {
        let kind = entries
            .iter()
            .find_map(|entry| entry["commitInfo"]["alluvium"]["kind"].as_str())
            .expect("every commit here is ours");
        *kinds.entry(kind.to_owned()).or_insert(0) += 1;
    }
    kinds
}

/// How long a reader takes who has just come: a command from its start to its end, and a server asked again and again.
fn answer_times(site: &Site, server: &str, client: &reqwest::blocking::Client) -> String {
    let sql = "select key, sum(events) as n from per_key group by key order by n desc limit 10";
    let begin = Instant::now();
    results(&["sql", "-c", server, sql]);
    let command = begin.elapsed();
    let mut reader = site.run("two");
    wait_for("the server to answer", Duration::from_secs(60), || {
        reader.reached()
    });
    let mut times: Vec<Duration> = (0..41)
        .map(|_| {
            let begin = Instant::now();
            let asked = client.post(format!("{}/v1/sql", reader.url));
            let reply = asked.json(&serde_json::json!({ "sql": sql })).send();
            assert!(reply.expect("the server answers").status().is_success());
            begin.elapsed()
        })
        .collect();
    reader.process.drain(Duration::from_secs(30));
    let first = times.remove(0);
    times.sort();
    format!(
        "`alluvium sql` from start to end {command:.0?}; a server's first answer {first:.1?}, the median of 40 more {:.1?}",
        times[20]
    )
}

/// Two servers write and merge one table ten times a second each; one of them is killed now and then. With more in
/// `ALLUVIUM_COMMITS` it goes on for longer.
#[test]
fn files_are_merged_beside_writers_and_under_kill_9() {
    let commits: i64 = std::env::var("ALLUVIUM_COMMITS").map_or(120, |text| {
        text.parse().expect("ALLUVIUM_COMMITS is a number")
    });
    let seed = 31;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "100ms");
    let table = site.table();
    let load = Load::start(&brokers, table.clone(), 3_000, seed);
    let mut steady = site.run("two");
    let mut killed = site.run("one");
    let client = reqwest::blocking::Client::new();
    let total = |url: &str| -> i64 {
        let query = serde_json::json!({
            "sql": "select coalesce(sum(events), 0) as n from per_key", "read": "committed",
        });
        let reply: serde_json::Value = client
            .post(format!("{url}/v1/sql"))
            .json(&query)
            .send()
            .expect("the server answers")
            .json()
            .expect("the door answers in JSON");
        let text = reply["rows"][0]["n"].to_string();
        text.trim_matches('"')
            .parse()
            .unwrap_or_else(|_| panic!("{reply}"))
    };
    wait_for("a first commit", Duration::from_secs(60), || {
        (ledger::version(&table) > 2).then_some(())
    });

    let begin = Instant::now();
    let (mut most, mut kills, mut before) = (0, 0, 0);
    let mut next_kill = begin + Duration::from_secs(8);
    while ledger::version(&table) < commits {
        let now = total(&steady.url);
        assert!(
            now >= before,
            "committed events went from {before} to {now}"
        );
        before = now;
        most = most.max(ledger::files(&table).len());
        if Instant::now() > next_kill {
            killed.process.kill();
            kills += 1;
            killed = site.run("one");
            // Every kill costs the group some seconds; in a long run commits shall be most of it.
            let pause = if kills < 6 {
                4_000..9_000
            } else {
                30_000..60_000
            };
            next_kill = Instant::now() + Duration::from_millis(rng.random_range(pause));
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(
            begin.elapsed() < Duration::from_secs(120 + commits as u64 / 2),
            "only version {} of {commits}",
            ledger::version(&table)
        );
    }
    let produced = load.finish();
    assert_exact(&table, &produced, Duration::from_secs(60));
    killed.process.drain(Duration::from_secs(30));
    steady.process.drain(Duration::from_secs(30));
    assert_exact(&table, &produced, Duration::ZERO);
    let kinds = kinds(&table);
    println!(
        "{kinds:?} in {:?}, {kills} kills; {most} files at most",
        begin.elapsed()
    );
    assert!(kinds["compact"] >= commits / 50, "{kinds:?}");
    assert!(most < 100, "{most} files at most");

    // By hand down to one file; then the product's own proof and answers.
    let server = site.path("one.yaml").display().to_string();
    let ask = || {
        let query = "select window_start, key, events, amount from per_key order by 1, 2";
        results(&["sql", "-c", &server, "--format", "csv", query])
    };
    let answer = ask();
    let many = answer_times(&site, &server, &client);
    let files = ledger::files(&table).len();
    let sheet = results(&["compact", "-c", &server, "--format", "csv"]);
    assert!(sheet.contains("per_key,"), "{sheet}");
    assert_eq!(ledger::files(&table).len(), 1, "{sheet}");
    assert_eq!(ask(), answer);
    println!(
        "{} commits in {files} files: {many}",
        ledger::version(&table)
    );
    println!("in one file: {}", answer_times(&site, &server, &client));
    assert_exact(&table, &produced, Duration::ZERO);
    let audit = results(&["audit", "-c", &server]);
    assert!(audit.contains("proven: ranges are contiguous"), "{audit}");

    // What was merged away is kept for queries that still read it.
    let kept = results(&["vacuum", "-c", &server, "--format", "csv"]);
    assert_eq!(kept.trim(), "table,file,bytes");
    let unknown = alluvium()
        .args(["compact", "-c", &server, "per_kye"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{message}");
    assert!(message.contains("there are: per_key"), "{message}");
}
