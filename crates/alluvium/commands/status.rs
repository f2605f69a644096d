//! `alluvium status`: one screen about a running server, or what storage alone can tell.

use alluvium_plan::{PipelineState, PipelineStatus};
use alluvium_query::{QueryError, Storage};
use alluvium_types::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use url::Url;

use crate::{
    cli::StatusArgs,
    door::{Door, Silence, printable},
    failure::Failure,
    files,
    output::{Format, Sheet, bytes, grouped, say, to_stdout},
};

/// Asks the server; reads storage when nobody answers.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => files::door(&args.server)?,
    };
    let door = Door::new(&url)?;
    let nobody = match door.get("/v1/status") {
        Ok(reply) => return running(&reply, args.format),
        Err(Silence::Refused(failure)) => return Err(failure),
        Err(Silence::Nobody(failure)) => failure,
    };
    // Of a server that is named, and without a server file, the silence is the news.
    if args.url.is_some() || files::find(&args.server).is_err() {
        return Err(nobody);
    }
    stored(args, &url)
}

fn running(reply: &Value, format: Format) -> Result<(), Failure> {
    let pipelines = reply.get("pipelines").unwrap_or(reply);
    let pipelines: Vec<PipelineStatus> =
        serde_json::from_value(pipelines.clone()).map_err(|error| {
            Failure::work("the server's status is of a form this version does not know")
                .because(&error)
        })?;
    match format {
        Format::Json => to_stdout(|out| writeln!(out, "{reply}"))?,
        Format::Table => to_stdout(|out| {
            if pipelines.is_empty() {
                writeln!(out, "no pipeline is running")?;
            }
            pipelines
                .iter()
                .try_for_each(|pipeline| write!(out, "{}", screen(pipeline)))
        })?,
        // One flat table for what lines are good at: the partitions.
        Format::Ndjson | Format::Csv => {
            let mut sheet = Sheet::new(["pipeline"].into_iter().chain(PARTITION_COLUMNS));
            for pipeline in &pipelines {
                partition_rows(&mut sheet, Some(&pipeline.pipeline), pipeline);
            }
            to_stdout(|out| sheet.write(format, out))?;
        }
    }
    Ok(())
}

const PARTITION_COLUMNS: [&str; 7] = [
    "partition",
    "position",
    "committed",
    "log_end",
    "lag",
    "watermark",
    "halted",
];

fn partition_rows(sheet: &mut Sheet, name: Option<&str>, pipeline: &PipelineStatus) {
    for partition in &pipeline.partitions {
        let mut row: Vec<Value> = name.map(Value::from).into_iter().collect();
        row.extend([
            json!(format!("{}/{}", partition.topic, partition.partition)),
            json!(partition.position),
            json!(partition.committed),
            json!(partition.log_end),
            json!(partition.lag),
            moment(partition.watermark),
            json!(partition.halted),
        ]);
        sheet.push(row);
    }
}

/// One pipeline for people.
fn screen(pipeline: &PipelineStatus) -> String {
    let colour = match pipeline.state {
        PipelineState::Starting | PipelineState::Draining => "36",
        PipelineState::Running if pipeline.halted() > 0 => "31",
        PipelineState::Running if pipeline.reason.is_none() => "32",
        PipelineState::Running | PipelineState::Waiting => "33",
        PipelineState::Stopped => "31",
    };
    let state = pipeline.state.name();
    let mut text = format!(
        "\x1b[1m{}\x1b[0m  \x1b[{colour}m{state}\x1b[0m",
        pipeline.pipeline
    );
    if let Some(reason) = &pipeline.reason {
        text.push_str(&format!(": {reason}"));
    }
    let lags = pipeline.partitions.iter().map(|partition| partition.lag);
    let unknown = lags.clone().filter(Option::is_none).count();
    let lag: i64 = lags.flatten().sum();
    let mut behind = grouped(u64::try_from(lag).unwrap_or(0));
    if unknown > 0 {
        behind.push_str(&format!(" (and {unknown} partitions unknown)"));
    }
    text.push_str(&format!(
        "\n{} events in ({}), {} rejected, {behind} behind, memory {} of {}",
        grouped(pipeline.events_in),
        bytes(pipeline.bytes_in),
        grouped(pipeline.rejected),
        bytes(pipeline.memory_used),
        bytes(pipeline.memory_limit),
    ));
    if let Some(freshness) = pipeline.freshness_p99_ms {
        text.push_str(&format!(", freshness p99 {freshness:.0} ms"));
    }
    if pipeline.overtaken > 0 {
        text.push_str(&format!(", overtaken {} times", pipeline.overtaken));
    }
    text.push('\n');

    let mut partitions = Sheet::new(PARTITION_COLUMNS);
    partition_rows(&mut partitions, None, pipeline);
    if !partitions.is_empty() {
        text.push_str(&format!("{}\n", partitions.table()));
    } else if pipeline.state == PipelineState::Running {
        // A member that is gone without a word keeps its partitions until its session ends.
        text.push_str("no partition is assigned to it: other members of its group have them all, or one has not left yet\n");
    }
    let mut tables = Sheet::new([
        "table",
        "version",
        "commits",
        "last_commit",
        "files",
        "watermark",
        "in",
        "counted",
        "filtered",
        "rejected",
        "late",
    ]);
    for table in &pipeline.tables {
        tables.push(vec![
            json!(table.table),
            json!(table.version),
            json!(table.commits),
            moment(table.last_commit),
            json!(table.files),
            moment(table.watermark),
            json!(table.balance.events_in),
            json!(table.balance.counted),
            json!(table.balance.filtered),
            json!(table.balance.rejected),
            json!(table.balance.late),
        ]);
    }
    if !tables.is_empty() {
        text.push_str(&format!("{}\n", tables.table()));
    }
    text.push('\n');
    text
}

