//! Analysts beside ingestion: point queries, a dashboard and abusive queries over a large compacted table, while events
//! arrive at half of what the server can take. Run with `cargo bench --bench analysts -- [--alluvium PATH] [--folder PATH]
//! [--days N] [--keys N] [--rate N] [--points N] [--seconds N] [--only STAGE,STAGE] [--assert BOUND=N,…]`.
//!
//! The table has a row for every minute of `--days` and each of `--keys`, with a distinct count and a percentile among its
//! measures. It is made by the product: a topic of one event a row, `alluvium run`, `alluvium compact`. Stages are `table`,
//! `compact`, `speed`, `points`, `dashboard`, `abuse`; with a `--folder` that stays, later runs may leave out the first two.
//! The broker is `KAFKA_BROKERS`, or a real Kafka that `scripts/kafka.sh` starts and that is stopped at the end.
//!
//! Bounds, in milliseconds, percent and MiB over the budgets: `point_p50`, `point_p99`, `dashboard_p99`, `loss`, `memory`. The
//! exit code is 1 when one does not hold, and when the server does not live through all of it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};

mod abuse;
#[path = "../common/mod.rs"]
mod common;
mod doors;
mod stream;
mod watch;

use common::{
    server::{Job, Server},
    topic::{self, Kafka},
    usage,
};
use doors::{Http, Postgres};
use stream::{Batch, Producer, Stream};
use watch::Watch;

const PARTITIONS: i32 = 4;
const MINUTES_A_DAY: usize = 1440;
/// Both budgets, in MiB.
const BUDGETS: f64 = 1024.0;
/// How often the dashboard is refreshed at most.
const MOST_REFRESHES: usize = 50;
/// How long one query may take by the server's rules.
const TIMEOUT: Duration = Duration::from_secs(8);
/// When a client gives up on an abusive query that the server has not ended.
const PATIENCE: Duration = Duration::from_secs(12);

const SCHEMA: &str = "version: 1\ncolumns: {ts: timestamp, key: string, user_id: string, ms: double, bytes: bigint}\n";
const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [TOPIC], start: earliest, group: GROUP}
decode:
  json: {schema: ../schemas/click.yaml}
event_time: {column: ts, max_delay: 2m, idle_after: 1m}
commit_every: 10s
tables:
  requests:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures:
      requests: count(*)
      bytes: sum(bytes)
      mean_ms: avg(ms)
      users: approx_distinct(user_id)
      p99_ms: approx_percentile_cont(ms, 0.99)
";

/// What is measured, by the command line.
struct Options {
    alluvium: PathBuf,
    folder: PathBuf,
    days: usize,
    keys: usize,
    /// Events a second; `None`: half of the speed that is measured.
    rate: Option<usize>,
    points: usize,
    /// The longest that one query of the dashboard is measured.
    seconds: u64,
    only: Option<Vec<String>>,
    bounds: BTreeMap<String, f64>,
}

impl Options {
    fn of(arguments: &[String], temporary: &Path) -> Self {
        let option = |name: &str| {
            let position = arguments.iter().position(|argument| argument == name)?;
            arguments.get(position + 1).cloned()
        };
        let number = |name: &str| {
            option(name).map(|text| {
                text.parse::<usize>()
                    .unwrap_or_else(|_| panic!("{name} takes a number, not {text}"))
            })
        };
        let list = |name: &str| -> Option<Vec<String>> {
            option(name).map(|text| text.split(',').map(str::to_owned).collect())
        };
        let bounds = list("--assert").unwrap_or_default();
        Self {
            alluvium: option("--alluvium")
                .map_or(env!("CARGO_BIN_EXE_alluvium").into(), PathBuf::from),
            folder: option("--folder").map_or(temporary.to_owned(), PathBuf::from),
            days: number("--days").unwrap_or(30),
            keys: number("--keys").unwrap_or(1_000),
            rate: number("--rate"),
            points: number("--points").unwrap_or(1_000),
            seconds: number("--seconds").unwrap_or(20) as u64,
            only: list("--only"),
            bounds: bounds
                .iter()
                .map(|bound| {
                    let (name, most) = bound.split_once('=').expect("--assert takes NAME=NUMBER");
                    (
                        name.to_owned(),
                        most.parse().expect("--assert takes NAME=NUMBER"),
                    )
                })
                .collect(),
        }
    }

