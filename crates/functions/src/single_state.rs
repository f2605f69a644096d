//! One shape for all our aggregates: one state column whose type is the result's type. So what a
//! partial aggregation emits is already what a table stores. Owns the adapters from that shape to
//! DataFusion's traits; does not own what any aggregate computes.

use std::{fmt, hash::Hash, mem::size_of_val, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayAccessor, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder,
            BooleanArray, PrimitiveArray,
        },
        buffer::NullBuffer,
        datatypes::{DataType, Field, FieldRef},
    },
    common::{Result, ScalarValue, internal_err, not_impl_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature,
        Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::format_state_name,
    },
};

use crate::error::FunctionError;

/// The states of all groups of one aggregate.
pub(crate) trait States: Send + Sync + 'static {
    /// There are `total` groups from now on.
    fn grow(&mut self, total: usize);
    /// Folds the values of the given rows into their groups; a NULL value is never among them.
    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()>;
    /// The same for states that another instance emitted.
    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()>;
    /// Takes the first states out, in group order.
    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef>;
    /// Bytes on the heap, kept as a running sum.
    fn heap_size(&self) -> usize;
    /// The same aggregate without any group.
    fn fresh(&self) -> Box<dyn States>;
    /// A copy of all groups.
    fn copied(&self) -> Box<dyn States>;
}

/// Which rows of a batch belong to which group.
pub(crate) struct Rows<'a> {
    groups: &'a [usize],
    selected: Option<NullBuffer>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        values: &ArrayRef,
        groups: &'a [usize],
        filter: Option<&BooleanArray>,
    ) -> Self {
        // A filter that is NULL for a row selects it as little as one that is false.
        let filter = filter.map(|filter| {
            let holds = match filter.nulls() {
                Some(known) => filter.values() & known.inner(),
                None => filter.values().clone(),
            };
            NullBuffer::new(holds)
        });
        let valid = values.logical_nulls();
        Self {
            groups,
            selected: NullBuffer::union(valid.as_ref(), filter.as_ref())
                .filter(|selected| selected.null_count() > 0),
        }
    }

    /// Calls `fold` with each selected row's group and value.
    #[inline]
    pub(crate) fn for_each_item<A: ArrayAccessor>(
        &self,
        values: A,
        mut fold: impl FnMut(usize, A::Item) -> Result<()>,
    ) -> Result<()> {
        self.for_each(|row, group| fold(group, values.value(row)))
    }

    /// Calls `fold` with each selected row's group and bytes, whichever way they are laid out.
    pub(crate) fn for_each_bytes(
        &self,
        values: &ArrayRef,
        mut fold: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        match values.data_type() {
            DataType::Binary => self.for_each_item(values.as_binary::<i32>(), fold),
            DataType::LargeBinary => self.for_each_item(values.as_binary::<i64>(), fold),
            DataType::BinaryView => self.for_each_item(values.as_binary_view(), fold),
            DataType::FixedSizeBinary(_) => self.for_each_item(values.as_fixed_size_binary(), fold),
            DataType::Utf8 => self.for_each_item(values.as_string::<i32>(), |group, text| {
                fold(group, text.as_bytes())
            }),
            DataType::LargeUtf8 => self.for_each_item(values.as_string::<i64>(), |group, text| {
                fold(group, text.as_bytes())
            }),
            DataType::Utf8View => self.for_each_item(values.as_string_view(), |group, text| {
                fold(group, text.as_bytes())
            }),
            other => internal_err!("{other} has no bytes"),
        }
    }

    /// Calls `fold` with each selected row and its group.
    #[inline]
    pub(crate) fn for_each(&self, mut fold: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        match &self.selected {
            None => self
                .groups
                .iter()
                .enumerate()
                .try_for_each(|(row, &group)| fold(row, group)),
            Some(selected) => selected.try_for_each_valid_idx(|row| fold(row, self.groups[row])),
        }
    }

    /// Calls `fold` with the group and the value of each selected row.
    #[inline]
    pub(crate) fn for_each_value<T: ArrowPrimitiveType>(
        &self,
        values: &PrimitiveArray<T>,
        mut fold: impl FnMut(usize, T::Native) -> Result<()>,
    ) -> Result<()> {
        let values = values.values();
        match &self.selected {
            None => self
                .groups
                .iter()
                .zip(values.iter())
                .try_for_each(|(&group, &value)| fold(group, value)),
            Some(selected) => {
                selected.try_for_each_valid_idx(|row| fold(self.groups[row], values[row]))
            }
        }
    }
}