fn moment(time: Option<Timestamp>) -> Value {
    time.map(|time| time.to_string()).into()
}

/// What the tables record, without a server.
fn stored(args: &StatusArgs, url: &str) -> Result<(), Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let storage: Box<dyn Storage> = Box::new(runtime.block_on(found.store())?);
    let root = &found.server.storage.root;
    let unreadable =
        |error| Failure::work(format!("the tables in {root} cannot be read")).because(&error);
    let mut sheet = Sheet::new(["table", "version", "partition", "committed", "watermark"]);
    let mut failures = Vec::new();
    for name in runtime.block_on(storage.tables()).map_err(unreadable)? {
        let read = runtime.block_on(async {
            let table = storage.read_table(&name).await?;
            Ok::<_, QueryError>((table.version, storage.partitions(&name).await?))
        });
        let (version, partitions) = match read {
            Ok(read) => read,
            // The others have something to say all the same.
            Err(error) => {
                let failure = Failure::work(format!("table {name} in {root} cannot be read"));
                failures.push(failure.because(&error));
                continue;
            }
        };
        for recorded in partitions {
            sheet.push(vec![
                json!(name),
                json!(version),
                json!(recorded.partition.to_string()),
                json!(recorded.committed),
                moment(recorded.watermark),
            ]);
        }
    }
    let asked =
        Url::parse(url).map_or_else(|_| String::new(), |url| format!(" at {}", printable(&url)));
    say(format_args!(
        "no server answers{asked}; this is what the tables in {root} record"
    ));
    to_stdout(|out| sheet.write(args.format, out))?;
    Failure::any_of(failures)
}

#[cfg(test)]
mod tests {
    use alluvium_plan::{PartitionStatus, TableStatus};

    use super::*;

    #[test]
    fn a_screen_says_what_an_operator_asks() {
        let pipeline = PipelineStatus {
            pipeline: "clicks".into(),
            state: PipelineState::Waiting,
            reason: Some("topic clicks does not exist".into()),
            events_in: 1_234_567,
            partitions: vec![PartitionStatus {
                topic: "clicks".into(),
                partition: 3,
                lag: Some(4321),
                watermark: Some(Timestamp::from_micros(1_772_366_405_000_000)),
                ..PartitionStatus::default()
            }],
            tables: vec![TableStatus {
                table: "clicks_per_minute".into(),
                version: 17,
                ..TableStatus::default()
            }],
            ..PipelineStatus::default()
        };
        let text = screen(&pipeline);
        assert!(!text.contains("no partition"), "{text}");
        let idle = PipelineStatus {
            state: PipelineState::Running,
            partitions: Vec::new(),
            ..pipeline.clone()
        };
        assert!(screen(&idle).contains("no partition is assigned to it"));
        for part in [
            "topic clicks does not exist",
            "1,234,567 events in",
            "4,321 behind",
            "clicks/3",
            "2026-03-01T12:00:05Z",
            "clicks_per_minute",
            "17",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
