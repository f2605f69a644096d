//! `alluvium compact`: merges whatever files of a table can be merged, beside servers that write it.

use std::sync::Arc;

use alluvium_runtime::{CompactionError, TableCompaction, TableExtent};
use alluvium_store::{Effort, Store};
use alluvium_types::MemoryBudget;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::CompactArgs,
    failure::Failure,
    files,
    output::{Sheet, grouped, to_stdout},
    progress::Progress,
};

/// Merges until nothing is left to merge. What was merged before a failure stays merged, and the other tables are merged all the
/// same.
pub(crate) fn run(args: &CompactArgs) -> Result<(), Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(found.store_to_write())?;
    let budget = MemoryBudget::new(found.server.memory.ingest);
    let mut sheet = Sheet::new([
        "table",
        "files_before",
        "files_after",
        "rows_before",
        "rows_after",
        "bytes_before",
        "bytes_after",
    ]);
    let mut failures = Vec::new();
    let mut progress = Progress::new();
    for name in files::tables(&found, &runtime, &store, &args.tables)? {
        match merged(&store, &name, &runtime, &budget, &mut progress) {
            Ok((before, after)) => sheet.push(vec![
                json!(name),
                json!(before.files),
                json!(after.files),
                json!(before.rows),
                json!(after.rows),
                json!(before.bytes),
                json!(after.bytes),
            ]),
            Err(error) => failures
                .push(Failure::work(format!("{name} is not merged any further")).because(&error)),
        }
    }
    drop(progress);
    to_stdout(|out| sheet.write(args.format, out))?;
    Failure::any_of(failures)
}

/// Merges what there is to merge in one table; its extent before and after.
fn merged(
    store: &Store,
    name: &str,
    runtime: &Runtime,
    budget: &MemoryBudget,
    progress: &mut Progress,
) -> Result<(TableExtent, TableExtent), CompactionError> {
    let table: Arc<str> = name.into();
    let mut merging = TableCompaction::open(store, &table, runtime.handle(), budget)?;
    let before = merging.extent();
    let mut merges = 0_u64;
    while merging.merge_next(Effort::Everything, &|| false)?.is_some() {
        merges += 1;
        progress.tell(|| {
            let files = grouped(merging.extent().files);
            format!("{name}: {files} files, after merge {merges}")
        });
    }
    Ok((before, merging.extent()))
}
