//! An operator as it is, over other inputs.

use std::sync::Arc;

use datafusion::{
    common::Result,
    physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions},
};

/// The same operator over these inputs; what follows from inputs is derived anew.
///
/// # Errors
/// When the operator does not take them.
pub(crate) fn over_these(
    node: &Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    node.clone().replace_children(
        inputs,
        ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
    )
}
