//! `alluvium demo`: broker, events, pipeline, storage and SQL in one process.
//!
//! Owns how they are put together and what a person sees of it. The parts are the ones a server uses.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use alluvium_plan::{PipelineState, PipelineStatus, StatusBoard};
use alluvium_query::runtime_for_clients;
use alluvium_runtime::Running;
use alluvium_source::{Broker, EmbeddedBroker, EventProducer, SourceError};
use alluvium_types::Timestamp;
use tracing_subscriber::filter::LevelFilter;

use super::{generate, run};
use crate::{
    balances,
    cli::DemoArgs,
    clicks::{Clicks, ClicksOptions, EVENTS_PER_SECOND, Ledger},
    doors::{DOORS, Door, Entry, Kind, PortTaken},
    failure::{Failure, WORK_FAILED},
    feed::{Doing, Feed, HoldBack},
    files,
    output::{Format, bytes, grouped, say, to_stdout},
    progress::Progress,
    signals::Stop,
    telemetry,
};

mod folder;
mod screen;

use folder::Folder;

/// The topic that the built-in pipeline reads.
const TOPIC: &str = "clicks";
/// With eight partitions the reader may be 32 MiB behind in all, which is a second at full speed.
const PARTITIONS: i32 = 8;
/// Unread bytes of a partition at which the events wait: below what the embedded broker keeps.
const MOST_UNREAD: u64 = 4 << 20;
/// The default rate of a demo without an end.
const RATE: NonZeroU64 = NonZeroU64::new(EVENTS_PER_SECOND as u64).expect("the rate is not zero");
/// Where the simulated clock of a demo with an end starts, so that its answers follow from the seed alone.
/// In microseconds: 2026-11-01T00:00:00Z.
const START_MICROS: i64 = 1_793_491_200_000_000;
/// The doors, unless others are asked for.
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8427);
const POSTGRES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8432);
const FLIGHT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8433);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long the last commits may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// What the sending thread says.
#[derive(Debug, Default)]
struct Sending {
    sent: AtomicU64,
    is_held_back: AtomicBool,
}

/// Everything that runs.
struct Demo {
    running: Running,
    status: Arc<StatusBoard>,
    sending: Arc<Sending>,
    sender: JoinHandle<Result<Ledger, SourceError>>,
    /// Ends the sending.
    enough: Stop,
    started: Instant,
}

/// Runs until `q`, a signal, or the last event is committed.
pub(crate) fn run(args: &DemoArgs, log_format: crate::cli::LogFormat) -> Result<ExitCode, Failure> {
    let listen = |kind, wanted: Option<SocketAddr>, usual| match wanted {
        Some(address) => Door::listen(kind, address, PortTaken::Refuse),
        None => Door::listen(kind, usual, PortTaken::TakeNext),
    };
    let http = listen(Kind::Http, args.http, HTTP)?;
    let postgres = listen(Kind::Postgres, args.postgres, POSTGRES)?;
    let flight = listen(Kind::Flight, args.flight, FLIGHT)?;
    // A folder is a demo's as soon as it is touched, so ports that are taken are found before.
    let folder = Folder::prepare(&args.dir, args.reset)?;
    telemetry::start_logs_in(log_format, folder.log()?, LevelFilter::INFO);
    let stop = Stop::on_signals("ending with a last commit; once more ends at once")?;
    let metrics = telemetry::Metrics::start()
        .map_err(|error| Failure::work("metrics cannot be recorded").because(&*error))?;
    let broker = EmbeddedBroker::start(None, &[(TOPIC.to_owned(), PARTITIONS)])
        .map_err(|error| Failure::work("the embedded broker did not start").because(&error))?;
    let doors = folder::Doors {
        http: http.local_addr()?,
        postgres: postgres.local_addr()?,
        flight: flight.local_addr()?,
    };
    folder.write(&broker.brokers(), doors, args.workers)?;

    let found =
        files::load_at(&folder.server_file()).map_err(|found| Failure::wrong_files(&found))?;
    let plans = run::plans(&found)?;
    let io = runtime_for_clients(DOORS)?;
    let store = io.block_on(found.store())?;
    let running = run::start(&found, plans, store.clone(), None)?;
    let queries = run::queries(&found, store, &running)?;
    let entry = Entry::of(&found.server)?;
    let http = Door::open(http, &io, queries.clone(), &running, metrics, entry.clone())?;
    let postgres = Door::open_postgres(postgres, &io, queries.clone(), entry.clone())?;
    let flight = Door::open_flight(flight, &io, queries, entry)?;
    let url = format!("http://{}", http.address());
    let psql = format!(
        "psql -h {} -p {} alluvium",
        postgres.address().ip(),
        postgres.address().port()
    );
    let welcome = welcome(&folder, &url, &psql, flight.address());
    match args.format {
        Format::Table => to_stdout(|out| writeln!(out, "{welcome}"))?,
        _ => say(format_args!("{welcome}")),
    }

    let demo = Demo::start(args, &broker, running)?;
    let watched = match args.events {
        Some(events) => demo.watch_to_the_end(events, &stop),
        None if args.format == Format::Table && io::stdout().is_terminal() => {
            screen::show(&demo.view(&url, &psql), &stop)
                .map_err(|error| Failure::work("the terminal cannot be used").because(&error))
        }
        None => {
            demo.watch_plainly(&stop);
            Ok(())
        }
    };
    let ended = demo.end(args.events, watched, args.format);
    for door in [http, postgres, flight] {
        door.close(&io);
    }
    ended
}

