#!/usr/bin/env python3
"""Judges the SQL records of this folder by another engine over another model of the pipeline.

Reads events.ndjson, decides by itself what becomes of each event, computes the tables' rows from the events with
DuckDB, and asks DuckDB every query of the *.slt files. Where a query is in a dialect that DuckDB does not know, a few
rewritings are tried; what is left over is listed with --left. Shares no code with the product.

    python judge.py             all files; fails when a record's rows are others than computed here
    python judge.py --left      names the records that it could not judge, and why

Needs the Python package duckdb. Distinct counts are exact here, quantiles are those of the rank rule; only in records
that ask for them they may be off by the sketches' errors (1 % for quantiles). Doubles may be off by 1e-9.
"""

import collections
import datetime
import decimal
import json
import math
import pathlib
import re
import sys

import duckdb

HERE = pathlib.Path(__file__).resolve().parent
WATERMARK_DELAY = datetime.timedelta(seconds=30)
UTC = datetime.timezone.utc
# No event of the fixture is newer than this day; the one that claims to be is to be refused whatever the clock says.
LATEST = datetime.datetime(2026, 3, 3, tzinfo=UTC)


class Reject(Exception):
    """An event that cannot be taken: stage and column."""


# ---- The pipeline, one event after the other -------------------------------------------------------------------------


def moment(value):
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z", value)
    if not match:
        raise ValueError(value)
    micros = int((match[2] or "").ljust(6, "0"))
    return datetime.datetime.fromisoformat(match[1]).replace(tzinfo=UTC, microsecond=micros)


def whole(bits):
    def convert(value):
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << bits - 1) <= value < 1 << bits - 1:
            raise ValueError(value)
        return value

    return convert


def price(value):
    number = decimal.Decimal(value) if isinstance(value, int) else value
    if not isinstance(number, decimal.Decimal) or number.as_tuple().exponent < -2:
        raise ValueError(value)
    return number


def text(value):
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def truth(value):
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


# Name, SQL type, how a value is taken, and whether it may be missing.
COLUMNS = [
    ("ts", "timestamptz", moment, False),
    ("kind", "varchar", text, False),
    ("country", "varchar", text, True),
    ("shop", "varchar", text, True),
    ("customer", "varchar", text, True),
    ("quantity", "integer", whole(32), False),
    ("points", "bigint", whole(64), True),
    ("price", "decimal(10,2)", price, True),
    ("ms", "double", float, True),
    ("paid", "boolean", truth, True),
    ("due", "date", datetime.date.fromisoformat, True),
    ("note", "varchar", text, True),
]


def decode(line):
    try:
        event = json.loads(line, parse_float=decimal.Decimal)
    except ValueError:
        raise Reject("decode", None) from None
    if not isinstance(event, dict):
        raise Reject("decode", None)
    values = {}
    for name, _, take, optional in COLUMNS:
        value = event.get(name)
        if value is None and not optional:
            raise Reject("decode", name)
        try:
            values[name] = None if value is None else take(value)
        except (ValueError, TypeError):
            raise Reject("decode", name) from None
    if values["ts"] > LATEST:
        raise Reject("event_time", "ts")
    return values


def read():
    """Events that are taken, dead letters, the watermark, and how many came late."""
    taken, letters, newest, late = [], [], None, 0
    for offset, line in enumerate((HERE / "events.ndjson").read_bytes().splitlines()):
        try:
            event = decode(line)
        except Reject as reject:
            letters.append((offset, *reject.args, None, line))
            continue
        if newest and event["ts"] < newest - WATERMARK_DELAY:
            late += 1
        newest = max(newest or event["ts"], event["ts"])
        event["offset"] = offset
        taken.append(event)
        doubled = 2 * (event["points"] or 0)
        event["fails_by_hour"] = not -(1 << 63) <= doubled < 1 << 63
        if event["fails_by_hour"]:
            letters.append((offset, "expression", None, "orders_per_hour", line))
    return taken, letters, newest - WATERMARK_DELAY, late, offset + 1


# ---- The tables, from lists of values --------------------------------------------------------------------------------

