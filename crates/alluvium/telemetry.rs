//! Logs on stderr and metrics for Prometheus: the two things that are installed once for the whole process.

use std::{
    error::Error,
    fs::File,
    io::{self, IsTerminal},
    sync::Mutex,
};

use metrics_prometheus::failure::strategy::PanicInDebugNoOpInRelease;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{HistogramOpts, HistogramVec, Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::cli::{LogFormat, When};

/// Seconds, from a fast query to a commit that hangs.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// The histograms with their labels and what they say. Prometheus wants to know before the first sample.
const HISTOGRAMS: [(&str, &str, &str); 3] = [
    (
        "alluvium_compaction_duration_seconds",
        "table",
        "Time from opening files to the version in which one took their place.",
    ),
    (
        "alluvium_commit_duration_seconds",
        "table",
        "Time from the first file to the version, per commit.",
    ),
    (
        "alluvium_query_first_rows_seconds",
        "door",
        "Time from a query to its first rows.",
    ),
];

/// The counters and what they say.
const COUNTERS: [(&str, &str); 15] = [
    (
        "alluvium_compactions_total",
        "Merges of files, by their outcome: committed, overtaken by another server, failed.",
    ),
    (
        "alluvium_compaction_files_total",
        "Files that were merged into others.",
    ),
    ("alluvium_compaction_bytes_total", "Bytes of those files."),
    ("alluvium_records_in_total", "Records taken from Kafka."),
    (
        "alluvium_bytes_in_total",
        "Bytes of those records, as they travelled.",
    ),
    (
        "alluvium_records_rejected_total",
        "Events that became dead letters.",
    ),
    (
        "alluvium_records_late_total",
        "Events behind the watermark, counted all the same.",
    ),
    (
        "alluvium_commits_total",
        "Versions of tables that were committed.",
    ),
    (
        "alluvium_commit_retries_total",
        "Commits that were tried again.",
    ),
    (
        "alluvium_commit_puts_total",
        "Log entries that were put for commits; more than commits where others took versions first.",
    ),
    (
        "alluvium_commits_overtaken_total",
        "Commits given up because another process had committed the same offsets.",
    ),
    (
        "alluvium_rebalances_total",
        "Times that Kafka dealt the partitions out anew.",
    ),
    (
        "alluvium_partition_halts_total",
        "Times that a partition stood still with a reason.",
    ),
    (
        "alluvium_denied_total",
        "Requests and connections that were not let in, by door.",
    ),
    ("alluvium_queries_total", "Queries, by their outcome."),
];
/// The gauges and what they say.
const GAUGES: [(&str, &str); 12] = [
    ("alluvium_build_info", "One, with the version as a label."),
    (
        "alluvium_kafka_consumer_lag_records",
        "Records of a partition that no committed version covers yet.",
    ),
    (
        "alluvium_kafka_open_transaction_records",
        "Records of a partition that wait behind a transaction which has been open for more than five minutes.",
    ),
    (
        "alluvium_partition_halted",
        "One for a partition that stands still until a person acts.",
    ),
    (
        "alluvium_clock_ahead_seconds",
        "By how much this machine's clock is ahead of the storage's; below zero it is behind. Asked every hour.",
    ),
    (
        "alluvium_pipeline_version_conflict",
        "One while another server commits to the same tables by other pipeline or schema files.",
    ),
    (
        "alluvium_log_damaged",
        "One for a table of whose log something could not be read within the last two hours.",
    ),
    (
        "alluvium_compaction_failing",
        "Whether files of the table could not be merged when that was last tried: 1 or 0.",
    ),
    (
        "alluvium_upkeep_failing",
        "One for a table whose log checkpoints, clean-up or sweeping fail. No commit waits for them.",
    ),
    (
        "alluvium_pipeline_state",
        "One for the state that a pipeline is in, zero for the others.",
    ),
    (
        "alluvium_state_bytes",
        "Memory in use of the ingest budget: fetched bytes, raw batches, states, panes, Parquet buffers.",
    ),
    ("alluvium_state_limit_bytes", "The ingest budget."),
];

/// Sends log lines of `least` and above to stderr, or what ALLUVIUM_LOG asks for (`debug`,
/// `alluvium_store=debug,info`).
pub(crate) fn start_logs(format: LogFormat, color: When, least: LevelFilter) {
    let colored = match color {
        When::Always => true,
        When::Never => false,
        When::Auto => {
            io::stderr().is_terminal()
                && anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
        }
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(wanted(least))
        .with_writer(io::stderr)
        .with_ansi(colored)
        .with_target(false);
    match format {
        LogFormat::Auto => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// The same into a file, for commands that use the terminal for something else.
pub(crate) fn start_logs_in(format: LogFormat, file: File, least: LevelFilter) {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(wanted(least))
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_target(false);
    match format {
        LogFormat::Auto => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

fn wanted(least: LevelFilter) -> EnvFilter {
    EnvFilter::builder()
        .with_env_var("ALLUVIUM_LOG")
        .with_default_directive(least.into())
        .from_env_lossy()
}

/// The metrics of the process, which the recorder fills from wherever they are counted.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Registry);

impl Metrics {
    /// Installs the recorder of all metrics of the process.
    ///
    /// # Errors
    /// When one is installed already.
    pub(crate) fn start() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let registry = Registry::new();
        let mut recorder = metrics_prometheus::Recorder::builder()
            .with_registry(registry.clone())
            // A metric that is named with other labels than before is a mistake of ours, which tests shall find.
            .with_failure_strategy(PanicInDebugNoOpInRelease);
        for (name, label, help) in HISTOGRAMS {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            recorder = recorder.try_with_metric(HistogramVec::new(options, &[label])?)?;
        }
        recorder
            .try_build_and_install()
            .map_err(|error| error.to_string())?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(ProcessCollector::for_self()))?;
        for (name, help) in COUNTERS {
            metrics::describe_counter!(name, help);
        }
        for (name, help) in GAUGES {
            metrics::describe_gauge!(name, help);
        }
        metrics::gauge!("alluvium_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(registry))
    }

    /// All of them in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which is a bug.
    pub(crate) fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}
