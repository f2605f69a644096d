"""A pipeline in plain Python: what make.py judges the product by.

Owns the meaning of a pipeline for one event after the other: strict decoding, acceptance, filters, windows,
exact measures. Knows nothing of batches, epochs, sketches or files, and shares no code with the product.
"""

import datetime
import decimal
import json
import math
import re
from fractions import Fraction

decimal.getcontext().prec = 80

# Every record of a golden case carries this Kafka timestamp.
RECORD_TIME = "2026-03-02T00:00:00Z"
MAX_DEPTH = 128
DISTINCT_WITHIN = 0.05
QUANTILE_WITHIN = 0.01
SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND

RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Reject(Exception):
    """An event that cannot be taken: at which stage, and in which column where that is beyond doubt."""

    def __init__(self, stage, column=None):
        super().__init__(stage, column)
        self.stage, self.column = stage, column


class Failed(Exception):
    """An expression that has no value for an event."""


class Number(str):
    """A JSON number as it is written."""


def instant(text):
    """Microseconds since 1970 of an RFC 3339 text; finer digits are dropped."""
    match = RFC3339.fullmatch(text)
    if not match:
        raise ValueError(text)
    *parts, fraction, zone = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    # The second 60 of a leap second is the first one of the next minute.
    leap = second == 60
    moment = datetime.datetime(year, month, day, hour, minute, second - leap)
    seconds = (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1) + leap
    if zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError(text)
        offset = hours * 3600 + minutes * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds * SECOND + int(((fraction or "") + "000000")[:6])


def timestamp(micros):
    """The RFC 3339 text of an instant, with a fraction where there is one."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{moment.microsecond:06}" if moment.microsecond else "") + "Z"


def depth(text):
    """How deep arrays and objects nest, without recursion; strings are passed over."""
    deepest = level = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        deepest = max(deepest, level)
    return deepest


def is_text(value):
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def all_text(value):
    """Whether every string of a document, keys too, can be kept as text everywhere."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not is_text(value):
            return False
    return True


def constant(word):
    raise ValueError(f"{word} is not JSON")


def integer(bits):
    def convert(value):
        if not isinstance(value, Number) or not re.fullmatch(r"-?[0-9]+", value):
            raise ValueError(value)
        number = int(value)
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise ValueError(value)
        return number

    return convert


def double(value):
    if not isinstance(value, Number):
        raise ValueError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def string(value):
    if not isinstance(value, str) or isinstance(value, Number):
        raise ValueError(value)
    return value


def boolean(value):
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def date(value):
    return datetime.date.fromisoformat(string(value)).isoformat()


def fixed(precision, scale):
    def convert(value):
        if not isinstance(value, Number):
            raise ValueError(value)
        number = decimal.Decimal(value)
        scaled = number.scaleb(scale)
        if scaled != scaled.to_integral_value() or abs(scaled) >= 10**precision:
            raise ValueError(value)
        return number

    return convert


TYPES = {
    "string": string,
    "int": integer(32),
    "bigint": integer(64),
    "double": double,
    "boolean": boolean,
    "date": date,
    "timestamp": lambda value: instant(string(value)),
}


def column_type(name):
    match = re.fullmatch(r"decimal\((\d+), ?(\d+)\)", name)
    return fixed(int(match[1]), int(match[2])) if match else TYPES[name]


def decode(payload, schema, refuse_unknown=False):
    """One event as a dictionary of every column of the schema."""
    try:
        text = payload.decode("utf-8")
        if depth(text) > MAX_DEPTH:
            raise ValueError("too deep")
        event = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=constant)
        if not all_text(event):
            raise ValueError("NUL or a lone surrogate")
    except (ValueError, RecursionError):
        raise Reject("decode") from None
    if not isinstance(event, dict):
        raise Reject("decode")
    if refuse_unknown and event.keys() - schema.keys():
        raise Reject("decode")
    result = {}
    for name, kind in schema.items():
        value = event.get(name)
        if value is None:
            if not kind.endswith("?"):
                raise Reject("decode", name)
            result[name] = None
            continue
        try:
            result[name] = column_type(kind.rstrip("?"))(value)
        except ValueError:
            raise Reject("decode", name) from None
    return result


