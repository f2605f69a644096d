//! The balance of every table, printed where a run ends.
//!
//! Owns the words and the verdict. The figures are the runtime's: what this process committed.

use alluvium_plan::{PipelineStatus, TableStatus};
use serde_json::json;

use crate::output::{Sheet, grouped};

/// One line a table.
pub(crate) fn sheet(pipelines: &[PipelineStatus]) -> Sheet {
    let mut sheet = Sheet::new([
        "table", "in", "counted", "filtered", "rejected", "late", "commits", "version",
    ]);
    for table in tables(pipelines) {
        sheet.push(vec![
            json!(table.table),
            json!(table.balance.events_in),
            json!(table.balance.counted),
            json!(table.balance.filtered),
            json!(table.balance.rejected),
            json!(table.balance.late),
            json!(table.commits),
            json!(table.version),
        ]);
    }
    sheet
}

/// `in = counted + filtered + rejected`, in figures, for one table.
pub(crate) fn sentence(table: &TableStatus) -> String {
    let balance = &table.balance;
    format!(
        "{}: {} in = {} counted + {} filtered + {} rejected",
        table.table,
        grouped(balance.events_in),
        grouped(balance.counted),
        grouped(balance.filtered),
        grouped(balance.rejected),
    )
}

/// Tables whose balance does not hold, or that did not take in exactly `events`, in words.
pub(crate) fn faults(pipelines: &[PipelineStatus], events: Option<u64>) -> Vec<String> {
    let mut faults = Vec::new();
    for table in tables(pipelines) {
        if let Err(error) = table.balance.checked() {
            faults.push(format!("{}: {error}", table.table));
        }
        if let Some(events) = events.filter(|&events| events != table.balance.events_in) {
            faults.push(format!(
                "{}: {} events were sent, {} came in",
                table.table,
                grouped(events),
                grouped(table.balance.events_in)
            ));
        }
    }
    faults
}

/// Every table of every pipeline.
pub(crate) fn tables(pipelines: &[PipelineStatus]) -> impl Iterator<Item = &TableStatus> {
    pipelines.iter().flat_map(|pipeline| &pipeline.tables)
}

#[cfg(test)]
mod tests {
    use alluvium_types::Balance;

    use super::*;

    #[test]
    fn what_does_not_balance_is_named() {
        let pipeline = |balance| PipelineStatus {
            tables: vec![TableStatus {
                table: "t".into(),
                balance,
                ..TableStatus::default()
            }],
            ..PipelineStatus::default()
        };
        let whole = Balance {
            events_in: 10,
            counted: 7,
            filtered: 2,
            rejected: 1,
            late: 3,
            ..Balance::default()
        };
        assert!(faults(&[pipeline(whole)], Some(10)).is_empty());
        assert_eq!(faults(&[pipeline(whole)], Some(11)).len(), 1);
        let torn = Balance {
            counted: 8,
            ..whole
        };
        assert_eq!(faults(&[pipeline(torn)], None).len(), 1);
    }
}
