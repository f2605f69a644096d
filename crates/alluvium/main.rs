//! Arguments in, exit code out: parses, installs what is global, and hands over to a command.
//!
//! Only this package reads arguments, environment and signals, or installs anything for the whole
//! process.

mod allocator;
mod balances;
mod cells;
mod cli;
mod clicks;
mod commands;
mod door;
mod doors;
mod failure;
mod feed;
mod files;
mod output;
mod pace;
mod planned;
mod progress;
mod signals;
mod telemetry;

use std::process::ExitCode;

use cli::{Cli, Parsed, UserWanted, Wanted, When};
use failure::Failure;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    refuse_huge_pages();
    allocator::give_back_at_once();
    let cli = match Cli::from_process() {
        Parsed::Known(cli) => cli,
        Parsed::Planned(answer) => return answer.report(),
    };
    abort_on_panic();
    anstream::ColorChoice::write_global(match cli.color {
        When::Auto => anstream::ColorChoice::Auto,
        When::Always => anstream::ColorChoice::Always,
        When::Never => anstream::ColorChoice::Never,
    });
    let ended = match &cli.command {
        // It logs into its folder, because it draws on the terminal.
        Wanted::Demo(args) => commands::demo::run(args, cli.log_format),
        wanted => {
            telemetry::start_logs(cli.log_format, cli.color, least_logged(wanted));
            run(wanted)
        }
    };
    match ended {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Batches come and go in buffers of a few hundred KiB on several threads. Where the kernel backs them with pages of two
/// MiB, it clears far more than is used and the process keeps it: a fifth of the CPU time and 90 MiB of a race against a
/// full topic. It is no loss where a kernel does not know the setting.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(cause) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%cause, "the kernel keeps its pages as they are");
    }
}

fn run(wanted: &Wanted) -> Result<ExitCode, Failure> {
    match wanted {
        Wanted::Audit(args) => return commands::audit::run(args),
        Wanted::Verify(args) => return commands::verify::run(args),
        Wanted::Run(args) => return commands::run::run(args),
        Wanted::Check(args) => return commands::check::run(args),
        Wanted::Replay(args) => commands::replay::run(args),
        Wanted::Seek(args) => commands::seek::run(args),
        Wanted::Compact(args) => commands::compact::run(args),
        Wanted::Vacuum(args) => commands::vacuum::run(args),
        Wanted::User(UserWanted::Add(args)) => commands::user::add(args),
        Wanted::Status(args) => commands::status::run(args),
        Wanted::Sql(args) => commands::sql::run(args),
        Wanted::Produce(args) => commands::produce::run(args),
        Wanted::Broker(args) => commands::broker::run(args),
        Wanted::Generate(args) => commands::generate::run(args),
        Wanted::Demo(_) => unreachable!("it is started where logs are"),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A server logs what it does; a command that prints a result logs only what is wrong.
fn least_logged(wanted: &Wanted) -> LevelFilter {
    match wanted {
        Wanted::Run(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    }
}

/// A thread that panicked leaves half a process behind: end it whole, and loudly (R5). What was not committed
/// is read again. A thread that works for clients takes down only what it works for, just as loudly.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if alluvium_types::is_panic_expected() {
            return;
        }
        print(panic);
        if alluvium_query::works_for_clients() {
            return;
        }
        std::process::abort();
    }));
}
