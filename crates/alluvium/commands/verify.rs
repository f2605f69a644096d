//! `alluvium verify`: a pipeline's tables beside the same computed again from Kafka, row by row.

use std::{env, fmt::Write as _, process::ExitCode};

use alluvium_engine::{Comparison, Difference, DifferenceKind};
use alluvium_plan::{Plan, TablePlan};
use alluvium_runtime::{Reading, Refusal, TableVerdict, Verified, Verify, VerifyError, Windows};
use alluvium_source::SourceError;
use alluvium_types::MemoryBudget;
use datafusion::common::ScalarValue;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::{
    cells,
    cli::VerifyArgs,
    commands::run::{broker_of, plan_of},
    failure::{Failure, WORK_FAILED},
    files,
    output::{Format, Sheet, grouped, plain, to_stdout},
    progress::{Progress, Waiting},
};

/// Verifies every table of the pipeline. Exit code 1 when one is not equal, or cannot be verified.
pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(
            Failure::input(format!("no window lies between {from} and {to}"))
                .help("`--to` is later than `--from`"),
        );
    }
    let found = files::load(&args.server)?;
    let plan = &plan_of(&found, &args.pipeline)?;
    let runtime = Runtime::new()?;
    let verify = Verify {
        store: runtime.block_on(found.store())?,
        plan: plan.clone(),
        broker: broker_of(&found, plan),
        windows: Windows {
            from: args.from,
            to: args.to,
        },
        io: runtime.handle().clone(),
        budget: MemoryBudget::new(found.server.memory.ingest),
        folder: env::temp_dir(),
    };
    let mut progress = Progress::new();
    let mut waiting = Waiting::for_(format!("the tables and {}", verify.broker.brokers));
    let verdicts = verify.run(&mut |reading| {
        waiting.end();
        progress.tell(|| line(reading));
    });
    drop((waiting, progress));
    let verdicts = verdicts.map_err(|error| failure(plan, &error))?;
    print(plan, &verdicts, args.format)?;
    for verdict in &verdicts {
        if let Err(refusal) = &verdict.outcome {
            refused(verdict, refusal).report();
        }
    }
    let has_rows = |verdict: &TableVerdict| {
        let outcome = verdict.outcome.as_ref();
        outcome.map_or(true, |verified| verified.comparison.rows() > 0)
    };
    if (args.from, args.to) != (None, None) && !verdicts.iter().any(has_rows) {
        return Err(Failure::work(
            "nothing was verified: no table has a window that lies wholly between these times",
        )
        .help("name times at which windows begin, or leave `--from` and `--to` out"));
    }
    Ok(ExitCode::from(match verdicts.iter().all(is_equal) {
        true => 0,
        false => WORK_FAILED,
    }))
}

fn is_equal(verdict: &TableVerdict) -> bool {
    let outcome = verdict.outcome.as_ref();
    outcome.is_ok_and(|verified| verified.comparison.is_equal())
}

fn line(reading: Reading) -> String {
    let Reading { passed, of, events } = reading;
    format!(
        "{} of {} offsets read again ({} %), {} events",
        grouped(passed),
        grouped(of),
        passed.saturating_mul(100) / of.max(1),
        grouped(events)
    )
}

fn failure(plan: &Plan, error: &VerifyError) -> Failure {
    let failure =
        Failure::work(format!("the tables of {} are not verified", plan.name)).because(error);
    match error {
        VerifyError::Source {
            source: SourceError::Gone { .. },
            ..
        } => failure.help(
            "retention took it while it was read; `alluvium audit` still proves that offset ranges and balances are whole",
        ),
        VerifyError::Source {
            source: SourceError::Unanswered { .. },
            ..
        } => failure.help("look at `brokers` of its connection, then try again"),
        VerifyError::Disk { .. } => {
            failure.help("make room there, name another folder in TMPDIR, or verify fewer windows at once with `--from` and `--to`")
        }
        _ => failure,
    }
}

fn refused(verdict: &TableVerdict, refusal: &Refusal) -> Failure {
    Failure::work(format!("{} cannot be verified: {refusal}", verdict.table)).help(refusal.help())
}

