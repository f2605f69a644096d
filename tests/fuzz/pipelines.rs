//! Pipeline and schema files: every mistake is told, none panics, and what is taken is a plan.

use std::{io, path::Path};

use alluvium_plan::{Environment, SourceFile, load_pipeline};

/// A pipeline file; behind a zero byte, its schema file.
///
/// # Panics
/// When reading a file panics.
pub fn pipelines(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Some(Ok(pipeline)) = parts.next().map(std::str::from_utf8) else {
        return;
    };
    let schema = parts.next().unwrap_or_default();
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(schema.to_vec()) };
    let source = SourceFile::new("pipelines/fuzz.yaml", pipeline);
    match load_pipeline(&source, &mut read, &Environment::default()) {
        Ok((plan, _)) => assert!(!plan.tables.is_empty(), "a plan has tables"),
        Err(found) => assert!(!found.to_string().is_empty(), "a refusal has words"),
    }
}
