//! `alluvium audit`: proves from a table's history that no event is missing and none counts twice, and looks whether its files are there.

use std::process::ExitCode;

use alluvium_store::{AuditFault, AuditReport, LettersFound, Look, Store, audit};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    cli::AuditArgs,
    failure::{Failure, WORK_FAILED},
    files,
    output::{Format, Sheet, grouped, say, to_stdout},
    progress::Progress,
};

/// What was found of one table.
struct Audited {
    table: String,
    report: AuditReport,
    /// Of how many files the bytes were compared with nothing, since the log has no checksum; `None`: nobody asked.
    uncompared: Option<usize>,
}

/// Audits the named table, or all. Exit code 1 when one is not proven, has gaps, lacks a file, or its history cannot be read; the others are
/// told all the same.
pub(crate) fn run(args: &AuditArgs) -> Result<ExitCode, Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(found.store())?;
    let named: Vec<String> = args.table.iter().cloned().collect();
    let tables = files::tables(&found, &runtime, &store, &named)?;
    let (mut all, mut failures) = (Vec::with_capacity(tables.len()), Vec::new());
    let mut progress = Progress::new();
    let look = match args.checksums {
        true => Look::Bytes,
        false => Look::Length,
    };
    for table in tables {
        match runtime.block_on(audited(&store, table, look, &mut progress)) {
            Ok(audited) => all.push(audited),
            Err(failure) => failures.push(failure),
        }
    }
    drop(progress);
    match args.format {
        Format::Table => to_stdout(|out| {
            all.iter()
                .try_for_each(|audited| write!(out, "{}", text(audited)))
        })?,
        Format::Json => to_stdout(|out| {
            let all: Vec<Value> = all.iter().map(document).collect();
            serde_json::to_writer(&mut *out, &all)?;
            writeln!(out)
        })?,
        Format::Ndjson | Format::Csv => {
            let mut sheet = Sheet::new(["table", "partition", "start", "end", "commits"]);
            for Audited { table, report, .. } in &all {
                rows(&mut sheet, Some(table), report);
            }
            to_stdout(|out| sheet.write(args.format, out))?;
            // Rows have no place for it.
            for Audited {
                table,
                report,
                uncompared,
            } in &all
            {
                if let Some(note) = uncompared_note(*uncompared) {
                    say(format_args!("{table}: {note}"));
                }
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
    let all = all.iter().all(|audited| is_whole(&audited.report));
    Ok(ExitCode::from(if all { 0 } else { WORK_FAILED }))
}

async fn audited(
    store: &Store,
    table: String,
    look: Look,
    progress: &mut Progress,
) -> Result<Audited, Failure> {
    let reading = format!("reading the history of {table}");
    let history = progress.during(reading, store.history(&table)).await;
    let history = history.map_err(|error| {
        Failure::work(format!("the history of {table} cannot be read")).because(&error)
    })?;
    let mut report = audit(&history);
    let refused = report.balance.rejected;
    let doing = match look {
        Look::Length => "looking for",
        Look::Bytes => "reading",
    };
    let finding = store.find_files(&table, look);
    let files = progress.during(format!("{doing} the files of {table}"), finding);
    let files = files.await;
    let finding = store.find_letters(&table, refused, look);
    let letters = progress.during(format!("{doing} the dead letters of {table}"), finding);
    let letters = letters.await;
    let mut faults = Vec::new();
    let mut without_checksum = 0;
    match &files {
        Ok(files) => {
            without_checksum += files.without_checksum;
            faults.extend(files.lost.iter().map(ToString::to_string));
        }
        Err(error) => faults.push(format!("its files cannot be looked at: {error}")),
    }
    match &letters {
        Ok(letters) => {
            without_checksum += letters.files.without_checksum;
            faults.extend(letter_faults(letters, refused));
        }
        Err(error) => faults.push(format!("its dead letters cannot be looked at: {error}")),
    }
    let uncompared = (look == Look::Bytes).then_some(without_checksum);
    report
        .faults
        .extend(faults.into_iter().map(|what| AuditFault {
            version: None,
            commit_id: None,
            what,
        }));
    Ok(Audited {
        table,
        report,
        uncompared,
    })
}

/// What is wrong with the dead letters of a table that refused so many events.
fn letter_faults(letters: &LettersFound, refused: u64) -> Vec<String> {
    let lost = letters.files.lost.iter();
    let mut faults: Vec<String> = lost.map(ToString::to_string).collect();
    let refused = grouped(refused);
    if letters.are_too_few {
        faults.push(match letters.letters {
            Some(there) => format!(
                "it refused {refused} events, and its pipeline has {} dead letters, of which none has expired: some were removed",
                grouped(there)
            ),
            None => {
                format!("it refused {refused} events, and the dead letters of its pipeline are gone")
            }
        });
    }
    faults
}

/// That some files were compared with nothing.
fn uncompared_note(uncompared: Option<usize>) -> Option<String> {
    let without = uncompared.filter(|without| *without > 0)?;
    Some(format!(
        "{} files were only looked for: the log has no checksum of them",
        grouped(without as u64)
    ))
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

fn text(audited: &Audited) -> String {
    let Audited {
        table,
        report,
        uncompared,
    } = audited;
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
        let files = match uncompared {
            None => "and every file is there".to_owned(),
            Some(0) => "and every file has the bytes that were committed".to_owned(),
            Some(without) => format!(
                "and every file is there with the bytes that were committed, but for {} of which the log has no checksum",
                grouped(*without as u64)
            ),
        };
        text.push_str(&format!(
            "\x1b[32mproven\x1b[0m: ranges are contiguous without overlap{but}, every balance holds, {files}\n\n",
        ));
        return text;
    }
    if let Some(note) = uncompared_note(*uncompared) {
        text.push_str(&format!("{note}\n"));
    }
    for fault in &report.faults {
        text.push_str(&format!("\x1b[1;31mfault\x1b[0m: {fault}\n"));
    }
    text.push('\n');
    text
}

fn document(audited: &Audited) -> Value {
    let Audited {
        table,
        report,
        uncompared,
    } = audited;
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
        "files_without_checksum": uncompared,
    })
}
