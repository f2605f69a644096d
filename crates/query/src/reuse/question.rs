//! What an aggregation asks of the rows of a file, whatever the plan around it looks like.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{Schema, SchemaRef},
    common::{
        config::{ConfigOptions, Extensions},
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{AggregateUDF, Volatility},
    physical_expr::ScalarFunctionExpr,
    physical_plan::{
        PhysicalExpr,
        aggregates::AggregateExec,
        expressions::{
            BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr,
            LikeExpr, Literal, NegativeExpr, NotExpr, TryCastExpr,
        },
    },
};

use super::{Place, bounds::Bounds};

/// Conditions that are told apart at most.
const MOST_CONDITIONS: usize = 64;

/// What a question takes beside its expressions: settings above all.
const QUESTION: usize = 8 << 10;
/// What a part of an expression takes.
const EXPRESSION: usize = 256;

/// An aggregation over the columns of a table's files. Equal questions have equal answers over the same rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    columns: SchemaRef,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<Aggregate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    function: AggregateUDF,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    is_distinct: bool,
    ignores_nulls: bool,
}

impl Question {
    #[cfg(test)]
    pub(super) fn of(columns: SchemaRef, conditions: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        Self {
            columns,
            conditions,
            groups: Vec::new(),
            aggregates: Vec::new(),
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size(&self) -> usize {
        let aggregates = self.aggregates.iter();
        let inside = aggregates
            .clone()
            .flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
        let expressions = self.conditions.iter().chain(&self.groups).chain(inside);
        let mut bytes = QUESTION + aggregates.len() * EXPRESSION;
        for expression in expressions {
            // It never fails.
            let _ = expression.apply(|part| {
                bytes += EXPRESSION;
                if let Some(literal) = part.downcast_ref::<Literal>() {
                    bytes += literal.value().size();
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        bytes
    }
}

/// A question with all its conditions, before it is asked of rows of which some are known to hold.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    question: Question,
}

/// Which of its conditions rows are asked, as bits.
pub(super) type Remaining = u64;

impl Asked {
    /// What `partial` asks of the rows at `place`; `None` where it is not certain that the same rows give the same answer.
    pub(super) fn by(
        partial: &AggregateExec,
        place: &Place,
        config: &ConfigOptions,
    ) -> Option<Self> {
        let by = partial.group_expr();
        if !by.is_single() || partial.limit_options().is_some() {
            return None;
        }
        // Expressions keep the settings that they were planned with; those of one query alone would outlive it.
        let mut settings = config.clone();
        settings.extensions = Extensions::default();
        let settings = Arc::new(settings);
        let asked = |expr: &Arc<dyn PhysicalExpr>, columns: &[_]| {
            let expr = over_columns(expr.clone(), columns)?;
            repeatable(expr, &settings)
        };
        let groups = by.expr().iter();
        let groups = groups
            .map(|(expr, _)| asked(expr, &place.columns))
            .collect::<Option<_>>()?;
        let functions = partial.aggr_expr().iter().zip(partial.filter_expr());
        let aggregates = functions
            .map(|(function, filter)| {
                let is_in_order = !function.order_bys().is_empty() || function.is_reversed();
                let volatility = function.fun().signature().volatility;
                if is_in_order || volatility != Volatility::Immutable {
                    return None;
                }
                let arguments = function.expressions();
                let arguments = arguments.iter().map(|expr| asked(expr, &place.columns));
                Some(Aggregate {
                    function: function.fun().clone(),
                    arguments: arguments.collect::<Option<_>>()?,
                    filter: match filter {
                        Some(filter) => Some(asked(filter, &place.columns)?),
                        None => None,
                    },
                    is_distinct: function.is_distinct(),
                    ignores_nulls: function.ignore_nulls(),
                })
            })
            .collect::<Option<_>>()?;
        let mut conditions: Vec<_> = place
            .conditions
            .iter()
            .map(|condition| repeatable(condition.clone(), &settings))
            .collect::<Option<_>>()?;
        // The same in whatever order they were written.
        conditions.sort_by_cached_key(|condition| condition.to_string());
        conditions.dedup();
        (conditions.len() <= MOST_CONDITIONS).then(|| Self {
            question: Question {
                columns: place
                    .config
                    .file_source()
                    .table_schema()
                    .table_schema()
                    .clone(),
                conditions,
                groups,
                aggregates,
            },
        })
    }

    /// What remains to be asked of rows within `bounds`; `None` when no row of them is wanted.
    pub(super) fn remaining(&self, bounds: &Bounds) -> Option<Remaining> {
        let mut remaining = 0;
        for (position, condition) in self.question.conditions.iter().enumerate() {
            match bounds.decide(condition) {
                Some(true) => {}
                Some(false) => return None,
                None => remaining |= 1 << position,
            }
        }
        Some(remaining)
    }

    /// The question with those conditions alone.
    pub(super) fn with(&self, remaining: Remaining) -> Question {
        let conditions = self.question.conditions.iter().enumerate();
        let conditions = conditions
            .filter(|(position, _)| remaining >> position & 1 == 1)
            .map(|(_, condition)| condition.clone());
        Question {
            conditions: conditions.collect(),
            ..self.question.clone()
        }
    }
}

/// `expr` with each of its columns replaced by what stands at that place in `columns`.
pub(super) fn over_columns(
    expr: Arc<dyn PhysicalExpr>,
    columns: &[Arc<dyn PhysicalExpr>],
) -> Option<Arc<dyn PhysicalExpr>> {
    let mut all_known = true;
    let replaced = expr.transform_down(|part| {
        let Some(column) = part.downcast_ref::<Column>() else {
            return Ok(Transformed::no(part));
        };
        let Some(origin) = columns.get(column.index()) else {
            all_known = false;
            return Ok(Transformed::no(part));
        };
        let origin = origin.clone();
        Ok(Transformed::new(origin, true, TreeNodeRecursion::Jump))
    });
    replaced
        .ok()
        .map(|replaced| replaced.data)
        .filter(|_| all_known)
}

/// `expr`, when it gives the same for the same row whenever it is asked, with `settings` in place of its own.
fn repeatable(
    expr: Arc<dyn PhysicalExpr>,
    settings: &Arc<ConfigOptions>,
) -> Option<Arc<dyn PhysicalExpr>> {
    let mut is_repeatable = true;
    let expr = expr.transform_up(|part| {
        if let Some(function) = part.downcast_ref::<ScalarFunctionExpr>() {
            let volatility = function.fun().signature().volatility;
            is_repeatable &= volatility == Volatility::Immutable;
            let function = ScalarFunctionExpr::new(
                function.name(),
                Arc::new(function.fun().clone()),
                function.args().to_vec(),
                function.return_field(&Schema::empty())?,
                settings.clone(),
            );
            return Ok(Transformed::yes(Arc::new(function) as _));
        }
        is_repeatable &= part.is::<BinaryExpr>()
            || part.is::<CaseExpr>()
            || part.is::<CastExpr>()
            || part.is::<Column>()
            || part.is::<InListExpr>()
            || part.is::<IsNotNullExpr>()
            || part.is::<IsNullExpr>()
            || part.is::<LikeExpr>()
            || part.is::<Literal>()
            || part.is::<NegativeExpr>()
            || part.is::<NotExpr>()
            || part.is::<TryCastExpr>();
        Ok(Transformed::no(part))
    });
    expr.ok().map(|expr| expr.data).filter(|_| is_repeatable)
}
