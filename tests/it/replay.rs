//! Dead letters are replayed once after the pipeline was mended, whatever happens meanwhile (P23).

use std::{fs, path::Path, process::Output, thread, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    process::{alluvium, number, results, said, sql, wait_for},
    site::{Site, TOPIC, broker},
};

const GOOD: usize = 2_000;
const WITHOUT_AMOUNT: usize = 300;
const BY_NOUGHT: usize = 20;

fn produce(brokers: &str, folder: &Path) {
    let mut lines = Vec::new();
    let kinds = [
        ("\"amount\":3,", 2, GOOD),
        ("", 3, WITHOUT_AMOUNT),
        ("\"amount\":5,", 0, BY_NOUGHT),
    ];
    for (amount, divisor, count) in kinds {
        for number in 0..count {
            let (minute, key) = (number % 7, number % 11);
            lines.push(format!(
                r#"{{"ts":"2026-03-08T12:0{minute}:00Z","key":"k{key}",{amount}"divisor":{divisor}}}"#
            ));
        }
    }
    let mut rng = StdRng::seed_from_u64(5);
    for place in (1..lines.len()).rev() {
        lines.swap(place, rng.random_range(0..=place));
    }
    let file = folder.join("events.ndjson");
    fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    results(&["produce", "--brokers", brokers, "--topic", TOPIC, file]);
}

/// Events in a table; none while it does not exist yet.
fn counted(server_file: &Path, table: &str) -> i64 {
    let there = sql(
        server_file,
        &format!(
            "select count(*) as n from information_schema.tables where table_name = '{table}'"
        ),
    );
    match number(&there[0]["n"]) {
        0 => 0,
        _ => number(
            &sql(
                server_file,
                &format!("select coalesce(sum(events), 0) as n from {table}"),
            )[0]["n"],
        ),
    }
}

#[test]
fn letters_are_replayed_once_after_the_pipeline_was_mended() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "300ms");
    site.write_ratios("int");
    produce(&brokers, folder.path());
    let file = site.path("one.yaml");
    let name = file.display().to_string();
    let replay = |more: &[&str]| -> Output {
        let mut command = alluvium();
        command.args(["replay", "events", "-c", &name, "--format", "csv"]);
        command.args(more).output().unwrap()
    };
    let events = |table: &str| counted(&file, table);
    let patience = Duration::from_secs(60);

    let mut server = site.run("one");
    let (good, without, by_nought) = (GOOD as i64, WITHOUT_AMOUNT as i64, BY_NOUGHT as i64);
    wait_for("all events", patience, || {
        (events("ratios") == good && events("per_key") == good + by_nought).then_some(())
    });
    // As long as nothing is mended, nothing is replayed.
    let refused = replay(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("refuses 300 of these letters again"),
        "{}",
        said(&refused)
    );
    assert!(
        said(&refused).contains("per_key,0,0,0,0,0"),
        "{}",
        said(&refused)
    );
    server.process.drain(Duration::from_secs(30));

    site.write_ratios("int?");
    let mut server = site.run("one");
    // Killed at some moment, and by several at a time, beside the server.
    let mut rng = StdRng::seed_from_u64(9);
    for _ in 0..6 {
        let mut command = alluvium();
        let mut killed = command
            .args(["replay", "events", "-c", &name])
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(rng.random_range(10..400)));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let outputs = thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| replay(&[])));
        both.map(|one| one.join().unwrap())
    });
    for output in &outputs {
        // One table still refuses what it divides by nought.
        assert_eq!(output.status.code(), Some(1), "{}", said(output));
        assert!(
            said(output).contains("ratios refuses 20 of these letters again"),
            "{}",
            said(output)
        );
    }
    assert_eq!(events("per_key"), good + without + by_nought);
    assert_eq!(events("ratios"), good);
    let passed = replay(&["--skip-refused"]);
    assert_eq!(passed.status.code(), Some(0), "{}", said(&passed));
    assert!(
        said(&passed).contains("ratios,320,300,0,20,0"),
        "{}",
        said(&passed)
    );
    let again = replay(&[]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert!(
        said(&again).contains("ratios,0,0,0,0,0"),
        "{}",
        said(&again)
    );

    // The server goes on beside it.
    produce(&brokers, folder.path());
    wait_for("new events", patience, || {
        (events("ratios") == 2 * (good + without)).then_some(())
    });
    wait_for("new events", patience, || {
        (events("per_key") == 2 * (good + without + by_nought)).then_some(())
    });
    server.process.drain(Duration::from_secs(30));

    // What it came to is what a pipeline makes that was right from the start.
    let other = Site::new(&brokers, "300ms");
    other.write_ratios("int?");
    let mut server = other.run("one");
    let at_once = other.path("one.yaml");
    for (table, more) in [("per_key", ", amount"), ("ratios", ", ratio")] {
        let wanted = events(table);
        wait_for("the other pipeline", patience, || {
            (counted(&at_once, table) == wanted).then_some(())
        });
        let rows = format!("select window_start, key, events{more} from {table} order by 1, 2");
        assert_eq!(sql(&file, &rows), sql(&at_once, &rows), "{table}");
    }
    server.process.drain(Duration::from_secs(30));
    let audit = results(&["audit", "-c", &name]);
    assert_eq!(
        audit.matches("proven: ranges are contiguous").count(),
        2,
        "{audit}"
    );
    let kinds = sql(
        &file,
        "select count(*) as n from system.commits where kind = 'replay'",
    );
    assert!(number(&kinds[0]["n"]) >= 2, "{kinds:?}");

    // Tables that are made anew read for themselves what the others had as letters, and take it.
    fs::remove_dir_all(site.path("data/tables")).unwrap();
    let mut server = site.run("one");
    wait_for("the tables made anew", patience, || {
        (events("ratios") == 2 * (good + without)
            && events("per_key") == 2 * (good + without + by_nought))
            .then_some(())
    });
    let anew = replay(&["--skip-refused"]);
    assert!(
        said(&anew).contains("per_key,0,0,0,0,300"),
        "{}",
        said(&anew)
    );
    // It refused some of these anew, and others not. Which ones is certain only where a commit has refused as many as it has
    // letters; these are sent, and refused again.
    let line = said(&anew);
    let line = line.lines().find_map(|line| line.strip_prefix("ratios,"));
    let figures: Vec<i64> = line
        .expect("a line of the table")
        .split(',')
        .map(|figure| figure.parse().unwrap())
        .collect();
    let [letters, counted, filtered, refused, elsewhere] = figures[..] else {
        panic!("{figures:?}");
    };
    assert_eq!((counted, filtered), (0, 0), "{figures:?}");
    assert_eq!(letters, refused, "{figures:?}");
    assert_eq!(letters + elsewhere, 340, "{figures:?}");
    assert_eq!(events("ratios"), 2 * (good + without));
    server.process.drain(Duration::from_secs(30));
}

#[test]
fn a_replay_needs_a_pipeline_that_there_is() {
    let site = Site::new("127.0.0.1:1", "1s");
    let file = site.path("one.yaml").display().to_string();
    let unknown = alluvium()
        .args(["replay", "evnts", "-c", &file])
        .output()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(message.contains("there are: events"), "{message}");
}
