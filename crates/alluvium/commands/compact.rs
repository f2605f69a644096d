//! `alluvium compact`: merges whatever files of a table can be merged, beside servers that write it.

use std::sync::Arc;

use alluvium_runtime::TableCompaction;
use alluvium_store::Effort;
use alluvium_types::MemoryBudget;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::CompactArgs,
    failure::Failure,
    files,
    output::{Sheet, to_stdout},
};

/// Merges until nothing is left to merge. What was merged before a failure stays merged.
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
    for name in files::tables(&found, &runtime, &store, &args.tables)? {
        let failed =
            |error| Failure::work(format!("{name} is not merged any further")).because(&error);
        let table: Arc<str> = name.as_str().into();
        let mut merging =
            TableCompaction::open(&store, &table, runtime.handle(), &budget).map_err(failed)?;
        let before = merging.extent();
        while merging
            .merge_next(Effort::Everything, &|| false)
            .map_err(failed)?
            .is_some()
        {}
        let after = merging.extent();
        sheet.push(vec![
            json!(name),
            json!(before.files),
            json!(after.files),
            json!(before.rows),
            json!(after.rows),
            json!(before.bytes),
            json!(after.bytes),
        ]);
    }
    Ok(to_stdout(|out| sheet.write(args.format, out))?)
}
