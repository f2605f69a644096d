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
    let mut server = Server::start(&Job {
        brokers,
        topic,
        schema: SCHEMA,
        pipeline: &PIPELINE.replace("DRAIN", drain),
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
