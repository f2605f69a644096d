//! `measure()`, a mark that an analyzer rule replaces by a merge of stored states. Owns its name
//! and the refusal to run; does not own the rule.

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::datatypes::DataType,
    common::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::AccumulatorArgs,
    },
};

use crate::error::FunctionError;

/// `measure(m)`: a measure of an Alluvium table at any coarser grain. It has the type of its
/// argument and cannot be executed: a rule of the query layer must have replaced it.
pub fn measure() -> Arc<AggregateUDF> {
    static MEASURE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
        Arc::new(AggregateUDF::from(Measure {
            signature: Signature::any(1, Volatility::Immutable),
        }))
    });
    Arc::clone(&MEASURE)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Measure {
    signature: Signature,
}

impl AggregateUDFImpl for Measure {
    fn name(&self) -> &str {
        "measure"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Err(FunctionError::UnresolvedMeasure.into())
    }
}
