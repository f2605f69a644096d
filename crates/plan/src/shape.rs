//! What a table stores and what it answers: for each measure the state it is kept in, how states
//! merge, and how a merged state becomes the final value.
//!
//! A stored table describes itself: [`TableShape::pane_schema`] writes everything into field
//! metadata and [`TableShape::from_pane_schema`] reads it back, so no pipeline file is needed to
//! read a table.

use std::{collections::HashMap, sync::Arc};

use alluvium_functions as functions;
use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit},
    logical_expr::{AggregateUDF, Expr, lit},
};
use serde::{Deserialize, Serialize};

/// Key of the field metadata that describes a state column.
const STATE_METADATA: &str = "alluvium.state";
/// Key of the field metadata that lists the measures of a state column.
const MEASURE_METADATA: &str = "alluvium.measure";

/// The mergeable state that a measure is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// Rows or values counted, `bigint`, never NULL.
    Count,
    /// A sum that never wraps; NULL when there was no value.
    Sum,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// `struct<sum, count>`.
    Avg,
    /// An Apache DataSketches HLL8 sketch.
    Hll,
    /// A DDSketch of relative error 1 % in Datadog's encoding.
    DdSketch,
}

impl StateKind {
    /// The aggregate that folds values (of `count`: of any type) into a state. Its only state field
    /// and its result both are the stored state.
    pub fn fold(self) -> Arc<AggregateUDF> {
        match self {
            Self::Count => datafusion::functions_aggregate::count::count_udaf(),
            Self::Sum => functions::sum(),
            Self::Min => functions::min(),
            Self::Max => functions::max(),
            Self::Avg => functions::avg_state(),
            Self::Hll => functions::hll_sketch_agg(),
            Self::DdSketch => functions::ddsketch_agg(),
        }
    }

    /// The aggregate that merges stored states: same type in and out, NULL states are passed over,
    /// associative and commutative.
    pub fn merge(self) -> Arc<AggregateUDF> {
        match self {
            Self::Count | Self::Sum => functions::sum_merge(),
            Self::Min => functions::min(),
            Self::Max => functions::max(),
            Self::Avg => functions::avg_merge(),
            Self::Hll => functions::hll_union_agg(),
            Self::DdSketch => functions::ddsketch_merge(),
        }
    }

    /// Whether merging a state with itself changes nothing, so that overlapping windows may be merged.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Min | Self::Max | Self::Hll)
    }
}

/// One stored state column.
#[derive(Clone, Debug, PartialEq)]
pub struct StateShape {
    /// The column's name, fixed when the table is created.
    pub name: Arc<str>,
    /// How it merges.
    pub kind: StateKind,
    /// Its stored type.
    pub data_type: DataType,
}

/// How a merged state becomes a final value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The state is the value.
    Value,
    /// Sum divided by count.
    Average,
    /// The sketch's estimate of distinct values.
    Distinct,
    /// The value at this rank, between 0 and 1.
    Quantile(f64),
}

/// One measure as analysts see it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureShape {
    /// Its name.
    pub name: Arc<str>,
    /// The expression in the pipeline file.
    pub expression: String,
    /// Position of its state in [`TableShape::states`].
    pub state: usize,
    /// How its state becomes its value.
    pub finish: Finish,
    /// The type of its value.
    pub data_type: DataType,
}

/// The stored and the visible side of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableShape {
    /// The group columns, in order; without metadata.
    pub group_columns: Vec<FieldRef>,
    /// The stored states, in order.
    pub states: Vec<StateShape>,
    /// The measures, in file order.
    pub measures: Vec<MeasureShape>,
}