impl Demo {
    fn start(args: &DemoArgs, broker: &EmbeddedBroker, running: Running) -> Result<Self, Failure> {
        let options = match args.events {
            // Everything follows from the seed: the clock is simulated, whatever the rate.
            Some(_) => ClicksOptions {
                start: args
                    .clicks
                    .start
                    .unwrap_or(Timestamp::from_micros(START_MICROS)),
                events_per_second: EVENTS_PER_SECOND,
                late: args.clicks.late,
                broken: args.clicks.broken,
            },
            None => generate::options(&args.clicks, Some(args.rate.unwrap_or(RATE).get() as f64)),
        };
        let connection = Broker {
            brokers: broker.brokers(),
            ..Broker::default()
        };
        let no_events =
            |error: &dyn std::error::Error| Failure::work("no events can be sent").because(error);
        let feed = Feed {
            clicks: Clicks::new(args.clicks.seed, options),
            producer: EventProducer::new(&connection, TOPIC).map_err(|error| no_events(&error))?,
            partitions: PARTITIONS,
            hold_back: Some(HoldBack::new(
                MOST_UNREAD,
                &vec![(0, 0); PARTITIONS as usize],
            )),
            rate: match args.events {
                Some(_) => args.rate,
                None => Some(args.rate.unwrap_or(RATE)),
            },
        };
        let status = running.status();
        let sending = Arc::new(Sending::default());
        let enough = Stop::default();
        let sender = {
            let (events, sending, enough, status) =
                (args.events, sending.clone(), enough.clone(), status.clone());
            thread::Builder::new()
                .name("clicks".to_owned())
                .spawn(move || send(feed, events, &sending, &enough, &status))
                .map_err(|error| no_events(&error))?
        };
        Ok(Self {
            running,
            status,
            sending,
            sender,
            enough,
            started: Instant::now(),
        })
    }

    fn view(&self, url: &str, psql: &str) -> screen::View {
        let sending = self.sending.clone();
        // Sending without an end asks for the end itself when it fails.
        let enough = self.enough.clone();
        screen::View {
            url: url.to_owned(),
            psql: psql.to_owned(),
            status: self.status.clone(),
            sent: Box::new(move || sending.sent.load(Ordering::Relaxed)),
            is_over: Box::new(move || enough.is_asked()),
        }
    }

    /// Plain lines until a signal or until nothing runs any more.
    fn watch_plainly(&self, stop: &Stop) {
        let mut last = Instant::now();
        while !stop.is_asked() && !self.is_broken() {
            thread::sleep(LOOK);
            if last.elapsed() >= LINE_EVERY {
                last = Instant::now();
                say(format_args!("{}", self.line()));
            }
        }
    }