/// What one aggregate function is, beside its states.
pub(crate) trait Definition: fmt::Debug + Eq + Hash + Send + Sync + 'static {
    /// Its name in SQL.
    const NAME: &'static str;
    /// The type of states and result, from the type of the argument. Any type it accepts is taken
    /// as it is, without coercion, since a coerced type could have another result.
    fn state_type(input: &DataType) -> Result<DataType>;
    /// No groups yet, for arguments of this type.
    fn states(input: &DataType) -> Result<Box<dyn States>>;
    /// Whether a value that comes twice changes nothing, so that `DISTINCT` means nothing.
    const IDEMPOTENT: bool = false;
    /// The type of the state of `DISTINCT` values, which is not the result.
    fn distinct_state(_input: &DataType) -> Result<DataType> {
        not_impl_err!("{}(DISTINCT ...) is not supported", Self::NAME)
    }
    /// How `DISTINCT` values are folded, if they can be.
    fn distinct(_input: &DataType) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{}(DISTINCT ...) is not supported", Self::NAME)
    }
    /// How a moving window frame is computed, if it can be.
    fn sliding(_input: &DataType) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} cannot be used with a moving window frame", Self::NAME)
    }
}

/// The aggregate function that `D` defines.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleState<D> {
    definition: D,
    signature: Signature,
}

impl<D: Definition> SingleState<D> {
    pub(crate) fn udaf(definition: D) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::from(Self {
            definition,
            signature: Signature::user_defined(Volatility::Immutable),
        }))
    }
}

impl<D: Definition> AggregateUDFImpl for SingleState<D> {
    fn name(&self) -> &str {
        D::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        D::state_type(only(D::NAME, arg_types)?)?;
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        D::state_type(only(D::NAME, arg_types)?)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "state");
        let state = if args.is_distinct && !D::IDEMPOTENT {
            D::distinct_state(only(D::NAME, args.input_fields)?.data_type())?
        } else {
            args.return_type().clone()
        };
        Ok(vec![Arc::new(Field::new(name, state, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let input = input_type(D::NAME, &args)?;
        if args.is_distinct && !D::IDEMPOTENT {
            return D::distinct(input);
        }
        Ok(Box::new(OneGroup::new(D::states(input)?)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct || D::IDEMPOTENT
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::new(D::states(input_type(
            D::NAME,
            &args,
        )?)?)))
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("{}(DISTINCT ...) over a moving window frame", D::NAME);
        }
        D::sliding(input_type(D::NAME, &args)?)
    }
}

fn only<'a, T>(function: &str, arguments: &'a [T]) -> Result<&'a T> {
    match arguments {
        [argument] => Ok(argument),
        _ => {
            datafusion::common::plan_err!("{function} takes one argument, not {}", arguments.len())
        }
    }
}

fn input_type<'a>(function: &str, args: &'a AccumulatorArgs<'_>) -> Result<&'a DataType> {
    Ok(only(function, args.expr_fields)?.data_type())
}

/// All groups of one aggregate, as DataFusion's hash aggregation wants them.
pub(crate) struct Groups(Box<dyn States>);

impl Groups {
    pub(crate) fn new(states: Box<dyn States>) -> Self {
        Self(states)
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = column(values)?;
        self.0.grow(total_num_groups);
        self.0
            .update(values, &Rows::new(values, group_indices, opt_filter))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.emit(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.0.emit(emit_to)?])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let states = column(values)?;
        self.0.grow(total_num_groups);
        self.0
            .merge(states, &Rows::new(states, group_indices, None))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = column(values)?;
        let groups: Vec<usize> = (0..values.len()).collect();
        let mut states = self.0.fresh();
        states.grow(groups.len());
        states.update(values, &Rows::new(values, &groups, opt_filter))?;
        Ok(vec![states.emit(EmitTo::All)?])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.heap_size()
    }
}

/// One group, for aggregation without GROUP BY and for growing window frames.
pub(crate) struct OneGroup(Box<dyn States>);

impl OneGroup {
    pub(crate) fn new(mut states: Box<dyn States>) -> Self {
        states.grow(1);
        Self(states)
    }

    /// The state so far. A growing window frame asks after every row, so nothing is taken out.
    fn current(&self) -> Result<ScalarValue> {
        let mut states = self.0.copied();
        ScalarValue::try_from_array(&states.emit(EmitTo::All)?, 0)
    }
}

impl fmt::Debug for OneGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OneGroup").finish_non_exhaustive()
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = column(values)?;
        let groups = vec![0; values.len()];
        self.0.update(values, &Rows::new(values, &groups, None))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.current()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.heap_size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.current()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = column(states)?;
        let groups = vec![0; states.len()];
        self.0.merge(states, &Rows::new(states, &groups, None))
    }
}

fn column(columns: &[ArrayRef]) -> Result<&ArrayRef> {
    match columns {
        [column] => Ok(column),
        _ => internal_err!("an aggregate with one state got {} columns", columns.len()),
    }
}

/// A binary column of states; an error when they are too many bytes for one.
pub(crate) fn binary_array(
    function: &'static str,
    states: impl Iterator<Item = Option<Vec<u8>>>,
) -> Result<ArrayRef> {
    let mut array = BinaryBuilder::new();
    let mut bytes = 0;
    for state in states {
        bytes += state.as_ref().map_or(0, Vec::len);
        if i32::try_from(bytes).is_err() {
            return Err(FunctionError::TooLarge { function, bytes }.into());
        }
        array.append_option(state);
    }
    Ok(Arc::new(array.finish()))
}
