//! `alluvium check`: every mistake of all files at once, and the inline tests.
//!
//! Owns which files are looked at, and what is printed. Does not own the rules (`plan`), nor the run of a
//! test (`engine`).

use std::{path::Path, process::ExitCode, sync::Arc};

use alluvium_engine::run_once;
use alluvium_plan::{
    Code, Color, Diagnostic, Diagnostics, InlineTest, Plan, Severity, SourceFile, is_schema,
    is_server,
};
use serde_json::{Value, json};

use crate::{
    cli::CheckArgs,
    failure::{Failure, INPUT_WRONG, WORK_FAILED},
    files,
    output::{Format, Sheet, to_stdout},
};

mod compare;

use compare::Comparison;

/// What one inline test came to.
struct Outcome {
    file: String,
    test: String,
    faults: Vec<Fault>,
}

/// What a test expected and did not get.
enum Fault {
    /// A table's rows differ.
    Rows(Comparison),
    /// Another number of dead letters.
    DeadLetters {
        expected: u64,
        actual: u64,
        errors: Vec<String>,
    },
    /// The pipeline could not be run at all.
    Run(String),
}

/// Checks files and runs their tests. Exit code 2 when a file is wrong, 1 when a test fails.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let mut found = Diagnostics::default();
    // Named files stand for themselves, unless a server file is named too.
    let server_file = match args.paths.is_empty() || args.server.config.is_some() {
        true => Some(files::find(&args.server)?),
        false => None,
    };
    let mut server = None;
    match server_file.as_deref().map(files::load_at) {
        Some(Ok(loaded)) => {
            found.extend(loaded.warnings.clone());
            server = Some(loaded);
        }
        // The pipelines beside a wrong server file may be wrong too.
        Some(Err(mistakes)) => found.extend(mistakes),
        None => {}
    }
    let folders = match &server_file {
        Some(path) if args.paths.is_empty() => vec![files::pipelines_beside(path)],
        _ => args.paths.clone(),
    };
    let mut sources: Vec<SourceFile> = Vec::new();
    let mut read = 0;
    for folder in &folders {
        match files::pipeline_files(folder) {
            Ok(more) if more.is_empty() => found.extend(Diagnostics::from(Diagnostic::of_file(
                folder.display().to_string(),
                Code::File,
                "there is no pipeline and no schema file in this folder",
                "their names end in .yaml",
            ))),
            Ok(more) => {
                let all = files::read_all(&more, &mut found);
                read += all.len();
                // A server file that is named is looked at as one. Among pipelines it is what a server refuses.
                let is_named = |source: &SourceFile| !folder.is_dir() && is_server(source);
                let (servers, all): (Vec<_>, Vec<_>) = all.into_iter().partition(is_named);
                for server in &servers {
                    found.extend(match files::load_at(Path::new(&server.path)) {
                        Ok(loaded) => loaded.warnings,
                        Err(mistakes) => mistakes,
                    });
                }
                // Schemas stand for themselves, in a folder of their own or named. Among pipelines they are what a server refuses.
                match all.iter().all(is_schema) {
                    true => all
                        .iter()
                        .for_each(|schema| found.extend(files::schema_mistakes(schema))),
                    false => sources.extend(all),
                }
            }
            Err(mistakes) => found.extend(mistakes),
        }
    }
    let connections = server.as_ref().map(files::Found::connections);
    let plans = match files::plans(&sources, connections.as_ref()) {
        Ok(plans) => plans,
        Err(mistakes) => {
            found.extend(mistakes);
            Vec::new()
        }
    };
    if found.has_errors() {
        return wrong(&found, read, args.format);
    }
    let outcomes: Vec<Outcome> = plans
        .into_iter()
        .flat_map(|(plan, tests)| {
            let plan = Arc::new(plan);
            tests.into_iter().map(move |test| run_test(&plan, &test))
        })
        .collect();
    print(&found, &outcomes, read, args.format)?;
    let failed = outcomes.iter().any(|outcome| !outcome.faults.is_empty());
    Ok(ExitCode::from(if failed { WORK_FAILED } else { 0 }))
}

fn wrong(found: &Diagnostics, files: usize, format: Format) -> Result<ExitCode, Failure> {
    print(found, &[], files, format)?;
    Ok(ExitCode::from(INPUT_WRONG))
}

