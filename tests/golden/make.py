#!/usr/bin/env python3
"""Writes the golden cases: events, and what must come of them by model.py. The product takes no part in it.

    make.py            write every case
    make.py --check    write nothing; exit 1 when a stored file differs from what would be written

Needs Python 3.11 or newer and nothing beside it. The events of the case `flights` are a slice of real ones and
are kept; `make.py --slice FILE` cuts them anew from the output of scripts/flights.py.
"""

import argparse
import decimal
import json
import math
import pathlib
import random
import re
import shutil
import sys

from model import (
    DAY,
    HOUR,
    MINUTE,
    Failed,
    Table,
    average,
    count,
    distinct,
    double_total,
    instant,
    largest,
    quantile,
    run,
    smallest,
    timestamp,
    total,
)

CENT = decimal.Decimal("0.01")
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


class Case:
    """A case to be written: the two files, the payloads, and the same pipeline for the model."""

    def __init__(self, name, schema, pipeline, payloads, tables, late=None, **meaning):
        self.name, self.schema, self.payloads = name, schema, payloads
        self.pipeline = pipeline if isinstance(pipeline, pathlib.Path) else HEAD.format(**pipeline)
        self.tables, self.late, self.meaning = tables, late, meaning


HEAD = """version: 1
description: {description}

source:
  kafka:
    connection: main
    topics: [events]
    start: earliest

decode:
  json:
    schema: schema.yaml
{decode}
event_time:
  column: ts
{time}
{body}"""


def pipeline(description, body, decode="", time=""):
    return {"description": description, "body": body.lstrip("\n"), "decode": decode, "time": time}


def schema_text(columns):
    lines = [f"  {name}: {kind}" for name, kind in columns.items()]
    return "\n".join(["version: 1", "columns:", *lines, ""])


def payload(event):
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        return event.encode()
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def text_or_none(number):
    return None if number is None else str(number)


def column(name):
    return lambda event: event[name]


# --- clicks: late events, bots, a missing country --------------------------------------------------------------

CLICK = {
    "ts": "timestamp",
    "user_id": "string",
    "country": "string?",
    "url": "string",
    "status": "int?",
    "latency_ms": "double?",
    "bytes": "bigint?",
    "is_bot": "boolean",
}


def clicks_events():
    chance = random.Random(20260301)
    start = instant("2026-03-01T12:00:00Z")
    moment, events = start, []
    for number in range(400):
        moment += chance.randrange(0, 4_000_000)
        # Every ninth event comes late: by up to an hour, far behind the watermark.
        when = moment - chance.randrange(40, 3600) * 1_000_000 if number % 9 == 8 else moment
        event = {
            "ts": timestamp(when),
            "user_id": f"u{chance.randrange(60)}",
            "country": chance.choice(["CH", "DE", "US", None]),
            "url": chance.choice(["/", "/a", "/a?x=1", "/b?y=2&z=3", "/c/d"]),
            "status": chance.choice([200, 200, 200, 304, 404, 500, 503, None]),
            "latency_ms": round(chance.lognormvariate(3, 1), 3),
            "bytes": chance.randrange(100, 5_000_000_000),
            "is_bot": chance.random() < 0.1,
        }
        if number % 7 == 0:
            del event["country"]
        if number % 50 == 17:
            events.append(b'{"ts": 17726xx, "user_id": ')
        events.append(event)
    return events


def late_count(payloads, max_delay):
    """Accepted events older than the watermark just before them, for one partition in this order."""
    newest, late = None, 0
    for line in payloads:
        try:
            moment = instant(json.loads(line)["ts"])
        except ValueError:
            continue
        late += newest is not None and moment < newest - max_delay
        newest = moment if newest is None else max(newest, moment)
    return late


CLICKS_BODY = """
where: not is_bot

tables:
  clicks_per_minute:
    window: {tumbling: 1m}
    group_by:
      country: coalesce(country, 'ZZ')
      page: split_part(url, '?', 1)
    measures:
      clicks: count(*)
      errors: count(*) filter (where status >= 500)
      bytes: sum(bytes)
      users: approx_distinct(user_id)
      p50_ms: approx_percentile_cont(latency_ms, 0.5)
      p99_ms: approx_percentile_cont(latency_ms, 0.99)
    partition_by: day

  clicks_per_hour:
    window: {tumbling: 1h}
    measures:
      clicks: count(*)
      users: approx_distinct(user_id)
      mean_ms: avg(latency_ms)
      p99_ms: approx_percentile_cont(latency_ms, 0.99)
"""


