//! Promises of a fold, one by one; the law over all splits stands in `laws`.

mod laws;

use alluvium_plan::Finish;
use datafusion::arrow::{
    array::{Array, RecordBatch},
    util::display::array_value_to_string,
};

use super::*;
use crate::{
    merge_panes, run_once,
    testing::{Record, batch, budget, plan},
};

const SCHEMA: &str = "
version: 1
columns:
  ts: timestamp
  n: int?
  big: bigint?
  d: double?
  m: decimal(10,2)?
  s: string?
  flag: boolean?
  unused: int?
";

/// A pipeline over [`SCHEMA`] with these tables, as YAML.
fn pipeline(head: &str, tables: &str) -> Arc<Plan> {
    let text = format!(
        "version: 1
description: A test.
source: {{kafka: {{connection: main, topics: [events], start: earliest}}}}
decode: {{json: {{schema: events.yaml, unknown_fields: ignore}}}}
event_time: {{column: ts, max_delay: 5s, accept: {{past: 1h, future: 5m}}}}
{head}
tables:
{tables}
"
    );
    plan(&text, SCHEMA)
}

/// The rows of a batch as text, in order.
fn rows(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| {
            let cells: Vec<String> = batch
                .columns()
                .iter()
                .map(|column| {
                    if column.is_null(row) {
                        "NULL".into()
                    } else {
                        array_value_to_string(column, row).unwrap()
                    }
                })
                .collect();
            cells.join(" ")
        })
        .collect()
}

fn payloads(events: &[&str]) -> Vec<Vec<u8>> {
    events
        .iter()
        .map(|event| event.as_bytes().to_vec())
        .collect()
}

/// An event at a second of one hour, with more fields.
fn at(second: u32, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(
        "{{\"ts\":\"2026-03-01T12:{:02}:{:02}Z\"{comma}{fields}}}",
        second / 60,
        second % 60
    )
}

/// Folds records in one epoch of one worker.
fn folded(plan: &Arc<Plan>, records: &[Record]) -> EpochPart {
    let mut fold = EpochFold::new(plan.clone(), budget()).unwrap();
    fold.push(&batch(records), TableSet::all(plan.tables.len()))
        .unwrap();
    fold.finish().unwrap()
}

fn records(events: &[String]) -> Vec<Record> {
    events
        .iter()
        .enumerate()
        .map(|(offset, event)| (offset as i64, None, Some(event.clone().into_bytes())))
        .collect()
}

/// (offset, stage, table, text of the error) of every reject.
fn refused(part: &EpochPart) -> Vec<(i64, Stage, Option<&str>, &str)> {
    part.rejects
        .iter()
        .map(|reject| {
            (
                reject.offset,
                reject.stage,
                reject.table.as_deref(),
                &*reject.error,
            )
        })
        .collect()
}

