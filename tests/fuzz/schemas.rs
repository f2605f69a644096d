//! Event schemas: loaded, or refused with a place; and the same file means the same a second time.

use std::{io, path::Path};

use alluvium_plan::{Diagnostics, Environment, SourceFile, load_pipeline};

/// The columns that the pipeline needs; what a schema has besides is up to the fuzzer.
const PIPELINE: &str = "version: 1\n\
    source:\n  kafka: {connection: main, topics: [t], start: earliest}\n\
    decode:\n  json: {schema: s.yaml}\n\
    event_time: {column: ts, max_delay: 1m}\n\
    tables:\n  t:\n    window: {tumbling: 1m}\n    measures: {n: count(*)}\n";

/// A schema file.
///
/// # Panics
/// When reading it panics, when a refusal has no place or no words, or when a second reading says something else.
pub fn schemas(data: &[u8]) {
    let (first, second) = (load(data), load(data));
    assert_eq!(first, second, "read twice");
}

fn load(data: &[u8]) -> Result<String, Diagnostics> {
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(data.to_vec()) };
    let source = SourceFile::new("pipelines/fuzz.yaml", PIPELINE);
    match load_pipeline(&source, &mut read, &Environment::default()) {
        Ok((plan, _)) => {
            let has_time = plan.columns.iter().any(|column| *column.name == *"ts");
            assert!(has_time, "a plan without its event time");
            Ok(format!(
                "{} {:?} {:?}",
                plan.version, plan.columns, plan.decoded
            ))
        }
        Err(found) => {
            assert!(found.has_errors(), "a refusal without an error");
            for one in &found.0 {
                assert!(!one.message.is_empty(), "a mistake without words");
                let Some(span) = &one.span else { continue };
                let text = &one.file.text;
                let is_place = text.get(span.clone()).is_some() && one.line_and_column().is_some();
                assert!(is_place, "{span:?} is no place in {} bytes", text.len());
            }
            assert!(!found.to_string().is_empty(), "a refusal has words");
            Err(found)
        }
    }
}
