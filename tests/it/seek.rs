//! Positions moved by hand: a table goes on over what Kafka has lost, and says what it does not have.

use std::{fs, time::Duration};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;

use crate::{
    process::{alluvium, results, said, wait_for},
    site::{Site, TOPIC, broker_with},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The exit code and all that it says.
fn told(arguments: &[&str]) -> (Option<i32>, String) {
    let output = alluvium()
        .args(arguments)
        .output()
        .expect("the command runs");
    (output.status.code(), said(&output))
}

fn seek(file: &str, partition: &str, to: &str) -> (Option<i32>, String) {
    let place = ["--partition", partition, "--to", to];
    told(&[&["seek", "events", "-c", file][..], &place].concat())
}

#[test]
fn what_retention_has_removed_is_passed_over_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker_with(folder.path(), &format!("{TOPIC}:1"));
    let site = Site::new(&brokers, "500ms");
    let file = site.path("one.yaml");
    let file = file.to_str().unwrap();
    // Not compressed, so that their size is known.
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .create()
        .expect("a producer");
    let produce = |count: usize, padding: usize| {
        let key = "k".repeat(padding);
        let line = format!("{{\"ts\":\"2026-03-08T12:00:00Z\",\"key\":\"{key}\",\"amount\":1}}");
        for _ in 0..count {
            let mut record = BaseRecord::<(), str>::to(TOPIC).payload(&line);
            while let Err((_, back)) = producer.send(record) {
                record = back;
                producer.poll(Duration::from_millis(5));
            }
        }
        producer.flush(PATIENCE).expect("all of it is delivered");
    };

    let mut server = site.run("one");
    produce(600, 4);
    wait_for("the events", PATIENCE, || {
        (site.counted() == 600).then_some(())
    });
    // Back over what was read goes nothing, and beyond the log neither.
    let (code, said) = seek(file, "0", "100");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("stands at 600") && said.contains("count twice"),
        "{said}"
    );
    let (code, said) = seek(file, "0", "601");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("ends at 600"), "{said}");
    // A time that no record has reached passes over nothing, whatever is behind it.
    let (code, said) = seek(file, "all", "2062-11-27T23:00:00Z");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is in the future"), "{said}");
    let (code, said) = seek(file, "all", "2026-03-01T00:00:00Z");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("finds no record") && said.contains("by time"),
        "{said}"
    );
    let (code, said) = seek(file, "0", "earliest");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing was moved"), "{said}");
    assert_eq!(told(&["audit", "-c", file]).0, Some(0));
    server.process.drain(Duration::from_secs(30));

    // More than the embedded broker keeps, while nobody reads.
    produce(16_000, 1_000);
    let mut server = site.run("one");
    // It halts before the log's ends tell why.
    wait_for("a halt that names the way out", PATIENCE, || {
        server
            .halts()
            .filter(|halts| halts.iter().any(|halt| halt.contains("alluvium seek")))
    });

    let (code, said) = seek(file, "0", "earliest");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("will never be read"), "{said}");
    let (code, said) = told(&["audit", "-c", file, "--format", "json"]);
    assert_eq!(code, Some(1), "{said}");
    let audited: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(audited[0]["proven"], true, "{said}");
    let gap = &audited[0]["gaps"][0];
    assert_eq!(gap["start"], 600, "{said}");
    let missing = gap["end"].as_i64().unwrap() - 600;

    // The running server reads on by itself.
    let rest = 600 + 16_000 - missing;
    wait_for("the rest", PATIENCE, || {
        (site.counted() == rest).then_some(())
    });
    assert_eq!(server.halts(), Some(Vec::new()));
    produce(50, 4);
    wait_for("new events", PATIENCE, || {
        (site.counted() == rest + 50).then_some(())
    });
    server.process.drain(Duration::from_secs(30));
    for format in ["table", "csv"] {
        let (code, said) = told(&["audit", "-c", file, "--format", format]);
        assert_eq!(code, Some(1), "{said}");
        let what = format!(
            "gap: offsets 600 to {} of partition {TOPIC}/0",
            599 + missing
        );
        assert!(said.contains(&what) && said.contains("(commit "), "{said}");
    }
}

#[test]
fn a_table_that_has_nothing_goes_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker_with(folder.path(), &format!("{TOPIC}:1"));
    let site = Site::new(&brokers, "500ms");
    let pipeline = site.path("pipelines/events.yaml");
    let text = fs::read_to_string(&pipeline).unwrap();
    fs::write(&pipeline, text.replace("start: earliest", "start: latest")).unwrap();
    let file = site.path("one.yaml");
    let file = file.to_str().unwrap();
    let events = folder.path().join("events.ndjson");
    let line = r#"{"ts":"2026-03-08T12:00:00Z","key":"good","amount":1}"#;
    fs::write(&events, format!("{line}\n").repeat(300)).unwrap();
    let path = events.to_str().unwrap();
    results(&["produce", "--brokers", &brokers, "--topic", TOPIC, path]);
    let (code, said) = seek(file, "0", "100");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no table"), "{said}");
    let mut server = site.run("one");
    wait_for("the start", PATIENCE, || {
        server.reached().filter(|reached| reached.is_running)
    });
    wait_for("the table", PATIENCE, || {
        site.table()
            .join("_delta_log/00000000000000000001.json")
            .exists()
            .then_some(())
    });

    for (partition, what) in [("7", "no partition `7`"), ("x/0", "no partition `x/0`")] {
        let (code, said) = seek(file, partition, "1");
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(what), "{said}");
    }
    let (code, said) = seek(file, "all", "100");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("never be read"), "{said}");
    // It has nothing in flight, and reads from there all the same.
    wait_for("the events", PATIENCE, || {
        (site.counted() == 200).then_some(())
    });
    server.process.drain(Duration::from_secs(30));
    let (code, said) = told(&["audit", "-c", file]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = told(&["verify", "events", "-c", file]);
    assert_eq!(code, Some(0), "{said}");

    // Kafka still has what is passed over now, and the second computation leaves it out as well.
    results(&["produce", "--brokers", &brokers, "--topic", TOPIC, path]);
    let (code, said) = seek(file, "events/0", "400");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("100 offsets will never be read"), "{said}");
    let mut server = site.run("one");
    wait_for("the rest", PATIENCE, || {
        (site.counted() == 400).then_some(())
    });
    server.process.drain(Duration::from_secs(30));
    assert_eq!(told(&["audit", "-c", file]).0, Some(1));
    let (code, said) = told(&["verify", "events", "-c", file]);
    assert_eq!(code, Some(0), "{said}");
}