class Measure:
    """One aggregate: what is folded, which rows are looked at, and how the values become the answer."""

    def __init__(self, finish, value=None, where=None):
        self.finish, self.value, self.where = finish, value, where


def count(value=None, where=None):
    return Measure(len, value, where)


def total(value, shape=lambda number: number):
    return Measure(lambda v: shape(sum(v)) if v else None, value)


def smallest(value, shape=lambda number: number):
    return Measure(lambda v: shape(min(v)) if v else None, value)


def largest(value, shape=lambda number: number):
    return Measure(lambda v: shape(max(v)) if v else None, value)


def average(value):
    return Measure(lambda v: float(sum(map(Fraction, v)) / len(v)) if v else None, value)


def distinct(value):
    def finish(values):
        number = len(set(values))
        # Hashes of so few values do not collide but by a rare accident.
        return number if number <= 8 else {"approx": number, "within": DISTINCT_WITHIN}

    return Measure(finish, value)


def quantile(value, rank):
    def finish(values):
        if not values:
            return None
        return {"approx": sorted(values)[math.floor(rank * (len(values) - 1))], "within": QUANTILE_WITHIN}

    return Measure(finish, value)


def double_total(value):
    return Measure(lambda v: math.fsum(v) if v else None, value)


class Table:
    """One table: window length, group columns, measures, and its own filter."""

    def __init__(self, window, measures, group=None, where=lambda e: True):
        self.window, self.measures, self.group, self.where = window, measures, group or {}, where


class Outcome:
    """What must come of a case: rows by table, dead letters, balances by table."""

    def __init__(self, rows, letters, balances):
        self.rows, self.letters, self.balances = rows, letters, balances


def run(payloads, schema, tables, time="ts", where=lambda e: True, past=None, future=5 * MINUTE, refuse_unknown=False):
    """Judges every payload by itself, in order."""
    record = instant(RECORD_TIME)
    letters = []
    balances = {name: dict.fromkeys(("in", "counted", "filtered", "rejected"), 0) for name in tables}
    kept = {name: {} for name in tables}
    for line, payload in enumerate(payloads):
        for balance in balances.values():
            balance["in"] += 1
        try:
            event = decode(payload, schema, refuse_unknown)
            moment = event[time]
            if moment is None or moment > record + future or (past is not None and moment < record - past):
                raise Reject("event_time", time)
        except Reject as reject:
            place = {"column": reject.column} if reject.column else {}
            letters.append({"line": line, "stage": reject.stage, **place, "table": None})
            for balance in balances.values():
                balance["rejected"] += 1
            continue
        for name, table in tables.items():
            try:
                if where(event) is not True or table.where(event) is not True:
                    balances[name]["filtered"] += 1
                    continue
                key = (moment // table.window * table.window, *(f(event) for f in table.group.values()))
                inputs = [
                    (m.where is None or m.where(event) is True, None if m.value is None else m.value(event))
                    for m in table.measures.values()
                ]
            except Failed:
                letters.append({"line": line, "stage": "expression", "table": name})
                balances[name]["rejected"] += 1
                continue
            balances[name]["counted"] += 1
            columns = kept[name].setdefault(key, [[] for _ in table.measures])
            for column, measure, (wanted, value) in zip(columns, table.measures.values(), inputs):
                if wanted and (measure.value is None or value is not None):
                    column.append(value)
    rows = {}
    for name, table in tables.items():
        order = sorted(kept[name], key=lambda key: [(part is None, part) for part in key])
        rows[name] = [
            {
                "window_start": timestamp(key[0]),
                "window_end": timestamp(key[0] + table.window),
                **dict(zip(table.group, key[1:])),
                **{m: measure.finish(v) for (m, measure), v in zip(table.measures.items(), kept[name][key])},
            }
            for key in order
        ]
    return Outcome(rows, letters, balances)
