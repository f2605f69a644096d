//! SQL: whatever is asked, it is answered or refused in words, and the next question is answered as ever.

use std::sync::OnceLock;

use alluvium_query::{QueryEngine, QueryError};
use tokio::runtime::Runtime;

use crate::house;

/// Asked after each statement. Its answer never changes.
const AFTERWARDS: &str = "SELECT sum(n) FROM clicks";

/// One statement.
///
/// # Panics
/// When anything panics, when a refusal has no words, or when the engine does not answer afterwards. That a statement ends in time
/// is the fuzzer's to see.
pub fn statements(data: &[u8]) {
    static HOUSE: OnceLock<(Runtime, QueryEngine)> = OnceLock::new();
    let (runtime, engine) = HOUSE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let engine = runtime.block_on(house::engine());
        (runtime, engine)
    });
    let Ok(sql) = std::str::from_utf8(data) else {
        return;
    };
    runtime.block_on(async {
        let described = engine.session().describe(sql, Vec::new()).await;
        for refused in [described.err(), ask(engine, sql).await.err()] {
            let words = refused.map(|error| error.to_string());
            assert!(words.as_deref() != Some(""), "a refusal without words");
        }
        match ask(engine, AFTERWARDS).await {
            Ok(rows) => assert_eq!(rows, 1),
            Err(error) => panic!("afterwards: {error}"),
        }
    });
}

async fn ask(engine: &QueryEngine, sql: &str) -> Result<usize, QueryError> {
    let result = engine.session().query(sql, Vec::new()).await?;
    let batches = result.collect().await?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}