#[test]
fn a_pipeline_does_what_its_file_says() {
    let plan = pipeline(
        "where: not coalesce(flag, false)",
        "
  t:
    window: {tumbling: 1m}
    group_by: {s: \"coalesce(s, 'ZZ')\"}
    measures:
      events: count(*)
      known: count(n)
      big_n: count(*) filter (where n >= 3)
      total: sum(n)
      wide: sum(big)
      money: sum(m)
      low: min(d)
      high: max(s)
      mean: avg(n)
      people: approx_distinct(big)
      middle: approx_percentile_cont(d, 0.5)
      top: approx_percentile_cont(d, 1.0)
",
    );
    let run = run_once(
        &plan,
        &payloads(&[
            &at(
                61,
                r#""s":"b","n":1,"big":9223372036854775807,"d":1.0,"m":0.10"#,
            ),
            &at(
                119,
                r#""s":"b","n":3,"big":9223372036854775807,"d":4.0,"m":0.20"#,
            ),
            &at(60, r#""s":"b","n":null,"big":2,"d":null"#),
            &at(120, r#""s":"b""#),
            &at(3, ""),
            &at(4, r#""flag":true"#),
        ]),
    )
    .unwrap();
    assert!(run.rejects.is_empty());
    assert_eq!(
        rows(&run.tables[0]),
        [
            "2026-03-01T12:00:00Z 2026-03-01T12:01:00Z ZZ 1 0 0 NULL NULL NULL NULL NULL NULL 0 NULL NULL",
            "2026-03-01T12:01:00Z 2026-03-01T12:02:00Z b 3 2 1 4 18446744073709551616 0.30 1.0 b 2.0 2 1.0 4.0",
            "2026-03-01T12:02:00Z 2026-03-01T12:03:00Z b 1 0 0 NULL NULL NULL NULL b NULL 0 NULL NULL",
        ]
        .map(String::from),
        "{:?}",
        run.tables[0].schema_ref().fields()
    );
    let states: Vec<_> = plan.tables[0]
        .shape
        .measures
        .iter()
        .map(|m| m.finish)
        .collect();
    assert!(states.contains(&Finish::Quantile(0.5)), "{states:?}");
}

#[test]
fn an_expression_that_fails_refuses_its_event_for_its_table_only() {
    let plan = pipeline(
        "",
        "
  fragile:
    window: {tumbling: 1m}
    group_by: {ratio: 10 / n}
    measures: {events: count(*)}
  sturdy:
    window: {tumbling: 1m}
    measures: {events: count(*)}
",
    );
    let events: Vec<String> = (0..20_000)
        .map(|n| at(n % 60, &format!("\"n\":{}", n % 7)))
        .collect();
    let part = folded(&plan, &records(&events));
    let zeros = events
        .iter()
        .filter(|event| event.contains("\"n\":0"))
        .count() as u64;
    let balance = |position: usize| part.tables[position].balance.checked().unwrap();
    assert_eq!(
        (
            balance(0).events_in,
            balance(0).counted,
            balance(0).rejected
        ),
        (20_000, 20_000 - zeros, zeros)
    );
    assert_eq!((balance(1).counted, balance(1).rejected), (20_000, 0));
    assert_eq!(part.rejects.len() as u64, zeros);
    for (offset, stage, table, error) in refused(&part) {
        assert_eq!(
            (offset % 7, stage, table),
            (0, Stage::Expression, Some("fragile"))
        );
        assert!(
            error.contains("group column ratio") && error.contains("Divide by zero"),
            "{error}"
        );
    }
    let payload = part.rejects[0].payload.clone().unwrap();
    assert_eq!(payload, events[0].as_bytes());
}

#[test]
fn a_condition_protects_what_stands_behind_it_whatever_the_batch() {
    let plan = pipeline(
        "",
        "
  guarded:
    window: {tumbling: 1m}
    where: n <> 0 and 10 / n > 1
    measures: {events: count(*)}
  filtered:
    window: {tumbling: 1m}
    measures: {q: sum(10 / n) filter (where n <> 0), events: count(*)}
",
    );
    // n = NULL makes DataFusion evaluate both sides for the whole batch; 10 / NULL is NULL.
    for zeros_in_ten in 0..=10 {
        let events: Vec<String> = (0..1000)
            .map(|row| {
                let n = if row % 10 < zeros_in_ten { "0" } else { "4" };
                at(0, &format!("\"n\":{}", if row == 500 { "null" } else { n }))
            })
            .collect();
        let part = folded(&plan, &records(&events));
        assert_eq!(refused(&part), []);
        let fours = events
            .iter()
            .filter(|event| event.contains("\"n\":4"))
            .count() as u64;
        let guarded = part.tables[0].balance;
        assert_eq!((guarded.counted, guarded.filtered), (fours, 1000 - fours));
        assert_eq!(part.tables[1].balance.counted, 1000);
        let merged: Vec<_> = merge_panes(
            &plan.tables[1].shape,
            vec![part.tables[1].panes.clone()],
            &budget(),
        )
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
        let q = if fours == 0 {
            "NULL".into()
        } else {
            (2 * fours).to_string()
        };
        assert!(
            rows(&merged[0])[0].contains(&format!(" {q} 1000")),
            "{:?}",
            rows(&merged[0])
        );
    }
}

#[test]
fn a_failing_where_of_the_pipeline_refuses_for_all_in_one_letter() {
    let plan = pipeline(
        "where: 10 / n > 1",
        "
  a: {window: {tumbling: 1m}, measures: {events: count(*)}}
  b: {window: {tumbling: 1m}, measures: {events: count(*)}}
",
    );
    let events = ["\"n\":0", "\"n\":1", "\"n\":10", "\"n\":null"].map(|fields| at(0, fields));
    let part = folded(&plan, &records(&events));
    let letters = refused(&part);
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].0, letters[0].1, letters[0].2),
        (0, Stage::Expression, None)
    );
    for table in &part.tables {
        let balance = table.balance.checked().unwrap();
        assert_eq!(
            (
                balance.events_in,
                balance.counted,
                balance.filtered,
                balance.rejected
            ),
            (4, 1, 2, 1)
        );
    }
}

#[test]
fn event_time_is_held_against_the_records_timestamp() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, measures: {events: count(*)}}",
    );
    let noon = 1_772_366_400_000_000;
    let minute = 60_000_000;
    let event = Some(at(0, "").into_bytes());
    let record = |offset: i64, written: Option<i64>| (offset, written, event.clone());
    let part = folded(
        &plan,
        &[
            record(0, None),
            record(1, Some(noon)),
            record(2, Some(noon - 5 * minute)),
            record(3, Some(noon - 5 * minute - 1)),
            record(4, Some(noon + 60 * minute)),
            record(5, Some(noon + 60 * minute + 1)),
            record(6, Some(i64::MIN)),
            record(7, Some(i64::MAX)),
            (8, None, None),
        ],
    );
    let letters = refused(&part);
    let of = |stage| -> Vec<i64> {
        letters
            .iter()
            .filter(|letter| letter.1 == stage)
            .map(|letter| letter.0)
            .collect()
    };
    assert_eq!(of(Stage::EventTime), [3, 5, 6, 7]);
    assert_eq!(of(Stage::Decode), [8]);
    let letters: Vec<_> = letters
        .into_iter()
        .filter(|letter| letter.1 == Stage::EventTime)
        .collect();
    assert!(letters.iter().all(|letter| letter.2.is_none()));
    assert!(
        letters[0].3.contains("more than 300s after"),
        "{}",
        letters[0].3
    );
    assert!(
        letters[1].3.contains("more than 3600s before"),
        "{}",
        letters[1].3
    );
    assert_eq!(part.observed.len(), 1);
    assert_eq!(part.observed[0].event_times, [noon; 4]);
    assert_eq!(
        part.observed[0].oldest_record,
        Some(Timestamp::from_micros(i64::MIN))
    );
    assert_eq!(
        part.observed[0].cap.micros(),
        4_000_000_000_000_000 + 5 * minute
    );
    let balance = part.tables[0].balance.checked().unwrap();
    assert_eq!(
        (balance.events_in, balance.counted, balance.rejected),
        (9, 4, 5)
    );
}