def clicks():
    latency, user = column("latency_ms"), column("user_id")
    payloads = [payload(event) for event in clicks_events()]
    tables = {
        "clicks_per_minute": Table(
            MINUTE,
            {
                "clicks": count(),
                "errors": count(where=lambda e: None if e["status"] is None else e["status"] >= 500),
                "bytes": total(column("bytes"), str),
                "users": distinct(user),
                "p50_ms": quantile(latency, 0.5),
                "p99_ms": quantile(latency, 0.99),
            },
            {
                "country": lambda e: "ZZ" if e["country"] is None else e["country"],
                "page": lambda e: e["url"].split("?")[0],
            },
        ),
        "clicks_per_hour": Table(
            HOUR,
            {
                "clicks": count(),
                "users": distinct(user),
                "mean_ms": average(latency),
                "p99_ms": quantile(latency, 0.99),
            },
        ),
    }
    return Case(
        "clicks_late",
        CLICK,
        pipeline("Clicks by country and page, with late, broken and unwanted ones.", CLICKS_BODY, time="  max_delay: 30s\n"),
        payloads,
        tables,
        late=late_count(payloads, 30_000_000),
        where=lambda e: not e["is_bot"],
    )


# --- text: null keys, escapes, unicode ----------------------------------------------------------------------------


def text():
    stamp = '"ts":"2026-03-01T12:00:0%d.5Z"'
    keys = [
        "null",
        '""',
        '"a"',
        r'"\u0061"',
        '"é"',
        r'"\u00e9"',
        r'"e\u0301"',
        '"😀"',
        r'"\ud83d\ude00"',
        r'"\uD83D\uDE00"',
        r'"say \"hi\" \\ \/ \b\f\n\r\t"',
        r'"say \u0022hi\u0022 \u005c / \u0008\u000c\u000a\u000d\u0009"',
        '"ünï / cödé ✓ 漢字 \u2028 end"',
        '"' + "long " * 200 + '"',
        '"  spaces  "',
        '"A"',
        '"NULL"',
    ]
    lines = []
    for number, key in enumerate(keys):
        when = stamp % (number % 10)
        lines.append(f'{{{when},"name":{key},"weight":{number}}}')
        # The same with white space and another order of fields; every third leaves a null key out.
        if key == "null" or number % 3 == 0:
            body = "" if key == "null" else f' "name" : {key},'
            lines.append(f' {{ "weight" : {number + 100} ,{body}\t{when} }}\t')
    return Case(
        "text",
        {"ts": "timestamp", "name": "string?", "weight": "int"},
        pipeline(
            "Keys that are null, empty, escaped or not ASCII.",
            """
tables:
  by_name:
    window: {tumbling: 1m}
    group_by:
      name: name
    measures:
      events: count(*)
      named: count(name)
      weight: sum(weight)
      first: min(name)
      last: max(name)
""",
        ),
        lines,
        {
            "by_name": Table(
                MINUTE,
                {
                    "events": count(),
                    "named": count(column("name")),
                    "weight": total(column("weight")),
                    "first": smallest(column("name")),
                    "last": largest(column("name")),
                },
                {"name": column("name")},
            )
        },
    )


def keys():
    chance = random.Random(13)
    columns = {"ok": "boolean?", "day": "date?", "price": "decimal(10,2)?", "big": "bigint?", "x": "double?", "at": "timestamp?"}
    choices = {
        "ok": ["true", "false"],
        "day": ['"2026-03-01"', '"1969-07-20"'],
        "price": ["1.1", "1.10", "-1.1", "0", "-0.00"],
        "big": ["9007199254740993", "9007199254740992", "-1"],
        "x": ["0.0", "-0.0", "0", "1e2", "100", "0.1"],
        "at": ['"2026-03-01T13:00:00+01:00"', '"2026-03-01T12:00:00Z"', '"2026-03-01T12:00:00.000001Z"'],
    }
    lines = []
    for number in range(300):
        # One key column at a time is set, so that groups stay few; the others are null.
        name = list(columns)[number % len(columns)]
        value = chance.choice([*choices[name], "null"])
        lines.append(f'{{"ts":"2026-03-01T12:00:00Z","{name}":{value},"n":{number}}}')
    group = {name: column(name) for name in columns}
    group["x"] = lambda e: None if e["x"] is None else e["x"] + 0.0
    group["price"] = lambda e: None if e["price"] is None else str((e["price"] + 0).quantize(CENT))
    group["at"] = lambda e: None if e["at"] is None else timestamp(e["at"])
    return Case(
        "keys",
        {"ts": "timestamp", "n": "int", **columns},
        pipeline(
            "Group columns of every type; equal values are one key, however they are written.",
            """
tables:
  by_key:
    window: {tumbling: 1m}
    group_by:
"""
            + "".join(f"      {name}: {name}\n" for name in columns)
            + """    measures:
      events: count(*)
      n: sum(n)
""",
        ),
        lines,
        {"by_key": Table(MINUTE, {"events": count(), "n": total(column("n"))}, group)},
    )


