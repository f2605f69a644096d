//! `alluvium seek`: moves partitions on by hand, in the tables themselves, beside servers that run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_plan::Plan;
use alluvium_runtime::table_spec;
use alluvium_source::{Broker, SourceError, log_bounds, offsets_at, partition_counts, topic_ids};
use alluvium_store::{Goal, Moved, Sought, Store, StoreError};
use alluvium_types::{TopicId, TopicPartition};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::{SeekArgs, Target},
    commands::run::{broker_of, plan_of},
    failure::Failure,
    files,
    output::{Sheet, grouped, say, to_stdout},
    progress::Waiting,
};

/// How long the broker may take for all its answers to one question.
const PATIENCE: Duration = Duration::from_secs(20);

/// Moves the partitions in every table; one that refuses does not keep the others from it.
pub(crate) fn run(args: &SeekArgs) -> Result<(), Failure> {
    let found = files::load(&args.server)?;
    let plan = &plan_of(&found, &args.pipeline)?;
    let tables = tables(plan, &args.tables)?;
    let broker = &broker_of(&found, plan);
    let partitions = partitions(broker, plan, &args.partitions)?;
    refuse_future(args.to)?;
    let log =
        Log::ask(broker, plan, &partitions, args.to).map_err(|error| unanswered(plan, &error))?;
    log.refuse_beyond(args.to)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(found.store_to_write())?;
    let known = files::tables(&found, &runtime, &store, &[])?;
    let mut sheet = Sheet::new(["table", "partition", "from", "to", "passed_over"]);
    let (mut failures, mut passed_over) = (Vec::new(), 0);
    for position in tables {
        let table = &plan.tables[position].name;
        if !known.contains(&table.to_string()) {
            let failure = Failure::work(format!("there is no table `{table}` yet"));
            failures.push(failure.help("run the pipeline until its partitions are assigned"));
            continue;
        }
        match runtime.block_on(move_on(&store, plan, position, &log)) {
            Ok(sought) => {
                for (partition, Moved { from, to }) in sought.moved {
                    let gap = match sought.was_empty {
                        true => 0,
                        false => to.abs_diff(from),
                    };
                    passed_over += gap;
                    sheet.push(vec![
                        json!(table),
                        json!(partition.to_string()),
                        json!(from),
                        json!(to),
                        json!(gap),
                    ]);
                }
            }
            Err(error @ (StoreError::NoPosition { .. } | StoreError::Backwards { .. })) => {
                let failure = Failure::work(format!("nothing of {table} was moved"));
                failures.push(failure.because(&error));
            }
            Err(error @ StoreError::OtherTopic { .. }) => {
                let failure = Failure::work(format!("nothing of {table} was moved"));
                failures.push(failure.because(&error).help(
                    "if the same events are at the same offsets again, give their topic's new id as `continued_by` beside `topics`, restart the \
                     servers, then move; if not, they belong into tables of their own",
                ));
            }
            Err(error) => {
                let failure = Failure::work(format!("it is not known whether {table} was moved"));
                failures.push(failure.because(&error).help(
                    "do the same again: what stands there already stays, and `alluvium audit` tells what was passed over",
                ));
            }
        }
    }
    if sheet.is_empty() && failures.is_empty() {
        say(format_args!(
            "nothing was moved: every partition stands there already, or beyond it"
        ));
    }
    to_stdout(|out| sheet.write(args.format, out))?;
    if passed_over > 0 {
        say(format_args!(
            "{} offsets will never be read; `alluvium audit` tells of them from now on",
            grouped(passed_over)
        ));
    }
    Failure::any_of(failures)
}

async fn move_on(
    store: &Store,
    plan: &Plan,
    position: usize,
    log: &Log,
) -> Result<Sought, StoreError> {
    let spec = table_spec(plan, &plan.tables[position]);
    store
        .table(&spec)
        .await?
        .seek(&log.goals, &log.topics)
        .await
}

/// What Kafka says of the partitions.
struct Log {
    bounds: BTreeMap<TopicPartition, (i64, i64)>,
    topics: BTreeMap<Arc<str>, TopicId>,
    goals: BTreeMap<TopicPartition, Goal>,
}

impl Log {
    fn ask(
        broker: &Broker,
        plan: &Plan,
        partitions: &[TopicPartition],
        to: Target,
    ) -> Result<Self, SourceError> {
        let _waiting = Waiting::for_(&broker.brokers);
        // Before the offsets: a topic that is created again in between has another id than these have, or than the table.
        let topics = topic_ids(broker, &plan.source.topics, PATIENCE)?;
        let bounds = log_bounds(broker, partitions, PATIENCE)?;
        let of_bounds = |choose: fn(&(i64, i64)) -> i64| {
            let goal = |ends| Goal::NotBefore(choose(ends));
            let bounds = bounds.iter();
            bounds
                .map(|(partition, ends)| (partition.clone(), goal(ends)))
                .collect()
        };
        let goals = match to {
            Target::Earliest => of_bounds(|ends| ends.0),
            Target::Latest => of_bounds(|ends| ends.1),
            Target::Time(time) => offsets_at(broker, partitions, time, PATIENCE)?
                .into_iter()
                .map(|(partition, offset)| (partition, Goal::NotBefore(offset)))
                .collect(),
            Target::Offset(offset) => partitions
                .iter()
                .map(|partition| (partition.clone(), Goal::To(offset)))
                .collect(),
        };
        Ok(Self {
            bounds,
            topics,
            goals,
        })
    }

