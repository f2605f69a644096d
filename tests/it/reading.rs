//! What queries see while events flow and commits happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    ledger,
    process::wait_for,
    site::{Load, Server, Site, TOPIC, broker},
    told::{Stream, offsets_of, whole},
};

/// Asks over HTTP and returns the rows.
fn ask(client: &reqwest::blocking::Client, server: &Server, sql: &str) -> Option<Vec<Value>> {
    ask_in(client, server, sql, "fresh")
}

/// The same, `fresh` or `committed`.
fn ask_in(
    client: &reqwest::blocking::Client,
    server: &Server,
    sql: &str,
    read: &str,
) -> Option<Vec<Value>> {
    let reply = client
        .post(format!("{}/v1/sql", server.url))
        .json(&json!({ "sql": sql, "read": read }))
        .send()
        .ok()?;
    let status = reply.status();
    let body: Value = reply.json().expect("the door answers in JSON");
    assert!(status.is_success(), "{sql}: {status}: {body}");
    Some(body["rows"].as_array().expect("rows").clone())
}

fn client() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client")
}

#[test]
fn a_query_sees_an_event_within_two_and_a_half_seconds() {
    const EVENTS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "10s");
    let mut server = site.run("one");
    let client = client();
    wait_for("the server to answer", Duration::from_secs(60), || {
        server.reached()?;
        ask(&client, &server, "select 1")
    });
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    let mut sent = BTreeMap::new();
    let mut seen: BTreeMap<String, Duration> = BTreeMap::new();
    let begin = Instant::now();
    while seen.len() < EVENTS {
        if sent.len() < EVENTS {
            let key = format!("mark-{}", sent.len());
            let payload =
                format!("{{\"ts\":\"2026-03-01T12:00:00Z\",\"key\":\"{key}\",\"amount\":1}}");
            producer
                .send(BaseRecord::<(), [u8]>::to(TOPIC).payload(payload.as_bytes()))
                .expect("the queue has room");
            sent.insert(key, Instant::now());
        }
        producer.poll(Duration::from_millis(50));
        let rows = ask(&client, &server, "select key from per_key").expect("the server answers");
        for row in rows {
            let key = row["key"].as_str().expect("a key").to_owned();
            let delay = sent[&key].elapsed();
            seen.entry(key).or_insert(delay);
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "only {} marks were seen",
            seen.len()
        );
    }
    producer
        .flush(Duration::from_secs(5))
        .expect("all delivered");
    let mut delays: Vec<Duration> = seen.into_values().collect();
    delays.sort();
    let p99 = delays[EVENTS * 99 / 100 - 1];
    println!("p99 from production to answer: {p99:?}");
    assert!(p99 <= Duration::from_millis(2500), "p99 is {p99:?}");
    server.process.drain(Duration::from_secs(30));
}

/// Asks for a count 100 times a second, through 100 commits, while `disturb` does what it likes with the site. The
/// count must never go down, and never be more than was produced.
fn watch_a_counter(read: &str, mut disturb: impl FnMut(&Site, i64)) {
    const COMMITS: i64 = 100;
    const KEYS: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "250ms");
    let mut server = site.run("one");
    let client = client();
    wait_for("the server to read", Duration::from_secs(60), || {
        server.reached().filter(|reached| reached.is_running)
    });
    let load = Load::of_keys(KEYS, &brokers, site.table(), 5_000, 5);
    wait_for("a first commit", Duration::from_secs(30), || {
        (ledger::version(&site.table()) > 2).then_some(())
    });
    let count = |sql: &str| -> i64 {
        let rows = ask_in(&client, &server, sql, read).expect("the server answers");
        let text = rows[0]["n"].to_string();
        text.trim_matches('"').parse().expect("a count")
    };
    let first = ledger::version(&site.table());
    let begin = Instant::now();
    let (mut before, mut queries, mut version, mut slowest) = (0, 0_u32, first, Duration::ZERO);
    while version < first + COMMITS {
        let due = begin + Duration::from_millis(10) * queries;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        let now = count("select coalesce(sum(events), 0) as n from per_key");
        slowest = slowest.max(asked.elapsed());
        assert!(now >= before, "the counter went from {before} to {now}");
        before = now;
        queries += 1;
        if queries % 10 == 0 {
            version = ledger::version(&site.table());
            disturb(&site, version - first);
        }
        assert!(
            begin.elapsed() < Duration::from_secs(180),
            "only version {version}"
        );
    }
    let took = begin.elapsed();
    let produced: i64 = load.finish().values().map(|(events, _)| events).sum();
    assert!(before <= produced, "{before} counted, {produced} produced");
    println!(
        "{queries} queries through {} commits in {took:?}, {:.0} a second, the slowest in {slowest:?}",
        version - first,
        f64::from(queries) / took.as_secs_f64()
    );
    wait_for("every event to show", Duration::from_secs(60), || {
        let now = count("select sum(events) as n from per_key");
        assert!(now <= produced, "{now} counted, {produced} produced");
        (now == produced).then_some(())
    });
    server.process.drain(Duration::from_secs(30));
}

