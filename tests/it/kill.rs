//! kill -9 and SIGSTOP against the real binary: nothing lost, nothing twice, by a ledger that the product
//! did not write.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    ledger,
    process::wait_for,
    site::{Load, Reached, Server, Site, broker},
};

/// Waits until recorded offsets cover as many events as the ledger has, then compares key by key. Offsets must have no
/// gaps.
pub(crate) fn assert_exact(
    table: &Path,
    ledger: &BTreeMap<String, (i64, i64)>,
    patience: Duration,
) {
    let produced: i64 = ledger.values().map(|(events, _)| events).sum();
    let begin = Instant::now();
    let recorded = || ledger::offsets(table).values().sum::<i64>();
    let mut held = recorded();
    while held < produced && begin.elapsed() < patience {
        thread::sleep(Duration::from_millis(100));
        held = recorded();
    }
    assert_eq!(
        held, produced,
        "every produced event is covered by a recorded offset"
    );
    assert_sums(table, ledger, Duration::ZERO);
}

/// Waits until the table holds as many events as the ledger, then compares key by key.
pub(crate) fn assert_sums(table: &Path, ledger: &BTreeMap<String, (i64, i64)>, patience: Duration) {
    let produced: i64 = ledger.values().map(|(events, _)| events).sum();
    let begin = Instant::now();
    let counted = || {
        ledger::sum_by(table, "key", "events")
            .into_values()
            .sum::<i64>()
    };
    while counted() < produced && begin.elapsed() < patience {
        thread::sleep(Duration::from_millis(500));
    }
    let events = ledger::sum_by(table, "key", "events");
    let amounts = ledger::sum_by(table, "key", "amount");
    let held = |sums: &BTreeMap<String, i64>, key: &str| sums.get(key).copied().unwrap_or(0);
    let differing = ledger
        .iter()
        .map(|(key, &produced)| (key, produced, (held(&events, key), held(&amounts, key))))
        .find(|(_, produced, held)| produced != held);
    assert_eq!(
        differing,
        None,
        "key, produced, held: of {produced} events {} are held",
        events.values().sum::<i64>()
    );
    assert_eq!(events.len(), ledger.len(), "no key that was not produced");
}

#[test]
fn nothing_is_lost_or_counted_twice_under_kill_9() {
    const KILLS: usize = 20;
    let seed = 11;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "1s");
    let load = Load::start(&brokers, site.table(), 20_000, seed);

    let (mut took_effect, mut tries) = (0, 0);
    while took_effect < KILLS {
        tries += 1;
        assert!(
            tries <= 4 * KILLS,
            "only {took_effect} of {tries} kills took effect"
        );
        let before = ledger::version(&site.table());
        let mut server = site.run("one");
        let until = Instant::now() + Duration::from_secs(20);
        let mut last = Reached::default();
        // A kill counts when the process had committed and had read further than it had committed.
        let mut grace = Duration::from_millis(rng.random_range(0..900));
        while Instant::now() < until {
            if let Some(reached) = server.reached() {
                last = reached;
            }
            if last.committed > 0 && last.read > last.committed {
                if grace.is_zero() {
                    break;
                }
                thread::sleep(grace);
                grace = Duration::ZERO;
            }
            assert!(
                server.process.ended().is_none(),
                "{}",
                server.process.messages()
            );
            thread::sleep(Duration::from_millis(20));
        }
        server.process.kill();
        let committed = ledger::version(&site.table()) > before;
        if committed && last.committed > 0 && last.read > last.committed {
            took_effect += 1;
        }
    }
    println!("kills {tries}, of processes that had committed and read further: {took_effect}");

    let mut server = site.run("one");
    let ledger = load.finish();
    assert_exact(&site.table(), &ledger, Duration::from_secs(60));
    server.process.drain(Duration::from_secs(30));
    assert_exact(&site.table(), &ledger, Duration::ZERO);
    assert!(ledger.values().map(|(events, _)| events).sum::<i64>() > 100_000);
}

#[test]
fn a_woken_zombie_adds_nothing() {
    const WAKES: i64 = 5;
    let seed = 23;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let site = Site::new(&brokers, "1s");
    let load = Load::start(&brokers, site.table(), 8_000, seed);
    let mut servers = [site.run("one"), site.run("two")];
    for server in &servers {
        wait_for("both servers to read", Duration::from_secs(60), || {
            server.reached().filter(|reached| reached.read > 0)
        });
    }

    let (mut met_a_moved_table, mut tries) = (0, 0);
    while met_a_moved_table < WAKES {
        tries += 1;
        assert!(
            tries <= 4 * WAKES,
            "{met_a_moved_table} of {tries} wakes met a table that had moved on"
        );
        let (sleeper, other) = ((tries % 2) as usize, (tries % 2) as usize ^ 1);
        wait_for(
            "the sleeper to hold uncommitted events",
            Duration::from_secs(60),
            || {
                servers[sleeper]
                    .reached()
                    .filter(|reached| reached.read > reached.committed)
            },
        );
        servers[sleeper].process.signal("STOP");
        let version = ledger::version(&site.table());
        let recorded: i64 = ledger::offsets(&site.table()).values().sum();
        // The session lasts six seconds; then the other one takes over and commits.
        let started = Instant::now();
        wait_for("the other to take over", Duration::from_secs(60), || {
            (started.elapsed() > Duration::from_secs(8)
                && ledger::version(&site.table()) > version + 1
                && ledger::offsets(&site.table()).values().sum::<i64>() > recorded)
                .then_some(())
        });
        servers[sleeper].process.signal("CONT");
        met_a_moved_table += 1;
        wait_for("both to read on", Duration::from_secs(60), || {
            servers[other].reached()?;
            servers[sleeper].reached()
        });
        for server in &mut servers {
            if server.process.ended().is_some() {
                panic!("a server ended:\n{}", server.process.messages());
            }
        }
    }
    let refused: i64 = servers
        .iter()
        .filter_map(Server::reached)
        .map(|reached| reached.overtaken)
        .sum();
    println!(
        "wakes that met a table which had moved on: {met_a_moved_table}, commits refused: {refused}"
    );

    let ledger = load.finish();
    assert_exact(&site.table(), &ledger, Duration::from_secs(90));
    for server in &mut servers {
        server.process.drain(Duration::from_secs(40));
    }
    assert_exact(&site.table(), &ledger, Duration::ZERO);
}