#[test]
fn an_event_without_event_time_is_refused() {
    let text = "version: 1
source: {kafka: {connection: main, topics: [events], start: earliest}}
decode: {json: {schema: events.yaml}}
event_time: {column: ts}
tables:
  t: {window: {tumbling: 1m}, measures: {events: count(*)}}
";
    let plan = plan(text, "version: 1\ncolumns: {ts: timestamp?}\n");
    let part = folded(
        &plan,
        &records(&["{}", "{\"ts\":null}", "{\"ts\":\"1969-12-31T23:59:59Z\"}"].map(String::from)),
    );
    let letters = refused(&part);
    assert_eq!(letters.len(), 2);
    assert!(
        letters
            .iter()
            .all(|letter| letter.1 == Stage::EventTime && letter.3.contains("column ts"))
    );
    assert!(
        rows(&part.tables[0].panes[0])[0].starts_with("1969-12-31T23:59:00Z 1970-01-01T00:00:00Z")
    );
}

#[test]
fn only_wanted_tables_see_a_batch() {
    let plan = pipeline(
        "",
        "
  a: {window: {tumbling: 1m}, group_by: {k: 1 / n}, measures: {events: count(*)}}
  b: {window: {tumbling: 1m}, group_by: {k: 1 / n}, measures: {events: count(*)}}
",
    );
    let events = [at(0, "\"n\":0"), at(1, "\"n\":1"), "broken".into()];
    let mut fold = EpochFold::new(plan.clone(), budget()).unwrap();
    fold.push(&batch(&records(&events)), TableSet::default().with(1))
        .unwrap();
    fold.push(&batch(&records(&events)), TableSet::default())
        .unwrap();
    let part = fold.finish().unwrap();
    assert_eq!(part.tables[0].balance, Balance::default());
    assert!(part.tables[0].panes.is_empty());
    let balance = part.tables[1].balance.checked().unwrap();
    assert_eq!(
        (balance.events_in, balance.counted, balance.rejected),
        (3, 1, 2)
    );
    let tables: Vec<_> = refused(&part)
        .iter()
        .map(|letter| (letter.0, letter.2))
        .collect();
    assert_eq!(tables, [(2, None), (0, Some("b"))]);
    assert_eq!(part.observed[0].tables, TableSet::default().with(1));
}

#[test]
fn room_for_columns_is_counted_before_they_are_made() {
    let plan = pipeline(
        "",
        r#"
  one: {window: {tumbling: 1m}, group_by: {k: big}, measures: {people: approx_distinct(n)}}
  other: {window: {tumbling: 1m}, group_by: {n: n}, measures: {events: count(*)}}
"#,
    );
    let budget = MemoryBudget::new(1 << 30);
    let mut fold = EpochFold::new(plan.clone(), budget.clone()).unwrap();
    let events: Vec<String> = (0..10_000)
        .map(|row| at(0, &format!("\"big\":{},\"n\":{row}", row % 5000)))
        .collect();
    fold.push(&batch(&records(&events)), TableSet::all(2))
        .unwrap();
    fold.settle().unwrap();
    let (used, peak) = (budget.used(), budget.peak());
    let part = fold.finish().unwrap();
    assert_eq!(budget.peak(), peak);
    let panes: usize = part
        .tables
        .iter()
        .flat_map(|table| &table.panes)
        .map(pane_size)
        .sum();
    // Beside panes the event times, of which lateness is settled.
    let times: usize = part
        .observed
        .iter()
        .map(|batch| size_of_val(&batch.event_times[..]))
        .sum();
    assert_eq!(times, 10_000 * size_of::<i64>());
    let held = budget.used();
    assert!(
        (panes + times..used).contains(&held),
        "{used}, {panes}, {times}, {held}"
    );
}

