use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, StringArray},
    datatypes::{Decimal128Type, Int32Type, Int64Type},
};

use super::*;
use crate::{
    diagnostic::{Diagnostics, SourceFile},
    tree::{Node, Style, Value},
};

fn columns() -> Vec<EventColumn> {
    [
        ("n", DataType::Int32),
        ("big", DataType::Int64),
        ("text", DataType::Utf8),
        ("flag", DataType::Boolean),
        ("price", DataType::Decimal128(10, 2)),
        ("ts", TableShape::window_type()),
    ]
    .map(|(name, data_type)| EventColumn {
        name: name.into(),
        data_type,
        optional: true,
        epoch_unit: None,
    })
    .into()
}

/// Types an expression; the mistakes as lines when there are some.
fn typed(sql: &str) -> Result<(Expressions, Typed), String> {
    let file = Arc::new(SourceFile::new("test.yaml", sql));
    let mut found = Diagnostics::default();
    let scalar = Scalar {
        text: sql.into(),
        shown: sql.into(),
        span: 0..sql.len(),
        style: Style::Plain,
    };
    let expressions = Expressions::new(&columns());
    let mut reader = Reader {
        file: &file,
        found: &mut found,
        advise: crate::advice::for_key,
    };
    let typed = expressions.value(&scalar, &mut reader);
    match typed {
        Some(typed) if found.is_empty() => Ok((expressions, typed)),
        _ => Err(found.to_string()),
    }
}

/// Runs an expression over three rows of `n` and `big`, the last of them at the largest value.
fn run(sql: &str) -> Result<ArrayRef, String> {
    let (expressions, typed) = typed(sql)?;
    let fields: Vec<Field> = columns().iter().take(4).map(field).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(Int32Array::from(vec![Some(1), None, Some(i32::MAX)])),
            Arc::new(Int64Array::from(vec![Some(2), None, Some(i64::MAX)])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("x")])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ],
    )
    .unwrap();
    let bound = expressions.bind(&typed.expr, &schema).unwrap();
    assert_eq!(bound.data_type(&schema).unwrap(), typed.data_type, "{sql}");
    bound
        .evaluate(&batch)
        .and_then(|value| value.into_array(3))
        .map_err(|error| error.strip_backtrace())
}

#[test]
fn integer_arithmetic_fails_instead_of_wrapping() {
    for sql in [
        "big + 1",
        "big * 2",
        "0 - 2 - big",
        "-(0 - big - 1)",
        "case when flag is null or flag then 0 else big + n end",
        "cast(big as int)",
    ] {
        let failed = run(sql).expect_err(sql);
        assert!(
            failed.contains("verflow") || failed.contains("Can't cast"),
            "{sql}: {failed}"
        );
    }
    let fine = run("n + big - big").expect_err("n + big overflows before it is taken back");
    assert!(fine.contains("verflow"));
    assert_eq!(
        run("big - 1").unwrap().as_primitive::<Int64Type>().value(2),
        i64::MAX - 1
    );
    assert_eq!(
        run("-n").unwrap().as_primitive::<Int32Type>().value(2),
        -i32::MAX
    );
}

#[test]
fn casts_fail_unless_the_user_tries() {
    assert!(run("cast(text as int)").is_err());
    assert_eq!(run("try_cast(text as int)").unwrap().null_count(), 3);
}

#[test]
fn functions_that_exist_only_rewritten_run() {
    let filled = run("coalesce(text, 'none')").unwrap();
    assert_eq!(filled.as_string::<i32>().value(1), "none");
    assert_eq!(run("nullif(text, 'a')").unwrap().null_count(), 2);
    assert_eq!(
        run("nvl(n, 7)")
            .unwrap()
            .as_primitive::<Int64Type>()
            .value(1),
        7
    );
}