    fn does(&self, stage: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.iter().any(|name| name == stage))
    }

    fn rows(&self) -> usize {
        self.days * MINUTES_A_DAY * self.keys
    }
}

/// The first minute of the table.
fn begin() -> DateTime<Utc> {
    DateTime::from_timestamp(1_772_323_200, 0).expect("the first of March 2026")
}

fn minute(number: usize) -> String {
    let at = begin() + TimeDelta::minutes(number as i64);
    at.format("%Y-%m-%dT%H:%M").to_string()
}

/// An event of about 90 bytes in a minute that [`minute`] named.
fn event(random: &mut StdRng, minute: &str, key: usize) -> String {
    format!(
        r#"{{"ts":"{minute}:{:02}Z","key":"key-{key:04}","user_id":"user-{}","ms":{:.1},"bytes":{}}}"#,
        random.random_range(0..60),
        random.random_range(0..100_000),
        random.random_range(0.1..900.0),
        random.random_range(100..100_000),
    )
}

/// What is found, line by line, and the bounds that it breaks.
#[derive(Default)]
struct Report {
    lines: Vec<(String, String)>,
    broken: Vec<String>,
}

impl Report {
    fn line(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        let (what, figure) = (what.into(), figure.into());
        eprintln!("{what}: {figure}");
        self.lines.push((what, figure));
    }

