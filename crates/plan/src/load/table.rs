//! One table of a pipeline: window, groups, measures and their states.

use std::{sync::Arc, time::Duration};

use datafusion::{
    arrow::datatypes::{Field, SchemaRef},
    common::DataFusionError,
};

use crate::{
    definition::TableDefinition,
    diagnostic::Code,
    expression::{self, Expressions},
    inline_test::DEAD_LETTERS,
    measure::{self, Measure},
    plan::{GroupColumn, PartitionBy, StateFold, TablePlan},
    reader::{Keys as _, Reader},
    shape::{MeasureShape, StateKind, StateShape, TableShape},
    tree::Scalar,
    values::{self, NameOf, Zero},
    written::pipeline as written,
};

/// A table whose expressions are typed but not yet bound.
pub(super) struct Typed {
    name: Arc<str>,
    window: Duration,
    filter: Option<expression::Typed>,
    groups: Vec<(Arc<str>, expression::Typed)>,
    /// Name, text in the file, meaning.
    measures: Vec<(Arc<str>, String, Measure)>,
    partition_by: PartitionBy,
}

impl Typed {
    /// Every expression of the table.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &expression::Typed> {
        let measures = self
            .measures
            .iter()
            .flat_map(|(_, _, measure)| measure.input.iter().chain(&measure.filter));
        self.filter
            .iter()
            .chain(self.groups.iter().map(|(_, typed)| typed))
            .chain(measures)
    }
}

/// Reads a table; without a schema only what needs none is checked.
pub(super) fn read(
    name: &Scalar,
    written: &written::Table,
    expressions: Option<&Expressions>,
    reader: &mut Reader<'_>,
) -> Option<Typed> {
    let before = reader.found.0.len();
    if name.text == DEAD_LETTERS {
        let message = "`dead_letters` may not name a table: it names the rejects";
        reader.error(
            Code::Name,
            name.span.clone(),
            message,
            "choose another name",
        );
    } else {
        values::name(name, NameOf::Table, reader);
    }
    let window = window(name, written, reader);
    let partition_by = match &written.partition_by {
        Some(text) => {
            let choices = [
                ("none", PartitionBy::None),
                ("day", PartitionBy::Day),
                ("month", PartitionBy::Month),
            ];
            values::choice(text, &choices, reader)
        }
        None => Some(PartitionBy::None),
    };
    for (later, what, help) in [
        (
            &written.rollup,
            "rollup",
            "leave it out; coarser grains come from measure() in SQL",
        ),
        (
            &written.keep,
            "keep (retention)",
            "leave it out; rows are kept for ever",
        ),
    ] {
        if let Some(later) = later {
            reader.not_supported(later.0.clone(), what, help);
        }
    }
    let filter = written.where_.as_ref().map(|sql| match expressions {
        Some(expressions) => expressions.condition(sql, reader),
        None => Expressions::parse(sql, reader).and(None),
    });
    let groups = groups(written, expressions, reader);
    let measures = measures(name, written, expressions, reader);
    if reader.found.0.len() > before {
        return None;
    }
    Some(Typed {
        name: name.text.as_str().into(),
        window: window?,
        filter: match filter {
            Some(filter) => Some(filter?),
            None => None,
        },
        groups: groups.into_iter().collect::<Option<_>>()?,
        measures: measures.into_iter().collect::<Option<_>>()?,
        partition_by: partition_by?,
    })
}

fn window(name: &Scalar, written: &written::Table, reader: &mut Reader<'_>) -> Option<Duration> {
    if let Some(select) = &written.select {
        let help = "this release makes aggregates: give the table `window` and `measures`";
        reader.not_supported(select.0.clone(), "tables of rows (`select`)", help);
        return None;
    }
    let Some(window) = &written.window else {
        if written.lacks("window") {
            let help = "say how long a row's stretch of event time is: `window: {tumbling: 1m}`";
            values::missing(reader, &name.span, "window", help);
        }
        return None;
    };
    let help = "use {tumbling: 1h}; distinct counts and extremes of longer stretches come from measure() in SQL";
    if let Some(hopping) = &window.hopping {
        reader.not_supported(hopping.0.clone(), "hopping windows", help);
        return None;
    }
    if let Some(session) = &window.session {
        reader.not_supported(session.0.clone(), "session windows", "use {tumbling: 1h}");
        return None;
    }
    let Some(tumbling) = &window.tumbling else {
        if window.lacks("tumbling") && window.seen.is_empty() {
            values::missing(
                reader,
                &window.span,
                "tumbling",
                "write `window: {tumbling: 1m}`",
            );
        }
        return None;
    };
    values::duration(tumbling, Zero::Refused, reader)
}

