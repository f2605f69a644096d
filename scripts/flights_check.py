#!/usr/bin/env python3
"""Checks the flight tables against DuckDB: a batch engine of other authors reads the same events from the file.

    python3 -m venv .venv && .venv/bin/pip install duckdb==1.5.5 pytz
    .venv/bin/python scripts/flights_check.py --alluvium target/debug/alluvium --config alluvium.yaml data/flights.ndjson

Exact: windows, groups, counts, sums. Doubles: within 1e-9 of each other, relatively. The quantile: within the
sketch's 1 % of the element at rank floor(q * (n - 1)). Distinct counts: within 5 %, three standard errors of the
sketch, and below 100 the count itself, but for a rare collision of hashes.

With `--same-as OTHER.yaml` also that another server, which split the same events otherwise (partitions, workers,
commits), stored the same: every measure bit for bit, sketches' answers too; averages of doubles within 1e-9.
"""

import argparse
import datetime
import json
import subprocess
import sys

import duckdb

EXPECTED = """
select
    epoch_us(time_bucket(interval {size}, ts)) as window_start,
    epoch_us(time_bucket(interval {size}, ts) + interval {size}) as window_end,
    carrier, origin,
    count(*) as flights,
    count(*) filter (where cancelled) as cancelled,
    avg(dep_delay) as dep_delay,
    avg(arr_delay) as arr_delay,
    list_sort(list(arr_delay) filter (where arr_delay is not null))
        [cast(floor(0.9 * (count(arr_delay) - 1)) as bigint) + 1] as arr_delay_p90,
    count(distinct tailnum) as tails,
    sum(distance)::bigint as miles
from events
group by all
"""
TABLES = {"flights_per_day": "'1 day'", "flights_per_hour": "'1 hour'"}
KEY = ("window_start", "carrier", "origin")
EXACT = ("window_end", "flights", "cancelled", "miles")
DOUBLES = ("dep_delay", "arr_delay")
# Below this a distinct count is exact, except where two of its hashes collide.
SMALL = 100
COLLISIONS = 5


def instant(value) -> int:
    """Microseconds since 1970 of a timestamp as the command line prints it."""
    if isinstance(value, int):
        return value
    text = value.strip().replace(" ", "T").replace("Z", "+00:00")
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (moment - epoch) // datetime.timedelta(microseconds=1)


def expected(events: str, size: str) -> dict:
    db = duckdb.connect()
    db.execute("set timezone = 'UTC'")
    db.execute(
        "create table events as select * from read_json(?, format = 'newline_delimited', columns = {"
        "ts: 'timestamp', carrier: 'varchar', origin: 'varchar', tailnum: 'varchar', distance: 'int',"
        " cancelled: 'boolean', dep_delay: 'double', arr_delay: 'double'})",
        [events],
    )
    result = db.execute(EXPECTED.format(size=size))
    names = [column[0] for column in result.description]
    return keyed(dict(zip(names, row)) for row in result.fetchall())


def actual(arguments, table: str) -> dict:
    columns = "window_start, window_end, carrier, origin, flights, cancelled, dep_delay, arr_delay, arr_delay_p90, tails, miles"
    server = ["--url", arguments.url] if arguments.url else ["-c", arguments.config]
    command = [arguments.alluvium, "sql", *server, "--format", "json", f"select {columns} from {table}"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    answer = json.loads(output)
    rows = answer["rows"] if isinstance(answer, dict) else answer
    for row in rows:
        row["window_start"], row["window_end"] = instant(row["window_start"]), instant(row["window_end"])
        row["miles"] = int(row["miles"])
    return keyed(rows)


def keyed(rows) -> dict:
    result = {}
    for row in rows:
        key = tuple(row[name] for name in KEY)
        if key in result:
            raise SystemExit(f"two rows for {key}: {result[key]} and {row}")
        result[key] = row
    return result


def close(left, right, relative: float) -> bool:
    if left is None or right is None:
        return left is right
    return abs(left - right) <= relative * max(abs(left), abs(right)) + 1e-12


def differences(table: str, want: dict, have: dict) -> list:
    found = [f"{table}: no row for {key}" for key in want.keys() - have.keys()]
    found += [f"{table}: a row too many for {key}" for key in have.keys() - want.keys()]
    collisions = 0
    for key in want.keys() & have.keys():
        row, answer = want[key], have[key]

        def differs(name):
            found.append(f"{table} {key}: {name} is {answer[name]}, DuckDB says {row[name]}")

        for name in EXACT:
            if row[name] != answer[name]:
                differs(name)
        for name in DOUBLES:
            if not close(row[name], answer[name], 1e-9):
                differs(name)
        # 1 % of the true value, with a little for the rounding of the bucket's middle.
        quantile, estimate = row["arr_delay_p90"], answer["arr_delay_p90"]
        if (quantile is None) != (estimate is None) or (
            quantile is not None and abs(quantile - estimate) > 0.0100001 * abs(quantile) + 1e-9
        ):
            differs("arr_delay_p90")
        if row["tails"] <= SMALL:
            off = abs(row["tails"] - answer["tails"])
            collisions += off == 1
            if off > 1:
                differs("tails")
        elif not close(row["tails"], answer["tails"], 0.05):
            differs("tails")
    if collisions > COLLISIONS:
        found.append(f"{table}: {collisions} small distinct counts are one off, more than hashes explain")
    return found


def splits(table: str, one: dict, other: dict) -> list:
    found = [f"{table}: only one of the two has {key}" for key in one.keys() ^ other.keys()]
    for key in one.keys() & other.keys():
        for name, value in one[key].items():
            same = close(value, other[key][name], 1e-9) if name in DOUBLES else value == other[key][name]
            if not same:
                found.append(f"{table} {key}: {name} is {value}, and {other[key][name]} in the other split")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("events", help="the NDJSON file that was produced")
    parser.add_argument("--alluvium", default="target/debug/alluvium", help="the binary")
    parser.add_argument("--config", default="alluvium.yaml", help="the server file")
    parser.add_argument("--same-as", metavar="CONFIG", help="the server file of another split of the same events")
    parser.add_argument("--url", help="ask a running server instead of the tables in storage")
    arguments = parser.parse_args()
    found = []
    for table, size in TABLES.items():
        want = expected(arguments.events, size)
        have = actual(arguments, table)
        wrong = differences(table, want, have)
        found += wrong
        flights = sum(row["flights"] for row in have.values())
        print(f"{table}: {len(want)} rows expected, {len(have)} found, {flights} flights, {len(wrong)} differences")
    if arguments.same_as:
        other = argparse.Namespace(alluvium=arguments.alluvium, config=arguments.same_as, url=None)
        for table in TABLES:
            one, another = actual(arguments, table), actual(other, table)
            wrong = splits(table, one, another)
            found += wrong
            print(f"{table}: {len(one)} rows here, {len(another)} in the other split, {len(wrong)} differences")
    for line in found[:20]:
        print(line, file=sys.stderr)
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
