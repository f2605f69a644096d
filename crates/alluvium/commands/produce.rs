//! `alluvium produce`: NDJSON from a file or stdin to a topic.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    time::{Duration, Instant},
};

use alluvium_source::EventProducer;
use serde_json::Value;

use super::generate::{connection, failed, partitions_of};
use crate::{
    cli::ProduceArgs,
    failure::Failure,
    output::{grouped, plain, say, to_stdout},
    pace::Pace,
    progress::Progress,
    signals::Stop,
};

/// How long sent events may take to arrive.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Sends every line that is not blank. Lines travel as they are: whether one is what a pipeline expects is for the pipeline
/// to say.
pub(crate) fn run(args: &ProduceArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals("ending when everything sent has arrived")?;
    let (mut lines, name): (Box<dyn BufRead>, String) = match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Failure::input(format!("{} cannot be read", path.display())).because(&error)
            })?;
            (Box::new(BufReader::new(file)), path.display().to_string())
        }
        None => {
            if io::stdin().is_terminal() {
                say(format_args!(
                    "reading one JSON value a line from the terminal; ctrl-d ends"
                ));
            }
            (Box::new(io::stdin().lock()), "stdin".to_owned())
        }
    };
    let broker = connection(&args.broker);
    partitions_of(&broker, &args.topic)?;
    let mut producer = EventProducer::new(&broker, args.topic.clone())
        .map_err(|error| failed(&args.broker, &error))?;

    let mut pace = Pace::new(args.rate);
    let mut progress = Progress::new();
    let started = Instant::now();
    let (mut number, mut sent, mut keyless) = (0u64, 0u64, 0u64);
    let mut line = Vec::new();
    while !stop.is_asked() {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(|error| {
            Failure::work(format!("{name}, line {}", number + 1)).because(&error)
        })?;
        if read == 0 {
            break;
        }
        number += 1;
        let event = line.trim_ascii();
        if event.is_empty() {
            continue;
        }
        let key = match &args.key {
            None => None,
            Some(field) => key_of(event, field),
        };
        if args.key.is_some() && key.is_none() {
            keyless += 1;
        }
        pace.wait(|| stop.is_asked());
        producer
            .send(None, key.as_deref().map(str::as_bytes), event, None)
            .map_err(|error| failed(&args.broker, &error))?;
        pace.count(1);
        sent += 1;
        progress.tell(|| {
            let rate = sent as f64 / started.elapsed().as_secs_f64();
            format!(
                "sent {} events, {} a second",
                grouped(sent),
                grouped(rate as u64)
            )
        });
    }
    producer
        .flush(FLUSH_PATIENCE)
        .map_err(|error| failed(&args.broker, &error))?;
    drop(progress);
    if keyless > 0 {
        let field = args.key.as_deref().unwrap_or_default();
        say(format_args!(
            "{} of them have no field `{field}` and went without a key",
            grouped(keyless)
        ));
    }
    to_stdout(|out| writeln!(out, "sent {} events to {}", grouped(sent), args.topic))?;
    Ok(())
}

/// The value of `field` as text; `None` when the event is no JSON object or lacks it.
fn key_of(event: &[u8], field: &str) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(event) else {
        return None;
    };
    match fields.get(field)? {
        Value::Null => None,
        value => Some(plain(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_text_of_its_field() {
        assert_eq!(key_of(br#"{"id": "a b"}"#, "id").as_deref(), Some("a b"));
        assert_eq!(key_of(br#"{"id": 7}"#, "id").as_deref(), Some("7"));
        assert_eq!(key_of(br#"{"id": null}"#, "id"), None);
        assert_eq!(key_of(b"{broken", "id"), None);
    }
}