# --- broken: every way in which an event's bytes can be wrong -----------------------------------------------------

GOOD = '"ts":"2026-03-01T12:00:05Z","id":"a","n":1,"big":2,"x":0.5,"ok":true,"day":"2026-03-01","price":1.25,"note":"n"'
BROKEN = {
    "ts": "timestamp",
    "id": "string",
    "n": "int",
    "big": "bigint",
    "x": "double",
    "ok": "boolean",
    "day": "date",
    "price": "decimal(10,2)",
    "note": "string?",
    "unused": "int?",
}


def field(name, value):
    """The good event with one field replaced; `None` leaves it out."""
    replaced = re.sub(rf'"{name}":("[^"]*"|[^,]*)', lambda _: "" if value is None else f'"{name}":{value}', GOOD)
    return "{" + ",".join(part for part in replaced.split(",") if part) + "}"


def broken_lines():
    good = "{" + GOOD + "}"
    lines = [good]
    # Not one JSON object.
    lines += ["", " ", "not json", "{", "}", "[]", "null", "7", '"text"', "true", good[:-1], good[:40]]
    lines += [good + "}", good + good, good + " x", good + ",", "{" + GOOD + ",}", "{'ts':1}", "{ts:1}"]
    lines += [b"\xef\xbb\xbf" + good.encode(), "/* */" + good, good.replace(":true", ":True")]
    lines += [good.replace(":true", ":tru"), good.replace('"id":', '"id" '), good.replace(",", ";", 1)]
    # Text that is not text.
    lines += [good.replace('"a"', '"\xff"').encode("latin-1"), b'{"skipped":"\xc3(",' + GOOD.encode() + b"}"]
    lines += [good.replace('"a"', '"\xc0\x80"').encode("latin-1"), good.replace('"a"', '"\xed\xa0\x80"').encode("latin-1")]
    lines += [field("id", r'"\ud800"'), field("id", r'"\udc00\ud800"'), field("id", r'"\u0000"'), field("note", r'"x\u0000"')]
    lines += [field("id", '"tab\there"'), field("id", r'"\x41"'), field("id", r'"\u12"'), field("id", '"\x01"')]
    # Missing, null, or of another type; used or not.
    for name in ("ts", "id", "n", "big", "x", "ok", "day", "price"):
        lines += [field(name, None), field(name, "null")]
    lines += [field("id", "5"), field("id", "true"), field("id", "{}"), field("id", '["a"]')]
    lines += [field("n", '"1"'), field("n", "true"), field("n", "1.5"), field("n", "[]")]
    lines += [field("n", "2147483648"), field("n", "-2147483649"), field("n", "99999999999999999999999")]
    lines += [field("big", "9223372036854775808"), field("big", "-9223372036854775809"), field("big", "0.5")]
    lines += [field("x", "1e400"), field("x", "-1e400"), field("x", "NaN"), field("x", "Infinity"), field("x", '"0.5"')]
    lines += [field("x", "1."), field("x", ".5"), field("x", "+1"), field("x", "01"), field("x", "1e"), field("x", "0x10")]
    lines += [field("ok", '"true"'), field("ok", "1"), field("ok", "{}")]
    lines += [field("day", '"2026-02-30"'), field("day", '"tomorrow"'), field("day", "20260301")]
    lines += [field("price", "123456789.00"), field("price", "true"), field("price", "{}")]
    lines += [field("ts", '"2026-03-01"'), field("ts", '"2026-03-01T12:00:05"'), field("ts", '"2026-13-01T12:00:05Z"')]
    lines += [field("ts", '"2026-02-29T12:00:05Z"'), field("ts", '"2026-03-01T25:00:05Z"'), field("ts", '""')]
    lines += [field("ts", "1772366405"), field("ts", "true"), field("ts", '"yesterday"')]
    unused = "{" + GOOD + ',"unused":%s}'
    lines += [unused % value for value in ('"7"', "7.5", "4294967296", "{}", "[7]", "false")]
    # Nested deeper than anybody means.
    lines += ["{" + GOOD + ',"deep":' + "[" * 300 + "]" * 300 + "}", "[" * 5000, '{"a":' * 5000]
    nested = "{" + GOOD + ',"deep":' + "[" * 128 + "]" * 128 + "}"
    lines += [nested, nested.replace("[", '{"a":').replace(":]", ":1}").replace("]", "}")]
    lines += ['{"skipped":"' + bad + '",' + GOOD + "}" for bad in (r"\ud83d", r"\ude00", r"\u0000", r"\q")]
    lines += [field("n", "1.0"), field("n", "1e3"), field("big", "1E0"), field("price", "1.255"), field("price", "1e8")]
    # And what is right, however strange it looks.
    lines += [unused % "7", unused % "null", "{" + GOOD + ',"extra":{"a":[1,2,{"b":null}]},"more":"\u2713"}']
    lines += ["{" + GOOD + ',"deep":' + "[" * 100 + "]" * 100 + "}", "\t " + good + " \r", field("note", "null")]
    lines += [field("note", None), field("n", "-2147483648"), field("n", "2147483647"), field("x", "1e3")]
    lines += [field("x", "-0.0"), field("x", "7"), field("x", "1E-5"), field("big", "9223372036854775807")]
    lines += [field("ts", '"2026-03-01T13:00:05.123456+01:00"'), field("ts", '"2026-03-01T04:30:05.5-07:30"')]
    lines += [field("ts", '"2026-03-01T12:00:05.999999999Z"'), field("price", "99999999.99"), field("price", "-0.01")]
    lines += ["{" + GOOD + ',"deep":' + "[" * 127 + "]" * 127 + "}", field("n", "-0"), field("price", "1.2500"), field("price", "125e-2")]
    lines += [field("ts", '"2026-03-01t12:00:59z"'), field("ts", '"2026-03-01 11:59:60Z"'), field("ts", r'"2026-03-01T12:00:0\u0035Z"')]
    # The last of several values of a key is the one that counts.
    lines += ["{" + GOOD + ',"n":5}', '{"n":"no",' + GOOD + "}", "{" + GOOD + ',"n":"no"}', "{" + GOOD + ',"note":"p","note":null}']
    lines += ["{" + GOOD + ',"id":null}', '{"id":"b",' + GOOD + ',"id":"c"}']
    return lines