    /// Waits until every event has been read; a signal or a failure ends it earlier.
    fn watch_to_the_end(&self, events: NonZeroU64, stop: &Stop) -> Result<(), Failure> {
        let mut progress = Progress::new();
        while !stop.is_asked() && !self.is_broken() {
            if self.sender.is_finished() && read(&self.status.all()) >= events.get() {
                return Ok(());
            }
            progress.tell(|| self.line());
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether a part ended that should not have.
    fn is_broken(&self) -> bool {
        let is_stopped = |pipeline: &PipelineStatus| pipeline.state == PipelineState::Stopped;
        self.running.all_over()
            || self.status.all().iter().any(is_stopped)
            || (self.enough.is_asked() && self.sender.is_finished())
    }

    fn line(&self) -> String {
        let pipelines = self.status.all();
        let sent = self.sending.sent.load(Ordering::Relaxed);
        let committed: u64 = balances::tables(&pipelines)
            .map(|table| table.balance.events_in)
            .min()
            .unwrap_or(0);
        let commits: u64 = balances::tables(&pipelines)
            .map(|table| table.commits)
            .sum();
        let rejected: u64 = pipelines.iter().map(|pipeline| pipeline.rejected).sum();
        let memory: u64 = pipelines.iter().map(|pipeline| pipeline.memory_used).sum();
        let rate = sent as f64 / self.started.elapsed().as_secs_f64();
        let mut line = format!(
            "sent {} ({} a second), read {}, committed {} in {} commits, {} rejected, memory {}",
            grouped(sent),
            grouped(rate as u64),
            grouped(read(&pipelines)),
            grouped(committed),
            grouped(commits),
            grouped(rejected),
            bytes(memory),
        );
        if self.sending.is_held_back.load(Ordering::Relaxed) {
            line.push_str(", events wait for the pipeline");
        }
        for reason in pipelines
            .iter()
            .filter_map(|pipeline| pipeline.reason.as_ref())
        {
            line.push_str(&format!("; {reason}"));
        }
        line
    }

    /// Ends from the front, with a last commit, and says what became of every event.
    fn end(
        self,
        events: Option<NonZeroU64>,
        watched: Result<(), Failure>,
        format: Format,
    ) -> Result<ExitCode, Failure> {
        self.enough.ask();
        let ledger = match self.sender.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // What was sent after the last look is read as well, so that the balance is that of all events.
        let until = Instant::now() + DRAIN_PATIENCE;
        if let Ok(ledger) = &ledger {
            while read(&self.status.all()) < ledger.total()
                && !self.running.all_over()
                && Instant::now() < until
            {
                thread::sleep(LOOK);
            }
        }
        self.running.drain();
        let stopped = self.running.join(DRAIN_PATIENCE).ok_or_else(|| {
            Failure::work(format!(
                "the last commits took longer than {DRAIN_PATIENCE:?}"
            ))
        })?;
        watched?;
        let ledger =
            ledger.map_err(|error| Failure::work("events could not be sent").because(&error))?;
        if let Some(error) = stopped.iter().find_map(|stopped| stopped.error.as_ref()) {
            return Err(Failure::work("the pipeline stopped").because(error));
        }
        let pipelines = self.status.all();
        let mut faults = balances::faults(&pipelines, Some(ledger.total()));
        if let Some(events) = events.filter(|events| events.get() != ledger.total()) {
            faults.push(format!(
                "interrupted: {} of {} events were sent",
                grouped(ledger.total()),
                grouped(events.get())
            ));
        }
        faults.extend(disagreements(&pipelines, &ledger));
        let seconds = self.started.elapsed().as_secs_f64();
        let balance = balances::sheet(&pipelines);
        let mut words: Vec<String> = balances::tables(&pipelines)
            .map(balances::sentence)
            .collect();
        words.push(format!(
            "{seconds:.1} s, {} events a second",
            grouped((ledger.total() as f64 / seconds) as u64)
        ));
        let faulty = faults
            .iter()
            .map(|fault| format!("\x1b[1;31mfault\x1b[0m: {fault}"));
        words.extend(faulty);
        match format {
            Format::Table => to_stdout(|out| {
                writeln!(out, "sent {ledger}")?;
                balance.write(format, out)?;
                words.iter().try_for_each(|line| writeln!(out, "{line}"))
            })?,
            _ => {
                to_stdout(|out| balance.write(format, out))?;
                say(format_args!("sent {ledger}"));
                words.iter().for_each(|line| say(format_args!("{line}")));
            }
        }
        Ok(ExitCode::from(if faults.is_empty() {
            0
        } else {
            WORK_FAILED
        }))
    }
}

/// The sender's own figures against the tables': the product never sees the ledger.
fn disagreements(pipelines: &[PipelineStatus], ledger: &Ledger) -> Vec<String> {
    let mut found = Vec::new();
    for table in balances::tables(pipelines) {
        let figures = [
            ("counted", table.balance.counted, ledger.counted()),
            ("filtered", table.balance.filtered, ledger.bots),
            ("rejected", table.balance.rejected, ledger.broken),
        ];
        for (what, counted, sent) in figures {
            if counted != sent {
                found.push(format!(
                    "{}: {} {what}, but {} were sent",
                    table.table,
                    grouped(counted),
                    grouped(sent)
                ));
            }
        }
    }
    found
}

/// Events that the pipeline has read: the embedded broker's logs begin at 0 and have no gaps.
fn read(pipelines: &[PipelineStatus]) -> u64 {
    positions(pipelines)
        .into_values()
        .map(|offset| u64::try_from(offset).unwrap_or(0))
        .sum()
}

fn positions(pipelines: &[PipelineStatus]) -> BTreeMap<i32, i64> {
    pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.partitions)
        .filter_map(|partition| Some((partition.partition, partition.position?)))
        .collect()
}

/// The sending thread.
fn send(
    feed: Feed,
    events: Option<NonZeroU64>,
    sending: &Sending,
    enough: &Stop,
    status: &StatusBoard,
) -> Result<Ledger, SourceError> {
    let sent = feed.run(
        events,
        &|| enough.is_asked(),
        &mut || Ok(positions(&status.all())),
        &mut |ledger, doing| {
            sending.sent.store(ledger.total(), Ordering::Relaxed);
            sending
                .is_held_back
                .store(doing == Doing::HeldBack, Ordering::Relaxed);
        },
    );
    if let Err(error) = &sent {
        tracing::error!("{error}");
        enough.ask();
    }
    sent
}

/// What can be tried, ready to copy.
fn welcome(folder: &Folder, url: &str, psql: &str, flight: SocketAddr) -> String {
    let file = folder.server_file();
    let file = file.display();
    format!(
        "Clicks flow into an embedded broker, through {pipeline}, into {data}.\n\
         Everything lies in {folder}: read it, it is what a server would use. Logs: {log}\n\
         \n\
         Try, in another terminal:\n\
         \n  alluvium sql --url {url} \"SELECT country, measure(clicks) AS clicks, measure(users) AS users, measure(p99_ms) AS p99_ms \
         FROM clicks_per_minute GROUP BY country ORDER BY clicks DESC LIMIT 10\"\n\
         \n  alluvium sql -c {file} \"SELECT error, count(*) AS events FROM dead_letters.clicks GROUP BY error ORDER BY events DESC LIMIT 5\"\n\
         \n  {psql} -c 'SELECT * FROM clicks_per_minute ORDER BY window_start DESC, clicks DESC LIMIT 10'\n\
         \n  curl -s {url}/v1/sql -H 'content-type: application/json' -H 'accept: text/csv' \
         -d '{{\"sql\": \"SELECT window_start, final, measure(clicks) AS clicks FROM clicks_per_minute GROUP BY window_start, final ORDER BY window_start DESC LIMIT 5\"}}'\n\
         \nFlight SQL listens on grpc://{flight}.\n",
        pipeline = folder.pipeline_file().display(),
        data = folder.data().display(),
        folder = folder.path().display(),
        log = folder.log_file().display(),
    )
}
