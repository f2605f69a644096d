//! A table as analysts see it: one row a window and group, with final values.
//!
//! Owns the plan that such a table stands for: merge the states of all panes of a window and group,
//! and finish them. Does not own the panes, nor coarser grains ([`crate::measure`]).

use std::{sync::Arc, time::Duration};

use alluvium_plan::{MeasureShape, StateKind, TableShape};
use alluvium_types::Timestamp;
use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider, default_table_source::provider_as_source},
    common::{Column, Result, ScalarValue, TableReference, internal_err},
    datasource::TableType,
    functions_aggregate::bool_and_or::bool_or_udaf,
    logical_expr::{
        AggregateUDF, Expr, LogicalPlan, LogicalPlanBuilder, expr::AggregateFunction, lit, when,
    },
    physical_plan::ExecutionPlan,
};

use crate::panes::{RowsTable, StoredRows, lacks_column};

/// A table with final values. It is never scanned itself: before execution the plan it stands for
/// takes its place, see [`crate::measure::lower`].
#[derive(Debug)]
pub(crate) struct FinalTable {
    name: Arc<str>,
    shape: Arc<TableShape>,
    rows: Arc<StoredRows>,
    watermark: Option<Timestamp>,
    window: Option<Duration>,
    plan: LogicalPlan,
}

impl FinalTable {
    pub(crate) fn new(
        name: Arc<str>,
        shape: Arc<TableShape>,
        rows: Arc<StoredRows>,
        watermark: Option<Timestamp>,
        window: Option<Duration>,
    ) -> Result<Self> {
        let mut table = Self {
            name,
            shape,
            rows,
            watermark,
            window,
            plan: LogicalPlanBuilder::empty(false).build()?,
        };
        table.plan = table.finished()?;
        Ok(table)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// How long its windows are, where that is known.
    pub(crate) fn window(&self) -> Option<Duration> {
        self.window
    }

    /// The plan that yields this table's rows, under the name `alias`.
    pub(crate) fn plan(&self, alias: TableReference) -> Result<LogicalPlan> {
        LogicalPlanBuilder::from(self.plan.clone())
            .alias(alias)?
            .build()
    }

    /// The relation under whose name columns of panes stand in plans.
    pub(crate) fn pane_relation(&self) -> TableReference {
        TableReference::partial("panes", self.name.clone())
    }

    /// A column of the panes.
    pub(crate) fn pane_column(&self, name: &str) -> Expr {
        Expr::Column(Column::new(Some(self.pane_relation()), name))
    }

    /// Whether a window is complete, over columns of the panes (P26).
    pub(crate) fn is_final(&self) -> Expr {
        match self.watermark {
            Some(watermark) => {
                let watermark =
                    ScalarValue::TimestampMicrosecond(Some(watermark.micros()), Some("UTC".into()));
                self.pane_column(TableShape::WINDOW_END)
                    .lt_eq(lit(watermark))
            }
            None => lit(false),
        }
    }

    /// The names of the columns that make up a row's key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let groups = self
            .shape
            .group_columns
            .iter()
            .map(|field| field.name().as_str());
        [TableShape::WINDOW_START, TableShape::WINDOW_END]
            .into_iter()
            .chain(groups)
    }

    /// All panes, with their hidden columns.
    pub(crate) fn panes(&self) -> Result<LogicalPlanBuilder> {
        let provider = Arc::new(RowsTable::whole(self.rows.clone()));
        LogicalPlanBuilder::scan(self.pane_relation(), provider_as_source(provider), None)
    }

    /// One row a window and group: keys under [`Self::pane_relation`], merged states and their hidden columns
    /// without a relation. Windows whose rows all lie in one file are taken as they are (P34).
    pub(crate) fn merged(&self) -> Result<LogicalPlanBuilder> {
        let Some(windows) = self.rows.merged_windows() else {
            return self.merge_of(self.panes()?);
        };
        let window_start = self.pane_column(TableShape::WINDOW_START);
        let mut apart = self.panes()?;
        if let Some(elsewhere) = windows.lacks(&window_start) {
            apart = apart.filter(elsewhere)?;
        }
        let apart = self.with_plain_names(apart, |name| self.pane_column(name))?;
        let both = match windows.holds(&window_start) {
            None => apart,
            Some(here) => {
                let merged = self.merge_of(self.panes()?.filter(here)?)?;
                let merged = self.with_plain_names(merged, |name| unqualified(name))?;
                apart.union(merged.build()?)?
            }
        };
        // As the merge alone names them.
        let columns = self
            .keys()
            .map(|name| unqualified(name).alias_qualified(Some(self.pane_relation()), name))
            .chain(self.state_columns().map(unqualified));
        both.project(columns)
    }

