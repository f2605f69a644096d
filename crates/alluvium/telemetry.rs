//! Logs on stderr and metrics for Prometheus: the two things that are installed once for the whole process.

use std::{
    fs::File,
    io::{self, IsTerminal},
    sync::Mutex,
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::cli::{LogFormat, When};

/// Seconds, from a fast query to a commit that hangs.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// Bytes, from a small file to a large one.
const BYTES: [f64; 8] = [
    1024.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    8_388_608.0,
    67_108_864.0,
    536_870_912.0,
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

/// Installs the recorder of all metrics of the process.
///
/// # Errors
/// When one is installed already.
pub(crate) fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    // Without explicit buckets histograms become summaries, which nobody can add up.
    let handle = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
        .install_recorder()?;
    metrics::gauge!("alluvium_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}
