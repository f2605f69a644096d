#!/usr/bin/env python3
"""Reads a table of Alluvium's with DuckDB, which shares no code with it, and prints what it sees as JSON.

    duckdb_reader.py DIR TABLE            {"rows": 12, "columns": {"clicks": {"values": 12, "sum": "345"}, …}}
    duckdb_reader.py DIR TABLE QUERY      the rows of a query over the view `panes`, as objects

DIR is the storage root of a server, TABLE a folder under `tables/`; a path with a slash is taken from DIR as it
stands (`dead_letters/clicks`, `ledger/`). Sums are text, exact for integers and decimals; timestamps are RFC 3339.

Exit codes: 0 done, 1 the table cannot be read, 77 DuckDB or its Delta extension is not installed (see
requirements.txt): a test that meets 77 says that it was skipped, or fails where ALLUVIUM_REQUIRE_ORACLE is set.
"""

import datetime
import decimal
import json
import pathlib
import sys

SKIPPED = 77
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL")


def connect():
    """A DuckDB that knows `delta_scan`, from packages alone."""
    try:
        import duckdb
        import duckdb_extension_delta
        import pytz  # noqa: F401  DuckDB needs it to hand out timestamps
    except ImportError as error:
        print(f"skipped: {error.name} is not installed; see tests/python/requirements.txt", file=sys.stderr)
        raise SystemExit(SKIPPED) from None
    extension = next(pathlib.Path(duckdb_extension_delta.__path__[0]).rglob("delta.duckdb_extension"))
    db = duckdb.connect()
    db.execute(f"load '{extension}'")
    db.execute("set timezone = 'UTC'")
    return db


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return value.isoformat() + "Z"
    if isinstance(value, (datetime.date, decimal.Decimal)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def summary(db) -> dict:
    """The number of rows, and for each column its values and their sum, or their first and last."""
    columns = {}
    for name, kind, *_ in db.execute("describe panes").fetchall():
        quoted = '"' + name.replace('"', '""') + '"'
        if kind.startswith(NUMBERS):
            values, number = db.execute(f"select count({quoted}), sum({quoted})::varchar from panes").fetchone()
            columns[name] = {"values": values, "sum": number}
        elif kind.startswith(("TIMESTAMP", "DATE", "VARCHAR")):
            values, least, most = db.execute(f"select count({quoted}), min({quoted}), max({quoted}) from panes").fetchone()
            columns[name] = {"values": values, "min": plain(least), "max": plain(most)}
        else:
            columns[name] = {"values": db.execute(f"select count({quoted}) from panes").fetchone()[0]}
    return {"rows": db.execute("select count(*) from panes").fetchone()[0], "columns": columns}


def read(root: str, table: str, query: str | None):
    db = connect()
    path = pathlib.Path(root) / (table if "/" in table else f"tables/{table}")
    if not (path / "_delta_log").is_dir():
        print(f"{path} is not a Delta table", file=sys.stderr)
        raise SystemExit(1)
    place = str(path.resolve()).replace("'", "''")
    db.execute(f"create view panes as select * from delta_scan('{place}')")
    if query is None:
        return summary(db)
    result = db.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, map(plain, row))) for row in result.fetchall()]


def main() -> None:
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    query = sys.argv[3] if len(sys.argv) == 4 else None
    json.dump(read(sys.argv[1], sys.argv[2], query), sys.stdout)
    print()


if __name__ == "__main__":
    main()
