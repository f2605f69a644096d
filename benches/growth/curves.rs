//! The curves: for each point a topic and a pipeline.

use std::fmt::Write as _;

use rand::{Rng, rngs::StdRng};

use crate::common;

/// The names, in the order in which they are measured.
pub(crate) const NAMES: [&str; 13] = [
    "keys",
    "budget",
    "measures",
    "tables",
    "sketches",
    "size",
    "fields",
    "partitions",
    "interval",
    "workers",
    "fetching",
    crate::answers::ANSWERS,
    crate::answers::START,
];

/// Events of a topic whose number is not itself what is looked at.
const EVENTS: usize = 2_000_000;
/// Partitions of a topic whose number is not itself what is looked at.
const PARTITIONS: i32 = 4;

/// What cost is drawn over.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) axis: &'static str,
    pub(crate) about: &'static str,
    pub(crate) points: Vec<Point>,
}

/// One measurement.
pub(crate) struct Point {
    /// Where on the axis.
    pub(crate) at: String,
    pub(crate) topic: Topic,
    pub(crate) schema: String,
    pub(crate) pipeline: String,
    pub(crate) tables: Vec<String>,
    pub(crate) settings: String,
    pub(crate) properties: String,
}

/// Gives the event of a number.
type Event = Box<dyn Fn(&mut StdRng, usize) -> String>;

/// What is read.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) events: usize,
    pub(crate) event: Event,
}

impl Topic {
    /// The clicks of the race.
    fn clicks(events: usize, partitions: i32) -> Self {
        Self {
            name: format!("growth-clicks-{events}-{partitions}"),
            partitions,
            events,
            event: Box::new(move |random, number| common::event(random, number, events)),
        }
    }

    /// Small events of one hour with every one of `keys` keys, in an order that looks random.
    fn keyed(keys: usize) -> Self {
        // Prime, and so without a common divisor with any number of keys here.
        const STRIDE: usize = 7_368_787;
        let events = EVENTS.max(keys);
        Self {
            name: format!("growth-accounts-{keys}"),
            partitions: PARTITIONS,
            events,
            event: Box::new(move |_, number| {
                format!(
                    r#"{{"ts":"2026-03-01T12:30:00Z","account":{},"bytes":{}}}"#,
                    number * STRIDE % keys,
                    number % 1000
                )
            }),
        }
    }

    /// Events of about `bytes` bytes, most of them in one field that nothing reads.
    fn sized(bytes: usize) -> Self {
        let events = (EVENTS * 370 / bytes).min(EVENTS * 2);
        Self {
            name: format!("growth-size-{bytes}"),
            partitions: PARTITIONS,
            events,
            event: Box::new(move |random, number| {
                let start = format!(
                    r#"{{"ts":"2026-03-01T12:{:02}:00Z","bytes":{},"note":""#,
                    number % 30,
                    number % 1000
                );
                // Words of different lengths, so that it packs as text does.
                let mut text = start;
                while text.len() < bytes - 2 {
                    let word: u32 = random.random_range(0..100_000);
                    write!(text, "{word:x} ").unwrap();
                }
                text + "\"}"
            }),
        }
    }
}

const CLICK: &str = "{ts: timestamp, user_id: string, country: string, url: string, status: int, latency_ms: double, bytes: bigint, is_bot: boolean, session: string, referrer: string, user_agent: string}";

/// A pipeline over `columns` of which each table has these measures.
fn pipeline(group_by: &str, measures: &[String], tables: &[String], commit_every: &str) -> String {
    let mut text = format!(
        "version: 1\n\
         source:\n  kafka: {{connection: main, topics: [TOPIC], start: earliest, group: GROUP}}\n\
         decode:\n  json: {{schema: ../schemas/click.yaml}}\n\
         event_time: {{column: ts, max_delay: 2m, idle_after: 1m}}\n\
         commit_every: {commit_every}\n\
         tables:\n"
    );
    for table in tables {
        write!(
            text,
            "  {table}:\n    window: {{tumbling: 1m}}\n    group_by: {group_by}\n    measures:\n      events: count(*)\n"
        )
        .unwrap();
        for (number, measure) in measures.iter().enumerate() {
            writeln!(text, "      m{number}: {measure}").unwrap();
        }
    }
    text
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("t{number}")).collect()
}

