//! Whatever a file holds, loading ends with a plan or with a mistake that is told, and never panics.

#![allow(clippy::unwrap_used, reason = "a test says so when it fails")]

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use alluvium_plan::{Color, Environment, Plan, SourceFile, load_pipeline, load_server};
use datafusion::arrow::{
    array::{Array, ArrayRef, RecordBatch, StringArray},
    compute::cast,
    datatypes::DataType,
};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

fn read(path: &str) -> String {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// One slip of a person, or of a fuzzer.
#[derive(Clone, Debug)]
enum Slip {
    Delete(Index),
    Insert(Index, char),
    Double(Index),
    DeleteLine(Index),
    DoubleLine(Index),
    SwapLines(Index, Index),
    IndentLine(Index),
    Cut(Index),
}

fn slip() -> impl Strategy<Value = Slip> {
    let at = any::<Index>;
    let signs: Vec<char> = "{}[]()'\"`:,-#|>&*!%@?$\\ \t\n0a_.;<=~éß\u{1}\u{feff}\u{2028}😀"
        .chars()
        .collect();
    prop_oneof![
        at().prop_map(Slip::Delete),
        (at(), prop::sample::select(signs)).prop_map(|(at, sign)| Slip::Insert(at, sign)),
        at().prop_map(Slip::Double),
        at().prop_map(Slip::DeleteLine),
        at().prop_map(Slip::DoubleLine),
        (at(), at()).prop_map(|(one, other)| Slip::SwapLines(one, other)),
        at().prop_map(Slip::IndentLine),
        at().prop_map(Slip::Cut),
    ]
}

fn slipped(text: &str, slip: &Slip) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if chars.is_empty() || lines.is_empty() {
        return text.to_owned();
    }
    match slip {
        Slip::Delete(at) => {
            chars.remove(at.index(chars.len()));
        }
        Slip::Insert(at, sign) => chars.insert(at.index(chars.len()), *sign),
        Slip::Double(at) => {
            let at = at.index(chars.len());
            chars.insert(at, chars[at]);
        }
        Slip::Cut(at) => chars.truncate(at.index(chars.len())),
        Slip::DeleteLine(at) => {
            lines.remove(at.index(lines.len()));
            return lines.join("\n");
        }
        Slip::DoubleLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
            return lines.join("\n");
        }
        Slip::SwapLines(one, other) => {
            let length = lines.len();
            lines.swap(one.index(length), other.index(length));
            return lines.join("\n");
        }
        Slip::IndentLine(at) => {
            let at = at.index(lines.len());
            lines[at].insert(0, ' ');
            return lines.join("\n");
        }
    }
    chars.into_iter().collect()
}

/// Scraps of SQL, glued together without sense.
fn sql() -> impl Strategy<Value = String> {
    let scraps: Vec<&str> = "ts user_id country url status latency_ms bytes is_bot nothing 0 1 -1 0.5 1e400 9223372036854775807 \
        'a' '' 'a''b' 'UTC' \"ts\" null true ( ) ( ) ( ) , , + - * / % || = <> < >= and or not is in between like ilike ~ \
        :: int bigint double string date timestamp decimal(38,38) interval '1 day' '1 month' cast try_cast as case when \
        then else end coalesce( nullif( split_part( date_trunc( date_bin( substr( regexp_replace( to_timestamp( abs( power( \
        make_array( [ ] [1] .a extract( year from count( count(*) sum( min( max( avg( approx_distinct( \
        approx_percentile_cont( filter (where within group (order by distinct over () at time zone exists select \
        struct( named_struct( map( x -> {} ? $1 @a ; -- /* */ \u{e9} \u{1F600} position( overlay( placing for trim( both"
        .split_whitespace()
        .collect();
    vec(prop::sample::select(scraps), 1..12).prop_map(|scraps| scraps.join(" "))
}

/// SQL that has sense more often than not.
fn sensible_sql() -> impl Strategy<Value = String> {
    let leaves = "ts user_id country url status latency_ms bytes is_bot 0 1 -7 0.5 2147483647 9223372036854775807 'a' '7' \
        '2026-01-01' true null"
        .split_whitespace()
        .collect::<Vec<&str>>();
    let operators = "+ - * / % || = <> < >= and or like"
        .split_whitespace()
        .collect::<Vec<&str>>();
    let functions = "abs coalesce nullif upper substr split_part length concat round floor power greatest least nvl \
        nvl2 strpos reverse starts_with to_timestamp date_part date_trunc regexp_like trim md5 chr ascii sqrt signum \
        to_date left right replace date_bin isnan"
        .split_whitespace()
        .collect::<Vec<&str>>();
    let types = "int bigint double string date timestamp decimal(18,2) smallint boolean"
        .split_whitespace()
        .collect::<Vec<&str>>();
    let leaf = prop::sample::select(leaves).prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let operator = prop::sample::select(operators.clone());
        let function = prop::sample::select(functions.clone());
        let data_type = prop::sample::select(types.clone());
        let call = (function, vec(inner.clone(), 1..4));
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
            call.prop_map(|(function, arguments)| format!("{function}({})", arguments.join(", "))),
            (inner.clone(), data_type).prop_map(|(value, name)| format!("cast({value} as {name})")),
            inner.clone().prop_map(|value| format!("-{value}")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(when, then, other)| format!(
                "case when {when} then {then} else {other} end"
            )),
            (inner.clone(), inner).prop_map(|(value, list)| format!("{value} in ({list}, 1)")),
        ]
    })
}

