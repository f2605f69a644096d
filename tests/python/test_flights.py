"""The flights as events, and the check of the tables made from them."""

import json
import pathlib
import sys

import flights
import pytest

duckdb = pytest.importorskip("duckdb", reason="see tests/python/requirements.txt")
import flights_check  # noqa: E402  needs duckdb

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROW = {
    "year": "2013", "month": "7", "day": "4", "dep_time": "2005", "sched_dep_time": "2000", "dep_delay": "5",
    "arr_delay": "-3", "carrier": "UA", "flight": "12", "tailnum": "N1", "origin": "EWR", "dest": "IAH",
    "air_time": "200", "distance": "1400",
}  # fmt: skip


def test_a_departure_is_told_in_utc_by_the_rules_of_its_day():
    assert flights.event(ROW)["ts"] == "2013-07-05T00:00:00Z"
    assert flights.event({**ROW, "month": "1"})["ts"] == "2013-01-05T01:00:00Z"


def test_what_is_unknown_is_null_or_left_out():
    event = flights.event({**ROW, "dep_time": "NA", "dep_delay": "NA", "arr_delay": "NA", "tailnum": "", "air_time": "NA"})
    assert event["cancelled"] is True
    assert event["dep_delay"] is None and event["arr_delay"] is None and event["tailnum"] is None
    assert "air_time" not in event


def golden(table):
    rows = json.loads((ROOT / f"tests/golden/flights/expected/{table}.json").read_text())
    for row in rows:
        for name, value in row.items():
            row[name] = value["approx"] if isinstance(value, dict) else value
        row["window_start"] = flights_check.instant(row["window_start"])
        row["window_end"] = flights_check.instant(row["window_end"])
    return rows


@pytest.mark.parametrize(("table", "size"), flights_check.TABLES.items())
def test_duckdb_and_the_model_agree_on_the_golden_flights(table, size):
    events = str(ROOT / "tests/golden/flights/events.ndjson")
    want = flights_check.expected(events, size)
    assert len(want) > 100
    assert flights_check.differences(table, want, flights_check.keyed(golden(table))) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flights", lambda v: v + 1),
        ("miles", lambda v: v - 1),
        ("dep_delay", lambda v: v * (1 + 1e-6)),
        ("arr_delay_p90", lambda v: v * 1.02 + 1),
        ("tails", lambda v: v + 2),
        ("window_end", lambda v: v + 1),
    ],
)
def test_the_check_finds_a_wrong_value(name, change):
    events = str(ROOT / "tests/golden/flights/events.ndjson")
    want = flights_check.expected(events, "'1 day'")
    have = golden("flights_per_day")
    row = next(row for row in have if row[name])
    row[name] = change(row[name])
    assert len(flights_check.differences("flights_per_day", want, flights_check.keyed(have))) == 1


def test_the_check_finds_missing_and_doubled_rows():
    events = str(ROOT / "tests/golden/flights/events.ndjson")
    want = flights_check.expected(events, "'1 day'")
    have = golden("flights_per_day")
    assert len(flights_check.differences("flights_per_day", want, flights_check.keyed(have[1:]))) == 1
    with pytest.raises(SystemExit):
        flights_check.keyed([*have, have[0]])


def test_the_check_reads_what_the_command_prints(tmp_path):
    command = tmp_path / "alluvium"
    row = {"window_start": "2013-01-01T00:00:00Z", "window_end": "2013-01-02T00:00:00", "carrier": "UA", "origin": "EWR"}
    command.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps([{**row, 'miles': '12'}]))})\n")
    command.chmod(0o755)

    class Arguments:
        alluvium, config, url = str(command), "alluvium.yaml", None

    (answer,) = flights_check.actual(Arguments, "flights_per_day").values()
    assert answer["window_end"] - answer["window_start"] == 86_400_000_000 and answer["miles"] == 12


def test_two_splits_may_differ_in_the_last_bits_of_averages_only():
    one = flights_check.keyed(golden("flights_per_day"))
    other = flights_check.keyed(golden("flights_per_day"))
    row = next(row for row in other.values() if row["dep_delay"] and row["arr_delay_p90"])
    row["dep_delay"] *= 1 + 1e-12
    assert flights_check.splits("flights_per_day", one, other) == []
    row["arr_delay_p90"] *= 1 + 1e-12
    assert len(flights_check.splits("flights_per_day", one, other)) == 1
    del other[row["window_start"], row["carrier"], row["origin"]]
    assert len(flights_check.splits("flights_per_day", one, other)) == 1
