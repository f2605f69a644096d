"""Clients of Flight SQL against a running server: ADBC, read by itself, into pandas and into Polars.

    flight_clients.py HOST PORT

The server has the table `every_type` that tests/it/clients.rs fills. Ends with 0 when everything was as it must be.
"""

import datetime
import decimal
import sys
import threading
import time
import warnings

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import polars
import pyarrow

UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HEADER = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value

# One row of each type: what the fixture's first key must look like.
FIRST = {
    "window_start": NOON,
    "window_end": NOON + datetime.timedelta(minutes=1),
    "name": "ann",
    "number": 7,
    "big": 9_007_199_254_740_993,
    "truth": True,
    "day": datetime.date(2026, 2, 28),
    "price": decimal.Decimal("12.50"),
    "moment": datetime.datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
    "events": 2,
    "numbers": 14,
    "bigs": decimal.Decimal(2 * 9_007_199_254_740_993),
    "doubles": 0.75,
    "mean": 0.375,
    "prices": decimal.Decimal("25.00"),
    "least": "ann",
    "names": 1,
}

# Longer than anybody waits, with one row at its end, or with more rows than anybody reads.
ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b WHERE a.value + b.value < 0"
LONG = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 9000000) AS t(value)"


def connect(uri, **headers):
    options = {HEADER + name.replace("_", "-"): value for name, value in headers.items()}
    return adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=options, autocommit=True)


def every_type(uri):
    columns = ", ".join(FIRST)
    query = f"SELECT {columns} FROM every_type WHERE name = 'ann'"
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        table = cursor.fetch_arrow_table()
        [row] = table.to_pylist()
        assert row == FIRST, row
        cursor.execute(query)
        frame = cursor.fetch_df()
        assert frame["big"][0] == FIRST["big"] and frame["price"][0] == FIRST["price"], frame
        frame = polars.read_database(query, connection)
        assert frame.row(0, named=True) == FIRST, frame
        cursor.execute(
            "SELECT NULL::int, 'ü€😀', ''::text, 1.5::real, ARRAY[1, 2, 3], true, "
            "arrow_cast('view', 'Utf8View'), arrow_cast('word', 'Dictionary(Int32, Utf8)'), "
            "named_struct('a', 1, 'b', 'x'), arrow_cast('bytes', 'BinaryView')"
        )
        assert cursor.fetchone() == (
            None, "ü€😀", "", 1.5, [1, 2, 3], True, "view", "word", {"a": 1, "b": "x"}, b"bytes",
        )
        cursor.execute("SELECT * FROM system.partitions")
        assert cursor.fetch_arrow_table().num_rows == 1
        cursor.execute("SELECT * FROM panes.every_type")
        assert cursor.fetch_arrow_table().num_rows >= 2
        cursor.execute("SELECT 1 AS one WHERE false")
        empty = cursor.fetch_arrow_table()
        assert empty.num_rows == 0 and empty.column_names == ["one"], empty
        cursor.execute("SELECT value FROM generate_series(1, 1000000) AS t(value)")
        assert sum(batch.num_rows for batch in cursor.fetch_record_batch()) == 1_000_000


def nested(uri):
    """Stored states and dead letters: structs, lists of structs, bytes."""
    with connect(uri) as connection, connection.cursor() as cursor:

        def rows(query):
            cursor.execute(query)
            return cursor.fetch_arrow_table().to_pylist()

        panes = rows("SELECT mean, mean_price, names, p50 FROM panes.every_type WHERE name = 'ann'")
        assert sum(pane["mean"]["sum"] for pane in panes) == 0.75, panes
        assert sum(pane["mean"]["count"] for pane in panes) == 2, panes
        assert sum(pane["mean_price"]["sum"] for pane in panes) == decimal.Decimal("25.00"), panes
        assert all(type(pane[name]) is bytes and len(pane[name]) > 8 for pane in panes for name in ("names", "p50")), panes
        [letter] = rows("SELECT * FROM dead_letters.types")
        assert letter["key"] == b"\x00\xff" and letter["payload"].startswith(b'{"ts":"2026'), letter
        headers = [{"key": "trace", "value": b'a, "b" (c)'}, {"key": "empty", "value": None}]
        assert letter["headers"] == headers, letter
        [row] = rows(
            "SELECT timestamp '2026-03-01 12:00:00.5' AS naive, ARRAY['a b', NULL, ''] AS texts, map(['a'], [1]) AS map, "
            "ARRAY[ARRAY[1, 2], ARRAY[3]] AS lists, named_struct('a', NULL::text, 'b', '') AS record"
        )
        assert row["naive"] == datetime.datetime(2026, 3, 1, 12, 0, 0, 500000), row
        assert row["texts"] == ["a b", None, ""] and row["lists"] == [[1, 2], [3]], row
        assert row["record"] == {"a": None, "b": ""} and dict(row["map"]) == {"a": 1}, row