    fn bound(&mut self, options: &Options, name: &str, figure: f64) {
        if let Some(most) = options.bounds.get(name).filter(|most| figure > **most) {
            self.broken
                .push(format!("{name} is {figure:.1}, not {most}"));
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let temporary = tempfile::tempdir().unwrap();
    let options = Options::of(&arguments, temporary.path());
    let kafka = Kafka::find();
    let mut report = Report::default();
    run(&options, &kafka, &mut report);
    println!("\n| what | figure |\n|---|---|");
    for (what, figure) in &report.lines {
        println!("| {what} | {figure} |");
    }
    for broken in &report.broken {
        println!("\nnot held: {broken}");
    }
    ExitCode::from(u8::from(!report.broken.is_empty()))
}

fn run(options: &Options, kafka: &Kafka, report: &mut Report) {
    let topic = format!("analysts-{}-{}", options.days, options.keys);
    let job = Job {
        brokers: &kafka.brokers,
        topic: &topic,
        schema: SCHEMA,
        pipeline: PIPELINE,
        tables: &["requests"],
        settings: &format!(
            "memory: {{ingest: 512MiB, query: 512MiB}}\nquery: {{timeout: {}s}}\n",
            TIMEOUT.as_secs()
        ),
        properties: "",
    };
    let start = || Server::of(&options.alluvium, &options.folder, &job);
    if options.does("table") {
        make(options, kafka, &topic, &start, report);
    }
    if options.does("compact") {
        let storage = start().stop();
        let begun = Instant::now();
        let sheet = storage.run(&["compact", "--format", "csv"], &[]);
        let took = begun.elapsed().as_secs_f64();
        eprintln!("{sheet}");
        report.line("`alluvium compact`", format!("{took:.0} s"));
    }

    let full = match options.rate {
        Some(rate) => rate * 2,
        None => full_speed(options, kafka, &topic, &start, report),
    };
    let rate = full / 2;
    let mut server = start();
    let http = wait_for(&mut server, |server| {
        server.address().map(|url| Http::new(&url))
    });
    wait_for(&mut server, |_| http.rows("select 1").ok());
    let producer = Producer::new(&kafka.brokers, &topic);
    let live = options.days * MINUTES_A_DAY;
    let stream = Stream::start(producer, PARTITIONS as usize, rate, |number, events| {
        let mut random = StdRng::seed_from_u64(number as u64);
        let at = minute(live + number % 2);
        let events: Vec<String> = (0..events)
            .map(|_| {
                let key = random.random_range(0..options.keys);
                event(&mut random, &at, key)
            })
            .collect();
        Batch::of(&events)
    });
    let watch = Watch::start(&server.process(), &options_url(&server));
    thread::sleep(Duration::from_secs(5));
    report.line("events a second that arrive", format!("{rate}"));

    let calm = watch.mark(&stream);
    if options.does("points") {
        points(options, &mut server, &http, report);
    }
    if options.does("dashboard") {
        dashboard(options, &http, report);
    }
    thread::sleep(Duration::from_secs(2));
    let before = watch.mark(&stream).since(&calm);
    report.line("ingestion beside these", format!("{before}"));
    if options.does("abuse") {
        suffer(
            options,
            &mut server,
            &http,
            &watch,
            &stream,
            before.taken,
            report,
        );
    }
    stream.stop();
    watch.stop();
}

fn options_url(server: &Server) -> String {
    server.address().expect("it has answered")
}

fn wait_for<T>(server: &mut Server, mut ask: impl FnMut(&Server) -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask(server) {
            return found;
        }
        let ended = server.ended();
        assert!(
            ended.is_none(),
            "alluvium ended: {ended:?}\n{}",
            server.log()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            server.log()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fills the topic with one event for every row, and lets the server read it.
fn make(
    options: &Options,
    kafka: &Kafka,
    topic: &str,
    start: &dyn Fn() -> Server,
    report: &mut Report,
) {
    let rows = options.rows();
    if topic::held(&kafka.brokers, topic, PARTITIONS).unwrap_or(0) < rows as i64 {
        let mut at = (usize::MAX, String::new());
        topic::fill(&kafka.brokers, topic, PARTITIONS, rows, |random, number| {
            let now = number / options.keys;
            if at.0 != now {
                at = (now, minute(now));
            }
            event(random, &at.1, number % options.keys)
        });
    }
    let mut server = start();
    let spent = server.wait_for(rows);
    report.line(
        format!("made a table of {rows} rows, one event each"),
        format!(
            "{:.0} s, {:.0} CPU seconds, peak {:.0} MiB",
            spent.wall, spent.cpu, spent.peak_mib
        ),
    );
}

/// How many events a second the server takes of those that arrive later, when they wait in the topic.
fn full_speed(
    options: &Options,
    kafka: &Kafka,
    topic: &str,
    start: &dyn Fn() -> Server,
    report: &mut Report,
) -> usize {
    const WAITING: usize = 3_000_000;
    const EVENTS: usize = 2_500;
    let mut producer = Producer::new(&kafka.brokers, topic);
    let at = minute(options.days * MINUTES_A_DAY);
    let batches: Vec<Batch> = (0..16)
        .map(|number| {
            let mut random = StdRng::seed_from_u64(number);
            let events: Vec<String> = (0..EVENTS)
                .map(|_| {
                    let key = random.random_range(0..options.keys);
                    event(&mut random, &at, key)
                })
                .collect();
            Batch::of(&events)
        })
        .collect();
    let mut sent = 0;
    while sent < WAITING {
        let first = sent / EVENTS % 16;
        let four: Vec<&Batch> = batches[first..first + 4].iter().collect();
        sent += producer.send(&four);
    }
    let held = topic::held(&kafka.brokers, topic, PARTITIONS).expect("the topic is there");
    let mut server = start();
    server.wait_for_line("first records");
    let begun = Instant::now();
    let cpu = usage::cpu(&server.process());
    server.wait_for(held as usize);
    let speed = sent as f64 / begun.elapsed().as_secs_f64();
    let cpu = usage::cpu(&server.process()) - cpu;
    report.line(
        "full speed",
        format!(
            "{speed:.0} events a second, {:.2} µs of CPU an event",
            cpu * 1e6 / sent as f64
        ),
    );
    speed as usize
}

/// Percentiles in milliseconds: 50, 90, 99, slowest.
fn percentiles(took: &mut [f64]) -> [f64; 4] {
    took.sort_by(f64::total_cmp);
    [0.5, 0.9, 0.99, 1.0].map(|share| {
        let place = (took.len() as f64 * share).ceil() as usize;
        took[place.clamp(1, took.len()) - 1]
    })
}

fn shown([p50, p90, p99, slowest]: [f64; 4]) -> String {
    format!("p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, slowest {slowest:.1} ms")
}

fn timed(mut ask: impl FnMut()) -> f64 {
    let begun = Instant::now();
    ask();
    begun.elapsed().as_secs_f64() * 1e3
}

/// Random window and key.
fn point(options: &Options, random: &mut StdRng) -> String {
    let at = minute(random.random_range(0..options.days * MINUTES_A_DAY));
    let key = random.random_range(0..options.keys);
    format!(
        "select requests, bytes, mean_ms, users, p99_ms from requests \
         where window_start = '{at}:00Z' and key = 'key-{key:04}'"
    )
}

fn points(options: &Options, server: &mut Server, http: &Http, report: &mut Report) {
    let mut random = StdRng::seed_from_u64(1);
    let mut nothing: Vec<f64> = (0..options.points.min(200))
        .map(|_| timed(|| drop(http.rows("select 1 as n").unwrap())))
        .collect();
    report.line("`select 1` by HTTP", shown(percentiles(&mut nothing)));
    let cpu = usage::cpu(&server.process());
    let begun = Instant::now();
    let mut took: Vec<f64> = (0..options.points)
        .map(|_| {
            let sql = point(options, &mut random);
            timed(|| assert_eq!(http.rows(&sql).unwrap().len(), 1, "{sql}"))
        })
        .collect();
    let cores = (usage::cpu(&server.process()) - cpu) / begun.elapsed().as_secs_f64();
    let found = percentiles(&mut took);
    report.line("point query by HTTP", shown(found));
    report.line(
        "cores that the server used meanwhile",
        format!("{cores:.2}"),
    );
    report.bound(options, "point_p50", found[0]);
    report.bound(options, "point_p99", found[2]);

    let address = wait_for(server, |server| server.named("Postgres wire listens on "));
    let mut session = Postgres::connect(&address);
    let mut took: Vec<f64> = (0..options.points)
        .map(|_| {
            let sql = point(options, &mut random);
            timed(|| assert_eq!(session.ask(&sql), 1, "{sql}"))
        })
        .collect();
    let found = percentiles(&mut took);
    report.line("point query by Postgres wire", shown(found));
    report.bound(options, "point_p50", found[0]);
    report.bound(options, "point_p99", found[2]);
}

/// The queries of the dashboard when it is refreshed for the `nth` time: what is about the past hour or day moves on by a minute
/// each time, towards the end of the table.
fn dashboard_queries(options: &Options, nth: usize) -> [(&'static str, String); 6] {
    let end = options.days * MINUTES_A_DAY - MOST_REFRESHES + nth;
    let [end, hour_ago, day_ago] = [0, 60, MINUTES_A_DAY].map(|ago| minute(end - ago));
    let past =
        |since: String| format!("window_start >= '{since}:00Z' and window_start < '{end}:00Z'");
    let (hour, day) = (past(hour_ago), past(day_ago));
    [
        (
            "the last hour by minute",
            format!(
                "select window_start, measure(requests) as n, measure(bytes) as bytes from requests \
                 where {hour} group by 1 order by 1"
            ),
        ),
        (
            "top ten keys of a day",
            format!(
                "select key, measure(requests) as n from requests where {day} group by key order by n desc limit 10"
            ),
        ),
        (
            "a day by hour, with p99",
            format!(
                "select date_trunc('hour', window_start) as hour, measure(requests) as n, measure(mean_ms) as mean, \
                 measure(p99_ms) as p99 from requests where {day} group by 1 order by 1"
            ),
        ),
        (
            "distinct users by day, all days",
            "select date_trunc('day', window_start) as day, measure(users) as users from requests group by 1 order by 1"
                .into(),
        ),
        (
            "p99 by hour of one key, all days",
            "select date_trunc('hour', window_start) as hour, measure(p99_ms) as p99 from requests \
             where key = 'key-0007' group by 1 order by 1"
                .into(),
        ),
        (
            "count of everything",
            "select measure(requests) as n from requests".into(),
        ),
    ]
}

fn dashboard(options: &Options, http: &Http, report: &mut Report) {
    let names = dashboard_queries(options, 0).map(|(name, _)| name);
    let mut worst: f64 = 0.0;
    for (number, name) in names.iter().enumerate() {
        let mut refused = None;
        let mut ask = |nth: usize| {
            let (_, sql) = &dashboard_queries(options, nth)[number];
            timed(|| refused = refused.take().or(http.rows(sql).err()))
        };
        // Nothing of it is kept yet: it reads all that a dashboard reads once.
        let first = ask(0);
        let begun = Instant::now();
        let mut took = Vec::new();
        for nth in 1..=MOST_REFRESHES {
            took.push(ask(nth));
            if begun.elapsed() >= Duration::from_secs(options.seconds) {
                break;
            }
        }
        let count = took.len();
        let figure = match refused {
            None => {
                let found = percentiles(&mut took);
                worst = worst.max(found[2]);
                format!(
                    "at first {first:.1} ms, then {}, {count} times",
                    shown(found)
                )
            }
            Some(error) => {
                worst = f64::INFINITY;
                error.replace(['|', '\n'], " ")
            }
        };
        report.line(format!("dashboard: {name}"), figure);
    }
    report.bound(options, "dashboard_p99", worst);
}

/// Runs every abusive query, with a look at the server after each.
fn suffer(
    options: &Options,
    server: &mut Server,
    http: &Http,
    watch: &Watch,
    stream: &Stream,
    calm: f64,
    report: &mut Report,
) {
    let begin = watch.mark(stream);
    let mut random = StdRng::seed_from_u64(2);
    for (number, abuse) in abuse::all().iter().enumerate() {
        let pause = match abuse.is_read_slowly {
            true => Duration::from_millis(200),
            false => Duration::ZERO,
        };
        let mark = watch.mark(stream);
        let answer = http.ask(&abuse.sql, PATIENCE, pause);
        let mut after = Vec::new();
        for _ in 0..5 {
            let sql = point(options, &mut random);
            after.push(timed(|| {
                if let Err(error) = http.rows(&sql) {
                    report
                        .broken
                        .push(format!("no answer after {}: {error}", abuse.about));
                }
            }));
        }
        if let Some(status) = server.ended() {
            report
                .broken
                .push(format!("alluvium ended with {status} by: {}", abuse.about));
            return;
        }
        let meanwhile = watch.mark(stream).since(&mark);
        report.line(
            format!("abuse {}: {}", number + 1, abuse.about),
            format!(
                "{} after {:.1} s, {} bytes; {meanwhile}; point query after it {:.0} ms",
                answer.ending,
                answer.took.as_secs_f64(),
                answer.bytes,
                percentiles(&mut after)[3]
            ),
        );
    }
    let during = watch.mark(stream).since(&begin);
    let loss = 100.0 * (1.0 - during.taken / calm);
    report.line(
        "ingestion beside twenty abusive queries",
        format!("{during}"),
    );
    report.line("ingestion lost", format!("{loss:.1} %"));
    report.bound(options, "loss", loss);
    let most = watch.most_memory();
    let process = server.process();
    report.line(
        "memory",
        format!(
            "at most {most:.0} MiB resident, {:.0} by the kernel; budgets {BUDGETS:.0} and 150",
            usage::peak_mib(&process)
        ),
    );
    report.bound(
        options,
        "memory",
        usage::peak_mib(&process).max(most) - BUDGETS,
    );
}
