//! Values that functions make: how large one may be, and that all of them count in the memory of their query.
//!
//! Owns the fence around every scalar function and the operator `||`, wherever they stand in a plan, and around long
//! constants and answers of subqueries, which operators repeat for each row. Operators count what they hold; what an expression makes for one batch
//! they do not see before it is there. So the bytes that an outcome will have are bounded before a function is called
//! ([`growth`]), taken from the memory of the query, and given back when the last array that shares them is gone.
//! Does not own rows that operators multiply ([`rows`]).

mod growth;
mod outcome;
pub(crate) mod rows;
mod sizes;

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use datafusion::{
    arrow::{
        array::RecordBatchOptions,
        datatypes::{DataType, Field, FieldRef, Schema},
        record_batch::RecordBatch,
    },
    common::{
        DFSchema, DFSchemaRef, Result, ScalarValue,
        config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions},
        plan_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{
        SessionState,
        memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    },
    logical_expr::{
        BinaryExpr, Cast, ColumnarValue, Documentation, Expr, ExprSchemable, ExpressionPlacement,
        LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, TryCast, Volatility,
        binary::BinaryTypeCoercer,
        expr_rewriter::NamePreserver,
        interval_arithmetic::Interval,
        preimage::PreimageResult,
        simplify::{ExprSimplifyResult, SimplifyContext},
        sort_properties::{ExprProperties, SortProperties},
    },
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule, analyzer::AnalyzerRule},
    physical_plan::{
        PhysicalExpr,
        expressions::{BinaryExpr as PhysicalBinaryExpr, Column, Literal},
    },
};

use growth::{Bounds, Growth};

/// Bytes of one value. Whatever is longer, some operator would repeat or copy.
const MOST_OF_ONE_VALUE: usize = 16 << 20;
/// Constants up to so many bytes are repeated for the rows of a batch without being counted.
const SHORT_CONSTANT: usize = 64;
/// Constants above so many bytes are counted as long as their query lives, ...
const LONG_CONSTANT: usize = 1 << 10;
/// ... as often as plans have copies of them.
const COPIES_OF_A_CONSTANT: usize = 4;

/// The memory of one query, where functions find it.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pool: Arc<dyn MemoryPool>,
    /// What is given back when the query ends.
    constants: Arc<MemoryReservation>,
    /// Whether the plan is to be read: then long constants stay the calls that they come from.
    is_explained: Arc<AtomicBool>,
}

impl Account {
    pub(crate) fn of(pool: &Arc<dyn MemoryPool>) -> Self {
        Self {
            pool: pool.clone(),
            constants: Arc::new(MemoryConsumer::new("constants").register(pool)),
            is_explained: Arc::default(),
        }
    }

    /// The account of the query that this state was made for.
    pub(crate) fn of_query(state: &SessionState) -> Option<&Self> {
        state.config_options().extensions.get()
    }

    /// The plan is made to be read.
    pub(crate) fn explains(&self) {
        self.is_explained.store(true, Ordering::Relaxed);
    }

    fn reservation(&self, function: &str) -> MemoryReservation {
        MemoryConsumer::new(format!("values of {function}")).register(&self.pool)
    }
}

impl ConfigExtension for Account {
    const PREFIX: &'static str = "alluvium_values";
}

impl ExtensionOptions for Account {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        plan_err!("{key} cannot be set")
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// Puts the fence around all functions of a state, and around those that its planner and optimizer put into plans.
///
/// # Errors
/// When the state does not take a function.
pub(crate) fn fence(state: &mut SessionState) -> Result<()> {
    use datafusion::execution::FunctionRegistry;
    let functions: Vec<_> = state.scalar_functions().values().cloned().collect();
    for function in functions {
        if !function.inner().is::<Fenced>() {
            state.register_udf(fenced(function))?;
        }
    }
    state.add_analyzer_rule(Arc::new(FenceFunctions));
    Ok(())
}

/// The last rule of the optimizer.
pub(crate) fn fence_constants() -> Arc<dyn OptimizerRule + Send + Sync> {
    Arc::new(FenceConstants)
}

/// The same function behind the fence.
fn fenced(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let is_inside = function.inner().is::<Fenced>() || function.inner().is::<Repeated>();
    // Readers of files know these by their type; what they answer is a part of what is there.
    let is_known = ["get_field", "input_file_name", "file_row_index"].contains(&function.name());
    if is_inside || is_known {
        return function;
    }
    Arc::new(ScalarUDF::from(Fenced {
        growth: Growth::of(function.name()),
        function,
    }))
}

/// A function whose outcome is bounded and counted.
#[derive(PartialEq, Eq, Hash)]
struct Fenced {
    function: Arc<ScalarUDF>,
    growth: Growth,
}

impl fmt::Debug for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Messages show it as the function that was asked for.
        self.function.inner().fmt(f)
    }
}

