//! `alluvium broker`: the embedded broker alone.

use std::{thread, time::Duration};

use alluvium_source::{EmbeddedBroker, SourceError};

use crate::{
    cli::BrokerArgs,
    failure::Failure,
    output::{bytes, say, to_stdout},
    signals::Stop,
};

/// How often it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the broker until a signal.
pub(crate) fn run(args: &BrokerArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals("")?;
    let broker = EmbeddedBroker::start(args.port, &args.topics).map_err(refused)?;
    to_stdout(|out| writeln!(out, "{}", broker.brokers()))?;
    say(format_args!(
        "This is not a Kafka: it forgets everything when it ends, keeps at most {} a partition and then drops \
         the oldest, and knows no TLS and no passwords. Ctrl-c ends it.",
        bytes(EmbeddedBroker::KEPT_PER_PARTITION as u64)
    ));
    if args.topics.is_empty() {
        say(format_args!(
            "It has no topic yet: name them with `--topic NAME:PARTITIONS`."
        ));
    }
    while !stop.is_asked() {
        thread::sleep(LOOK);
    }
    Ok(())
}

fn refused(error: SourceError) -> Failure {
    let failure = Failure::work("the embedded broker did not start").because(&error);
    match error {
        SourceError::Port { .. } => failure.help("choose another `--port`, or leave it out"),
        _ => failure,
    }
}
