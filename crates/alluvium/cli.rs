//! The command line.
//!
//! Owns names, defaults and help of all commands and their arguments. Does not own what a command does.

use std::{ffi::OsStr, num::NonZeroU64, path::PathBuf};

use alluvium_types::Timestamp;
use chrono::DateTime;
use clap::{
    Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint,
    builder::TypedValueParser, error::ErrorKind,
};

use crate::{failure::Failure, output::Format, planned};

/// A streaming analytics engine: Kafka in, mergeable aggregates in Delta Lake, SQL out.
#[derive(Debug, Parser)]
#[command(
    name = "alluvium",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[command(after_help = "Try `alluvium demo` first: it needs no file and no server.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Wanted,
    /// When to use colours (NO_COLOR and CLICOLOR_FORCE are respected).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub(crate) color: When,
    /// How logs are written to stderr; what is logged follows ALLUVIUM_LOG (default: info for servers, else warn).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub(crate) log_format: LogFormat,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people, coloured on terminals.
    Auto,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Wanted {
    /// Shows everything at once: a broker in this process, generated clicks, their pipeline, SQL
    #[command(
        after_help = "Examples:\n  alluvium demo\n  alluvium demo --events 1000000   # runs to the end, prints the balance"
    )]
    Demo(DemoArgs),
    /// Runs every pipeline in `pipelines/` next to the server file, and the doors
    Run(RunArgs),
    /// Checks pipeline and schema files and runs their inline tests
    Check(CheckArgs),
    /// Answers a query, or prompts for queries
    #[command(
        after_help = "Examples:\n  alluvium sql \"SELECT * FROM clicks_per_minute LIMIT 10\"\n  echo 'SELECT 1' | alluvium sql --url http://127.0.0.1:8427 --format csv"
    )]
    Sql(SqlArgs),
    /// Sends NDJSON from a file or stdin to a topic
    Produce(ProduceArgs),
    /// Runs the embedded broker alone, for trying things out
    Broker(BrokerArgs),
    /// Sends the demo's events to any broker
    Generate(GenerateArgs),
    /// Shows pipelines, partitions, lag, watermarks, commits, rejects and memory on one screen
    Status(StatusArgs),
    /// Proves, or disproves, from a table's history that no event is missing or counted twice
    Audit(AuditArgs),
    /// Computes a pipeline's tables again from Kafka, and compares them row by row
    #[command(
        after_help = "Reads from the recorded start, outside any consumer group, beside whatever runs, and writes nothing. Exit code 0: every \
        row is equal; 1: one is not, or it cannot be told.\n\nExamples:\n  alluvium verify clicks\n  alluvium verify clicks --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z"
    )]
    Verify(VerifyArgs),
    /// Sends a pipeline's dead letters through it again, after it was mended
    Replay(ReplayArgs),
    /// Moves partitions on by hand, over events that the tables then never have
    #[command(
        after_help = "The only way to move a position. It goes forward; back only while the table has nothing at all. What is passed over is a \
        gap, which `alluvium audit` tells from then on. Servers may run meanwhile: what they have in flight is dropped, and within seconds they \
        read on from there, also where a partition was halted.\n\nExamples:\n  alluvium seek clicks --partition 3 --to earliest   # retention removed what was next\n  \
        alluvium seek clicks --partition all --to 2026-03-01T00:00:00Z"
    )]
    Seek(SeekArgs),
    /// Merges the files of tables, as the server does by itself
    Compact(CompactArgs),
    /// Deletes files that no version of a table needs any more, as the server does by itself
    Vacuum(VacuumArgs),
    /// Makes users for the server file
    #[command(subcommand)]
    User(UserWanted),
}

/// Where the server file is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerFile {
    /// The server file [default: the nearest alluvium.yaml upwards, then /etc/alluvium/alluvium.yaml].
    #[arg(short, long, value_name = "FILE", env = "ALLUVIUM_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// `alluvium demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Stop after so many events, when all of them are committed, and print the balance.
    #[arg(long, value_name = "N")]
    pub(crate) events: Option<NonZeroU64>,
    /// Events a second [default: 20000; with --events as fast as it goes].
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU64>,
    /// Where the tables and the files to read are written.
    #[arg(long, value_name = "FOLDER", default_value = "alluvium-demo", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Deletes what an earlier demo left in that folder.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Where HTTP listens [default: 127.0.0.1:8427, or the next free port].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Where the Postgres wire listens [default: 127.0.0.1:8432, or the next free port].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) postgres: Option<std::net::SocketAddr>,
    /// Where Flight SQL listens [default: 127.0.0.1:8433, or the next free port].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) flight: Option<std::net::SocketAddr>,
    /// Worker threads [default: one a core].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<std::num::NonZeroUsize>,
    /// What the events are like.
    #[command(flatten)]
    pub(crate) clicks: ClicksArgs,
    /// How the balance is printed at the end; other than as a table, everything else goes to stderr.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// What generated events are like.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ClicksArgs {
    /// The same seed makes the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The share of events that come minutes to days late.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub(crate) late: f64,
    /// The share of events that are broken.
    #[arg(long, value_name = "SHARE", default_value_t = 0.002, value_parser = share)]
    pub(crate) broken: f64,
    /// Where a simulated clock starts, RFC 3339. It runs at 20000 events a second whatever the rate, so that everything follows from the seed.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) start: Option<Timestamp>,
}