# Table: window, group columns, which events, and its measures: name, value, condition, how the list is finished.
# Counts are lengths of lists; count(*) is the length of a list of ones.
TABLES = {
    "orders_per_minute": (
        "1 minute",
        {"country": "country", "shop": "shop"},
        "true",
        [
            ("orders", "1", "true", "count"),
            ("priced", "price", "true", "count"),
            ("quantity", "quantity", "true", "sum"),
            ("points", "points", "true", "sum"),
            ("ms", "ms", "true", "sum_double"),
            ("mean_ms", "ms", "true", "avg"),
            ("mean_quantity", "quantity", "true", "avg"),
            ("ms_min", "ms", "true", "min"),
            ("ms_max", "ms", "true", "max"),
            ("quantity_min", "quantity", "true", "min"),
            ("quantity_max", "quantity", "true", "max"),
            ("note_min", "note", "true", "min"),
            ("note_max", "note", "true", "max"),
            ("first_seen", "ts", "true", "min"),
            ("last_seen", "ts", "true", "max"),
            ("due_min", "due", "true", "min"),
            ("due_max", "due", "true", "max"),
            ("customers", "customer", "true", "distinct"),
            ("p50_ms", "ms", "true", "p50"),
            ("p99_ms", "ms", "true", "p99"),
        ],
    ),
    "orders_per_hour": (
        "1 hour",
        {},
        "not fails_by_hour",
        [
            ("orders", "1", "true", "count"),
            ("quantity", "quantity", "true", "sum"),
            ("double_points", "points * 2", "true", "max"),
            ("mean_ms", "ms", "true", "avg"),
            ("customers", "customer", "true", "distinct"),
            ("p50_ms", "ms", "true", "p50"),
        ],
    ),
    "revenue_per_quarter": (
        "15 minutes",
        {"kind": "kind", "paid": "paid"},
        "price is not null",
        [
            ("orders", "1", "true", "count"),
            ("revenue", "price", "true", "sum"),
            ("mean_price", "price", "true", "avg_decimal"),
            ("price_min", "price", "true", "min"),
            ("price_max", "price", "true", "max"),
            ("large", "1", "price >= 50", "count"),
            ("large_revenue", "price", "price >= 50", "sum"),
        ],
    ),
    "orders_per_day": (
        "1 day",
        {
            "due": "due",
            "band": "case when quantity < 0 then 'back' when quantity < 5 then 'few' else 'many' end",
        },
        "true",
        [
            ("orders", "1", "true", "count"),
            ("quantity", "quantity", "true", "sum"),
            ("shops", "shop", "true", "distinct"),
        ],
    ),
}

# What a sketch passes over is passed over here: NULL and empty text. `l` is a list of lists, one a pane.
FINISH = """
create macro flat(l) as list_filter(flatten(l), lambda x: x is not null);
create macro finish_count(l) as coalesce(len(flat(l)), 0);
create macro finish_sum(l) as list_sum(list_transform(flat(l), lambda x: x::decimal(38, 2)));
create macro finish_sum_double(l) as list_sum(flat(l));
create macro finish_avg(l) as list_avg(flat(l));
create macro finish_avg_decimal(l) as
    round(list_sum(flat(l))::double / nullif(len(flat(l)), 0), 6);
create macro finish_min(l) as list_min(flat(l));
create macro finish_max(l) as list_max(flat(l));
create macro finish_distinct(l) as len(list_distinct(list_filter(flat(l), lambda x: x <> '')));
create macro rank_rule(l, q) as list_sort(l)[floor(q * (len(l) - 1))::bigint + 1];
create macro finish_p50(l) as rank_rule(flat(l), 0.5);
create macro finish_p99(l) as rank_rule(flat(l), 0.99);
"""

# Functions that DuckDB lacks, or that mean something else there.
FUNCTIONS = """
create macro hll_sketch_agg(x) as list_sort(list_distinct(list(x)));
create macro hll_union_agg(l) as flatten(list(l));
create macro hll_union(a, b) as case when a is null or b is null then null else list_concat(a, b) end;
create macro hll_sketch_estimate(l) as
    len(list_distinct(list_filter(l, lambda x: x is not null and x::varchar <> '')));
create macro ddsketch_agg(x) as list(x);
create macro ddsketch_merge(l) as flatten(list(l));
create macro ddsketch_quantile(l, q) as
    case when q is not null then rank_rule(list_filter(l, lambda x: x is not null), q) end;
create macro avg_state(x) as struct_pack("sum" := sum(x), "count" := count(x));
create macro avg_merge(s) as struct_pack("sum" := sum(s."sum"), "count" := sum(s."count"));
create macro avg_finish(s) as s."sum" / nullif(s."count", 0)::double;
create macro btrim(s) as trim(s), (s, c) as trim(s, c);
create macro octet_length(s) as strlen(s);
create macro regexp_count(s, p) as len(regexp_extract_all(s, p));
create macro encode(b, f) as case f when 'hex' then lower(hex(b)) else to_base64(b) end;
create macro to_char(t, f) as strftime(t::timestamp, f);
create macro char_length(s) as length(s);
create macro date_bin(i, t, o) as time_bucket(i, t, o);
create macro to_timestamp_millis(n) as epoch_ms(n)::timestamptz;
create macro signum(n) as sign(n);
create macro to_date(s) as s::date;
create macro to_local_time(t) as t;
create macro to_hex(n) as lower(hex(n));
"""


