//! Logs on stderr and metrics for Prometheus: the two things that are installed once for the whole process.

use std::{
    error::Error,
    fs::File,
    io::{self, IsTerminal},
    sync::Mutex,
};

use metrics_prometheus::failure::strategy::PanicInDebugNoOpInRelease;
use prometheus::{HistogramOpts, HistogramVec, Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::cli::{LogFormat, When};

/// Seconds, from a fast query to a commit that hangs.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// The histograms with their labels and what they say. Prometheus wants to know before the first sample.
const HISTOGRAMS: [(&str, &str, &str); 2] = [
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