fn point(
    at: impl ToString,
    topic: Topic,
    columns: &str,
    group_by: &str,
    measures: &[&str],
) -> Point {
    let measures: Vec<String> = measures.iter().map(|&measure| measure.to_owned()).collect();
    Point {
        at: at.to_string(),
        topic,
        schema: format!("version: 1\ncolumns: {columns}\n"),
        pipeline: pipeline(group_by, &measures, &names(1), "1s"),
        tables: names(1),
        settings: String::new(),
        properties: String::new(),
    }
}

/// The clicks of the race, grouped as there.
fn clicks(at: impl ToString, measures: &[&str]) -> Point {
    let topic = Topic::clicks(EVENTS, PARTITIONS);
    point(at, topic, CLICK, "{country: country}", measures)
}

const USUAL: [&str; 2] = ["sum(bytes)", "avg(latency_ms)"];

/// Every curve that is drawn from `alluvium run`.
pub(crate) fn all() -> Vec<Curve> {
    vec![
        Curve {
            name: "keys",
            axis: "keys",
            about: "Keys: events of 60 bytes, one window, count and sum by a number; `memory.ingest` 512 MiB.",
            points: [10, 1_000, 100_000, 1_000_000, 10_000_000]
                .map(|count| keys(count, count))
                .into(),
        },
        Curve {
            name: "budget",
            axis: "memory.ingest",
            about: "Budget: five million keys, one event each, `memory.query` 512 MiB, which no query uses.",
            points: ["64MiB", "256MiB", "512MiB"]
                .map(|ingest| Point {
                    settings: format!("memory: {{ingest: {ingest}, query: 512MiB}}\n"),
                    ..keys(ingest, 5_000_000)
                })
                .into(),
        },
        Curve {
            name: "measures",
            axis: "measures",
            about: "Measures: clicks by minute and country; sums, averages, extremes and filtered ones in turn.",
            points: [1, 2, 5, 10, 20, 30].map(measures).into(),
        },
        Curve {
            name: "tables",
            axis: "tables",
            about: "Tables: each with count, sum and average by minute and country; decoded once.",
            points: [1, 2, 5, 10]
                .map(|count| {
                    let usual = USUAL.map(str::to_owned);
                    Point {
                        pipeline: pipeline("{country: country}", &usual, &names(count), "1s"),
                        tables: names(count),
                        ..clicks(count, &USUAL)
                    }
                })
                .into(),
        },
        Curve {
            name: "sketches",
            axis: "beside count, sum and average",
            about: "Sketches: clicks by minute and country.",
            points: sketches(),
        },
        Curve {
            name: "size",
            axis: "bytes of an event",
            about: "Size: two fields used and one long one passed over, of hexadecimal words that pack to half.",
            points: [100, 370, 1_000, 3_000, 10_000]
                .map(|bytes| {
                    let columns = "{ts: timestamp, bytes: bigint}";
                    point(
                        bytes,
                        Topic::sized(bytes),
                        columns,
                        "{kind: bytes % 10}",
                        &["sum(bytes)"],
                    )
                })
                .into(),
        },
        Curve {
            name: "fields",
            axis: "fields used of 11",
            about: "Fields: clicks by minute and country, and for each further field how many events have it.",
            points: [2, 5, 8, 11].map(fields).into(),
        },
        Curve {
            name: "partitions",
            axis: "partitions",
            about: "Partitions: count, sum and average of clicks by minute and country.",
            points: [1, 4, 20, 100, 200]
                .map(|partitions| Point {
                    topic: Topic::clicks(EVENTS, partitions),
                    ..clicks(partitions, &USUAL)
                })
                .into(),
        },
        Curve {
            name: "interval",
            axis: "commit_every",
            about: "Commit interval: the same; a second figure smaller than the first is time waited for the next commit.",
            points: ["1s", "2s", "5s", "10s", "30s", "60s"]
                .map(|interval| {
                    let usual = USUAL.map(str::to_owned);
                    Point {
                        pipeline: pipeline("{country: country}", &usual, &names(1), interval),
                        ..clicks(interval, &USUAL)
                    }
                })
                .into(),
        },
        Curve {
            name: "workers",
            axis: "workers",
            about: "Workers: the same on two cores, which the broker shares.",
            points: [1, 2]
                .map(|workers| Point {
                    settings: format!("workers: {workers}\n"),
                    ..clicks(workers, &USUAL)
                })
                .into(),
        },
        Curve {
            name: "fetching",
            axis: "property",
            about: "Fetching: the same with `drain: portable`, and one of librdkafka's properties changed.",
            points: [
                "",
                "fetch.wait.max.ms: 500",
                "fetch.min.bytes: 100000",
                "fetch.queue.backoff.ms: 1000",
                "queued.min.messages: 1000",
                "queued.min.messages: 1000000",
                "max.partition.fetch.bytes: 65536",
                "max.partition.fetch.bytes: 8388608",
                "socket.receive.buffer.bytes: 4194304",
            ]
            .map(fetching)
            .into(),
        },
    ]
}