def build(db, taken, letters, watermark, late, count):
    db.execute("set timezone = 'UTC'")
    db.execute("set integer_division = true")
    db.execute("set default_null_order = 'nulls_last_on_asc_first_on_desc'")
    db.execute(FINISH)
    db.execute(FUNCTIONS)
    names = ", ".join(f"{name} {kind}" for name, kind, _, _ in COLUMNS)
    db.execute(f'create table events ({names}, "offset" bigint, fails_by_hour boolean)')
    fields = [name for name, *_ in COLUMNS] + ["offset", "fails_by_hour"]
    marks = ", ".join("?" * len(fields))
    for event in taken:
        db.execute(f"insert into events values ({marks})", [event[field] for field in fields])
    for schema in ("plain", "hidden", "lists", "panes", "dead_letters", "operators"):
        db.execute(f"create schema {schema}")
    balances = []
    for table, (window, groups, where, measures) in TABLES.items():
        keys = ", ".join(f"{expression} as {name}" for name, expression in groups.items())
        lists = ", ".join(
            f"list({value}) filter (where ({condition}) and ({value}) is not null) as {name}"
            for name, value, condition, _ in measures
        )
        final = f"window_end <= timestamptz '{watermark.isoformat()}' as final"
        db.execute(
            f"create table lists.{table} as with kept as (select time_bucket(interval '{window}', ts, "
            f"timestamptz '2026-01-01 00:00:00+00') as window_start, * from events "
            f"where kind <> 'test' and {where}), folded as (select window_start, "
            f"window_start + interval '{window}' as window_end, {keys + ',' if keys else ''} {lists} from kept "
            f"group by all) select * exclude ({', '.join(m[0] for m in measures)}), {final}, "
            f"{', '.join(m[0] for m in measures)} from folded"
        )
        key_names = ", ".join(["window_start", "window_end", *groups])
        finished = ", ".join(f"{finished_type(finish, name, value)} as {name}" for name, value, _, finish in measures)
        db.execute(f"create table plain.{table} as select {key_names}, final, {finished} from lists.{table}")
        rows = ", ".join(f"{name} as h_{name}" for name, *_ in measures)
        db.execute(
            f"create table hidden.{table} as select {key_names}, final, {finished}, {rows} from lists.{table}"
        )
        states = ", ".join(state(finish, name, value) for name, value, _, finish in measures if finish != "p99")
        db.execute(f"create table panes.{table} as select {key_names}, {states} from lists.{table}")
        counted = db.execute(f"select count(*) from events where kind <> 'test' and {where}").fetchone()[0]
        refused = sum(1 for letter in letters if letter[3] in (None, table))
        balances.append((table, "create", "pipeline", None, None, None, None, None))
        balances.append((table, "commit", "pipeline", count, counted, count - counted - refused, refused, late))
    db.execute(
        'create table dead_letters.pipeline (topic varchar, "partition" integer, "offset" bigint, stage varchar, '
        '"column" varchar, "table" varchar, payload blob)'
    )
    for offset, stage, column, table, line in letters:
        db.execute(
            "insert into dead_letters.pipeline values ('orders', 0, ?, ?, ?, ?, ?)",
            [offset, stage, column, table, line],
        )
    db.execute(
        'create table operators.commits ("table" varchar, kind varchar, pipeline varchar, events_in bigint, '
        "counted bigint, filtered bigint, rejected bigint, late bigint)"
    )
    for balance in balances:
        db.execute("insert into operators.commits values (?, ?, ?, ?, ?, ?, ?, ?)", balance)
    db.execute("create table operators.system_tables (name varchar, group_columns varchar, measures varchar, "
               "watermark timestamptz)")
    for table, (_, groups, _, _) in TABLES.items():
        row = [table, ", ".join(groups), ", ".join(map(": ".join, written_measures(table))), watermark]
        db.execute("insert into operators.system_tables values (?, ?, ?, ?)", row)
    describe(db)
    db.execute(
        'create table operators.partitions as select \'pipeline\' as pipeline, name as "table", \'orders\' as topic, '
        f'0 as "partition", {count} as committed, watermark, null::varchar as halted from operators.system_tables'
    )


