//! `measure(m)`: a measure at any coarser grain, and the step that puts tables' plans in their places.
//!
//! Owns the rewriting of a query's plan before it is optimised: first every aggregation with `measure(…)`
//! becomes a merge of stored states, then every table becomes the plan it stands for. What `measure`
//! cannot be computed from is refused with a hint, never approximated. Does not own which grain fits a table ([`grain`]).

mod grain;

use std::collections::HashMap;

use datafusion::{
    catalog::default_table_source::DefaultTableSource,
    common::{
        Column, DFSchema, Result, TableReference, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    functions::core::expr_fn::coalesce,
    functions_aggregate::bool_and_or::bool_or_udaf,
    logical_expr::{
        Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, TableScan,
        expr::{AggregateFunction, AggregateFunctionParams},
        lit,
    },
    scalar::ScalarValue,
};

use alluvium_plan::{MeasureShape, StateKind, TableShape};

use crate::{
    error::{ErrorKind, QueryError, nearest},
    finals::{FinalTable, unqualified},
};

/// Makes a planned query executable: resolves `measure(…)` and replaces tables by their plans.
pub(crate) fn lower(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan
        .transform_down_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(aggregate) if has_measure(&aggregate.aggr_expr) => {
                Ok(Transformed::yes(merge_states(&aggregate)?))
            }
            other => Ok(Transformed::no(other)),
        })?
        .data;
    plan.apply_with_subqueries(|node| {
        if has_measure(&node.expressions()) {
            return Err(refuse(
                "measure() stands where it is not an aggregate",
                "use it in a SELECT with GROUP BY, directly over a table; it has no OVER",
            ));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let plan = plan.transform_up_with_subqueries(|node| match &node {
        LogicalPlan::TableScan(scan) => match final_table(scan) {
            Some(table) => Ok(Transformed::yes(table.plan(scan.table_name.clone())?)),
            None => Ok(Transformed::no(node)),
        },
        // A measure may be NULL where the marker's type said it is not, so schemas are made anew.
        _ => Ok(Transformed::yes(node.recompute_schema()?)),
    })?;
    Ok(plan.data)
}

fn final_table(scan: &TableScan) -> Option<&FinalTable> {
    scan.source
        .as_ref()
        .downcast_ref::<DefaultTableSource>()?
        .table_provider
        .as_ref()
        .downcast_ref::<FinalTable>()
}

fn refuse(
    message: impl Into<String>,
    hint: impl Into<String>,
) -> datafusion::error::DataFusionError {
    QueryError::new(ErrorKind::Unsupported, message)
        .hint(hint)
        .into_datafusion()
}

fn is_measure(expr: &Expr) -> bool {
    match expr {
        Expr::AggregateFunction(function) => function.func.name() == "measure",
        Expr::WindowFunction(function) => function.fun.name() == "measure",
        _ => false,
    }
}

fn has_measure(expressions: &[Expr]) -> bool {
    expressions
        .iter()
        .any(|expr| expr.exists(|part| Ok(is_measure(part))).unwrap_or(false))
}

/// Where the columns of a plan come from: each an expression over columns of one table's panes, in which a
/// measure stands as a column of [`measure_relation`].
struct Origin<'a> {
    table: &'a FinalTable,
    columns: Vec<Expr>,
    filters: Vec<Expr>,
}

/// The relation that measures have in [`Origin`].
fn measure_relation(table: &FinalTable) -> TableReference {
    TableReference::partial("measures", table.name())
}

fn names_measures(expr: &Expr, table: &FinalTable) -> bool {
    let relation = measure_relation(table);
    expr.column_refs()
        .iter()
        .any(|column| column.relation.as_ref() == Some(&relation))
}

/// Traces a plan below an aggregation back to one table.
fn trace(plan: &LogicalPlan) -> Result<Origin<'_>> {
    match plan {
        LogicalPlan::TableScan(scan) => trace_scan(scan),
        LogicalPlan::SubqueryAlias(alias) => trace(&alias.input),
        LogicalPlan::Projection(projection) => {
            let below = trace(&projection.input)?;
            let schema = projection.input.schema();
            let columns = projection
                .expr
                .iter()
                .map(|expr| substitute(expr.clone().unalias(), schema, &below.columns))
                .collect::<Result<_>>()?;
            Ok(Origin { columns, ..below })
        }
        LogicalPlan::Filter(filter) => {
            let mut below = trace(&filter.input)?;
            let predicate = substitute(
                filter.predicate.clone(),
                filter.input.schema(),
                &below.columns,
            )?;
            if names_measures(&predicate, below.table) {
                return Err(refuse(
                    format!(
                        "measure() cannot be taken of rows chosen by a measure: {}",
                        filter.predicate
                    ),
                    "filter on windows, group columns and final; or use HAVING with measure()",
                ));
            }
            below.filters.push(predicate);
            Ok(below)
        }
        // Without a limit an order chooses nothing.
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => trace(&sort.input),
        other => Err(refuse(
            format!("measure() cannot look through {}", described(other)),
            "use it directly over one table, or over a subquery that only selects and filters on \
             windows, group columns and final; join and limit its result afterwards",
        )),
    }
}