fn run_test(plan: &Arc<Plan>, test: &InlineTest) -> Outcome {
    let faults = match run_once(plan, &test.given) {
        Err(error) => vec![Fault::Run(error.to_string())],
        Ok(run) => {
            let mut faults = Vec::new();
            for (table, rows) in &test.expect {
                let position = plan.tables.iter().position(|known| known.name == *table);
                let compared = position
                    .ok_or_else(|| format!("there is no table {table}"))
                    .and_then(|position| {
                        let shape = &plan.tables[position].shape;
                        Comparison::new(table, shape, rows, &run.tables[position])
                            .map_err(|error| error.to_string())
                    });
                match compared {
                    Ok(comparison) if comparison.is_equal() => {}
                    Ok(comparison) => faults.push(Fault::Rows(comparison)),
                    Err(error) => faults.push(Fault::Run(error)),
                }
            }
            let mut offsets: Vec<i64> = run.rejects.iter().map(|reject| reject.offset).collect();
            offsets.dedup();
            let actual = offsets.len() as u64;
            if let Some(expected) = test.dead_letters.filter(|&expected| expected != actual) {
                faults.push(Fault::DeadLetters {
                    expected,
                    actual,
                    errors: run
                        .rejects
                        .iter()
                        .map(|reject| format!("event {}: {}", reject.offset + 1, reject.error))
                        .collect(),
                });
            }
            faults
        }
    };
    Outcome {
        file: test.file.path.clone(),
        test: test.name.clone(),
        faults,
    }
}

fn print(
    found: &Diagnostics,
    outcomes: &[Outcome],
    files: usize,
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Table => to_stdout(|out| {
            // Colours are taken out on the way where nobody could see them.
            write!(out, "{}", found.render(Color::Ansi))?;
            for outcome in outcomes {
                if outcome.faults.is_empty() {
                    writeln!(
                        out,
                        "\x1b[32mpassed\x1b[0m  {}: {}",
                        outcome.file, outcome.test
                    )?;
                    continue;
                }
                writeln!(
                    out,
                    "\x1b[1;31mfailed\x1b[0m  {}: {}",
                    outcome.file, outcome.test
                )?;
                for fault in &outcome.faults {
                    writeln!(out, "{fault}")?;
                }
            }
            writeln!(out, "{}", summary(found, outcomes, files))
        })?,
        _ => to_stdout(|out| findings(found, outcomes).write(format, out))?,
    }
    Ok(())
}

fn summary(found: &Diagnostics, outcomes: &[Outcome], files: usize) -> String {
    let errors = found
        .0
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .count();
    let count = |number: usize, one: &str, many: &str| {
        format!("{number} {}", if number == 1 { one } else { many })
    };
    if errors > 0 {
        let read = count(files, "file", "files");
        return format!(
            "{read}, {}; no test was run",
            count(errors, "mistake", "mistakes")
        );
    }
    let failed = outcomes
        .iter()
        .filter(|outcome| !outcome.faults.is_empty())
        .count();
    format!(
        "{} right, {} run, {failed} failed",
        count(files, "file", "files"),
        count(outcomes.len(), "test", "tests"),
    )
}

/// One row a mistake and one a test, for programs.
fn findings(found: &Diagnostics, outcomes: &[Outcome]) -> Sheet {
    let mut sheet = Sheet::new([
        "kind", "file", "line", "column", "code", "name", "message", "help",
    ]);
    for diagnostic in &found.0 {
        let place = diagnostic.line_and_column();
        sheet.push(vec![
            match diagnostic.severity {
                Severity::Error => json!("error"),
                Severity::Warning => json!("warning"),
            },
            json!(diagnostic.file.path),
            json!(place.map(|(line, _)| line)),
            json!(place.map(|(_, column)| column)),
            json!(diagnostic.code.name()),
            Value::Null,
            json!(diagnostic.message),
            json!(diagnostic.help),
        ]);
    }
    for outcome in outcomes {
        let texts: Vec<String> = outcome
            .faults
            .iter()
            .map(|fault| anstream::adapter::strip_str(&fault.to_string()).to_string())
            .collect();
        sheet.push(vec![
            json!(if texts.is_empty() { "passed" } else { "failed" }),
            json!(outcome.file),
            Value::Null,
            Value::Null,
            Value::Null,
            json!(outcome.test),
            json!((!texts.is_empty()).then(|| texts.join("\n"))),
            Value::Null,
        ]);
    }
    sheet
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rows(comparison) => comparison.fmt(f),
            Self::DeadLetters {
                expected,
                actual,
                errors,
            } => {
                write!(f, "dead letters: expected {expected}, got {actual}")?;
                for error in errors {
                    write!(f, "\n  {error}")?;
                }
                Ok(())
            }
            Self::Run(error) => write!(f, "the test could not be run: {error}"),
        }
    }
}
