//! One shape for our scalar functions: arrays in, an array out. Owns the adapter to DataFusion's
//! trait; does not own what any function computes.

use std::{fmt, hash::Hash, sync::Arc};

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    common::{Result, ScalarValue},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

/// What one scalar function is.
pub(crate) trait Definition: fmt::Debug + Eq + Hash + Send + Sync + 'static {
    /// Its name in SQL.
    const NAME: &'static str;
    /// The types that arguments of these types are cast to.
    fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>>;
    /// The type of the result, from coerced arguments.
    fn result_type(arguments: &[DataType]) -> Result<DataType>;
    /// The result for arguments of equal length.
    fn call(arguments: &[ArrayRef]) -> Result<ArrayRef>;
}

/// The scalar function that `D` defines.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scalar<D> {
    definition: D,
    signature: Signature,
}

impl<D: Definition> Scalar<D> {
    pub(crate) fn udf(definition: D) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::from(Self {
            definition,
            signature: Signature::user_defined(Volatility::Immutable),
        }))
    }
}

impl<D: Definition> ScalarUDFImpl for Scalar<D> {
    fn name(&self) -> &str {
        D::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        D::coerce(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        D::result_type(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let result = D::call(&arrays)?;
        if constant {
            let value = ScalarValue::try_from_array(&result, 0)?;
            return Ok(ColumnarValue::Scalar(value));
        }
        Ok(ColumnarValue::Array(result))
    }
}