fn described(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => "a limit",
        LogicalPlan::Distinct(_) => "DISTINCT",
        LogicalPlan::Union(_) => "a union",
        LogicalPlan::Aggregate(_) => "another aggregation",
        LogicalPlan::Window(_) => "window functions",
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => "rows that are no table's",
        LogicalPlan::Unnest(_) => "unnest",
        _ => "this part of the query",
    }
}

fn trace_scan(scan: &TableScan) -> Result<Origin<'_>> {
    let Some(table) = final_table(scan) else {
        return Err(refuse(
            format!("measure() cannot be taken of {}", scan.table_name),
            "use it over the tables of schema public",
        ));
    };
    if scan.fetch.is_some() {
        return Err(refuse(
            "measure() cannot look through a limit",
            "limit its result instead",
        ));
    }
    let whole: Vec<Expr> = scan
        .projected_schema
        .fields()
        .iter()
        .map(|field| {
            let name = field.name().as_str();
            if table.keys().any(|key| key == name) {
                table.pane_column(name)
            } else if name == TableShape::FINAL {
                table.is_final()
            } else {
                Expr::Column(Column::new(Some(measure_relation(table)), name))
            }
        })
        .collect();
    let filters = scan
        .filters
        .iter()
        .map(|filter| substitute(filter.clone(), &scan.projected_schema, &whole))
        .collect::<Result<_>>()?;
    Ok(Origin {
        table,
        columns: whole,
        filters,
    })
}

/// `expr` over `schema`, with every column replaced by where it comes from.
fn substitute(expr: Expr, schema: &DFSchema, origins: &[Expr]) -> Result<Expr> {
    let substituted = expr.transform(|part| match &part {
        Expr::Column(column) => {
            let position = schema.index_of_column(column)?;
            Ok(Transformed::new(
                origins[position].clone(),
                true,
                TreeNodeRecursion::Jump,
            ))
        }
        Expr::OuterReferenceColumn(..) => Err(refuse(
            "measure() cannot be taken inside a correlated subquery",
            "compute it in a subquery of its own and join the result",
        )),
        Expr::ScalarSubquery(subquery) if !subquery.outer_ref_columns.is_empty() => {
            Err(correlated())
        }
        Expr::InSubquery(within) if !within.subquery.outer_ref_columns.is_empty() => {
            Err(correlated())
        }
        Expr::Exists(exists) if !exists.subquery.outer_ref_columns.is_empty() => Err(correlated()),
        _ => Ok(Transformed::no(part)),
    })?;
    Ok(substituted.data)
}

fn correlated() -> datafusion::error::DataFusionError {
    refuse(
        "measure() cannot be taken of rows chosen by a correlated subquery",
        "use IN (SELECT …) without reference to the outer query",
    )
}

/// What becomes of one `measure(m)`.
struct Taken<'a> {
    measure: &'a MeasureShape,
    filter: Option<Box<Expr>>,
}