#[test]
fn a_counter_never_goes_down_and_never_counts_twice() {
    watch_a_counter("fresh", |_, _| {});
}

#[test]
fn an_answer_is_exactly_what_its_offsets_say() {
    const ANSWERS: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "500ms");
    let mut server = site.run("one");
    let client = client();
    wait_for("the server to read", Duration::from_secs(60), || {
        server.reached().filter(|reached| reached.is_running)
    });
    let load = Stream {
        keys: 40,
        amounts: -9..=9,
        per_second: 2_000,
        minute: Duration::from_secs(1),
        seed: 11,
    }
    .start(&brokers, &site.table());
    let mut answers = Vec::new();
    while answers.len() < ANSWERS {
        let read = ["fresh", "committed"][answers.len() % 2];
        let sql = "select key, sum(events) as n, sum(amount) as amount from per_key group by key";
        let asked = client
            .post(format!("{}/v1/sql", server.url))
            .json(&json!({ "sql": sql, "read": read }))
            .send();
        let reply: Value = asked.and_then(|reply| reply.json()).expect("an answer");
        assert!(reply["error"].is_null(), "{reply}");
        answers.push((read, reply));
        if answers.len() == ANSWERS / 2 {
            // A server that died knows again what it had committed, and no more.
            server.process.kill();
            server = site.run("one");
            wait_for("the server to be back", Duration::from_secs(60), || {
                server.reached().filter(|reached| reached.is_running)
            });
        }
    }
    let told = load.finish();
    let mut moments = BTreeSet::new();
    for (read, reply) in &answers {
        let offsets = offsets_of(reply, "per_key");
        let rows = reply["rows"].as_array().expect("rows").iter();
        let said: BTreeMap<usize, (i64, i64)> = rows
            .map(|row| {
                let key = row["key"].as_str().and_then(|key| key.parse().ok());
                let figures = (whole(&row["n"]), whole(&row["amount"]));
                (key.expect("a key of ours"), figures)
            })
            .collect();
        let mut counted = BTreeMap::new();
        told.between(&BTreeMap::new(), &offsets, |key, amount| {
            let (count, sum) = counted.entry(key).or_insert((0, 0));
            *count += 1;
            *sum += amount;
        });
        assert_eq!(said, counted, "{read}: {offsets:?}");
        moments.insert(offsets);
    }
    println!("{ANSWERS} answers of {} moments were true", moments.len());
    assert!(moments.len() > 20, "only {} moments", moments.len());
    server.process.drain(Duration::from_secs(30));
}

#[test]
fn a_committed_counter_never_goes_down_through_rebalances() {
    let mut other: Option<Server> = None;
    let mut rebalances = 0;
    watch_a_counter("committed", |site, commits| {
        // Every fifteen commits another server joins the group, or leaves it: in order or by kill -9.
        if commits < 15 * (rebalances + 1) {
            return;
        }
        rebalances += 1;
        match other.take() {
            None => other = Some(site.run("two")),
            Some(mut server) if rebalances % 4 == 0 => server.process.kill(),
            Some(mut server) => server.process.drain(Duration::from_secs(40)),
        }
    });
    println!("{rebalances} joins and leaves");
    assert!(rebalances >= 4);
}
