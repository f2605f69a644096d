//! What ingestion does meanwhile: events taken and events waiting, and the memory of the process, ten times a second.

use std::{
    fmt, fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{doors::Http, stream::Stream};

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    taken: i64,
    waiting: i64,
    most_waiting: i64,
    most_memory: f64,
}

/// A thread that looks.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    http: Http,
}

/// Where things stood at a moment.
pub(crate) struct Mark {
    at: Instant,
    taken: i64,
    sent: u64,
    most_waiting: i64,
}

/// Events a second between two moments.
pub(crate) struct Rates {
    /// That the server took.
    pub(crate) taken: f64,
    /// That the broker got.
    pub(crate) sent: f64,
    most_waiting: i64,
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} events a second taken of {:.0}, at most {} not committed",
            self.taken, self.sent, self.most_waiting
        )
    }
}

fn number(status: &Value, name: &str) -> i64 {
    status[name].as_i64().unwrap_or(0)
}

fn waiting(status: &Value) -> i64 {
    let partitions = status["partitions"].as_array();
    let each = partitions.into_iter().flatten();
    each.map(|partition| number(partition, "lag")).sum()
}

/// Resident memory of a process, in MiB; `None` when it is gone.
fn resident(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

impl Watch {
    pub(crate) fn start(process: &str, url: &str) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let (halt, shared): (_, Arc<Mutex<Seen>>) = (stop.clone(), Arc::clone(&seen));
        let (process, http) = (process.to_owned(), Http::new(url));
        let thread = thread::spawn(move || {
            for round in 0_u64.. {
                if halt.load(Ordering::Relaxed) {
                    return;
                }
                // The server is asked once a second: to be watched shall not be work.
                let status = (round % 10 == 0).then(|| http.status()).flatten();
                let memory = resident(&process).unwrap_or(0.0);
                let mut seen = shared.lock().unwrap();
                seen.most_memory = seen.most_memory.max(memory);
                if let Some(status) = status {
                    seen.taken = number(&status, "events_in");
                    seen.waiting = waiting(&status);
                    seen.most_waiting = seen.most_waiting.max(seen.waiting);
                }
                drop(seen);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self {
            seen,
            stop,
            thread,
            http: Http::new(url),
        }
    }

    /// Where things stand now; forgets the most that waited before.
    pub(crate) fn mark(&self, stream: &Stream) -> Mark {
        let status = self.http.status();
        let (at, sent) = (Instant::now(), stream.sent());
        let mut seen = self.seen.lock().unwrap();
        if let Some(status) = status {
            seen.taken = number(&status, "events_in");
            seen.waiting = waiting(&status);
        }
        let most_waiting = seen.most_waiting.max(seen.waiting);
        seen.most_waiting = 0;
        Mark {
            at,
            taken: seen.taken,
            sent,
            most_waiting,
        }
    }

    pub(crate) fn most_memory(&self) -> f64 {
        self.seen.lock().unwrap().most_memory
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

impl Mark {
    pub(crate) fn since(&self, before: &Self) -> Rates {
        let seconds = (self.at - before.at).as_secs_f64().max(0.001);
        Rates {
            taken: (self.taken - before.taken) as f64 / seconds,
            sent: (self.sent - before.sent) as f64 / seconds,
            most_waiting: self.most_waiting,
        }
    }
}
