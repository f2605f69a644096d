//! SQL expressions: parsed, checked and typed against the event schema, bound to the decoded columns.
//!
//! Owns what an expression may be: a function of one event and nothing else (P5), failing instead of
//! wrapping (P6). Does not own what it is used for; measures are in `measure`.

mod check;
mod error;

pub(crate) use error::{plain, type_name};

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions, timezone::Tz},
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    common::{
        DFSchema, DFSchemaRef, DataFusionError, ScalarValue, plan_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{
        BinaryExpr as LogicalBinary, Cast, Expr, ExprSchemable, Operator, TryCast,
        execution_props::ExecutionProps,
        physical_planning_context::PhysicalPlanningContext,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
    optimizer::simplify_expressions::ExprSimplifier,
    physical_expr::{PhysicalExpr, create_physical_expr, expressions::BinaryExpr},
    prelude::SessionConfig,
    sql::{
        parser::DFParserBuilder,
        sqlparser::{
            ast::{self, Spanned as _, VisitMut, VisitorMut},
            dialect::GenericDialect,
        },
    },
};

use crate::{TableShape, diagnostic::Code, plan::EventColumn, reader::Reader, tree::Scalar};

/// Deeper than any expression a person writes, far below what a thread's stack bears.
const MAX_NESTING: usize = 40;
/// More text than any expression a person writes.
const MAX_LENGTH: usize = 16 * 1024;

/// An expression with its type.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    /// Coerced, over the event schema.
    pub(crate) expr: Expr,
    pub(crate) data_type: DataType,
    pub(crate) nullable: bool,
    /// Its canonical text: comments, spaces and the case of unquoted names do not matter.
    pub(crate) text: String,
}

/// Plans expressions over one event schema.
#[derive(Debug)]
pub(crate) struct Expressions {
    state: SessionState,
    schema: DFSchemaRef,
    columns: Vec<Arc<str>>,
}

/// An SQL text in a file.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) sql: &'a Scalar,
}

impl Source<'_> {
    /// The place in the file of a stretch of the SQL text, as the SQL parser counts lines and columns.
    pub(crate) fn place(
        self,
        reader: &Reader<'_>,
        span: datafusion::sql::sqlparser::tokenizer::Span,
    ) -> Range<usize> {
        let offset = |line: u64, column: u64| {
            let text = &self.sql.text;
            let mut start = 0;
            for _ in 1..line {
                start += text[start..].find('\n')? + 1;
            }
            let within: usize = text[start..]
                .chars()
                .take(usize::try_from(column).ok()?.checked_sub(1)?)
                .map(char::len_utf8)
                .sum();
            Some(start + within)
        };
        let stretch = offset(span.start.line, span.start.column)
            .zip(offset(span.end.line, span.end.column))
            .filter(|_| span.start.line > 0);
        match stretch {
            Some((start, end)) => self.sql.place(reader.file, start..end.max(start + 1)),
            None => self.sql.span.clone(),
        }
    }
}

impl Expressions {
    pub(crate) fn new(columns: &[EventColumn]) -> Self {
        let mut config = SessionConfig::new();
        let options = &mut config.options_mut().sql_parser;
        options.map_string_types_to_utf8view = false;
        options.collect_spans = true;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .build();
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let schema = DFSchema::try_from(Schema::new(fields))
            .expect("the schema reader refuses two columns of one name");
        Self {
            state,
            schema: Arc::new(schema),
            columns: columns.iter().map(|column| column.name.clone()).collect(),
        }
    }

    /// The syntax of `sql`, or what is wrong with it.
    pub(crate) fn parse(sql: &Scalar, reader: &mut Reader<'_>) -> Option<ast::Expr> {
        if sql.text.trim().is_empty() {
            let help = "write an SQL expression over the columns of the schema";
            reader.error(
                Code::Expression,
                sql.span.clone(),
                "this expression is empty",
                help,
            );
            return None;
        }
        if sql.text.len() > MAX_LENGTH {
            let message = format!("this expression is longer than {MAX_LENGTH} bytes");
            reader.error(Code::Expression, sql.span.clone(), message, "split it up");
            return None;
        }
        let parsed = DFParserBuilder::new(sql.text.as_str())
            .with_dialect(&GenericDialect {})
            .with_recursion_limit(MAX_NESTING)
            .build()
            .and_then(|mut parser| parser.parse_into_expr());
        match parsed {
            Ok(ast::ExprWithAlias { expr, alias: None }) => Some(expr),
            Ok(ast::ExprWithAlias {
                alias: Some(alias), ..
            }) => {
                let place = Source { sql }.place(reader, alias.span);
                reader.error(
                    Code::Expression,
                    place,
                    "an expression has no name of its own here",
                    "the name stands before the colon; is an operator or a comma missing?",
                );
                None
            }
            Err(error) => {
                error::syntax(Source { sql }, &error, reader);
                None
            }
        }
    }

