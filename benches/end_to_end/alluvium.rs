//! The contestant that is the product.

use crate::{
    server::{Job, Server},
    usage::Outcome,
};

/// The fields that the job needs, as the other contestants declare them too.
const SCHEMA: &str = "\
version: 1
columns: {ts: timestamp, country: string, latency_ms: double, bytes: bigint, is_bot: boolean}
";

/// What sketches need beside it.
const USERS: &str = "columns: {user_id: string, ";

/// Measures that are sketches.
const SKETCHES: &str = "      users: approx_distinct(user_id)
      median_ms: approx_percentile_cont(latency_ms, 0.5)
      p99_ms: approx_percentile_cont(latency_ms, 0.99)
";

/// The job: without bots, per minute and country: how many, how many bytes, how long on average.
const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [TOPIC], start: earliest, group: GROUP, drain: DRAIN}
decode:
  json: {schema: ../schemas/click.yaml}
event_time: {column: ts, max_delay: 2m, idle_after: 1m}
where: not is_bot
commit_every: 1s
tables:
  clicks:
    window: {tumbling: 1m}
    group_by: {country: country}
    measures:
      clicks: count(*)
      bytes: sum(bytes)
      mean_ms: avg(latency_ms)
";

/// The job of the race, from the start of the process to the version of the table that covers every event.
pub(crate) fn run(brokers: &str, topic: &str, events: usize, drain: &str) -> Outcome {
    race(
        brokers,
        topic,
        events,
        SCHEMA,
        &PIPELINE.replace("DRAIN", drain),
    )
}

/// The same with a distinct count and two percentiles among the measures.
pub(crate) fn run_with_sketches(brokers: &str, topic: &str, events: usize) -> Outcome {
    let schema = SCHEMA.replace("columns: {", USERS);
    let pipeline = PIPELINE.replace("DRAIN", "direct") + SKETCHES;
    race(brokers, topic, events, &schema, &pipeline)
}

fn race(brokers: &str, topic: &str, events: usize, schema: &str, pipeline: &str) -> Outcome {
    let mut server = Server::start(&Job {
        brokers,
        topic,
        schema,
        pipeline,
        tables: &["clicks"],
        settings: "",
        properties: "",
    });
    let spent = server.wait_for(events);
    let answer = server
        .stop()
        .sql("select count(*) as g, sum(clicks) as c, sum(bytes) as b from clicks");
    Outcome {
        groups: answer[0],
        clicks: answer[1],
        bytes: answer[2],
        ..spent
    }
}
