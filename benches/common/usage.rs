//! What a contestant came to, and what the kernel says it took.

use std::{fs, time::Instant};

use serde::{Deserialize, Serialize};

/// Ticks of `/proc` a second; Linux shows user space 100 whatever the kernel uses.
const TICKS: f64 = 100.0;

/// What a contestant came to. The rivals in other languages print it as one line of JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Groups, or 0 where nothing is grouped.
    pub(crate) groups: u64,
    /// Events counted.
    pub(crate) clicks: u64,
    /// Their bytes, or 0 where they are not looked at.
    pub(crate) bytes: u64,
    /// Seconds.
    pub(crate) wall: f64,
    /// CPU seconds of the process, user and system.
    pub(crate) cpu: f64,
    /// The most memory that the process ever held.
    pub(crate) peak_mib: f64,
    /// CPU seconds of the broker meanwhile; filled in by the one who watches it.
    #[serde(default)]
    pub(crate) broker_cpu: Option<f64>,
}

impl Outcome {
    /// Of the process that calls, which has done nothing else since `begin`.
    pub(crate) fn of_this_process(begin: Instant, groups: u64, clicks: u64, bytes: u64) -> Self {
        Self {
            groups,
            clicks,
            bytes,
            wall: begin.elapsed().as_secs_f64(),
            cpu: cpu("self"),
            peak_mib: peak_mib("self"),
            broker_cpu: None,
        }
    }
}

/// CPU seconds of a process so far.
pub(crate) fn cpu(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name stands in parentheses and may hold anything; the fields follow it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    ticks / TICKS
}

/// The most memory that a process held so far, in MiB.
pub(crate) fn peak_mib(process: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}
