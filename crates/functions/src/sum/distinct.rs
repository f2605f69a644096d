//! `sum(DISTINCT x)`: the one aggregate whose state is not its result. Owns the set of values seen;
//! is never stored in a table.

use std::{collections::BTreeSet, marker::PhantomData, mem::size_of, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, PrimitiveArray},
        datatypes::{DataType, Field, FieldRef},
    },
    common::{Result, ScalarValue, internal_err, utils::SingleRowListArrayBuilder},
    logical_expr::Accumulator,
};

use super::{Total, overflow, widen};

/// The type of the state: a list of the values, as wide as their sum.
pub(super) fn state_type(sum_type: &DataType) -> DataType {
    DataType::List(item(sum_type))
}

fn item(sum_type: &DataType) -> FieldRef {
    Arc::new(Field::new_list_field(sum_type.clone(), true))
}

/// The values of one group. In order, so that a sum of doubles does not depend on chance.
#[derive(Debug)]
pub(super) struct DistinctSum<T: Total> {
    function: &'static str,
    data_type: DataType,
    values: BTreeSet<u128>,
    total: PhantomData<T>,
}

impl<T: Total> DistinctSum<T> {
    pub(super) fn new(function: &'static str, data_type: DataType) -> Self {
        Self {
            function,
            data_type,
            values: BTreeSet::new(),
            total: PhantomData,
        }
    }

    fn insert(&mut self, values: &PrimitiveArray<T>) {
        self.values.extend(values.iter().flatten().map(T::key));
    }
}

impl<T: Total> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.insert(&widen::<T>(&values[0], &self.data_type)?);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut total = T::Native::default();
        for &key in &self.values {
            total = T::plus(total, T::value(key))
                .ok_or_else(|| overflow(self.function, &self.data_type))?;
        }
        if !T::fits(total) {
            return Err(overflow(self.function, &self.data_type));
        }
        let total = (!self.values.is_empty()).then_some(total);
        ScalarValue::new_primitive::<T>(total, &self.data_type)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.len() * size_of::<u128>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = self.values.iter().map(|&key| T::value(key));
        let values = PrimitiveArray::<T>::from_iter_values(values);
        let values = Arc::new(values.with_data_type(self.data_type.clone()));
        let list = SingleRowListArrayBuilder::new(values).with_field(&item(&self.data_type));
        Ok(vec![list.build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Some(lists) = states[0].as_list_opt::<i32>() else {
            return internal_err!("a list of values, not {}", states[0].data_type());
        };
        for values in lists.iter().flatten() {
            self.insert(&widen::<T>(&values, &self.data_type)?);
        }
        Ok(())
    }
}
