//! Arrow values as cells of a printed table: as the HTTP door's answers have them, so that an answer is the same
//! whichever way it was asked for.

use alluvium_query::QueryError;
pub(crate) use alluvium_serve::http::json_values as values;
use datafusion::arrow::{array::RecordBatch, datatypes::SchemaRef};
use serde_json::Value;

use crate::output::Sheet;

/// All rows of `batches` under the columns of `schema`.
///
/// # Errors
/// When a value has no text form.
pub(crate) fn sheet(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Sheet, QueryError> {
    let mut sheet = Sheet::new(schema.fields().iter().map(|field| field.name().as_str()));
    for batch in batches {
        let columns: Vec<Vec<Value>> = batch
            .columns()
            .iter()
            .map(|column| values(column.as_ref()))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            sheet.push(columns.iter().map(|column| column[row].clone()).collect());
        }
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::Int64Array,
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    #[test]
    fn batches_become_one_sheet() {
        let schema: SchemaRef =
            Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = |values: Vec<i64>| {
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(values))]).unwrap()
        };
        let sheet = sheet(&schema, &[batch(vec![1, 2]), batch(vec![3])]).unwrap();
        assert_eq!(sheet.len(), 3);
    }
}