/// By librdkafka's own requests, with a property as its documentation writes it.
fn fetching(property: &str) -> Point {
    let usual = USUAL.map(str::to_owned);
    let pipeline = pipeline("{country: country}", &usual, &names(1), "1s");
    let at = match property {
        "" => "as shipped",
        property => property,
    };
    Point {
        pipeline: pipeline.replace("start: earliest,", "start: earliest, drain: portable,"),
        properties: property.to_owned(),
        ..clicks(format!("`{at}`"), &USUAL)
    }
}

fn keys(at: impl ToString, count: usize) -> Point {
    point(
        at,
        Topic::keyed(count),
        "{ts: timestamp, account: bigint, bytes: bigint}",
        "{account: account}",
        &["sum(bytes)"],
    )
}

fn measures(count: usize) -> Point {
    let columns = ["bytes", "status", "latency_ms"];
    let kinds = ["sum", "avg", "min", "max"];
    let all = (0..).map(|number: usize| {
        let measure = format!("{}({})", kinds[number % 4], columns[number / 4 % 3]);
        match number / 12 {
            0 => measure,
            filter => format!("{measure} filter (where status >= {})", filter * 100 + 100),
        }
    });
    // Counting the events is the first.
    let chosen: Vec<String> = all.take(count - 1).collect();
    Point {
        pipeline: pipeline("{country: country}", &chosen, &names(1), "1s"),
        ..clicks(count, &[])
    }
}

fn sketches() -> Vec<Point> {
    const DISTINCT: &str = "approx_distinct(user_id)";
    const MEDIAN: &str = "approx_percentile_cont(latency_ms, 0.5)";
    const TAIL: &str = "approx_percentile_cont(latency_ms, 0.99)";
    let with = |at: &str, more: &[&str]| {
        let measures: Vec<&str> = USUAL.into_iter().chain(more.iter().copied()).collect();
        clicks(at, &measures)
    };
    vec![
        with("nothing", &[]),
        with("distinct users", &[DISTINCT]),
        with("median and p99 of latency", &[MEDIAN, TAIL]),
        with("all three", &[DISTINCT, MEDIAN, TAIL]),
    ]
}

fn fields(count: usize) -> Point {
    let used = [
        "ts",
        "country",
        "bytes",
        "latency_ms",
        "is_bot",
        "status",
        "user_id",
        "url",
        "session",
        "referrer",
        "user_agent",
    ];
    let columns: Vec<&str> = CLICK
        .trim_matches(['{', '}'])
        .split(", ")
        .filter(|column| {
            used[..count]
                .iter()
                .any(|name| column.starts_with(&format!("{name}:")))
        })
        .collect();
    assert_eq!(columns.len(), count, "each field once");
    let measures: Vec<String> = used[2..count]
        .iter()
        .map(|column| format!("count({column})"))
        .collect();
    Point {
        schema: format!("version: 1\ncolumns: {{{}}}\n", columns.join(", ")),
        pipeline: pipeline("{country: country}", &measures, &names(1), "1s"),
        ..clicks(count, &[])
    }
}
