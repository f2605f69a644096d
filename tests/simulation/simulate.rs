//! Runs schedules until one fails, or all have passed.

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use alluvium_simulation::{Counts, Outcome, Source, run, shrink};
use clap::Parser;

/// So many schedules meet everything.
const ENOUGH: u64 = 300;
/// Exit code when no schedule failed, and something never happened in any of them.
const PROVES_NOTHING: u8 = 3;

/// Whole servers against a simulated Kafka, store and clock.
#[derive(Debug, Parser)]
struct Args {
    /// How many schedules.
    #[arg(long, default_value_t = 1000)]
    schedules: u64,
    /// The seed of the first; the next ones count on from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many at once; each has a core of its own.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Runs the one schedule of this seed and tells what happens in it.
    #[arg(long)]
    tell: Option<u64>,
    /// Tries at making a failing schedule shorter.
    #[arg(long, default_value_t = 300)]
    shrink: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.tell {
        let outcome = run(Source::Seed(seed), true);
        print(seed, &outcome);
        return code(outcome.violations.is_empty());
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = if args.jobs == 0 { cores } else { args.jobs };
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let counts = Arc::new(Mutex::new(Counts::default()));
    let failed: Arc<Mutex<Option<(u64, Outcome)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..jobs)
        .map(|job| {
            let (next, counts) = (next.clone(), counts.clone());
            let (failed, stop) = (failed.clone(), stop.clone());
            thread::spawn(move || {
                stay_on(job % cores);
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= args.schedules {
                        return;
                    }
                    let seed = args.seed.wrapping_add(number);
                    let outcome = run(Source::Seed(seed), false);
                    let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    all.merge(&outcome.counts);
                    drop(all);
                    if !outcome.violations.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                        let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        first.get_or_insert((seed, outcome));
                    }
                    if number % 1000 == 999 {
                        let took = begun.elapsed().as_secs_f64();
                        eprintln!("{} schedules, {took:.0} s", number + 1);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        if worker.join().is_err() {
            return ExitCode::from(2);
        }
    }
    let run_in_all = next.load(Ordering::Relaxed).min(args.schedules);
    let took = begun.elapsed().as_secs_f64();
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{run_in_all} schedules from seed {}, {took:.0} s, {:.0} a minute",
        args.seed,
        run_in_all as f64 / took * 60.0
    );
    println!("{counts}");
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((seed, outcome)) = failed else {
        println!("no violation");
        let missing = counts.missing();
        if run_in_all < ENOUGH || missing.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("but {missing:?} never happened, of which this proves nothing");
        return ExitCode::from(PROVES_NOTHING);
    };
    println!("seed {seed} fails after {run_in_all} schedules:");
    for violation in &outcome.violations {
        println!("  {violation}");
    }
    if args.shrink > 0 {
        stay_on(0);
        let shortest = shrink(&outcome, args.shrink);
        println!(
            "\nmade shorter, from {} decisions to {}:",
            outcome.choices.len(),
            shortest.choices.len()
        );
        print(seed, &shortest);
    }
    ExitCode::FAILURE
}

fn print(seed: u64, outcome: &Outcome) {
    for line in &outcome.story {
        println!("{line}");
    }
    println!("{}", outcome.counts);
    println!("seed {seed}, {} decisions", outcome.choices.len());
    for violation in &outcome.violations {
        println!("violation: {violation}");
    }
}

fn code(is_right: bool) -> ExitCode {
    match is_right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Threads that take turns do so faster where they do not have to wake another core.
fn stay_on(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // Where that is not allowed it is only slower.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}