def written_measures(table):
    """Names and expressions of a table's measures as the pipeline file has them."""
    text_ = (HERE / "pipeline.yaml").read_text()
    block = re.search(rf"^  {table}:\n(?:    .*\n)*?    measures:\n((?:      .*\n)*)", text_, re.M)
    lines = [line.split("  #")[0].strip() for line in block[1].splitlines()]
    return [line.split(": ", 1) for line in lines]


# The types of columns as DESCRIBE shows them, and as information_schema does.
STAMP, WIDE = 'Timestamp(µs, "UTC")', "Decimal128(38, 0)"
STANDARD = {STAMP: "timestamp with time zone", "Int64": "bigint", "Int32": "integer", "Float64": "double precision",
            "Date32": "date", "Utf8": "text", "Boolean": "boolean", "Binary": "bytea"}
TYPE_OF_VALUE = {"1": "Int64", "price": "Decimal128(10, 2)", "quantity": "Int32", "points": "Int64", "ms": "Float64",
                 "ts": STAMP, "due": "Date32", "note": "Utf8", "points * 2": "Int64"}
TYPE_OF_SUM = {"quantity": "Int64", "points": WIDE, "price": "Decimal128(38, 2)", "ms": "Float64"}
TYPE_OF_KEY = {"country": "Utf8", "shop": "Utf8", "kind": "Utf8", "paid": "Boolean", "due": "Date32", "band": "Utf8"}
TYPE_OF_LETTER = {"topic": "Utf8", "partition": "Int32", "offset": "Int64", "timestamp": STAMP, "payload": "Binary",
                  "error": "Utf8", "column": "Utf8", "stage": "Utf8", "table": "Utf8", "rejected_at": STAMP}


def final_type(finish, value):
    if finish in ("count", "distinct"):
        return "Int64"
    if finish in ("sum", "sum_double"):
        return TYPE_OF_SUM[value]
    if finish in ("min", "max"):
        return TYPE_OF_VALUE[value]
    return "Decimal128(38, 6)" if finish == "avg_decimal" else "Float64"


def state_type(finish, value):
    if finish in ("distinct", "p50"):
        return "Binary"
    return final_type(finish, value)


def describe(db):
    """The part of information_schema that the records ask for."""
    db.execute("create table operators.columns (table_schema varchar, table_name varchar, column_name varchar, "
               "ordinal_position bigint, data_type varchar)")
    described = {("dead_letters", "pipeline"): list(TYPE_OF_LETTER.items())}
    for table, (_, groups, _, measures) in TABLES.items():
        keys = [("window_start", STAMP), ("window_end", STAMP), *((name, TYPE_OF_KEY[name]) for name in groups)]
        finals = [(name, final_type(finish, value)) for name, value, _, finish in measures]
        states = [(name, state_type(finish, value)) for name, value, _, finish in measures if finish != "p99"]
        described["public", table] = [*keys, ("final", "Boolean"), *finals]
        described["panes", table] = [*keys, *states]
    for (schema, table), columns in described.items():
        for position, (name, kind) in enumerate(columns, 1):
            row = [schema, table, name, position, STANDARD.get(kind, "numeric")]
            db.execute("insert into operators.columns values (?, ?, ?, ?, ?)", row)
    db.execute("create table operators.tables (table_catalog varchar, table_schema varchar, table_name varchar)")
    names = [*described, *(("system", name) for name in ("partitions", "commits", "lateness", "tables", "pipelines", "queries"))]
    for schema, table in names:
        db.execute("insert into operators.tables values ('alluvium', ?, ?)", [schema, table])
    db.execute("create table operators.schemata as select distinct table_schema as schema_name from operators.tables")


def finished_type(finish, name, value):
    call = f"finish_{finish}([{name}])"
    if finish == "sum":
        kind = {"quantity": "bigint", "points": "decimal(38, 0)", "price": "decimal(38, 2)"}[value]
        return f"{call}::{kind}"
    return call


