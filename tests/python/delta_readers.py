"""Readers of Delta tables that share no code with ours, over one of our tables: Polars, DuckDB and delta-rs.

    delta_readers.py DIR

DIR is the storage root of a server with the table `every_type` that tests/it/clients.rs fills. The ways of merging are those of
docs/clients/delta-readers.md, whose own statements pages.py runs. Ends with 0 when everything was as it must be.
"""

import datetime
import decimal
import pathlib
import sys

import deltalake
import polars
from duckdb_reader import connect

NOON = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone.utc)


def with_polars(path):
    panes = polars.scan_delta(path)
    merged = (
        panes.group_by("window_start", "name")
        .agg(
            polars.col("events", "numbers", "bigs", "prices").sum(),
            polars.col("least").min(),
            mean=polars.col("mean").struct.field("sum").sum() / polars.col("mean").struct.field("count").sum(),
        )
        .sort("name")
        .collect()
    )
    assert merged["name"].to_list() == ["ann", "bob"], merged
    assert merged["window_start"].to_list() == [NOON, NOON], merged
    assert merged["events"].to_list() == [2, 1], merged
    assert merged["bigs"].to_list() == [decimal.Decimal(2 * 9_007_199_254_740_993), decimal.Decimal(-1)], merged
    assert merged["prices"].to_list() == [decimal.Decimal("25.00"), decimal.Decimal("-0.01")], merged
    assert merged["mean"].to_list() == [0.375, -1.5], merged
    sketches = panes.select("names", "p50").collect()
    assert all(len(sketch) > 8 for sketch in sketches["names"].to_list() + sketches["p50"].to_list()), sketches


def with_duckdb(path):
    db = connect()
    merged = db.execute(
        f"""SELECT window_start, name, sum(events) AS events, sum(mean.sum) / sum(mean.count) AS mean, min(least) AS least
            FROM delta_scan('{path}') GROUP BY ALL ORDER BY name"""
    ).fetchall()
    assert [(row[1], int(row[2]), row[3], row[4]) for row in merged] == [("ann", 2, 0.375, "ann"), ("bob", 1, -1.5, "bob")], merged


def with_delta_rs(path):
    table = deltalake.DeltaTable(path)
    measures = {field.name: field.metadata["alluvium.measure"] for field in table.schema().fields if "alluvium.measure" in field.metadata}
    assert {"events", "mean", "names", "p50"} <= set(measures), measures
    history = table.history()
    assert all("alluvium" in commit for commit in history if commit["operation"] == "WRITE"), history
    first = deltalake.DeltaTable(path, version=0)
    assert first.to_pyarrow_dataset().count_rows() == 0
    assert table.to_pyarrow_dataset().count_rows() >= 2


def dead_letters(path):
    [letter] = polars.scan_delta(path).collect().to_dicts()
    assert letter["key"] == b"\x00\xff" and letter["payload"].startswith(b'{"ts":'), letter
    assert letter["headers"] == [{"key": "trace", "value": b'a, "b" (c)'}, {"key": "empty", "value": None}], letter
    [row] = connect().execute(f"SELECT key, headers[1].value, payload FROM delta_scan('{path}')").fetchall()
    assert row[:2] == (letter["key"], b'a, "b" (c)'), row


def main(root):
    dead_letters(str((pathlib.Path(root) / "dead_letters" / "types").resolve()))
    path = str((pathlib.Path(root) / "tables" / "every_type").resolve())
    with_polars(path)
    with_duckdb(path)
    with_delta_rs(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