#[test]
fn types_become_what_a_table_can_store() {
    let stored = |sql: &str| {
        let (expressions, typed) = typed(sql).unwrap();
        expressions.storable(typed).map(|typed| typed.data_type)
    };
    assert_eq!(stored("text"), Some(DataType::Utf8));
    assert_eq!(stored("upper(text)"), Some(DataType::Utf8));
    assert_eq!(stored("substr(text, 1, 2) || 'x'"), Some(DataType::Utf8));
    assert_eq!(stored("cast(n as smallint)"), Some(DataType::Int32));
    assert_eq!(stored("cast(n as bigint unsigned)"), Some(DataType::Int64));
    assert_eq!(stored("cast(n as float)"), Some(DataType::Float64));
    assert_eq!(
        stored("date_trunc('day', ts)"),
        Some(TableShape::window_type())
    );
    assert_eq!(stored("cast(ts as date)"), Some(DataType::Date32));
    assert_eq!(stored("price"), Some(DataType::Decimal128(10, 2)));
    assert_eq!(stored("interval '1 day'"), None);
    assert_eq!(stored("null"), None);
}

#[test]
fn what_does_not_matter_is_not_in_the_canonical_text() {
    let text = |sql: &str| typed(sql).unwrap().1.text;
    assert_eq!(
        text("COALESCE( Text ,\n  'A b') -- why"),
        text("coalesce(text,'A b')")
    );
    assert_ne!(text("coalesce(text, 'A')"), text("coalesce(text, 'a')"));
    assert_eq!(text("n+1"), "n + 1");
}

#[test]
fn every_mistake_of_an_expression_is_told() {
    let told = typed("nn + foo(text) + now() + sum(n)").unwrap_err();
    for part in ["`nn`", "`foo`", "`now`", "`sum`"] {
        assert!(told.contains(part), "{told}");
    }
    for clock in [
        "current_timestamp",
        "current_time",
        "today()",
        "random()",
        "uuid()",
    ] {
        assert!(
            typed(clock).unwrap_err().contains("depends on more"),
            "{clock}"
        );
    }
    for refused in [
        "(select 1)",
        "exists (select 1)",
        "row_number() over ()",
        "$1",
        "n as m",
        "n.m",
    ] {
        assert!(typed(refused).is_err(), "{refused}");
    }
    assert!(typed(&"(".repeat(5000)).is_err());
    assert!(typed(&format!("{}n", "not ".repeat(3000))).is_err());
}

/// The place of `part` in a YAML scalar of any style is where a reader finds it.
#[test]
fn places_lead_through_quotes_and_blocks() {
    for yaml in [
        "a: n + wrong",
        "a: 'text || ''it''''s'' || wrong'",
        "a: \"text || '\\\"' || wrong\"",
        "a: |\n  text ||\n    wrong\n",
        "a: >-\n  text ||\n  wrong\n",
        "a: text\n  || wrong",
        "a: text || 'é' || wrong",
    ] {
        let file = Arc::new(SourceFile::new("test.yaml", yaml));
        let mut found = Diagnostics::default();
        let mut reader = Reader {
            file: &file,
            found: &mut found,
            advise: crate::advice::for_key,
        };
        let node = crate::yaml::parse(&mut reader, &Default::default()).unwrap();
        let Node {
            value: Value::Map(entries),
            ..
        } = node
        else {
            panic!("{yaml}");
        };
        let Value::Scalar(scalar) = &entries[0].1.value else {
            panic!("{yaml}");
        };
        Expressions::new(&columns()).value(scalar, &mut reader);
        let span = found.0[0].span.clone().unwrap();
        assert_eq!(&yaml[span], "wrong", "{yaml}: {found}");
    }
}

#[test]
fn decimals_add_exactly() {
    let (expressions, typed) = typed("price + 0.01").unwrap();
    assert!(matches!(
        typed.data_type,
        DataType::Float64 | DataType::Decimal128(..)
    ));
    let (_, exact) = self::typed("price + cast(0.01 as decimal(10,2))").unwrap();
    assert_eq!(exact.data_type, DataType::Decimal128(11, 2));
    let schema = Arc::new(Schema::new(vec![field(&columns()[4])]));
    let price = datafusion::arrow::array::Decimal128Array::from(vec![150])
        .with_precision_and_scale(10, 2)
        .unwrap();
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(price)]).unwrap();
    let sum = expressions
        .bind(&exact.expr, &schema)
        .unwrap()
        .evaluate(&batch)
        .unwrap();
    let sum = sum.into_array(1).unwrap();
    assert_eq!(sum.as_primitive::<Decimal128Type>().value(0), 151);
}
