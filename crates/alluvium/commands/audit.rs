//! `alluvium audit`: proves from a table's history that no event is missing and none counts twice, and looks whether its files are there.

use std::process::ExitCode;

use alluvium_store::{AuditFault, AuditReport, FilesFound, Look, audit};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    cli::AuditArgs,
    failure::{Failure, WORK_FAILED},
    files,
    output::{Format, Sheet, grouped, say, to_stdout},
    progress::Progress,
};

/// Audits the named table, or all. Exit code 1 when one is not proven, has gaps, lacks a file, or its history cannot be read; the others are
/// told all the same.
pub(crate) fn run(args: &AuditArgs) -> Result<ExitCode, Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(found.store())?;
    let named: Vec<String> = args.table.iter().cloned().collect();
    let tables = files::tables(&found, &runtime, &store, &named)?;
    let (mut reports, mut failures) = (Vec::with_capacity(tables.len()), Vec::new());
    let mut progress = Progress::new();
    let look = match args.checksums {
        true => Look::Bytes,
        false => Look::Length,
    };
    for table in tables {
        let reading = format!("reading the history of {table}");
        match runtime.block_on(progress.during(reading, store.history(&table))) {
            Ok(history) => {
                let mut report = audit(&history);
                let doing = match look {
                    Look::Length => "looking for the files of",
                    Look::Bytes => "reading the files of",
                };
                let finding = store.find_files(&table, look);
                let found = progress.during(format!("{doing} {table}"), finding);
                let mut faults: Vec<String> = match runtime.block_on(found) {
                    Ok(found) => {
                        say_unchecked(&table, &found, look);
                        found.lost.iter().map(ToString::to_string).collect()
                    }
                    Err(error) => vec![format!("its files cannot be looked at: {error}")],
                };
                let refused = report.balance.rejected;
                let counting = progress.during(
                    format!("looking for the dead letters of {table}"),
                    store.too_few_letters(&table, refused),
                );
                faults.extend(match runtime.block_on(counting) {
                    Ok(None) => None,
                    Ok(Some(there)) => Some(format!(
                        "it refused {} events, and its pipeline has {} dead letters, of which none has expired: some were removed",
                        grouped(refused),
                        grouped(there)
                    )),
                    Err(error) => Some(format!("its dead letters cannot be looked for: {error}")),
                });
                report
                    .faults
                    .extend(faults.into_iter().map(|what| AuditFault {
                        version: None,
                        commit_id: None,
                        what,
                    }));
                reports.push((table, report));
            }
            Err(error) => {
                let failure = Failure::work(format!("the history of {table} cannot be read"));
                failures.push(failure.because(&error));
            }
        }
    }
    drop(progress);
    match args.format {
        Format::Table => to_stdout(|out| {
            reports
                .iter()
                .try_for_each(|(table, report)| write!(out, "{}", text(table, report)))
        })?,
        Format::Json => to_stdout(|out| {
            let all: Vec<Value> = reports
                .iter()
                .map(|(table, report)| document(table, report))
                .collect();
            serde_json::to_writer(&mut *out, &all)?;
            writeln!(out)
        })?,
        Format::Ndjson | Format::Csv => {
            let mut sheet = Sheet::new(["table", "partition", "start", "end", "commits"]);
            for (table, report) in &reports {
                rows(&mut sheet, Some(table), report);
            }
            to_stdout(|out| sheet.write(args.format, out))?;
            // Rows have no place for it.
            for (table, report) in &reports {
                for gap in &report.gaps {
                    say(format_args!("{table}: {gap}"));
                }
                for fault in &report.faults {
                    say(format_args!("{table}: fault: {fault}"));
                }
            }
        }
    }
    Failure::any_of(failures)?;
    let is_whole = |report: &AuditReport| report.is_proven() && report.gaps.is_empty();
    let all = reports.iter().all(|(_, report)| is_whole(report));
    Ok(ExitCode::from(if all { 0 } else { WORK_FAILED }))
}

/// Tells of files that nothing can be said of.
fn say_unchecked(table: &str, found: &FilesFound, look: Look) {
    if look == Look::Bytes && found.without_checksum > 0 {
        say(format_args!(
            "{table}: {} of its files have no checksum in the log and were looked for only",
            grouped(found.without_checksum as u64)
        ));
    }
}

fn rows(sheet: &mut Sheet, table: Option<&str>, report: &AuditReport) {
    for (partition, covered) in &report.partitions {
        let mut row: Vec<Value> = table.map(Value::from).into_iter().collect();
        row.extend([
            json!(partition.to_string()),
            json!(covered.covered.start()),
            json!(covered.covered.end()),
            json!(covered.commits),
        ]);
        sheet.push(row);
    }
}

fn text(table: &str, report: &AuditReport) -> String {
    let mut sheet = Sheet::new(["partition", "start", "end", "commits"]);
    rows(&mut sheet, None, report);
    let balance = &report.balance;
    let mut text = format!(
        "{table}\n{}\n{} commits; {} events in = {} counted + {} filtered + {} rejected; {} of them late\n",
        sheet.table(),
        grouped(report.commits),
        grouped(balance.events_in),
        grouped(balance.counted),
        grouped(balance.filtered),
        grouped(balance.rejected),
        grouped(balance.late),
    );
    if report.replayed > 0 {
        let letters = grouped(report.replayed);
        text.push_str(&format!(
            "{letters} rejected events count since their dead letters were replayed\n"
        ));
    }
    for gap in &report.gaps {
        text.push_str(&format!("\x1b[1;33m{gap}\x1b[0m\n"));
    }
    if report.is_proven() {
        let but = match report.gaps.is_empty() {
            true => "",
            false => " but for what was passed over by hand",
        };
        text.push_str(&format!(
            "\x1b[32mproven\x1b[0m: ranges are contiguous without overlap{but}, every balance holds, and every file is there\n\n",
        ));
        return text;
    }
    for fault in &report.faults {
        text.push_str(&format!("\x1b[1;31mfault\x1b[0m: {fault}\n"));
    }
    text.push('\n');
    text
}

fn document(table: &str, report: &AuditReport) -> Value {
    let partitions: Vec<Value> = report
        .partitions
        .iter()
        .map(|(partition, covered)| {
            json!({
                "topic": partition.topic, "partition": partition.partition,
                "start": covered.covered.start(), "end": covered.covered.end(),
                "commits": covered.commits,
            })
        })
        .collect();
    let faults: Vec<Value> = report
        .faults
        .iter()
        .map(|fault| {
            json!({"version": fault.version, "commit_id": fault.commit_id, "what": fault.what})
        })
        .collect();
    let gaps: Vec<Value> = report
        .gaps
        .iter()
        .map(|gap| {
            json!({
                "topic": gap.partition.topic, "partition": gap.partition.partition,
                "start": gap.offsets.start(), "end": gap.offsets.end(),
                "version": gap.version, "commit_id": gap.commit_id,
            })
        })
        .collect();
    json!({
        "table": table, "proven": report.is_proven(), "commits": report.commits,
        "balance": report.balance, "replayed": report.replayed, "partitions": partitions, "gaps": gaps, "faults": faults,
    })
}