/// A stored schema that does not describe a pane table.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// A window column is missing or has another type.
    #[error("this is not a table of panes: its column {0} is missing or has another type")]
    NoWindow(&'static str),
    /// A state column's metadata cannot be read.
    #[error("the metadata of column {column} cannot be read: {source}")]
    Metadata {
        /// The column.
        column: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct StateMetadata {
    kind: StateKind,
}

#[derive(Serialize, Deserialize)]
struct MeasureMetadata {
    /// Position among the table's measures.
    position: usize,
    name: String,
    expression: String,
    finish: Finish,
}

impl TableShape {
    /// The name of the first window column.
    pub const WINDOW_START: &str = "window_start";
    /// The name of the second window column.
    pub const WINDOW_END: &str = "window_end";
    /// The name of the column that says whether a window is complete.
    pub const FINAL: &str = "final";

    /// The type of the window columns: microseconds in UTC.
    pub fn window_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    /// The schema of panes in memory and in storage: `window_start`, `window_end`, the group columns, one
    /// column a state; states carry metadata. A partition column is not in it.
    pub fn pane_schema(&self) -> SchemaRef {
        let mut fields: Vec<FieldRef> = vec![
            Arc::new(Field::new(Self::WINDOW_START, Self::window_type(), false)),
            Arc::new(Field::new(Self::WINDOW_END, Self::window_type(), false)),
        ];
        fields.extend(self.group_columns.iter().cloned());
        fields.extend(self.states.iter().enumerate().map(|(position, state)| {
            let nullable = state.kind != StateKind::Count;
            let field = Field::new(state.name.as_ref(), state.data_type.clone(), nullable)
                .with_metadata(self.state_metadata(position));
            Arc::new(field)
        }));
        Arc::new(Schema::new(fields))
    }

    fn state_metadata(&self, position: usize) -> HashMap<String, String> {
        let kind = StateMetadata {
            kind: self.states[position].kind,
        };
        let measures: Vec<_> = self
            .measures
            .iter()
            .enumerate()
            .filter(|(_, measure)| measure.state == position)
            .map(|(position, measure)| MeasureMetadata {
                position,
                name: measure.name.to_string(),
                expression: measure.expression.clone(),
                finish: measure.finish,
            })
            .collect();
        let text = |value: serde_json::Result<String>| value.expect("plain structs become JSON");
        HashMap::from([
            (STATE_METADATA.into(), text(serde_json::to_string(&kind))),
            (
                MEASURE_METADATA.into(),
                text(serde_json::to_string(&measures)),
            ),
        ])
    }

    /// Reads a shape back from a stored schema. Columns whose name begins with `_` (partition columns) are
    /// passed over.
    ///
    /// # Errors
    /// [`ShapeError`] when the schema was not made by [`Self::pane_schema`].
    pub fn from_pane_schema(schema: &Schema) -> Result<Self, ShapeError> {
        for name in [Self::WINDOW_START, Self::WINDOW_END] {
            let known = schema.field_with_name(name).is_ok_and(|field| {
                matches!(
                    field.data_type(),
                    DataType::Timestamp(TimeUnit::Microsecond, Some(_))
                )
            });
            if !known {
                return Err(ShapeError::NoWindow(name));
            }
        }
        let mut shape = Self {
            group_columns: Vec::new(),
            states: Vec::new(),
            measures: Vec::new(),
        };
        let mut measures = Vec::new();
        for field in schema.fields() {
            let name = field.name();
            if name == Self::WINDOW_START || name == Self::WINDOW_END || name.starts_with('_') {
                continue;
            }
            let Some(state) = field.metadata().get(STATE_METADATA) else {
                shape.group_columns.push(Arc::new(Field::new(
                    name,
                    field.data_type().clone(),
                    field.is_nullable(),
                )));
                continue;
            };
            let unreadable = |source| ShapeError::Metadata {
                column: name.clone(),
                source,
            };
            let StateMetadata { kind } = serde_json::from_str(state).map_err(unreadable)?;
            let listed: Vec<MeasureMetadata> = field
                .metadata()
                .get(MEASURE_METADATA)
                .map_or(Ok(Vec::new()), |text| serde_json::from_str(text))
                .map_err(unreadable)?;
            let position = shape.states.len();
            measures.extend(listed.into_iter().map(|measure| (position, measure)));
            shape.states.push(StateShape {
                name: name.as_str().into(),
                kind,
                data_type: field.data_type().clone(),
            });
        }
        measures.sort_by_key(|(_, measure)| measure.position);
        shape.measures = measures
            .into_iter()
            .map(|(state, measure)| MeasureShape {
                name: measure.name.into(),
                expression: measure.expression,
                state,
                finish: measure.finish,
                data_type: measure.finish.data_type(&shape.states[state].data_type),
            })
            .collect();
        Ok(shape)
    }
}

impl Finish {
    /// The type of the final value made from a state of type `state`.
    pub fn data_type(self, state: &DataType) -> DataType {
        match self {
            Self::Value => state.clone(),
            Self::Distinct => DataType::Int64,
            Self::Quantile(_) => DataType::Float64,
            Self::Average => functions::average_type(state),
        }
    }

    /// The expression that makes the final value from a merged state.
    pub fn expression(self, state: Expr) -> Expr {
        match self {
            Self::Value => state,
            Self::Average => functions::avg_finish().call(vec![state]),
            Self::Distinct => functions::hll_sketch_estimate().call(vec![state]),
            Self::Quantile(rank) => functions::ddsketch_quantile().call(vec![state, lit(rank)]),
        }
    }
}