def broken():
    return Case(
        "broken",
        BROKEN,
        pipeline(
            "Every way in which an event's bytes can be wrong, and some that only look so.",
            """
tables:
  taken:
    window: {tumbling: 1m}
    group_by:
      id: id
    measures:
      events: count(*)
      notes: count(note)
      n: sum(n)
      first: min(ts)
      last: max(ts)
      x: sum(x)
""",
        ),
        broken_lines(),
        {
            "taken": Table(
                MINUTE,
                {
                    "events": count(),
                    "notes": count(column("note")),
                    "n": total(column("n")),
                    "first": smallest(column("ts"), timestamp),
                    "last": largest(column("ts"), timestamp),
                    "x": double_total(column("x")),
                },
                {"id": column("id")},
            )
        },
    )


def unknown_fields():
    good = '{"ts":"2026-03-01T12:00:05Z","n":%d}'
    lines = [good % 1, good % 2, '{"ts":"2026-03-01T12:00:05Z","n":3,"m":4}', '{"N":5,"ts":"2026-03-01T12:00:05Z","n":6}']
    lines += ['{"ts":"2026-03-01T12:00:05Z","n":7,"m":null}', r'{"ts":"2026-03-01T12:00:05Z","\u006e":8}', good % 9]
    return Case(
        "unknown_fields",
        {"ts": "timestamp", "n": "int"},
        pipeline(
            "Fields that the schema does not name make an event a reject, where that is asked for.",
            """
tables:
  known:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      n: sum(n)
""",
            decode="    unknown_fields: reject\n",
        ),
        lines,
        {"known": Table(MINUTE, {"events": count(), "n": total(column("n"))})},
        refuse_unknown=True,
    )


# --- numbers: decimals, big integers, sums that would wrap --------------------------------------------------------


def numbers():
    chance = random.Random(7)
    lines = []
    for number in range(120):
        big = [9223372036854775807, -9223372036854775808, 9007199254740993, number][number % 4]
        quantity = 2147483647 if number % 3 else -number
        cents = chance.randrange(-10**9, 10**9)
        price = f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"
        optional = "" if number % 5 else f',"tiny":{chance.uniform(-1, 1) * 10.0 ** -(number % 20)!r}'
        kind = "even" if number % 2 == 0 else "odd"
        lines.append(
            f'{{"ts":"2026-03-01T12:00:{number % 60:02}Z","kind":"{kind}","big":{big},"quantity":{quantity},"price":{price}{optional}}}'
        )
    big, quantity, price, tiny = map(column, ("big", "quantity", "price", "tiny"))
    return Case(
        "numbers",
        {"ts": "timestamp", "kind": "string", "big": "bigint", "quantity": "int", "price": "decimal(10,2)", "tiny": "double?"},
        pipeline(
            "Sums that would wrap in 32 or 64 bits, and decimals that stay decimal.",
            """
tables:
  sums:
    window: {tumbling: 1h}
    group_by:
      kind: kind
    measures:
      events: count(*)
      big: sum(big)
      big_min: min(big)
      big_max: max(big)
      quantity: sum(quantity)
      mean_quantity: avg(quantity)
      price: sum(price)
      price_min: min(price)
      price_max: max(price)
      tiny: sum(tiny)
      tiny_mean: avg(tiny)
""",
        ),
        lines,
        {
            "sums": Table(
                HOUR,
                {
                    "events": count(),
                    "big": total(big, str),
                    "big_min": smallest(big),
                    "big_max": largest(big),
                    "quantity": total(quantity),
                    "mean_quantity": average(quantity),
                    "price": total(price, str),
                    "price_min": smallest(price, str),
                    "price_max": largest(price, str),
                    "tiny": double_total(tiny),
                    "tiny_mean": average(tiny),
                },
                {"kind": column("kind")},
            )
        },
    )