    /// States and their hidden columns.
    fn state_columns(&self) -> impl Iterator<Item = String> {
        self.shape.states.iter().flat_map(|state| {
            let lacks = self.rows.lacks(&state.name);
            let hidden = lacks.then(|| lacks_column(&state.name));
            std::iter::once(state.name.to_string()).chain(hidden)
        })
    }

    fn with_plain_names(
        &self,
        rows: LogicalPlanBuilder,
        state: impl Fn(&str) -> Expr,
    ) -> Result<LogicalPlanBuilder> {
        let keys: Vec<Expr> = self
            .keys()
            .map(|name| self.pane_column(name).alias(name))
            .collect();
        let states = self
            .state_columns()
            .map(|name| state(&name).alias(name.as_str()));
        rows.project(keys.into_iter().chain(states))
    }

    fn merge_of(&self, panes: LogicalPlanBuilder) -> Result<LogicalPlanBuilder> {
        let keys: Vec<Expr> = self.keys().map(|name| self.pane_column(name)).collect();
        let mut merges = Vec::new();
        for state in &self.shape.states {
            let merge = self.merge(state.kind.merge(), &state.name, None);
            merges.push(merge.alias(state.name.as_ref()));
            if self.rows.lacks(&state.name) {
                let hidden = lacks_column(&state.name);
                merges.push(self.merge(bool_or_udaf(), &hidden, None).alias(hidden));
            }
        }
        panes.aggregate(keys, merges)
    }

    /// `aggregate(column) filter (where filter)` over a column of the panes.
    pub(crate) fn merge(
        &self,
        aggregate: Arc<AggregateUDF>,
        column: &str,
        filter: Option<Box<Expr>>,
    ) -> Expr {
        Expr::AggregateFunction(AggregateFunction::new_udf(
            aggregate,
            vec![self.pane_column(column)],
            false,
            filter,
            vec![],
            None,
        ))
    }

    /// The hidden column of a measure's state, where some row may lack that state.
    pub(crate) fn hidden(&self, measure: &MeasureShape) -> Option<String> {
        let state = &self.shape.states[measure.state].name;
        self.rows.lacks(state).then(|| lacks_column(state))
    }

    /// The measure's final value from its merged state; NULL where a contributing file lacks the state (P35).
    pub(crate) fn finish(
        &self,
        measure: &MeasureShape,
        state: Expr,
        lacks: Option<Expr>,
    ) -> Result<Expr> {
        let value = measure.finish.expression(state);
        match lacks {
            Some(lacks) => {
                when(lacks, lit(ScalarValue::try_from(&measure.data_type)?)).otherwise(value)
            }
            None => Ok(value),
        }
    }

    /// The kind of a measure's state.
    pub(crate) fn kind(&self, measure: &MeasureShape) -> StateKind {
        self.shape.states[measure.state].kind
    }

    fn finished(&self) -> Result<LogicalPlan> {
        let mut columns: Vec<Expr> = self.keys().map(|name| self.pane_column(name)).collect();
        columns.push(self.is_final().alias(TableShape::FINAL));
        for measure in &self.shape.measures {
            let state = &self.shape.states[measure.state].name;
            let lacks = self.hidden(measure).map(unqualified);
            let value = self.finish(measure, unqualified(state.as_ref()), lacks)?;
            columns.push(value.alias(measure.name.as_ref()));
        }
        self.merged()?.project(columns)?.build()
    }
}

/// A column that no relation qualifies; names are taken as they are, capitals too.
pub(crate) fn unqualified(name: impl Into<String>) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

#[async_trait]
impl TableProvider for FinalTable {
    fn schema(&self) -> SchemaRef {
        self.plan.schema().inner().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("the plan of table {} did not take its place", self.name)
    }
}