/// Rows of the decoded columns: ordinary, as small as can be, as large as can be, and null where allowed.
fn rows(plan: &Plan) -> RecordBatch {
    let columns: Vec<ArrayRef> = plan
        .decoded
        .fields()
        .iter()
        .map(|field| {
            let last = |text: &'static str| (!field.is_nullable()).then_some(text);
            let texts = match field.data_type() {
                DataType::Utf8 => vec![Some("a?b"), Some(""), Some("é😀"), last("z")],
                DataType::Int32 => vec![
                    Some("7"),
                    Some("-2147483648"),
                    Some("2147483647"),
                    last("0"),
                ],
                DataType::Int64 => vec![
                    Some("7"),
                    Some("-9223372036854775808"),
                    Some("9223372036854775807"),
                    last("0"),
                ],
                DataType::Float64 => vec![Some("1.5"), Some("-1e308"), Some("NaN"), last("0")],
                DataType::Boolean => vec![Some("true"), Some("false"), Some("true"), last("false")],
                _ => vec![
                    Some("2026-01-01T00:00:00Z"),
                    Some("0001-01-01T00:00:00Z"),
                    Some("9999-12-31T00:00:00Z"),
                    last("1970-01-01T00:00:00Z"),
                ],
            };
            cast(&StringArray::from(texts), field.data_type()).unwrap()
        })
        .collect();
    RecordBatch::try_new(plan.decoded.clone(), columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pipeline_is_a_plan_or_a_mistake_that_is_told(slips in vec(slip(), 1..4)) {
        let text = slips.iter().fold(read("pipelines/clicks.yaml"), |text, slip| slipped(&text, slip));
        let source = SourceFile::new("pipelines/clicks.yaml", text);
        let mut read_file = |_: &Path| Ok(read("schemas/click.yaml").into_bytes());
        match load_pipeline(&source, &mut read_file, &Environment::new()) {
            Ok((plan, _)) => prop_assert!(!plan.tables.is_empty()),
            Err(told) => {
                prop_assert!(told.has_errors());
                prop_assert!(told.render(Color::Plain).contains('×'));
            }
        }
    }

    #[test]
    fn senseless_sql_is_taken_or_told(condition in sql(), group in sql(), measure in sql()) {
        let text = format!(
            "version: 1
source: {{kafka: {{connection: main, topics: [clicks], start: earliest}}}}
decode: {{json: {{schema: click.yaml}}}}
event_time: {{column: ts}}
tables:
  t:
    window: {{tumbling: 1m}}
    where: |
      {condition}
    group_by:
      g: |
        {group}
    measures:
      m: |
        {measure}
"
        );
        let source = SourceFile::new("clicks.yaml", text);
        let mut read_file = |_: &Path| Ok(read("schemas/click.yaml").into_bytes());
        if let Err(told) = load_pipeline(&source, &mut read_file, &Environment::new()) {
            prop_assert!(told.render(Color::Plain).contains("[clicks.yaml:"));
        }
    }

    #[test]
    fn a_schema_is_taken_or_told(slips in vec(slip(), 1..4)) {
        let text = slips.iter().fold(read("schemas/click.yaml"), |text, slip| slipped(&text, slip));
        let source = SourceFile::new("pipelines/clicks.yaml", read("pipelines/clicks.yaml"));
        let mut read_file = |_: &Path| Ok(text.clone().into_bytes());
        if let Err(told) = load_pipeline(&source, &mut read_file, &Environment::new()) {
            prop_assert!(told.render(Color::Ansi).contains('×'));
        }
    }

    #[test]
    fn a_server_is_taken_or_told(slips in vec(slip(), 1..4)) {
        let text = slips.iter().fold(read("alluvium.yaml"), |text, slip| slipped(&text, slip));
        let source = SourceFile::new("alluvium.yaml", text);
        let mut read_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        if let Err(told) = load_server(&source, &mut read_file, &Environment::new()) {
            prop_assert!(told.render(Color::Plain).contains('×'));
        }
    }
}

/// What is taken runs: with values of the type that the table was promised, or with an error for
/// these events (P6).
#[test]
fn what_is_taken_keeps_its_type() {
    let taken = Cell::new(0);
    let config = ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let law = TestRunner::new(config).run(&sensible_sql(), |sql| {
        let text = format!(
            "version: 1
source: {{kafka: {{connection: main, topics: [clicks], start: earliest}}}}
decode: {{json: {{schema: click.yaml}}}}
event_time: {{column: ts}}
tables:
  t:
    window: {{tumbling: 1m}}
    group_by:
      g: |
        {sql}
    measures:
      m: |
        max({sql})
"
        );
        let source = SourceFile::new("clicks.yaml", text);
        let mut read_file = |_: &Path| Ok(read("schemas/click.yaml").into_bytes());
        match load_pipeline(&source, &mut read_file, &Environment::new()) {
            Ok((plan, _)) => {
                taken.set(taken.get() + 1);
                let rows = rows(&plan);
                let table = &plan.tables[0];
                let field = &table.shape.group_columns[0];
                let value = &table.group_by[0].value;
                prop_assert_eq!(&value.data_type(&plan.decoded).unwrap(), field.data_type());
                for row in 0..rows.num_rows() {
                    if let Ok(values) = value.evaluate(&rows.slice(row, 1)) {
                        let values = values.into_array(1).unwrap();
                        prop_assert_eq!(values.data_type(), field.data_type());
                        prop_assert!(field.is_nullable() || values.null_count() == 0);
                    }
                }
                let input = table.folds[0].input.as_ref().unwrap();
                prop_assert_eq!(
                    &input.data_type(&plan.decoded).unwrap(),
                    &table.shape.states[0].data_type
                );
            }
            Err(told) => prop_assert!(told.render(Color::Plain).contains("[clicks.yaml:")),
        }
        Ok(())
    });
    law.unwrap();
    assert!(
        taken.get() >= 10,
        "only {} expressions made sense",
        taken.get()
    );
}