impl Fenced {
    fn call(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let account = args.config_options.extensions.get::<Account>().cloned();
        let (name, rows) = (self.function.name(), args.number_rows);
        let pieces = match Bounds::of(self.growth, name, &args)? {
            Bounds::Small => {
                let outcome = self.function.invoke_with_args(args)?;
                return outcome::counted(name, outcome, rows, account.as_ref(), None);
            }
            Bounds::Exact(bytes) => {
                let taken = outcome::take(name, account.as_ref(), bytes)?;
                let outcome = self.function.invoke_with_args(args)?;
                return outcome::counted(name, outcome, rows, account.as_ref(), taken);
            }
            Bounds::Pieces(pieces) => pieces,
        };
        outcome::in_pieces(name, &pieces, &args, account.as_ref(), |args| {
            self.function.invoke_with_args(args)
        })
    }
}

impl ScalarUDFImpl for Fenced {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.function.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let function = self.function.inner().with_updated_config(config)?;
        Some(ScalarUDF::from(Self {
            function: Arc::new(function),
            growth: self.growth,
        }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.function.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.call(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match self.function.simplify(args, info)? {
            // What it becomes may be another function.
            ExprSimplifyResult::Simplified(expr) => {
                ExprSimplifyResult::Simplified(expr.transform_up(behind_the_fence)?.data)
            }
            original => original,
        })
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.function.preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.function.short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.function.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.function.evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.function.propagate_constraints(interval, inputs)
    }

    fn struct_field_mapping(
        &self,
        literals: &[Option<ScalarValue>],
    ) -> Option<datafusion::logical_expr::StructFieldMapping> {
        self.function.struct_field_mapping(literals)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.function.placement(args)
    }
}

/// Rewrites every expression of a plan, once types are settled and before constants are computed.
#[derive(Debug)]
struct FenceFunctions;

impl AnalyzerRule for FenceFunctions {
    fn name(&self) -> &str {
        "fence_functions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let fenced = plan.transform_up_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            let inputs = node.inputs().into_iter();
            let inputs: Vec<DFSchemaRef> = inputs.map(|input| input.schema().clone()).collect();
            node.map_expressions(|expr| {
                // Functions that a query names are fenced already.
                if !expr.exists(|part| Ok(is_outside(part)))? {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                let fenced = expr.transform_up(|part| match is_written_out(&part, &inputs) {
                    true => Ok(Transformed::yes(written_out(part))),
                    false => behind_the_fence(part),
                })?;
                Ok(fenced.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(fenced.data)
    }
}

/// Whether it may have to be put behind the fence.
fn is_outside(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(function) => !function.func.inner().is::<Fenced>(),
        Expr::BinaryExpr(operation) => operation.op == Operator::StringConcat,
        Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => {
            field.data_type().is_string()
        }
        _ => false,
    }
}

fn behind_the_fence(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(mut function) => {
            let fenced = fenced(function.func.clone());
            let is_other = !Arc::ptr_eq(&fenced, &function.func);
            function.func = fenced;
            Transformed::new_transformed(Expr::ScalarFunction(function), is_other)
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::StringConcat,
            right,
        }) => {
            let joined = fenced(Arc::new(ScalarUDF::from(Joined::default())));
            Transformed::yes(joined.call(vec![*left, *right]))
        }
        other => Transformed::no(other),
    })
}

/// Whether it makes texts of lists or records, which have several times their bytes.
fn is_written_out(expr: &Expr, inputs: &[DFSchemaRef]) -> bool {
    let (Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })) = expr else {
        return false;
    };
    if !field.data_type().is_string() {
        return false;
    }
    let mut columns = DFSchema::empty();
    for input in inputs {
        columns.merge(input);
    }
    // What has no type here comes from outside of a subquery, which will be a join.
    let data_type = expr.get_type(&columns);
    data_type.is_ok_and(|data_type| data_type.is_nested())
}

fn written_out(expr: Expr) -> Expr {
    match expr {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            let cast = WrittenOut {
                signature: Signature::any(1, Volatility::Immutable),
                text: field.data_type().clone(),
            };
            fenced(Arc::new(ScalarUDF::from(cast))).call(vec![*expr])
        }
        other => other,
    }
}

/// The names of arguments, for functions that must not show in the name of a column.
fn names(args: &[Expr], between: &str) -> String {
    let names: Vec<String> = args
        .iter()
        .map(|value| value.schema_name().to_string())
        .collect();
    names.join(between)
}

/// `CAST(list AS VARCHAR)` as a function, so that it can be fenced as one. Every list can be written out, so `TRY_CAST` is the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WrittenOut {
    signature: Signature,
    text: DataType,
}