def state(finish, name, value):
    if finish in ("distinct", "p50"):
        return f"{name} as {name}"
    if finish in ("avg", "avg_decimal"):
        return f"struct_pack(\"sum\" := list_sum({name}), \"count\" := coalesce(len({name}), 0)) as {name}"
    return f"{finished_type(finish, name, value)} as {name}"


# ---- Records ---------------------------------------------------------------------------------------------------------

Record = collections.namedtuple("Record", "place head sql rows")


def records(path):
    lines = path.read_text().split("\n") + [""]
    at = 0
    while at < len(lines):
        if not re.match(r"query|statement", lines[at]):
            at += 1
            continue
        head, place, block = lines[at], f"{path.name}:{at + 1}", []
        at += 1
        while lines[at]:
            block.append(lines[at])
            at += 1
        cut = block.index("----") if "----" in block else len(block)
        yield Record(place, head, "\n".join(block[:cut]), block[cut + 1 :])


FINISH_OF = {}
for _table, (_, _, _, _measures) in TABLES.items():
    for _name, _value, _, _finish in _measures:
        FINISH_OF.setdefault(_name, (_finish, _value))

# A spelling of ours and one that DuckDB knows.
REWRITE = [
    (r"\binformation_schema\.", "operators."),
    (r"\bsubstr\(", "substring("),
    (r"\bFROM range\((.*?)\)", r"FROM (SELECT range AS value FROM range(\1)) AS series"),
    (r"\bgenerate_series\(([^()]*(?:\([^()]*\)[^()]*)*)\)(?=\s*(\)|ORDER|WHERE|LIMIT|$))",
     r"(SELECT generate_series AS value FROM generate_series(\1)) AS series"),
    (r"(\S+) !~\* ('(?:[^']|'')*')", r"NOT regexp_matches(\1, \2, 'i')"),
    (r"(\S+) !~ ('(?:[^']|'')*')", r"NOT regexp_matches(\1, \2)"),
    (r"(\S+) ~\* ('(?:[^']|'')*')", r"regexp_matches(\1, \2, 'i')"),
    (r"(\S+) ~ ('(?:[^']|'')*')", r"regexp_matches(\1, \2)"),
    (r"\bregexp_like\(", "regexp_matches("),
    (r"\bLEFT (SEMI|ANTI) JOIN\b", r"\1 JOIN"),
    (r"(LIKE '[^']*\\[^']*')", r"\1 ESCAPE '\\'"),
    (r"\b(lag|lead)\((\w+)\) IGNORE NULLS", r"\1(\2 IGNORE NULLS)"),
    (r"\bfirst_value\((\w+ ORDER BY)", r"first(\1"),
    (r"\blast_value\((\w+ ORDER BY)", r"last(\1"),
    (r"\balluvium\.(public|panes|system|dead_letters)\.", r"\1."),
    # DuckDB has a catalogue of that name.
    (r"\bsystem\.tables\b", "operators.system_tables"),
    (r"\bsystem\.", "operators."),
    (r"\bpublic\.", ""),
    (r"\bapprox_distinct\(", "count(DISTINCT "),
    (r"\bstrpos\(", "instr("),
    (r"\barray_length\(", "len("),
    (r"\bcardinality\(", "len("),
    (r"\blog10\(", "log("),
]


def with_measures(sql, mode):
    """The query with every measure(…) replaced by its finish over lists, or None when it has none."""
    aliases = dict(FINISH_OF)
    for name, alias in re.findall(r"\b(\w+)\s+AS\s+(\w+)", sql, re.I):
        if name in FINISH_OF:
            aliases[alias] = FINISH_OF[name]

    def replace(match):
        prefix, name, condition = match[1] or "", match[2].strip('"'), match[3] or ""
        finish, value = aliases[name]
        column = f"h_{name}" if mode == "hidden" else name
        call = f"finish_{finish}(list({prefix}{column}) {condition})"
        if finish == "sum":
            kind = {"quantity": "bigint", "points": "decimal(38, 0)", "price": "decimal(38, 2)"}[value]
            call = f"{call}::{kind}"
        return f"({call})"

    pattern = r'\bmeasure\(\s*((?:\w+\.)*)?("?\w+"?)\s*\)(\s*FILTER\s*\((?:[^()]|\([^()]*\))*\))?'
    return re.sub(pattern, replace, sql, flags=re.I)