/// Replaces an aggregation that has `measure(…)`.
fn merge_states(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let origin = trace(&aggregate.input)?;
    let table = origin.table;
    let below = aggregate.input.schema();

    // What is grouped by twice is one column of the aggregation.
    let mut distinct: Vec<&Expr> = Vec::new();
    for group in &aggregate.group_expr {
        if !distinct.contains(&group) {
            distinct.push(group);
        }
    }
    let mut groups = Vec::new();
    for group in distinct {
        if matches!(group, Expr::GroupingSet(_)) {
            return Err(refuse(
                "measure() cannot be combined with ROLLUP, CUBE or GROUPING SETS",
                "write one SELECT for each grouping and combine them with UNION ALL",
            ));
        }
        let substituted = substitute(group.clone(), below, &origin.columns)?;
        if names_measures(&substituted, table) {
            return Err(refuse(
                format!("measure() cannot be grouped by a measure: {group}"),
                "group by windows and group columns",
            ));
        }
        grain::refuse_finer(&substituted, table)?;
        groups.push(substituted.alias(format!("_group_{}", groups.len())));
    }

    let mut plain = false;
    let mut outputs: Vec<Output<'_>> = Vec::new();
    for expr in &aggregate.aggr_expr {
        let bare = expr.clone().unalias();
        match bare {
            Expr::AggregateFunction(function) if function.func.name() == "measure" => {
                outputs.push(Output::Measure(taken(function, below, &origin)?));
            }
            other => {
                plain = true;
                outputs.push(Output::Plain(substitute(other, below, &origin.columns)?));
            }
        }
    }

    // Panes are more rows than final rows, which plain aggregates would see. Beside them the states are merged
    // in two steps: to final rows first.
    let mut input = if plain {
        final_rows(table)?
    } else {
        table.panes()?
    };
    for filter in &origin.filters {
        input = input.filter(filter.clone())?;
    }
    let mut merges = Vec::new();
    let mut columns: Vec<Expr> = (0..groups.len())
        .map(|position| unqualified(format!("_group_{position}")))
        .collect();
    for (position, output) in outputs.iter().enumerate() {
        let name = format!("_value_{position}");
        match output {
            Output::Plain(expr) => {
                merges.push(expr.clone().alias(&name));
                columns.push(unqualified(name));
            }
            Output::Measure(taken) => {
                let shape = table.shape();
                let state = &shape.states[taken.measure.state];
                let merge = table.merge(state.kind.merge(), &state.name, taken.filter.clone());
                merges.push(merge.alias(&name));
                let lacks = table.hidden(taken.measure).map(|hidden| {
                    let lacks = format!("_lacks_{position}");
                    let any = table.merge(bool_or_udaf(), &hidden, taken.filter.clone());
                    merges.push(any.alias(&lacks));
                    unqualified(lacks)
                });
                let merged = match table.kind(taken.measure) {
                    // A count of nothing is nought.
                    StateKind::Count => coalesce(vec![unqualified(name), lit(0i64)]),
                    _ => unqualified(name),
                };
                columns.push(table.finish(taken.measure, merged, lacks)?);
            }
        }
    }
    if aggregate.schema.fields().len() != columns.len() {
        return internal_err!("an aggregation with measure() has other columns than expected");
    }
    // What stands above refers to the aggregation's columns by their names.
    let named = aggregate
        .schema
        .iter()
        .zip(columns)
        .map(|((relation, field), column)| column.alias_qualified(relation.cloned(), field.name()));
    let named: Vec<Expr> = named.collect();
    input.aggregate(groups, merges)?.project(named)?.build()
}

enum Output<'a> {
    Measure(Taken<'a>),
    Plain(Expr),
}

fn taken<'a>(
    function: AggregateFunction,
    below: &DFSchema,
    origin: &Origin<'a>,
) -> Result<Taken<'a>> {
    let table = origin.table;
    let AggregateFunctionParams {
        args,
        distinct,
        filter,
        order_by,
        null_treatment,
    } = function.params;
    if distinct || !order_by.is_empty() || null_treatment.is_some() {
        return Err(refuse(
            "measure() takes no DISTINCT, ORDER BY or NULLS",
            "write measure(name)",
        ));
    }
    let argument = args
        .first()
        .cloned()
        .unwrap_or_else(|| lit(ScalarValue::Null));
    let source = substitute(argument.clone(), below, &origin.columns)?;
    let measures = &table.shape().measures;
    let found = match &source {
        Expr::Column(column) if column.relation.as_ref() == Some(&measure_relation(table)) => {
            measures.iter().find(|measure| *measure.name == column.name)
        }
        _ => None,
    };
    let Some(measure) = found else {
        let names: Vec<&str> = measures
            .iter()
            .map(|measure| measure.name.as_ref())
            .collect();
        let text = argument.to_string();
        let hint = match nearest(&text, names.iter().copied()) {
            Some(name) => format!("did you mean measure({name})?"),
            None => format!(
                "table {} has the measures {}",
                table.name(),
                names.join(", ")
            ),
        };
        return Err(refuse(
            format!("measure() takes a measure as it is, and {text} is none"),
            hint,
        ));
    };
    let filter = match filter {
        Some(filter) => {
            let filter = substitute(*filter, below, &origin.columns)?;
            if names_measures(&filter, table) {
                return Err(refuse(
                    "measure() cannot be filtered by a measure",
                    "filter on windows, group columns and final",
                ));
            }
            Some(Box::new(filter))
        }
        None => None,
    };
    Ok(Taken { measure, filter })
}

/// Final rows with their states: keys and states as columns of panes, measures as columns of
/// [`measure_relation`].
fn final_rows(table: &FinalTable) -> Result<LogicalPlanBuilder> {
    let panes = table.pane_relation();
    let mut columns: Vec<Expr> = table.keys().map(|name| table.pane_column(name)).collect();
    let mut hidden = HashMap::new();
    for state in &table.shape().states {
        let name = state.name.as_ref();
        columns.push(unqualified(name).alias_qualified(Some(panes.clone()), name));
    }
    for measure in &table.shape().measures {
        if let Some(name) = table.hidden(measure) {
            let column = unqualified(&name).alias_qualified(Some(panes.clone()), &name);
            hidden.entry(name).or_insert(column);
        }
    }
    columns.extend(hidden.into_values());
    for measure in &table.shape().measures {
        let state = &table.shape().states[measure.state].name;
        let lacks = table.hidden(measure).map(unqualified);
        let value = table.finish(measure, unqualified(state.as_ref()), lacks)?;
        columns.push(value.alias_qualified(Some(measure_relation(table)), measure.name.as_ref()));
    }
    table.merged()?.project(columns)
}