/// `alluvium run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// Seconds that the last commits may take after SIGTERM or ctrl-c.
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub(crate) drain_seconds: u64,
    /// How the balance is printed at the end.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Pipeline and schema files, or folders of them [default: pipelines/ next to the server file, and the schemas that they name].
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium sql`.
#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// The query; when it is missing, a prompt opens on a terminal, and elsewhere stdin is read.
    pub(crate) query: Option<String>,
    /// Where the server file is; its storage is read, no server is needed.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// Asks a running server instead, through any of its doors: it also knows what is not committed yet.
    ///
    /// http://HOST:8427, postgres://USER@HOST:8432 or grpc://USER@HOST:8433; with TLS https://, postgres://…?sslmode=require or
    /// grpc+tls://. ALLUVIUM_PASSWORD holds the password of the URL's user; without one ALLUVIUM_TOKEN a token, for HTTP and Flight SQL.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub(crate) url: Option<String>,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// How to reach a broker.
#[derive(Clone, Debug, Args)]
pub(crate) struct BrokerAddress {
    /// host:port, several with commas.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "KAFKA_BROKERS",
        default_value = "localhost:9092"
    )]
    pub(crate) brokers: String,
    /// Another librdkafka property, for TLS and SASL.
    #[arg(long = "property", short = 'X', value_name = "NAME=VALUE", value_parser = PropertyParser)]
    pub(crate) properties: Vec<(String, String)>,
}

/// `alluvium produce`.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// The topic.
    #[arg(long)]
    pub(crate) topic: String,
    /// A file with one JSON value a line [default: stdin].
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// The field whose value is the record's key.
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
    /// Events a second [default: as fast as it goes].
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU64>,
    /// How to reach the broker.
    #[command(flatten)]
    pub(crate) broker: BrokerAddress,
}

/// `alluvium broker`.
#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// The port to listen on; 0 takes a free one, as leaving it out does.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// A topic and its number of partitions; may be given several times.
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", value_parser = topic)]
    pub(crate) topics: Vec<(String, i32)>,
}

/// `alluvium generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The topic.
    #[arg(long, default_value = "clicks")]
    pub(crate) topic: String,
    /// Stop after so many events [default: go on until ctrl-c].
    #[arg(long, value_name = "N")]
    pub(crate) events: Option<NonZeroU64>,
    /// Events a second [default: as fast as it goes].
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU64>,
    /// Waits while this consumer group is behind by more than --most-behind.
    #[arg(long, value_name = "GROUP")]
    pub(crate) keep_up_with: Option<String>,
    /// How far, in MiB a partition, the group may be behind; the embedded broker forgets beyond 5.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 3.0,
        requires = "keep_up_with"
    )]
    pub(crate) most_behind: f64,
    /// Writes what was sent, by minute and country, to this file at the end.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ledger: Option<PathBuf>,
    /// What the events are like.
    #[command(flatten)]
    pub(crate) clicks: ClicksArgs,
    /// How to reach the broker.
    #[command(flatten)]
    pub(crate) broker: BrokerAddress,
}

/// `alluvium status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The running server [default: where the server file says that it listens, or http://127.0.0.1:8427]. ALLUVIUM_TOKEN holds a
    /// token for one with users.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Where the server file is; storage is read when no server answers.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// The table [default: every table].
    pub(crate) table: Option<String>,
    /// Reads every file of the newest version whole, and compares its bytes with the checksum in the log.
    #[arg(long)]
    pub(crate) checksums: bool,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The pipeline.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: String,
    /// Compares only windows that begin at this event time or later, RFC 3339. Kafka is read from the recorded start all the same.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) from: Option<Timestamp>,
    /// Compares only windows that end at this event time or earlier, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) to: Option<Timestamp>,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The pipeline.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: String,
    /// Letters that are refused again are passed over for good; without it nothing that comes with them is replayed.
    #[arg(long)]
    pub(crate) skip_refused: bool,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium seek`.
#[derive(Debug, Args)]
pub(crate) struct SeekArgs {
    /// The pipeline.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: String,
    /// The partition: its number, TOPIC/NUMBER, or `all`; can be given several times.
    #[arg(long = "partition", value_name = "PARTITION", required = true)]
    pub(crate) partitions: Vec<String>,
    /// The next offset to read; or `earliest`: the oldest that Kafka has, `latest`: the end of the log, or the first event that Kafka
    /// got at this time or later, RFC 3339. Of these three, a partition that was read further stays where it is.
    #[arg(long, value_name = "WHERE", value_parser = target)]
    pub(crate) to: Target,
    /// Only this table of the pipeline; can be given several times [default: every table].
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// Where a partition is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The oldest event that Kafka has.
    Earliest,
    /// The end of the log.
    Latest,
    /// The first event that is not older.
    Time(Timestamp),
    /// This one.
    Offset(i64),
}

/// `alluvium compact`.
#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// The tables [default: every table].
    #[arg(value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium vacuum`.