def render(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"nan": "NaN", "inf": "inf", "-inf": "-inf"}[str(value)]
        return format(decimal.Decimal(repr(value)).normalize(), "f")
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        zone = "Z" if value.tzinfo else ""
        value = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        fraction = f".{value.microsecond:06}" if value.microsecond else ""
        if fraction.endswith("000"):
            fraction = fraction[:-3]
        return value.strftime("%Y-%m-%dT%H:%M:%S") + fraction + zone
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=render)
    return str(value) if str(value) else "(empty)"


Word = collections.namedtuple("Word", "text rounded")


def words_of(row):
    """A row as words, each with whether it is a double, which may be rounded another way."""
    return [Word(word, isinstance(value, float)) for value in row for word in render(value).split()]


def is_same(word, theirs, sketched):
    if word.text == theirs:
        return True
    try:
        a, b = decimal.Decimal(word.text), decimal.Decimal(theirs)
    except decimal.InvalidOperation:
        return False
    if not (a.is_finite() and b.is_finite()):
        return False
    # What a sketch answers has many digits, unless it is exact.
    within = 0.0101 if sketched and re.search(r"\.\d{6}", theirs) else 1e-9 if word.rounded else 0
    return abs(a - b) <= decimal.Decimal(within) * max(abs(a), abs(b))


def compare(computed, expected, head, sql):
    """Why the rows differ, or None."""
    sketched = re.search(r"p50|p99|quantile|percentile|ddsketch|SELECT \*|\w\.\*", sql)
    rows = [words_of(row) for row in computed]
    wanted = [line.split() for line in expected]
    if "rowsort" in head:
        rows.sort(key=lambda row: [word.text for word in row])
        wanted.sort()
    if len(rows) != len(wanted):
        return f"{len(rows)} rows, not {len(wanted)}"
    for mine, theirs in zip(rows, wanted):
        if len(mine) != len(theirs) or not all(is_same(a, b, sketched) for a, b in zip(mine, theirs)):
            return f"computed {' '.join(word.text for word in mine)} | expected {' '.join(theirs)}"
    return None


def attempts(sql):
    """The spellings to try, with the schema in which they are asked."""
    rewritten = sql
    for pattern, replacement in REWRITE:
        rewritten = re.sub(pattern, replacement, rewritten, flags=re.I)
    for text_ in dict.fromkeys([sql, rewritten]):
        if "information_schema" in text_:
            continue
        if not re.search(r"\bmeasure\(", text_, re.I):
            yield "plain", text_
            continue
        for mode in ("hidden", "lists"):
            try:
                yield mode, with_measures(text_, mode)
            except KeyError:
                continue


def judge(db, record):
    """("right" | "wrong" | "left", why)."""
    reasons, differences = [], []
    if re.match(r"SHOW|DESCRIBE", record.sql, re.I):
        return "left", "asks the engine about itself"
    for schema, sql in attempts(record.sql):
        db.execute(f"set search_path = '{schema},main'")
        try:
            rows = db.execute(sql).fetchall()
        except Exception as error:  # A query that DuckDB does not understand is left to others.
            reasons.append(str(error).split("\n")[0])
            continue
        difference = compare(rows, record.rows, record.head, record.sql)
        if difference is None:
            return "right", None
        differences.append(difference)
    if differences:
        return "wrong", differences[-1]
    return "left", reasons[-1] if reasons else "no spelling"


def main():
    db = duckdb.connect()
    build(db, *read())
    verdicts = collections.Counter()
    failed = False
    for path in sorted(HERE.glob("*.slt")):
        here = collections.Counter()
        for record in records(path):
            if not record.head.startswith("query"):
                here["not queries"] += 1
                continue
            verdict, why = judge(db, record)
            here[verdict] += 1
            if verdict == "wrong":
                failed = True
                print(f"{record.place}: {why}\n    {record.sql}")
            elif verdict == "left" and "--left" in sys.argv:
                print(f"{record.place}: left: {why}\n    {record.sql}")
        print(f"{path.name}: {here['right']} right, {here['wrong']} wrong, {here['left']} not judged, "
              f"{here['not queries']} statements")
        verdicts += here
    print(f"all: {verdicts['right']} right, {verdicts['wrong']} wrong, {verdicts['left']} not judged, "
          f"{verdicts['not queries']} statements")
    sys.exit(failed)


if __name__ == "__main__":
    main()
