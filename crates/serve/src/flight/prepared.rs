//! Prepared statements, kept for clients that come back with a handle.
//!
//! Owns how many there are and how long. A client may vanish without a word, so what is unused longest goes first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use datafusion::{arrow::datatypes::SchemaRef, scalar::ScalarValue};
use tonic::Status;

/// Most statements of all clients together ...
const MOST: usize = 1_000;
/// ... and the most bytes of their texts and parameters.
const MOST_BYTES: usize = 64 << 20;
/// How long one is kept unused.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// A statement that runs when it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sql: Arc<str>,
    /// The columns of its answer, as they go out.
    pub(super) schema: SchemaRef,
    pub(super) parameters: Vec<ScalarValue>,
}

impl Prepared {
    fn bytes(&self) -> usize {
        let values: usize = self.parameters.iter().map(ScalarValue::size).sum();
        self.sql.len() + values
    }
}

/// All of them, by handle.
#[derive(Default)]
pub(super) struct Statements(Mutex<HashMap<String, Kept>>);

struct Kept {
    statement: Prepared,
    used: Instant,
}

impl Statements {
    /// Keeps it, or what takes its place.
    pub(super) fn keep(&self, handle: String, statement: Prepared) {
        let mut kept = self.kept();
        let now = Instant::now();
        kept.retain(|_, one| now.duration_since(one.used) < KEPT);
        let statement = Kept {
            statement,
            used: now,
        };
        kept.insert(handle, statement);
        while kept.len() > MOST || bytes(&kept) > MOST_BYTES {
            let oldest = kept.iter().min_by_key(|(_, one)| one.used);
            let Some(handle) = oldest.map(|(handle, _)| handle.clone()) else {
                break;
            };
            kept.remove(&handle);
        }
    }

    /// The statement under a handle.
    pub(super) fn get(&self, handle: &str) -> Result<Prepared, Status> {
        let mut kept = self.kept();
        let Some(one) = kept.get_mut(handle) else {
            return Err(Status::not_found(
                "there is no such prepared statement (any more); prepare it again",
            ));
        };
        one.used = Instant::now();
        Ok(one.statement.clone())
    }

    /// Forgets it. One that is gone already is as good.
    pub(super) fn close(&self, handle: &str) {
        self.kept().remove(handle);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // Statements come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(kept: &HashMap<String, Kept>) -> usize {
    kept.values().map(|one| one.statement.bytes()).sum()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;

    use super::*;

    fn statement(sql: &str) -> Prepared {
        Prepared {
            sql: sql.into(),
            schema: Arc::new(Schema::empty()),
            parameters: Vec::new(),
        }
    }

    #[test]
    fn what_is_unused_longest_goes_first() {
        let statements = Statements::default();
        for number in 0..MOST {
            statements.keep(number.to_string(), statement("SELECT 1"));
        }
        statements.get("0").unwrap();
        statements.keep("new".into(), statement("SELECT 2"));
        assert!(statements.get("0").is_ok());
        assert!(statements.get("1").is_err());
        assert_eq!(&*statements.get("new").unwrap().sql, "SELECT 2");
        statements.close("new");
        assert!(statements.get("new").is_err());
    }

    #[test]
    fn long_texts_push_out_others() {
        let statements = Statements::default();
        for number in 0..5 {
            statements.keep(number.to_string(), statement(&"x".repeat(MOST_BYTES / 4)));
        }
        assert!(statements.get("0").is_err());
        assert!(statements.get("1").is_ok());
    }
}
