//! `alluvium generate`: the demo's events to any broker.

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_source::{
    Broker, EventProducer, GroupProgress, SourceError, log_bounds, partition_counts,
};
use alluvium_types::{Timestamp, TopicPartition};

use crate::{
    cli::{BrokerAddress, ClicksArgs, GenerateArgs},
    clicks::{Clicks, ClicksOptions, EVENTS_PER_SECOND},
    failure::Failure,
    feed::{Doing, Feed, HoldBack},
    output::{grouped, to_stdout},
    progress::{Progress, Waiting},
    signals::Stop,
};

/// How long the broker may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends events until their number is reached or a signal comes.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals("ending when everything sent has arrived")?;
    let broker = connection(&args.broker);
    let partitions = partitions_of(&broker, &args.topic)?;
    let unanswered = |error| failed(&args.broker, &error);
    let group = match &args.keep_up_with {
        None => None,
        Some(group) => {
            Some(GroupProgress::new(&broker, group, &args.topic, PATIENCE).map_err(unanswered)?)
        }
    };
    let hold_back = match group {
        None => None,
        Some(_) => {
            let most = (args.most_behind * 1_048_576.0) as u64;
            Some(HoldBack::new(
                most,
                &bounds(&broker, &args.topic, partitions).map_err(unanswered)?,
            ))
        }
    };
    let feed = Feed {
        clicks: Clicks::new(
            args.clicks.seed,
            options(&args.clicks, args.rate.map(|rate| rate.get() as f64)),
        ),
        producer: EventProducer::new(&broker, args.topic.clone()).map_err(unanswered)?,
        partitions,
        hold_back,
        rate: args.rate,
    };
    let mut progress = Progress::new();
    let started = Instant::now();
    let ledger = feed
        .run(
            args.events,
            &|| stop.is_asked(),
            &mut || match &group {
                Some(group) => group.offsets(PATIENCE),
                None => Ok(BTreeMap::new()),
            },
            &mut |ledger, doing| {
                progress.tell(|| {
                    let rate = ledger.total() as f64 / started.elapsed().as_secs_f64();
                    let waits = match doing {
                        Doing::Sending => "",
                        Doing::HeldBack => ", waiting for the consumer group",
                    };
                    format!(
                        "sent {} events, {} a second{waits}",
                        grouped(ledger.total()),
                        grouped(rate as u64)
                    )
                });
            },
        )
        .map_err(unanswered)?;
    drop(progress);
    if let Some(path) = &args.ledger {
        let text = ledger.json().to_string();
        fs::write(path, text).map_err(|error| {
            Failure::work(format!(
                "the ledger could not be written to {}",
                path.display()
            ))
            .because(&error)
        })?;
    }
    to_stdout(|out| writeln!(out, "sent {ledger}"))?;
    Ok(())
}

/// The options of a stream of clicks. With a start the clock is simulated at a fixed speed, so that everything
/// follows from the seed; without one it follows the wall clock at the stream's rate.
pub(crate) fn options(args: &ClicksArgs, rate: Option<f64>) -> ClicksOptions {
    let (start, events_per_second) = match args.start {
        Some(start) => (start, EVENTS_PER_SECOND),
        None => (now(), rate.unwrap_or(EVENTS_PER_SECOND)),
    };
    ClicksOptions {
        start,
        events_per_second,
        late: args.late,
        broken: args.broken,
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}

/// The connection that the arguments describe.
pub(crate) fn connection(address: &BrokerAddress) -> Broker {
    Broker {
        brokers: address.brokers.clone(),
        properties: address.properties.iter().cloned().collect(),
    }
}

/// How many partitions the topic has.
pub(crate) fn partitions_of(broker: &Broker, topic: &str) -> Result<i32, Failure> {
    let unreachable = |error| match error {
        SourceError::Property { .. } => Failure::input("the connection cannot be used")
            .because(&error)
            .help("mend `-X`: it takes the properties of librdkafka"),
        error => Failure::work(format!("{} does not answer", broker.brokers))
            .because(&error)
            .help("is a broker there? `alluvium broker --port 9092` starts one to try things out"),
    };
    let name: Arc<str> = topic.into();
    let counts = {
        let _waiting = Waiting::for_(&broker.brokers);
        partition_counts(broker, &[name], PATIENCE).map_err(unreachable)?
    };
    counts
        .into_values()
        .next()
        .flatten()
        .filter(|&count| count > 0)
        .ok_or_else(|| {
            Failure::work(format!(
                "topic `{topic}` does not exist on {}",
                broker.brokers
            ))
            .help(
                "create it, or mend `--topic`; the embedded broker takes `--topic NAME:PARTITIONS`",
            )
        })
}

fn bounds(broker: &Broker, topic: &str, partitions: i32) -> Result<Vec<(i64, i64)>, SourceError> {
    let all: Vec<TopicPartition> = (0..partitions)
        .map(|number| TopicPartition::new(topic, number))
        .collect();
    let found = log_bounds(broker, &all, PATIENCE)?;
    Ok(all
        .iter()
        .map(|partition| found.get(partition).copied().unwrap_or_default())
        .collect())
}

/// Sending to the broker failed.
pub(crate) fn failed(address: &BrokerAddress, error: &SourceError) -> Failure {
    Failure::work(format!("could not send everything to {}", address.brokers)).because(error)
}
