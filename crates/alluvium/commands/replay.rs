//! `alluvium replay`: sends dead letters through their pipeline again, beside servers that run it.

use std::sync::Arc;

use alluvium_runtime::{Halt, Refused, Replay, Replaying};
use alluvium_types::MemoryBudget;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::ReplayArgs,
    commands::run::plan_of,
    failure::Failure,
    files,
    output::{Sheet, grouped, to_stdout},
    progress::Progress,
};

/// Replays into every table of the pipeline; one that fails does not keep the others from it. Exit code 1 when letters are refused
/// again, or wait for their table to read on.
pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let found = files::load(&args.server)?;
    let plan = &plan_of(&found, &args.pipeline)?;
    let runtime = Runtime::new()?;
    let replaying = Replaying {
        store: runtime.block_on(found.store_to_write())?,
        plan: plan.clone(),
        refused: match args.skip_refused {
            true => Refused::PassOver,
            false => Refused::Stop,
        },
        io: runtime.handle().clone(),
        budget: MemoryBudget::new(found.server.memory.ingest),
    };
    let mut sheet = Sheet::new([
        "table",
        "letters",
        "counted",
        "filtered",
        "refused",
        "not_this_tables",
    ]);
    let (mut halts, mut failures) = (Vec::new(), Vec::new());
    let mut progress = Progress::new();
    for (position, table) in plan.tables.iter().enumerate() {
        let mut done = Replay::default();
        let mut told = |so_far: &Replay| {
            done = so_far.clone();
            progress.tell(|| format!("{}: {} letters", table.name, grouped(so_far.letters)));
        };
        match replaying.run(position, &mut told) {
            Ok(all) => done = all,
            // What was committed before stays.
            Err(error) => {
                let what = format!("{} is not replayed any further", table.name);
                failures.push(Failure::work(what).because(&error));
            }
        }
        sheet.push(vec![
            json!(table.name),
            json!(done.letters),
            json!(done.counted),
            json!(done.filtered),
            json!(done.refused),
            json!(done.elsewhere),
        ]);
        halts.extend(done.halt.map(|halt| (table.name.clone(), halt)));
    }
    drop(progress);
    to_stdout(|out| sheet.write(args.format, out))?;
    // What waits comes by itself; what is refused again needs a person, so that is said last.
    let (refused, waiting): (Vec<_>, Vec<_>) = halts
        .iter()
        .partition(|(_, halt)| matches!(halt, Halt::RefusedAgain { .. }));
    let left_over = waiting.into_iter().chain(refused).map(left_over);
    Failure::any_of(left_over.chain(failures))
}

/// Letters of a table are left over.
fn left_over((table, halt): &(Arc<str>, Halt)) -> Failure {
    match halt {
        Halt::RefusedAgain {
            letters,
            partition,
            offset,
            error,
        } => Failure::work(format!(
            "{table} refuses {} of these letters again, so none that came with them was replayed; the first is {partition} \
             at {offset}: {error}",
            grouped(*letters)
        ))
        .help("mend the pipeline or its schema further, or pass over such letters for good with `--skip-refused`"),
        Halt::NotYetRead {
            partition,
            offset,
            recorded,
        } => Failure::work(format!(
            "{table}: letters from {partition} at {offset} on wait, since the table has read up to {recorded} only"
        ))
        .help("run this again when its server has gone on"),
    }
}