    /// An offset that the log does not have would halt its partition. And where no partition has so young a record, nobody meant that all
    /// of them be passed over, least of all where the broker looks up no times at all.
    fn refuse_beyond(&self, to: Target) -> Result<(), Failure> {
        if let Target::Time(time) = to {
            let mut goals = self.goals.iter();
            let is_end = |(partition, goal): (&TopicPartition, &Goal)| {
                let (Goal::To(offset) | Goal::NotBefore(offset)) = *goal;
                self.bounds
                    .get(partition)
                    .is_some_and(|(_, end)| offset >= *end)
            };
            return match goals.all(is_end) {
                true => Err(Failure::work(format!(
                    "Kafka finds no record of {time} or later in these partitions, so nothing was moved"
                ))
                .help(
                    "to pass over everything, `--to latest`; the embedded broker finds no offsets by time, so there name an offset",
                )),
                false => Ok(()),
            };
        }
        let Target::Offset(offset) = to else {
            return Ok(());
        };
        let mut bounds = self.bounds.iter();
        let beyond = bounds.find(|(_, (low, end))| offset < *low || *end < offset);
        beyond.map_or(Ok(()), |(partition, (low, end))| {
            Err(Failure::input(format!(
                "Kafka's log of {partition} begins at {low} and ends at {end}, so nothing is read from {offset} on"
            ))
            .help("name an offset in between, `--to earliest` or `--to latest`"))
        })
    }
}

/// A time that is not there yet would pass over everything.
fn refuse_future(to: Target) -> Result<(), Failure> {
    match to {
        Target::Time(time) if time.micros() > chrono::Utc::now().timestamp_micros() => {
            Err(Failure::input(format!(
                "{time} is in the future, and no record is that young"
            ))
            .help("name a time that has been, an offset, `--to earliest` or `--to latest`"))
        }
        _ => Ok(()),
    }
}

/// The places in the plan of the tables that are meant.
fn tables(plan: &Plan, named: &[String]) -> Result<Vec<usize>, Failure> {
    if named.is_empty() {
        return Ok((0..plan.tables.len()).collect());
    }
    let position = |name: &String| {
        let mut tables = plan.tables.iter();
        tables
            .position(|table| *table.name == **name)
            .ok_or_else(|| {
                let known: Vec<&str> = plan.tables.iter().map(|table| &*table.name).collect();
                Failure::input(format!("the pipeline {} has no table `{name}`", plan.name))
                    .help(format!("it has: {}", known.join(", ")))
            })
    };
    named.iter().map(position).collect()
}

/// The partitions that are meant.
fn partitions(
    broker: &Broker,
    plan: &Plan,
    named: &[String],
) -> Result<Vec<TopicPartition>, Failure> {
    let topics = &plan.source.topics;
    let counts = {
        let _waiting = Waiting::for_(&broker.brokers);
        partition_counts(broker, topics, PATIENCE)
    };
    let counts = counts.map_err(|error| unanswered(plan, &error))?;
    let all = || {
        let counts = counts.iter();
        counts.flat_map(|(topic, count)| {
            (0..count.unwrap_or(0)).map(|number| TopicPartition::new(topic.clone(), number))
        })
    };
    let mut found = Vec::new();
    for name in named {
        if name == "all" {
            if let Some((topic, _)) = counts.iter().find(|(_, count)| count.is_none()) {
                return Err(Failure::work(format!("Kafka has no topic `{topic}`"))
                    .help("name the partitions of the others one by one"));
            }
            found.extend(all());
            continue;
        }
        let is_named = |partition: &TopicPartition| {
            partition.to_string() == *name
                || (topics.len() == 1 && partition.partition.to_string() == *name)
        };
        found.push(
            all()
                .find(is_named)
                .ok_or_else(|| no_partition(topics, name))?,
        );
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn no_partition(topics: &[Arc<str>], name: &str) -> Failure {
    let failure = Failure::input(format!("Kafka has no partition `{name}` of this pipeline"));
    match topics {
        [topic] => failure.help(format!("write its number, {topic}/NUMBER or `all`")),
        several => failure.help(format!(
            "the pipeline reads several topics, so write TOPIC/NUMBER or `all`; they are: {}",
            several.join(", ")
        )),
    }
}

fn unanswered(plan: &Plan, error: &SourceError) -> Failure {
    Failure::work("Kafka does not say where its logs begin and end, so nothing was moved")
        .because(error)
        .help(format!(
            "look at `brokers` of the connection `{}`, then try again",
            plan.source.connection
        ))
}