fn groups(
    written: &written::Table,
    expressions: Option<&Expressions>,
    reader: &mut Reader<'_>,
) -> Vec<Option<(Arc<str>, expression::Typed)>> {
    let written = written.group_by.iter().flat_map(|named| &named.0);
    written
        .map(|(name, sql)| {
            values::name(name, NameOf::Column, reader);
            let Some(expressions) = expressions else {
                Expressions::parse(sql, reader);
                return None;
            };
            let typed = expressions.value(sql, reader)?;
            let found = expression::type_name(&typed.data_type);
            let storable = expressions.storable(typed);
            if storable.is_none() {
                reader.error(
                    Code::Expression,
                    sql.span.clone(),
                    format!("a table cannot store {found}"),
                    "make it a text, number, boolean, time or date: an element x[1], or array_to_string(x, ',')",
                );
            }
            Some((name.text.as_str().into(), storable?))
        })
        .collect()
}

fn measures(
    name: &Scalar,
    written: &written::Table,
    expressions: Option<&Expressions>,
    reader: &mut Reader<'_>,
) -> Vec<Option<(Arc<str>, String, Measure)>> {
    let groups = written.group_by.iter().flat_map(|named| &named.0);
    let groups: Vec<&Scalar> = groups.map(|(name, _)| name).collect();
    let measures = written.measures.as_ref().map_or(&[][..], |named| &named.0);
    let is_missing = written.lacks("measures") || written.measures.is_some();
    if measures.is_empty() && is_missing && written.lacks("select") {
        let help = "say what to keep: `measures: {events: count(*)}`";
        values::missing(reader, &name.span, "measures", help);
    }
    measures
        .iter()
        .map(|(name, sql)| {
            if values::name(name, NameOf::Column, reader)
                && groups.iter().any(|group| group.text == name.text)
            {
                reader.error(
                    Code::Name,
                    name.span.clone(),
                    format!("`{}` is a group column already", name.shown),
                    "groups and measures are columns of one table: give one of them another name",
                );
            }
            let Some(expressions) = expressions else {
                Expressions::parse(sql, reader);
                return None;
            };
            let meant = measure::measure(expressions, sql, reader)?;
            Some((name.text.as_str().into(), sql.text.trim().to_owned(), meant))
        })
        .collect()
}

/// What all tables of a pipeline are bound to.
pub(super) struct Binding<'b> {
    pub(super) expressions: &'b Expressions,
    pub(super) decoded: &'b SchemaRef,
    pub(super) event_time: &'b str,
    pub(super) pipeline_where: Option<&'b str>,
}

impl Binding<'_> {
    /// Binds a table's expressions to the decoded columns and lays out its states.
    pub(super) fn table(&self, table: &Typed) -> Result<TablePlan, DataFusionError> {
        let bind = |typed: &expression::Typed| self.expressions.bind(&typed.expr, self.decoded);
        let mut shape = TableShape {
            group_columns: table
                .groups
                .iter()
                .map(|(name, typed)| {
                    let field = Field::new(name.as_ref(), typed.data_type.clone(), typed.nullable);
                    Arc::new(field)
                })
                .collect(),
            states: Vec::new(),
            measures: Vec::new(),
        };
        let mut folds = Vec::new();
        let mut quantiles: Vec<(usize, &Measure)> = Vec::new();
        for (name, text, measure) in &table.measures {
            let shared = quantiles
                .iter()
                .find(|(_, other)| other.state_key() == measure.state_key())
                .map(|(state, _)| *state);
            let state = match shared {
                Some(state) => state,
                None => {
                    let state = shape.states.len();
                    if measure.kind == StateKind::DdSketch {
                        quantiles.push((state, measure));
                    }
                    shape.states.push(StateShape {
                        name: name.clone(),
                        kind: measure.kind,
                        data_type: measure.state_type.clone(),
                    });
                    folds.push(StateFold {
                        input: measure.input.as_ref().map(bind).transpose()?,
                        filter: measure.filter.as_ref().map(bind).transpose()?,
                    });
                    state
                }
            };
            shape.measures.push(MeasureShape {
                name: name.clone(),
                expression: text.clone(),
                state,
                finish: measure.finish,
                data_type: measure.finish.data_type(&measure.state_type),
            });
        }
        let group_by = table
            .groups
            .iter()
            .map(|(name, typed)| {
                Ok(GroupColumn {
                    name: name.clone(),
                    value: bind(typed)?,
                })
            })
            .collect::<Result<_, DataFusionError>>()?;
        Ok(TablePlan {
            name: table.name.clone(),
            window: table.window,
            filter: table.filter.as_ref().map(bind).transpose()?,
            group_by,
            folds,
            shape,
            partition_by: table.partition_by,
            keep: None,
            definition: self.definition(table),
        })
    }

    fn definition(&self, table: &Typed) -> String {
        let groups = table.groups.iter();
        let measures = table.measures.iter();
        TableDefinition {
            event_time: self.event_time,
            pipeline_where: self.pipeline_where,
            table_where: table.filter.as_ref().map(|filter| filter.text.as_str()),
            window: table.window,
            groups: groups
                .map(|(name, typed)| (name.as_ref(), typed.text.as_str()))
                .collect(),
            measures: measures
                .map(|(name, _, measure)| (name.as_ref(), measure.text.as_str()))
                .collect(),
        }
        .text()
    }
}