#[derive(Debug, Args)]
pub(crate) struct VacuumArgs {
    /// The tables [default: every table].
    #[arg(value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Lists what would be deleted, and deletes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where the server file is.
    #[command(flatten)]
    pub(crate) server: ServerFile,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// `alluvium user`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserWanted {
    /// Prints the lines of a user: asks for a password, or makes a token
    #[command(
        after_help = "Examples:\n  alluvium user add ana --role analyst\n  alluvium user add grafana --role dashboards --token\n  alluvium user add ana --role analyst < password.txt"
    )]
    Add(UserAddArgs),
}

/// `alluvium user add`.
#[derive(Debug, Args)]
pub(crate) struct UserAddArgs {
    /// The user's name.
    pub(crate) name: String,
    /// A role of the server file; may be given several times.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub(crate) roles: Vec<String>,
    /// Makes a token in place of asking for a password; it is shown once, on stderr.
    #[arg(long)]
    pub(crate) token: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command that exists.
    Known(Cli),
    /// One that does not yet, with its answer.
    Planned(Failure),
}

impl Cli {
    /// Reads the process's arguments; prints help, version or a usage error and ends the process
    /// where that is all there is to do.
    pub(crate) fn from_process() -> Parsed {
        let matches = Self::whole().get_matches();
        if let Some(answer) = matches.subcommand_name().and_then(planned::answer) {
            return Parsed::Planned(answer);
        }
        match Self::from_arg_matches(&matches) {
            Ok(cli) => Parsed::Known(cli),
            Err(error) => error.exit(),
        }
    }

    fn whole() -> Command {
        planned::add_to(Self::command())
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text
        .parse()
        .map_err(|_| "a share is a number from 0 to 1".to_owned())?;
    if (0.0..=0.5).contains(&share) {
        Ok(share)
    } else {
        Err("a share here lies between 0 and 0.5".to_owned())
    }
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "earliest" => Ok(Target::Earliest),
        "latest" => Ok(Target::Latest),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => number
            .parse()
            .map(Target::Offset)
            .map_err(|error| error.to_string()),
        time => moment(time).map(Target::Time).map_err(|_| {
            "write an offset, `earliest`, `latest` or a time like 2026-03-01T12:00:00Z".to_owned()
        }),
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|error| format!("{error}; write a time like 2026-03-01T12:00:00Z"))?;
    Ok(Timestamp::from_micros(time.timestamp_micros()))
}

/// Takes a property apart. Its error does not repeat what was written, as clap's own would: that may be a password.
#[derive(Clone)]
struct PropertyParser;

impl TypedValueParser for PropertyParser {
    type Value = (String, String);

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let parts = value.to_str().and_then(|text| text.split_once('='));
        match parts {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(clap::Error::raw(
                ErrorKind::ValueValidation,
                "a property is written NAME=VALUE, in UTF-8\n",
            )
            .with_cmd(command)),
        }
    }
}

fn topic(text: &str) -> Result<(String, i32), String> {
    let (name, partitions) = text
        .rsplit_once(':')
        .ok_or("a topic is written NAME:PARTITIONS")?;
    let count = partitions
        .parse()
        .ok()
        .filter(|count| (1..=1000).contains(count))
        .ok_or("a topic has between 1 and 1000 partitions")?;
    if name.is_empty() {
        return Err("a topic has a name".to_owned());
    }
    Ok((name.to_owned(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::whole().debug_assert();
    }

    #[test]
    fn planned_commands_are_named_in_the_long_help_only() {
        let short = Cli::whole().render_help().to_string();
        let long = Cli::whole().render_long_help().to_string();
        for name in ["drop", "pause", "resume"] {
            assert!(!short.contains(name), "{short}");
            assert!(long.contains(name), "{long}");
        }
    }

    #[test]
    fn a_planned_command_is_known_with_any_arguments() {
        let matches = Cli::whole()
            .try_get_matches_from(["alluvium", "drop", "clicks", "--tables", "3", "-x"])
            .unwrap();
        assert!(planned::answer(matches.subcommand_name().unwrap()).is_some());
        assert!(planned::answer("run").is_none());
    }

    #[test]
    fn shares_topics_and_times_are_checked() {
        assert!(share("0.6").is_err() && share("0.05").is_ok());
        assert_eq!(topic("clicks:8"), Ok(("clicks".into(), 8)));
        assert!(topic("clicks").is_err() && topic("clicks:0").is_err());
        let noon = moment("2026-03-01T13:00:05+01:00").unwrap();
        assert_eq!(noon.to_string(), "2026-03-01T12:00:05Z");
    }
}