def parameters(uri):
    with connect(uri) as connection, connection.cursor() as cursor:

        def one(query, *values):
            cursor.execute(query, values)
            return cursor.fetchone()[0]

        assert one("SELECT events FROM every_type WHERE name = $1", "ann") == 2
        assert one("SELECT events FROM every_type WHERE name = ?", "ann") == 2
        assert one("SELECT count(*) FROM every_type WHERE number = ?", 7) == 1
        assert one("SELECT count(*) FROM every_type WHERE big = ?", FIRST["big"]) == 1
        assert one("SELECT count(*) FROM every_type WHERE price = ?", decimal.Decimal("12.5")) == 1
        assert one("SELECT count(*) FROM every_type WHERE amount IS NULL OR doubles < ?".replace("amount", "doubles"), 0.5) == 1
        assert one("SELECT count(*) FROM every_type WHERE truth = ?", True) == 1
        assert one("SELECT count(*) FROM every_type WHERE day = ?", FIRST["day"]) == 1
        assert one("SELECT count(*) FROM every_type WHERE moment = ?", FIRST["moment"]) == 1
        assert one("SELECT count(*) FROM every_type WHERE window_start >= ?", NOON) == 2
        assert one("SELECT ?::int + ?::bigint", 1, 2) == 3
        assert one("SELECT ?::text", None) is None
        assert one("SELECT ?", "plain text") == "plain text"
        wanted = cursor.adbc_prepare("SELECT clicks FROM (SELECT events AS clicks, day FROM every_type) WHERE day = ? AND clicks > ?")
        assert [field.type for field in wanted] == [pyarrow.date32(), pyarrow.int64()], wanted


def refusals(uri):
    def refused(query, kind, *words, values=None):
        with connect(uri) as connection, connection.cursor() as cursor:
            try:
                cursor.execute(query, values)
                cursor.fetchall()
            except adbc_driver_manager.Error as error:
                assert isinstance(error, kind), (query, error)
                for word in words:
                    assert word in str(error), (query, word, str(error))
                return
        raise AssertionError(f"{query} was answered")

    refused("SELECT * FROM every_typ", adbc_driver_manager.ProgrammingError, "did you mean every_type?")
    refused("SELECT eventz FROM every_type", adbc_driver_manager.ProgrammingError, "events", "line 1, column 8")
    refused("SELEC 1", adbc_driver_manager.ProgrammingError, "line 1")
    refused("DELETE FROM every_type", adbc_driver_manager.NotSupportedError, "use SELECT")
    refused("SET alluvium.read = 'committed'", adbc_driver_manager.NotSupportedError, "alluvium-read")
    refused("SELECT $1 + 1", adbc_driver_manager.Error, "$1 has no value")
    refused("SELECT * FROM every_typ WHERE name = ?", adbc_driver_manager.Error, "did you mean", values=["ann"])


def metadata(uri):
    with connect(uri) as connection:
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "Alluvium", info
        assert set(connection.adbc_get_table_types()) == {"TABLE", "VIEW"}
        [catalog] = connection.adbc_get_objects(depth="columns", table_name_filter="every_type").read_all().to_pylist()
        assert catalog["catalog_name"] == "alluvium", catalog
        schemas = {schema["db_schema_name"]: schema["db_schema_tables"] for schema in catalog["catalog_db_schemas"]}
        assert {"public", "panes", "dead_letters", "system"} <= set(schemas), schemas
        [table] = schemas["public"]
        assert table["table_type"] == "TABLE"
        columns = [column["column_name"] for column in table["table_columns"]]
        assert columns[: len(FIRST) - 8] == list(FIRST)[: len(FIRST) - 8], columns
        schema = connection.adbc_get_table_schema("every_type", db_schema_filter="public")
        assert schema.field("price").type == pyarrow.decimal128(10, 2), schema
        committed = connect(uri, alluvium_read="committed")
        with committed, committed.cursor() as cursor:
            cursor.execute("SHOW alluvium.read")
            assert cursor.fetchone() == ("committed",)


def cancels(uri):
    with connect(uri) as connection, connection.cursor() as cursor:
        cancelled = []

        def cancel():
            cancelled.append(time.monotonic())
            cursor.adbc_cancel()

        threading.Timer(0.5, cancel).start()
        try:
            cursor.execute(ENDLESS)
            cursor.fetchall()
        except adbc_driver_manager.Error:
            took = time.monotonic() - cancelled[0]
            assert took < 1, took
        else:
            raise AssertionError("an endless query ended")
    # Those who go in the middle.
    for _ in range(20):
        with connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(LONG)
            assert cursor.fetch_record_batch().read_next_batch().num_rows > 0
    begun = time.monotonic()
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM every_type")
        assert cursor.fetchone() == (2,)
    assert time.monotonic() - begun < 2


def passwords(uri):
    """Those who give a name and a password are let in: there are no users."""
    options = {"username": "analyst", "password": "anything"}
    with adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


def main(host, port):
    warnings.simplefilter("error", adbc_driver_manager.Warning)
    uri = f"grpc://{host}:{port}"
    for part in (every_type, nested, parameters, refusals, metadata, cancels, passwords):
        part(uri)
        print(f"{part.__name__}: right")


if __name__ == "__main__":
    main(*sys.argv[1:])
