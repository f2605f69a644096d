//! How much queries may use, each and all together.
//!
//! Owns what is usual, and what a server file says instead. Does not own what a user's own limits are ([`crate::access`]),
//! nor that any is kept.

use std::time::Duration;

use alluvium_plan::Server;

/// What all queries together, and each of them, may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory for all queries together, an eighth of it for footers of files, ...
    pub memory: usize,
    /// ... and for one of them; none: whatever is left.
    pub memory_of_one: Option<usize>,
    /// Bytes on disk for what all queries together cannot hold in memory, ...
    pub disk: u64,
    /// ... and for what one of them cannot; none: whatever is left.
    pub disk_of_one: Option<u64>,
    /// How long one query may take, reading of its result included.
    pub timeout: Duration,
    /// Bytes of one query's text.
    pub max_sql_bytes: usize,
    /// Rows of one result.
    pub max_rows: u64,
    /// Bytes of one result, as columns in memory.
    pub max_bytes: u64,
    /// Bytes of the files that one query may open.
    pub max_scan: u64,
    /// Queries at the same time.
    pub concurrent: usize,
}

impl Default for Limits {
    /// Room for a few analysts beside ingestion: 512 MiB, 2 GiB on disk, a minute, 64 KiB of text, ten million rows of 4 GiB,
    /// 64 GiB of files, 16 at once.
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            memory_of_one: None,
            disk: 2 << 30,
            disk_of_one: None,
            timeout: Duration::from_secs(60),
            max_sql_bytes: 64 << 10,
            max_rows: 10_000_000,
            max_bytes: 4 << 30,
            max_scan: 64 << 30,
            concurrent: 16,
        }
    }
}

impl Limits {
    /// What a server file says, and what is usual where it says nothing.
    pub fn of(server: &Server) -> Self {
        let usual = Self::default();
        let said = &server.query;
        Self {
            memory: server.memory.query,
            memory_of_one: said.each.memory,
            disk: server.query_disk,
            disk_of_one: said.each.disk,
            timeout: said.each.timeout.unwrap_or(usual.timeout),
            max_rows: said.each.rows.unwrap_or(usual.max_rows),
            max_bytes: said.each.bytes.unwrap_or(usual.max_bytes),
            max_scan: said.each.scan.unwrap_or(usual.max_scan),
            concurrent: said.at_once.unwrap_or(usual.concurrent),
            ..usual
        }
    }
}