    /// A value of one event: typed, without aggregates, clocks or subqueries.
    pub(crate) fn value(&self, sql: &Scalar, reader: &mut Reader<'_>) -> Option<Typed> {
        let parsed = Self::parse(sql, reader)?;
        self.typed(Source { sql }, parsed, reader)
    }

    /// A condition on one event.
    pub(crate) fn condition(&self, sql: &Scalar, reader: &mut Reader<'_>) -> Option<Typed> {
        let parsed = Self::parse(sql, reader)?;
        self.typed_condition(Source { sql }, parsed, reader)
    }

    pub(crate) fn typed_condition(
        &self,
        source: Source<'_>,
        parsed: ast::Expr,
        reader: &mut Reader<'_>,
    ) -> Option<Typed> {
        let place = source.place(reader, parsed.span());
        let typed = self.typed(source, parsed, reader)?;
        if typed.data_type == DataType::Boolean {
            return Some(typed);
        }
        let message = format!(
            "this is {}, not a condition",
            error::type_name(&typed.data_type)
        );
        let help = "compare it with something: column = 'value', column > 0, column is not null";
        reader.error(Code::Expression, place, message, help);
        None
    }

    /// Checks and types a parsed expression.
    pub(crate) fn typed(
        &self,
        source: Source<'_>,
        parsed: ast::Expr,
        reader: &mut Reader<'_>,
    ) -> Option<Typed> {
        if !check::event_only(self, source, &parsed, reader) {
            return None;
        }
        let text = canonical(&parsed);
        match self.plan(&parsed) {
            Ok((expr, data_type, nullable)) => Some(Typed {
                expr,
                data_type,
                nullable,
                text,
            }),
            Err(error) => {
                error::typing(self, source, &parsed, &error, reader);
                None
            }
        }
    }

    /// Types an expression by DataFusion's rules.
    fn plan(&self, parsed: &ast::Expr) -> Result<(Expr, DataType, bool), DataFusionError> {
        let with_alias = ast::ExprWithAlias {
            expr: parsed.clone(),
            alias: None,
        };
        let expr = self
            .state
            .create_logical_expr_from_sql_expr(with_alias, &self.schema)?;
        let context = SimplifyContext::builder()
            .with_schema(self.schema.clone())
            .with_config_options(self.state.config_options().clone())
            .build();
        let expr = ExprSimplifier::new(context.clone()).coerce(expr, &self.schema)?;
        // Some functions (coalesce) exist only as their rewritten form. Nothing else is simplified:
        // folding constants would wrap where a running expression fails, and drop what must fail (P6).
        let expr = expr
            .transform_up(|expr| match expr {
                Expr::ScalarFunction(call) => {
                    let function = call.func.clone();
                    Ok(match function.simplify(call.args, &context)? {
                        ExprSimplifyResult::Simplified(expr) => Transformed::yes(expr),
                        ExprSimplifyResult::Original(args) => Transformed::no(function.call(args)),
                    })
                }
                expr => Ok(Transformed::no(expr)),
            })?
            .data;
        let expr = ExprSimplifier::new(context).coerce(expr, &self.schema)?;
        let expr = expr
            .transform_up(|expr| match expr {
                // DataFusion's negation wraps; its subtraction can be told to fail (P6).
                Expr::Negative(inner) => {
                    let data_type = inner.get_type(&self.schema)?;
                    if !data_type.is_integer() {
                        return Ok(Transformed::no(Expr::Negative(inner)));
                    }
                    let zero = ScalarValue::new_zero(&data_type)?;
                    Ok(Transformed::yes(Expr::BinaryExpr(LogicalBinary::new(
                        Box::new(Expr::Literal(zero, None)),
                        Operator::Minus,
                        inner,
                    ))))
                }
                expr => Ok(Transformed::no(expr)),
            })?
            .data;
        let data_type = expr.get_type(&self.schema)?;
        let nullable = expr.nullable(&self.schema)?;
        // Binding can still refuse what typing let pass.
        self.bind_to(&expr, &self.schema)?;
        self.try_constants(&expr)?;
        Ok((expr, data_type, nullable))
    }