# --- time: acceptance, windows, units ------------------------------------------------------------------------------


def acceptance():
    times = ["2026-03-01T23:59:59Z", "2036-03-01T00:00:00Z", "2026-03-02T00:04:59Z", "2026-03-02T00:05:01Z"]
    times += ["2026-02-28T23:59:59Z", "2026-03-01T00:00:01Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    times += ["0001-01-01T00:00:00Z", "2026-03-01T12:00:00Z", "2026-03-02T01:04:00+01:00"]
    lines = [{"ts": when, "n": number} for number, when in enumerate(times)]
    return Case(
        "acceptance",
        {"ts": "timestamp", "n": "int"},
        pipeline(
            "Event time too far before or after the record's own time makes a dead letter.",
            """
tables:
  accepted:
    window: {tumbling: 1d}
    measures:
      events: count(*)
      n: sum(n)
      last: max(ts)
""",
            time="  accept: {past: 1d, future: 5m}\n",
        ),
        lines,
        {
            "accepted": Table(
                DAY,
                {"events": count(), "n": total(column("n")), "last": largest(column("ts"), timestamp)},
            )
        },
        past=DAY,
    )


def windows():
    times = ["2026-03-01T11:59:59.999999Z", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000001Z"]
    times += ["2026-03-01T12:06:59.999999Z", "2026-03-01T12:07:00Z", "2026-02-28T23:59:59.999999Z", "2026-03-01T00:00:00Z"]
    # Before 1970 a window still starts at or before its events.
    times += ["1969-12-31T23:59:59.5Z", "1969-12-31T23:53:00Z", "1969-12-31T23:52:59.999999Z", "1970-01-01T00:00:00Z"]
    times += ["1900-02-28T12:00:00Z", "2024-02-29T12:00:00Z", "2000-01-01T00:00:00+14:00"]
    body = "tables:\n"
    tables = {}
    for name, span, micros in (("of_7m", "7m", 7 * MINUTE), ("of_1d", "1d", DAY), ("of_1s", "1s", 1_000_000)):
        body += f"  {name}:\n    window: {{tumbling: {span}}}\n    measures:\n      events: count(*)\n      n: sum(n)\n"
        tables[name] = Table(micros, {"events": count(), "n": total(column("n"))})
    lines = [{"ts": when, "n": 1 << number} for number, when in enumerate(times)]
    return Case(
        "windows",
        {"ts": "timestamp", "n": "int"},
        pipeline("Events on the edges of windows, and before 1970.", body),
        lines,
        tables,
    )


def units():
    text = {"ts": "2026-03-01T12:00:00Z", "seen": "2026-03-01T12:00:01Z", "n": 1}
    lines = [text, {"ts": 1772366400000, "seen": 1772366401, "n": 2}, {"ts": 1772366459999, "seen": 1772366402, "n": 4}]
    lines += [{"ts": 1772366460000, "n": 8}, {"ts": -1, "seen": -1, "n": 16}, {"ts": "12:00", "n": 32}, {"ts": True, "n": 64}]
    lines += [{"ts": 99999999999999999999, "n": 128}]

    # The model knows RFC 3339 only: for it the numbers are written out.
    def written(event):
        event = dict(event)
        for name, unit in (("ts", 1000), ("seen", 1_000_000)):
            if type(event.get(name)) is int and abs(event[name]) < 1 << 50:
                event[name] = timestamp(event[name] * unit)
        return event

    case = Case(
        "units",
        {"ts": "{type: timestamp, unit: ms}", "seen": "{type: timestamp, unit: s, optional: true}", "n": "int"},
        pipeline(
            "Timestamps that are numbers, of a stated unit, beside RFC 3339 text.",
            """
tables:
  by_minute:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      n: sum(n)
      seen: max(seen)
""",
        ),
        lines,
        {
            "by_minute": Table(
                MINUTE,
                {"events": count(), "n": total(column("n")), "seen": largest(column("seen"), timestamp)},
            )
        },
    )
    case.model_payloads = [payload(written(event)) for event in lines]
    case.model_schema = {"ts": "timestamp", "seen": "timestamp?", "n": "int"}
    return case


# --- measures over other types ------------------------------------------------------------------------------------


def extremes():
    chance = random.Random(11)
    names = ["Zoe", "ann", "Ann", "Ärger", "zoe", "bob", "", "~", "漢", "😀", "a" * 300]
    lines = []
    for number in range(60):
        lines.append(
            {
                "ts": timestamp(instant("2026-03-01T12:00:00Z") + chance.randrange(3 * 60) * 1_000_000),
                "name": None if number % 4 == 0 else chance.choice(names),
                "at": None if number % 6 == 0 else timestamp(chance.randrange(-(10**15), 2 * 10**15)),
                "day": f"20{chance.randrange(10, 26)}-0{chance.randrange(1, 10)}-1{chance.randrange(10)}",
                "x": chance.choice([-1.5, 0.25, 1e300, -1e-300, 3.0]),
            }
        )
    # One window in which every optional value is null.
    lines.append({"ts": "2026-03-01T13:00:00Z", "day": "2026-01-01", "x": 1.0})
    name, at, day, x = map(column, ("name", "at", "day", "x"))
    return Case(
        "extremes",
        {"ts": "timestamp", "name": "string?", "at": "timestamp?", "day": "date", "x": "double"},
        pipeline(
            "The smallest and the largest of text, timestamps, dates and doubles.",
            """
tables:
  extremes:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      name_min: min(name)
      name_max: max(name)
      at_min: min(at)
      at_max: max(at)
      day_min: min(day)
      day_max: max(day)
      x_min: min(x)
      x_max: max(x)
      names: approx_distinct(name)
""",
        ),
        lines,
        {
            "extremes": Table(
                MINUTE,
                {
                    "events": count(),
                    "name_min": smallest(name),
                    "name_max": largest(name),
                    "at_min": smallest(at, timestamp),
                    "at_max": largest(at, timestamp),
                    "day_min": smallest(day),
                    "day_max": largest(day),
                    "x_min": smallest(x),
                    "x_max": largest(x),
                    # Sketches of other engines pass over empty text, and so does ours.
                    "names": distinct(lambda e: e["name"] or None),
                },
            )
        },
    )


def sketches():
    chance = random.Random(5)
    lines = []
    for number in range(4000):
        site = chance.choice("aab")
        lines.append(
            {
                "ts": timestamp(instant("2026-03-01T12:00:00Z") + number * 500_000),
                "site": site,
                "visitor": f"v{chance.randrange(2500)}",
                "ms": round(chance.lognormvariate(3, 1.5), 4),
                "delta": round(chance.gauss(0, 100), 3),
            }
        )
    site, visitor, ms, delta = map(column, ("site", "visitor", "ms", "delta"))
    measures = {"events": count(), "visitors": distinct(visitor)}
    for rank in (0, 0.25, 0.5, 0.9, 0.99, 1):
        measures[f"ms_{int(rank * 100)}"] = quantile(ms, rank)
    for rank in (0.1, 0.9):
        measures[f"delta_{int(rank * 100)}"] = quantile(delta, rank)
    written = "".join(
        f"      {name}: approx_percentile_cont({name.rpartition('_')[0]}, {int(name.rpartition('_')[2]) / 100})\n"
        for name in list(measures)[2:]
    )
    return Case(
        "sketches",
        {"ts": "timestamp", "site": "string", "visitor": "string", "ms": "double", "delta": "double"},
        pipeline(
            "Distinct counts and quantiles of enough values that only sketches hold them.",
            f"""
tables:
  sketches:
    window: {{tumbling: 1h}}
    group_by:
      site: site
    measures:
      events: count(*)
      visitors: approx_distinct(visitor)
{written}""",
        ),
        lines,
        {"sketches": Table(HOUR, measures, {"site": site})},
    )


# --- filters and expressions ---------------------------------------------------------------------------------------


def filters():
    lines = []
    for number in range(40):
        status = [200, 404, 500, None][number % 4]
        method = [None, "GET", "POST"][number % 3]
        bot = number % 5 == 0
        lines.append({"ts": f"2026-03-01T12:{number % 2:02}:{number:02}Z", "status": status, "method": method, "bot": bot, "n": number})

    def failed(e):
        return None if e["status"] is None else e["status"] >= 500

    return Case(
        "filters",
        {"ts": "timestamp", "status": "int?", "method": "string?", "bot": "boolean", "n": "int"},
        pipeline(
            "A filter of the pipeline, of a table and of a measure; where NULL is not true.",
            """
where: not bot

tables:
  everything:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      failed: count(*) filter (where status >= 500)
      posted: sum(n) filter (where method = 'POST')

  posts:
    window: {tumbling: 1m}
    where: method = 'POST' and status <> 200
    group_by:
      status: status
    measures:
      events: count(*)
      n: max(n)

  nothing:
    window: {tumbling: 1m}
    where: n > 1000
    measures:
      events: count(*)
""",
        ),
        lines,
        {
            "everything": Table(
                MINUTE,
                {
                    "events": count(),
                    "failed": count(where=failed),
                    "posted": total(lambda e: e["n"] if e["method"] == "POST" else None),
                },
            ),
            "posts": Table(
                MINUTE,
                {"events": count(), "n": largest(column("n"))},
                {"status": column("status")},
                where=lambda e: e["method"] == "POST" and e["status"] is not None and e["status"] != 200,
            ),
            "nothing": Table(MINUTE, {"events": count()}, where=lambda e: e["n"] > 1000),
        },
        where=lambda e: not e["bot"],
    )


def divided(left, right):
    """SQL's division of integers: towards zero, and none by zero."""
    if right == 0:
        raise Failed
    return -(-left // right) if (left < 0) != (right < 0) else left // right


def in_64_bits(number):
    if not -(1 << 63) <= number < 1 << 63:
        raise Failed
    return number


def cast_int(text):
    if not re.fullmatch(r"-?[0-9]+", text):
        raise Failed
    return int(text)


def expressions():
    lines = []
    for number, x in enumerate([5, 0, 2, -3, 0, 1, 10, 11, 7, 0, 0, 20]):
        code = ["12", "x7", "3", "", "-4"][number % 5]
        big = [1, 9223372036854775807, 4, 9223372036854775000][number % 4]
        lines.append({"ts": f"2026-03-01T12:00:{number:02}Z", "x": x, "code": code, "big": big})
    return Case(
        "expressions",
        {"ts": "timestamp", "x": "int", "code": "string", "big": "bigint"},
        pipeline(
            "An expression that fails for an event rejects that event for that table alone.",
            """
tables:
  guarded:                      # for x = 0 the left side decides: the event is filtered, alone as in a batch
    window: {tumbling: 1m}
    where: x <> 0 and 10 / x > 1
    measures:
      events: count(*)
      x: sum(x)

  divided:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      tenth: sum(10 / x)

  codes:
    window: {tumbling: 1m}
    group_by:
      code: cast(code as int)
    measures:
      events: count(*)

  big:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      thousandfold: max(big * 1000)

  untouched:
    window: {tumbling: 1m}
    measures:
      events: count(*)
""",
        ),
        lines,
        {
            "guarded": Table(
                MINUTE,
                {"events": count(), "x": total(column("x"))},
                where=lambda e: e["x"] != 0 and divided(10, e["x"]) > 1,
            ),
            "divided": Table(
                MINUTE, {"events": count(), "tenth": total(lambda e: divided(10, e["x"]), str)}
            ),
            "codes": Table(MINUTE, {"events": count()}, {"code": lambda e: cast_int(e["code"])}),
            "big": Table(
                MINUTE,
                {"events": count(), "thousandfold": largest(lambda e: in_64_bits(e["big"] * 1000))},
            ),
            "untouched": Table(MINUTE, {"events": count()}),
        },
    )


# --- two tables, no events, real events ----------------------------------------------------------------------------


def two_tables():
    chance = random.Random(3)
    lines = []
    for number in range(200):
        lines.append(
            {
                "ts": timestamp(instant("2026-02-27T22:00:00Z") + chance.randrange(8 * 3600) * 1_000_000),
                "shop": chance.choice(["north", "south", "east"]),
                "till": chance.randrange(4),
                "amount": chance.randrange(-500, 5000),
            }
        )
    shop, till, amount = map(column, ("shop", "till", "amount"))
    return Case(
        "two_tables",
        {"ts": "timestamp", "shop": "string", "till": "int", "amount": "int"},
        pipeline(
            "One stream, two tables of other windows and keys, across a month's end.",
            """
tables:
  by_till:
    window: {tumbling: 30m}
    group_by:
      shop: shop
      till: till
    measures:
      sales: count(*)
      amount: sum(amount)
    partition_by: day

  by_shop:
    window: {tumbling: 1d}
    group_by:
      shop: upper(shop)
    measures:
      sales: count(*)
      mean: avg(amount)
      least: min(amount)
      most: max(amount)
    partition_by: month
""",
        ),
        lines,
        {
            "by_till": Table(30 * MINUTE, {"sales": count(), "amount": total(amount)}, {"shop": shop, "till": till}),
            "by_shop": Table(
                DAY,
                {"sales": count(), "mean": average(amount), "least": smallest(amount), "most": largest(amount)},
                {"shop": lambda e: e["shop"].upper()},
            ),
        },
    )


def empty():
    return Case(
        "empty",
        {"ts": "timestamp", "n": "int"},
        pipeline(
            "No event at all.",
            """
tables:
  nothing:
    window: {tumbling: 1m}
    measures:
      events: count(*)
      n: sum(n)
""",
        ),
        [],
        {"nothing": Table(MINUTE, {"events": count(), "n": total(column("n"))})},
    )


FLIGHT = {
    "ts": "timestamp",
    "carrier": "string",
    "flight": "int",
    "origin": "string",
    "dest": "string",
    "tailnum": "string?",
    "distance": "int",
    "cancelled": "boolean",
    "dep_delay": "double?",
    "arr_delay": "double?",
    "air_time": "int?",
}
# Days of UTC: an ordinary one, a blizzard, both changes of the clock, and the year's end.
FLIGHT_DAYS = ("2013-01-01", "2013-02-08", "2013-02-09", "2013-03-10", "2013-11-03", "2013-12-31")


def cut_flights(source):
    """About 400 flights of several days: every thirteenth, and every seventh cancelled one."""
    lines, cancelled = [], 0
    for number, line in enumerate(source):
        if not json.loads(line)["ts"].startswith(FLIGHT_DAYS):
            continue
        gone = b'"cancelled":true' in line
        cancelled += gone
        if number % 13 == 0 or (gone and cancelled % 7 == 0):
            lines.append(line)
    return lines


def flights():
    stored = HERE / "flights" / "events.ndjson"
    payloads = stored.read_bytes().splitlines() if stored.exists() else []
    arrival = column("arr_delay")
    measures = {
        "flights": count(),
        "cancelled": count(where=column("cancelled")),
        "dep_delay": average(column("dep_delay")),
        "arr_delay": average(arrival),
        "arr_delay_p90": quantile(arrival, 0.9),
        "tails": distinct(column("tailnum")),
        "miles": total(column("distance")),
    }
    group = {"carrier": column("carrier"), "origin": column("origin")}
    return Case(
        "flights",
        FLIGHT,
        ROOT / "pipelines" / "flights.yaml",
        payloads,
        {"flights_per_day": Table(DAY, measures, group), "flights_per_hour": Table(HOUR, measures, group)},
    )


CASES = (
    clicks,
    text,
    keys,
    broken,
    unknown_fields,
    numbers,
    acceptance,
    windows,
    units,
    extremes,
    sketches,
    filters,
    expressions,
    two_tables,
    empty,
    flights,
)


def rows_text(rows):
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n" if rows else "[]\n"


def files(case):
    """Everything a case's folder holds, by path."""
    payloads = [payload(line) for line in case.payloads]
    assert not any(b"\n" in line for line in payloads), f"{case.name}: a payload with a line break"
    judged = getattr(case, "model_payloads", payloads)
    outcome = run(judged, getattr(case, "model_schema", case.schema), case.tables, **case.meaning)
    if isinstance(case.pipeline, pathlib.Path):
        pipeline_text = case.pipeline.read_text().replace("../schemas/flight.yaml", "schema.yaml")
        pipeline_text = pipeline_text.replace("$schema=../schemas", "$schema=../../../schemas")
        schema = (ROOT / "schemas" / "flight.yaml").read_text()
    else:
        pipeline_text = re.sub(r"\n\n\n+", "\n\n", case.pipeline)
        schema = schema_text(case.schema)
    for name, balance in outcome.balances.items():
        assert balance["in"] == balance["counted"] + balance["filtered"] + balance["rejected"], name
        if case.late is not None:
            balance["late"] = case.late
    result = {
        "pipeline.yaml": pipeline_text.encode(),
        "schema.yaml": schema.encode(),
        "events.ndjson": b"".join(line + b"\n" for line in payloads),
        "expected/dead_letters.json": rows_text(outcome.letters).encode(),
        "balance.json": (json.dumps(outcome.balances, indent=2) + "\n").encode(),
    }
    for name, rows in outcome.rows.items():
        assert not any(isinstance(v, float) and not math.isfinite(v) for row in rows for v in row.values())
        result[f"expected/{name}.json"] = rows_text(rows).encode()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--slice", type=pathlib.Path, help="output of scripts/flights.py to cut the flights from")
    arguments = parser.parse_args()
    if arguments.slice:
        with arguments.slice.open("rb") as source:
            lines = cut_flights(source)
        (HERE / "flights").mkdir(exist_ok=True)
        (HERE / "flights" / "events.ndjson").write_bytes(b"".join(lines))
    different = []
    for make in CASES:
        case = make()
        folder = HERE / case.name
        wanted = files(case)
        stored = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        if arguments.check:
            different += [f"{case.name}/{name}: nothing makes it" for name in stored - wanted.keys()]
            different += [
                f"{case.name}/{name}: differs"
                for name, content in wanted.items()
                if name not in stored or (folder / name).read_bytes() != content
            ]
            continue
        shutil.rmtree(folder / "expected", ignore_errors=True)
        for name, content in wanted.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for line in different:
        print(line, file=sys.stderr)
    print(f"golden cases: {len(CASES)}, differing files: {len(different)}")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
