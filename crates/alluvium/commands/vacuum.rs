//! `alluvium vacuum`: deletes files that no version of a table needs any more.

use alluvium_store::Vacuum;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::VacuumArgs,
    failure::Failure,
    files,
    output::{Format, Sheet, to_stdout},
    progress::Progress,
};

/// Lists orphans of the named tables, or of all, and deletes them unless told not to. A table that fails does not keep the others
/// from it.
pub(crate) fn run(args: &VacuumArgs) -> Result<(), Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let (action, done, store) = match args.dry_run {
        true => (
            Vacuum::Look,
            "would be deleted",
            runtime.block_on(found.store())?,
        ),
        false => (
            Vacuum::Delete,
            "deleted",
            runtime.block_on(found.store_to_write())?,
        ),
    };
    let mut sheet = Sheet::new(["table", "file", "bytes"]);
    let mut bytes = 0;
    let mut failures = Vec::new();
    let mut progress = Progress::new();
    for table in files::tables(&found, &runtime, &store, &args.tables)? {
        let looking = format!("looking through the files of {table}");
        match runtime.block_on(progress.during(looking, store.vacuum(&table, action))) {
            Ok(orphans) => {
                for orphan in orphans {
                    bytes += orphan.bytes;
                    sheet.push(vec![json!(table), json!(orphan.path), json!(orphan.bytes)]);
                }
            }
            Err(error) => {
                let what = format!("the files of {table} cannot be looked through");
                failures.push(Failure::work(what).because(&error));
            }
        }
    }
    drop(progress);
    let keep = store.rules().orphan_retention.as_secs() / 3600;
    to_stdout(|out| {
        if args.format != Format::Table || !sheet.is_empty() {
            sheet.write(args.format, out)?;
        }
        if args.format == Format::Table {
            writeln!(
                out,
                "{} files, {bytes} bytes {done}; files that were needed in the last {keep} hours are kept",
                sheet.len()
            )?;
        }
        Ok(())
    })?;
    Failure::any_of(failures)
}