fn print(plan: &Plan, verdicts: &[TableVerdict], format: Format) -> Result<(), Failure> {
    let of = |verdict: &TableVerdict| plan.tables.iter().find(|table| table.name == verdict.table);
    let verdicts = verdicts
        .iter()
        .filter_map(|verdict| Some((of(verdict)?, verdict)));
    match format {
        Format::Table => {
            let mut text = String::new();
            for (table, verdict) in verdicts {
                if let Ok(verified) = &verdict.outcome {
                    text.push_str(&report(table, verified));
                }
            }
            to_stdout(|out| write!(out, "{text}"))?;
        }
        Format::Json => {
            let all: Vec<Value> = verdicts
                .map(|(table, verdict)| document(table, verdict))
                .collect();
            to_stdout(|out| {
                serde_json::to_writer(&mut *out, &all)?;
                writeln!(out)
            })?;
        }
        Format::Ndjson | Format::Csv => {
            let mut sheet = Sheet::new([
                "table",
                "verdict",
                "version",
                "events",
                "equal",
                "differing",
                "only_in_table",
                "only_by_kafka",
                "set_aside",
            ]);
            for (table, verdict) in verdicts {
                sheet.push(row(table, verdict));
            }
            to_stdout(|out| sheet.write(format, out))?;
        }
    }
    Ok(())
}

fn row(table: &TablePlan, verdict: &TableVerdict) -> Vec<Value> {
    let mut row = vec![json!(table.name)];
    match &verdict.outcome {
        Err(_) => {
            row.push(json!("refused"));
            row.resize(9, Value::Null);
        }
        Ok(verified) => {
            let rows = &verified.comparison;
            row.extend([
                json!(word(rows)),
                json!(verified.version),
                json!(verified.events),
                json!(rows.equal),
                json!(rows.differing),
                json!(rows.only_stored),
                json!(rows.only_recomputed),
                json!(rows.undecided),
            ]);
        }
    }
    row
}

fn word(rows: &Comparison) -> &'static str {
    let differing = rows.differing + rows.only_stored + rows.only_recomputed;
    match (differing, rows.undecided) {
        (0, 0) => "equal",
        (0, _) => "undecided",
        _ => "different",
    }
}

/// What a person reads about one table.
fn report(table: &TablePlan, verified: &Verified) -> String {
    let mut sheet = Sheet::new(["partition", "from_offset", "to_offset"]);
    for (partition, stretch) in &verified.stretches {
        sheet.push(vec![
            json!(partition.to_string()),
            json!(stretch.start()),
            json!(stretch.end()),
        ]);
    }
    let rows = &verified.comparison;
    let mut text = format!(
        "{}, version {}\n{}\n{} events read again; {} rows compared\n",
        table.name,
        verified.version,
        sheet.table(),
        grouped(verified.events),
        grouped(rows.rows()),
    );
    for difference in &rows.first {
        let _ = writeln!(text, "  {}", told(table, difference));
    }
    let told = rows.first.len() as u64;
    let differing = rows.differing + rows.only_stored + rows.only_recomputed;
    if differing > told {
        let _ = writeln!(text, "  and {} more", grouped(differing - told));
    }
    for doubt in &verified.doubts {
        let _ = writeln!(text, "\x1b[1;33mnote\x1b[0m: {doubt}");
    }
    let _ = match word(rows) {
        "equal" if rows.rows() == 0 => writeln!(
            text,
            "\x1b[32mequal\x1b[0m: no row is there, and none comes from Kafka\n"
        ),
        "equal" => writeln!(
            text,
            "\x1b[32mequal\x1b[0m: every row, in every measure{}\n",
            rounded(verified)
        ),
        "undecided" => writeln!(
            text,
            "\x1b[1;31mundecided\x1b[0m: {} rows are set aside, the other {} are equal{}\n",
            grouped(rows.undecided),
            grouped(rows.equal),
            rounded(verified)
        ),
        _ => writeln!(
            text,
            "\x1b[1;31mdifferent\x1b[0m: {} rows differ, {} are in the table only, {} come from Kafka only, {} are set aside, \
             {} are equal{}\n",
            grouped(rows.differing),
            grouped(rows.only_stored),
            grouped(rows.only_recomputed),
            grouped(rows.undecided),
            grouped(rows.equal),
            rounded(verified)
        ),
    };
    text
}