#[test]
fn memory_is_counted_until_the_part_is_dropped() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, group_by: {k: big}, measures: {people: approx_distinct(n)}}",
    );
    let budget = MemoryBudget::new(1 << 30);
    let mut fold = EpochFold::new(plan.clone(), budget.clone()).unwrap();
    let before = budget.used();
    let mut events: Vec<String> = (0..10_000)
        .map(|row| at(0, &format!("\"big\":{},\"n\":{row}", row % 5000)))
        .collect();
    fold.push(&batch(&records(&events)), TableSet::all(1))
        .unwrap();
    let with_states = budget.used() - before;
    assert!(
        with_states > 5000 * 16,
        "{with_states} bytes for 5000 groups"
    );
    events.fill("broken".repeat(100));
    fold.push(&batch(&records(&events)), TableSet::all(1))
        .unwrap();
    let with_rejects = budget.used() - before;
    assert!(with_rejects > with_states + 10_000 * 600, "{with_rejects}");
    let part = fold.finish().unwrap();
    assert!(budget.used() - before > 10_000 * 600);
    assert_eq!(
        part.tables[0]
            .panes
            .iter()
            .map(RecordBatch::num_rows)
            .sum::<usize>(),
        5000
    );
    drop(part);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_flood_of_rejects_is_kept_whole() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, group_by: {k: 1 / n}, measures: {events: count(*)}}",
    );
    let events: Vec<String> = (0..100_000)
        .map(|row| {
            if row % 2 == 0 {
                "{".into()
            } else {
                at(0, "\"n\":0")
            }
        })
        .collect();
    let part = folded(&plan, &records(&events));
    assert_eq!(part.rejects.len(), 100_000);
    assert_eq!(part.tables[0].balance.checked().unwrap().rejected, 100_000);
    assert!(part.tables[0].panes.is_empty());
}

#[test]
fn keys_that_are_equal_are_one_key() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, group_by: {k: d * 1.0}, measures: {events: count(*)}}",
    );
    let events = ["-0.0", "0.0", "0", "-0", "1.5", "null"].map(|d| at(0, &format!("\"d\":{d}")));
    let run = run_once(&plan, &events.map(String::into_bytes)).unwrap();
    let keys: Vec<_> = rows(&run.tables[0])
        .iter()
        .map(|row| row.split_once("12:01:00Z ").unwrap().1.to_owned())
        .collect();
    assert_eq!(keys, ["NULL 1", "0.0 4", "1.5 1"]);
}

#[test]
fn a_worker_without_input_hands_over_nothing() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, measures: {events: count(*)}}",
    );
    let part = EpochFold::new(plan.clone(), budget())
        .unwrap()
        .finish()
        .unwrap();
    assert!(part.tables[0].panes.is_empty() && part.rejects.is_empty() && part.observed.is_empty());
    assert_eq!(EpochPart::empty(&plan).tables.len(), 1);
    let run = run_once(&plan, &[]).unwrap();
    assert_eq!(run.tables[0].num_rows(), 0);
}

/// Inside of a task tokio lets a cooperative stream answer "pending" after 128 batches. Our plans take no
/// part in that, so that nothing is lost wherever they are polled (P31).
#[test]
fn a_plan_polled_inside_a_task_loses_nothing() {
    let plan = pipeline(
        "",
        "  t: {window: {tumbling: 1m}, group_by: {k: n}, measures: {events: count(*)}}",
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let counted = runtime.block_on(async {
        let mut panes = Vec::new();
        for _ in 0..3 {
            let mut fold = EpochFold::new(plan.clone(), budget()).unwrap();
            for n in 0..1000 {
                let events = [at(n % 60, &format!("\"n\":{n}"))];
                fold.push(&batch(&records(&events)), TableSet::all(1))
                    .unwrap();
            }
            panes.push(fold.finish().unwrap().tables.remove(0).panes);
        }
        let mut many = Vec::new();
        for pane in panes.into_iter().flatten() {
            many.extend((0..pane.num_rows()).map(|row| pane.slice(row, 1)));
        }
        merge_panes(&plan.tables[0].shape, vec![many], &budget())
            .unwrap()
            .map(|batch| batch.unwrap().num_rows())
            .sum::<usize>()
    });
    assert_eq!(counted, 1000);
}
