//! Whether a question has the same answer for as long as its tables stay as they are.
//!
//! Owns what makes a plan depend on more than tables: the time of day, chance, and what the server says of itself. In doubt it does.
//! Does not own how tables are compared ([`crate::view::AsOf`]).

use datafusion::{
    catalog::default_table_source::DefaultTableSource,
    common::{
        Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan, TableScan, Volatility},
};

use crate::{finals::FinalTable, panes::RowsTable};

/// Judges a plan as it was written, before tables are replaced and constants computed.
pub(crate) fn repeats(plan: &LogicalPlan) -> Result<bool> {
    let mut repeats = true;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            repeats &= is_told_by_as_of(scan);
        }
        node.apply_expressions(|expr| {
            repeats &= !expr.exists(|part| Ok(changes_by_itself(part)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(match repeats {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(repeats)
}

fn is_told_by_as_of(scan: &TableScan) -> bool {
    let source = scan.source.as_ref().downcast_ref::<DefaultTableSource>();
    source.is_some_and(|source| {
        let table = source.table_provider.as_ref();
        table.downcast_ref::<FinalTable>().is_some() || table.downcast_ref::<RowsTable>().is_some()
    })
}

fn changes_by_itself(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(function) => {
            function.func.signature().volatility != Volatility::Immutable
        }
        _ => false,
    }
}