impl ScalarUDFImpl for WrittenOut {
    fn name(&self) -> &str {
        "cast"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(names(args, ""))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.text.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [value] => value.cast_to(&self.text, None),
            _ => plan_err!("CAST takes one value, not {}", args.args.len()),
        }
    }
}

/// `||` as a function, so that it can be fenced as one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined(Signature);

impl Default for Joined {
    fn default() -> Self {
        Self(Signature::user_defined(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(names(args, " || "))
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [left, right] => {
                BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type()
            }
            _ => plan_err!("|| takes two values, not {}", arg_types.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let are_constant = args
            .args
            .iter()
            .all(|side| matches!(side, ColumnarValue::Scalar(_)));
        let rows = if are_constant { 1 } else { args.number_rows };
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        let mut sides: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for side in args.args {
            sides.push(match side {
                ColumnarValue::Scalar(value) => Arc::new(Literal::new(value)),
                ColumnarValue::Array(array) => {
                    fields.push(Field::new("side", array.data_type().clone(), true));
                    columns.push(array);
                    Arc::new(Column::new("side", columns.len() - 1))
                }
            });
        }
        let [left, right] = sides.as_slice() else {
            return plan_err!("|| takes two values, not {}", sides.len());
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
        let joined = PhysicalBinaryExpr::new(left.clone(), Operator::StringConcat, right.clone());
        let joined = joined.evaluate(&batch)?;
        match (are_constant, joined) {
            (true, ColumnarValue::Array(array)) => {
                ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar)
            }
            (_, joined) => Ok(joined),
        }
    }
}

/// Keeps long constants behind a function, which repeats them in counted memory.
///
/// Constants are what folding left of an expression: without it, an operator makes one copy for each row of a batch.
#[derive(Debug)]
struct FenceConstants;

impl OptimizerRule for FenceConstants {
    fn name(&self) -> &str {
        "fence_constants"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        // These repeat nothing.
        if matches!(
            plan,
            LogicalPlan::TableScan(_) | LogicalPlan::Values(_) | LogicalPlan::Limit(_)
        ) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            if !expr.exists(|part| Ok(is_long(part)))? {
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            let fenced = fence_constant(expr)?.transform_data(|expr| {
                expr.transform_down(|part| {
                    Ok(match part {
                        // They take a constant as it is.
                        Expr::ScalarFunction(_)
                        | Expr::BinaryExpr(_)
                        | Expr::InList(_)
                        | Expr::Like(_)
                        | Expr::SimilarTo(_)
                        | Expr::Between(_)
                        | Expr::AggregateFunction(_)
                        | Expr::WindowFunction(_) => Transformed::no(part),
                        part => part.map_children(fence_constant)?,
                    })
                })
            })?;
            Ok(fenced.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Of a subquery that answers one value it is known only later.
fn is_long(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => outcome::size(value) > SHORT_CONSTANT,
        Expr::ScalarSubquery(subquery) => {
            let mut columns = subquery.subquery.schema().fields().iter();
            columns.any(|column| !column.data_type().is_primitive())
        }
        _ => false,
    }
}

fn fence_constant(expr: Expr) -> Result<Transformed<Expr>> {
    if !is_long(&expr) {
        return Ok(Transformed::no(expr));
    }
    let repeated = ScalarUDF::from(Repeated::default());
    Ok(Transformed::new(
        repeated.call(vec![expr]),
        true,
        TreeNodeRecursion::Jump,
    ))
}

/// A long constant, once for each row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Repeated(Signature);

impl Default for Repeated {
    fn default() -> Self {
        // What is not volatile is computed again while files are opened, and would be a plain constant then.
        Self(Signature::any(1, Volatility::Volatile))
    }
}

impl ScalarUDFImpl for Repeated {
    fn name(&self) -> &str {
        "constant"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(names(args, ""))
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [value] => Ok(value.clone()),
            _ => plan_err!("a constant is one value, not {}", arg_types.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [value] => Ok(value.clone()),
            _ => plan_err!("a constant is one value, not {}", args.arg_fields.len()),
        }
    }

    /// As cheap as what it keeps: rows are not dealt out to several threads for its sake, which would change their order.
    fn placement(&self, _: &[ExpressionPlacement]) -> ExpressionPlacement {
        ExpressionPlacement::Literal
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let account = args.config_options.extensions.get::<Account>();
        match args.args.pop() {
            Some(ColumnarValue::Scalar(value)) if outcome::size(&value) > SHORT_CONSTANT => {
                outcome::repeated("a constant", &value, args.number_rows, account)
            }
            Some(value) => Ok(value),
            None => plan_err!("a constant is one value, not none"),
        }
    }
}