/// Which measures are equal only as far as the order of adding can tell.
fn rounded(verified: &Verified) -> String {
    match verified.rounded.as_slice() {
        [] => String::new(),
        names => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            format!(
                " ({}: as far as the order in which doubles are added up can tell)",
                names.join(", ")
            )
        }
    }
}

/// A difference in words.
fn told(table: &TablePlan, difference: &Difference) -> String {
    let (window, groups) = difference.key.split_at(2.min(difference.key.len()));
    let window: Vec<String> = window.iter().map(|moment| plain(&cell(moment))).collect();
    let columns = table.shape.group_columns.iter();
    let groups: String = columns
        .zip(groups)
        .map(|(column, value)| format!(", {} = {}", column.name(), literal(value)))
        .collect();
    let place = format!("[{}){groups}", window.join(", "));
    match &difference.kind {
        DifferenceKind::OnlyStored => {
            format!("{place}: the table has this row, from Kafka it does not come")
        }
        DifferenceKind::OnlyRecomputed => {
            format!("{place}: the table does not have this row, from Kafka it comes")
        }
        DifferenceKind::Measures(measures) => {
            let measures: Vec<String> = measures
                .iter()
                .map(|measure| {
                    format!(
                        "{} is {} in the table, {} from Kafka",
                        measure.name,
                        literal(&measure.stored),
                        literal(&measure.recomputed)
                    )
                })
                .collect();
            format!("{place}: {}", measures.join("; "))
        }
    }
}

fn literal(value: &ScalarValue) -> String {
    match cell(value) {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => format!("'{text}'"),
        other => plain(&other),
    }
}

/// A value as all commands print it.
fn cell(value: &ScalarValue) -> Value {
    let column = value.to_array();
    let values = column
        .ok()
        .and_then(|column| cells::values(column.as_ref()).ok());
    let first = values.and_then(|values| values.into_iter().next());
    first.unwrap_or_else(|| json!(value.to_string()))
}

fn document(table: &TablePlan, verdict: &TableVerdict) -> Value {
    let verified = match &verdict.outcome {
        Ok(verified) => verified,
        Err(refusal) => {
            return json!({
                "table": verdict.table, "verdict": "refused",
                "refused": {"why": refusal.to_string(), "help": refusal.help()},
            });
        }
    };
    let rows = &verified.comparison;
    let partitions: Vec<Value> = verified
        .stretches
        .iter()
        .map(|(partition, stretch)| {
            json!({
                "topic": partition.topic, "partition": partition.partition,
                "start": stretch.start(), "end": stretch.end(),
            })
        })
        .collect();
    let differences = rows.first.iter();
    let notes: Vec<String> = verified.doubts.iter().map(ToString::to_string).collect();
    json!({
        "table": verdict.table, "verdict": word(rows), "version": verified.version,
        "events": verified.events, "partitions": partitions,
        "rows": {
            "equal": rows.equal, "differing": rows.differing, "only_in_table": rows.only_stored,
            "only_by_kafka": rows.only_recomputed, "set_aside": rows.undecided,
        },
        "differences": differences.map(|difference| entry(table, difference)).collect::<Vec<_>>(),
        "rounded": verified.rounded, "notes": notes,
    })
}

/// A difference as a program reads it.
fn entry(table: &TablePlan, difference: &Difference) -> Value {
    let columns = ["window_start", "window_end"].into_iter();
    let groups = table.shape.group_columns.iter();
    let columns = columns.chain(groups.map(|column| column.name().as_str()));
    let key: Map<String, Value> = columns
        .zip(&difference.key)
        .map(|(column, value)| (column.to_owned(), cell(value)))
        .collect();
    match &difference.kind {
        DifferenceKind::OnlyStored => json!({"row": key, "only_in": "table"}),
        DifferenceKind::OnlyRecomputed => json!({"row": key, "only_in": "kafka"}),
        DifferenceKind::Measures(measures) => {
            let measures: Map<String, Value> = measures
                .iter()
                .map(|measure| {
                    let sides =
                        json!({"table": cell(&measure.stored), "kafka": cell(&measure.recomputed)});
                    (measure.name.to_string(), sides)
                })
                .collect();
            json!({"row": key, "measures": measures})
        }
    }
}