    /// Runs every part that depends on no column, and looks up every time zone: what fails there fails for
    /// every event.
    fn try_constants(&self, expr: &Expr) -> Result<(), DataFusionError> {
        let one_row = RecordBatch::try_new_with_options(
            Arc::new(Schema::empty()),
            Vec::new(),
            &RecordBatchOptions::new().with_row_count(Some(1)),
        )?;
        expr.apply(|part| {
            if let Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) = part
                && let DataType::Timestamp(_, Some(zone)) = field.data_type()
                && zone.parse::<Tz>().is_err()
            {
                return plan_err!("unknown time zone `{zone}`");
            }
            if matches!(part, Expr::Literal(..)) || Self::used(part).next().is_some() {
                return Ok(TreeNodeRecursion::Continue);
            }
            self.bind_to(part, &DFSchema::empty())?.evaluate(&one_row)?;
            Ok(TreeNodeRecursion::Jump)
        })?;
        Ok(())
    }

    /// Casts to a type that a table can store; `None` where there is none.
    pub(crate) fn storable(&self, typed: Typed) -> Option<Typed> {
        let target = match &typed.data_type {
            DataType::Utf8
            | DataType::Int32
            | DataType::Int64
            | DataType::Float64
            | DataType::Boolean
            | DataType::Date32 => typed.data_type.clone(),
            DataType::Decimal128(_, scale) if *scale >= 0 => typed.data_type.clone(),
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::Dictionary(_, value)
                if matches!(**value, DataType::Utf8 | DataType::Utf8View) =>
            {
                DataType::Utf8
            }
            DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => {
                DataType::Int32
            }
            DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            DataType::Float16 | DataType::Float32 => DataType::Float64,
            DataType::Date64 => DataType::Date32,
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale)
                if *scale >= 0 =>
            {
                DataType::Decimal128(*precision, *scale)
            }
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
                typed.data_type.clone()
            }
            DataType::Timestamp(..) => TableShape::window_type(),
            _ => return None,
        };
        Some(typed.cast(target))
    }

    /// The columns of the event schema that `expr` reads.
    pub(crate) fn used(expr: &Expr) -> impl Iterator<Item = String> {
        let mut names = Vec::new();
        // The closure never fails, so neither does the walk.
        let _ = expr.apply(|expr| {
            if let Expr::Column(column) = expr {
                names.push(column.name.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        names.into_iter()
    }

    /// Binds an expression to a schema that holds the columns it reads.
    pub(crate) fn bind(
        &self,
        expr: &Expr,
        decoded: &SchemaRef,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        self.bind_to(expr, &DFSchema::try_from(decoded.clone())?)
    }

    fn bind_to(
        &self,
        expr: &Expr,
        schema: &DFSchema,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let bound = create_physical_expr(
            expr,
            schema,
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        )?;
        // Integer arithmetic fails on overflow instead of wrapping (P6).
        let bound = bound.transform_up(|expr| {
            let Some(binary) = expr.downcast_ref::<BinaryExpr>() else {
                return Ok(Transformed::no(expr));
            };
            if !matches!(
                binary.op(),
                Operator::Plus | Operator::Minus | Operator::Multiply
            ) {
                return Ok(Transformed::no(expr));
            }
            let checked =
                BinaryExpr::new(binary.left().clone(), *binary.op(), binary.right().clone())
                    .with_fail_on_overflow(true);
            Ok(Transformed::yes(Arc::new(checked) as Arc<dyn PhysicalExpr>))
        })?;
        Ok(bound.data)
    }

    pub(crate) fn is_aggregate(&self, name: &str) -> bool {
        self.state.aggregate_functions().contains_key(name)
    }

    pub(crate) fn is_scalar(&self, name: &str) -> bool {
        self.state.scalar_functions().contains_key(name)
    }
}

impl Typed {
    /// This value as `target`; fails for an event whose value does not fit (P6).
    pub(crate) fn cast(self, target: DataType) -> Self {
        if self.data_type == target {
            return self;
        }
        Self {
            expr: Expr::Cast(Cast::new(Box::new(self.expr), target.clone())),
            data_type: target,
            ..self
        }
    }
}

/// The Arrow field of an event column.
pub(crate) fn field(column: &EventColumn) -> Field {
    Field::new(
        column.name.as_ref(),
        column.data_type.clone(),
        column.optional,
    )
}

/// The text of an expression in which only what matters differs.
pub(crate) fn canonical(parsed: &ast::Expr) -> String {
    struct Lower;

    impl VisitorMut for Lower {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> std::ops::ControlFlow<()> {
            let lower = |ident: &mut ast::Ident| {
                if ident.quote_style.is_none() {
                    ident.value.make_ascii_lowercase();
                }
            };
            match expr {
                ast::Expr::Identifier(ident) => lower(ident),
                ast::Expr::Function(function) => {
                    for part in &mut function.name.0 {
                        if let ast::ObjectNamePart::Identifier(ident) = part {
                            lower(ident);
                        }
                    }
                }
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        }
    }

    let mut parsed = parsed.clone();
    let _ = parsed.visit(&mut Lower);
    // Literals keep their line breaks; nothing else of the text has any.
    parsed.to_string().replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
