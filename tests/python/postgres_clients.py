"""Clients of Postgres against a running server: psycopg 3 and SQLAlchemy.

    postgres_clients.py HOST PORT

The server has the table `every_type` that tests/it/clients.rs fills. Ends with 0 when everything was as it must be.
"""

import contextlib
import datetime
import decimal
import sys
import threading
import time

import psycopg
import sqlalchemy
from psycopg import sql

UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

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


def connect(host, port, **settings):
    return psycopg.connect(host=host, port=port, dbname="alluvium", user="analyst", **settings)


def every_type(host, port):
    columns = sql.SQL(", ").join(map(sql.Identifier, FIRST))
    query = sql.SQL("SELECT {} FROM every_type WHERE name = 'ann'").format(columns)
    with connect(host, port) as connection:
        for binary in (False, True):
            with connection.cursor(binary=binary) as cursor:
                [row] = cursor.execute(query).fetchall()
                found = dict(zip(FIRST, row))
                assert found == FIRST, (binary, found)
                values = cursor.execute(
                    "SELECT NULL::int, 'ü€😀', ''::text, 1.5::real, 'NaN'::double precision::text, "
                    "ARRAY[1, 2, 3], interval '1 day 2 hours', time '12:34:56'"
                ).fetchone()
                assert values[:4] == (None, "ü€😀", "", 1.5), values
                assert values[5] == [1, 2, 3], values
                assert values[6] == datetime.timedelta(days=1, hours=2), values
                assert values[7] == datetime.time(12, 34, 56), values
                big = "9000000000000000000::bigint::decimal(19,0) * 1000000000001::bigint::decimal(13,0)"
                exact = decimal.Decimal("9000000000009000000000000000000")
                assert cursor.execute(f"SELECT {big}").fetchone() == (exact,)


def nested(host, port):
    """What holds values, bytes, and moments without a zone: stored states and dead letters have them."""
    dec = decimal.Decimal
    naive = datetime.datetime(2026, 3, 1, 12, 0, 0, 500000)
    literals = [
        ("ARRAY['a b', NULL, '', 'null', 'x\"y\\z', '{,}']", ["a b", None, "", "null", 'x"y\\z', "{,}"]),
        ("ARRAY[]::text[]", []),
        ("ARRAY[1.5, 2.25]::decimal(10,2)[]", [dec("1.50"), dec("2.25")]),
        ("ARRAY[9000000000000000000::bigint::decimal(38,0) * 1000000000001]", [dec("9000000000009000000000000000000")]),
        ("ARRAY[true, NULL]", [True, None]),
        ("ARRAY[timestamp '2026-03-01 12:00:00.5']", [naive]),
        ("ARRAY[date '2026-03-01']", [naive.date()]),
        ("ARRAY[arrow_cast('bytes', 'Binary')]", [b"bytes"]),
        ("timestamp '2026-03-01 12:00:00.5'", naive),
        ("timestamp '2026-03-01'", datetime.datetime(2026, 3, 1)),
        ("arrow_cast('\u00fc', 'Binary')", "\u00fc".encode()),
        ("arrow_cast(-5, 'Int8')", -5),
        ("arrow_cast(200, 'UInt8')", 200),
        ("arrow_cast(5, 'UInt64')", dec(5)),
        ("arrow_cast('w', 'Dictionary(Int32, Utf8)')", "w"),
        # What Postgres has no type for is text.
        ("ARRAY[ARRAY[1, 2], ARRAY[3]]", "[[1, 2], [3]]"),
        ("map(['a'], [1])", "{a: 1}"),
        ("named_struct('m', map(['a'], [1]))", "{m: {a: 1}}"),
    ]
    records = [
        ("named_struct('a', NULL::text, 'b', '', 'c', 'x\"y,\\(z)')", (None, "", 'x"y,\\(z)'), (None, "", 'x"y,\\(z)')),
        ("named_struct('a', 1.5, 't', timestamp '2026-03-01 12:00:00.5')", ("1.5", "2026-03-01 12:00:00.5"), (1.5, naive)),
        ("ARRAY[named_struct('a', 1, 'b', 'x y'), NULL]", [("1", "x y"), None], [(1, "x y"), None]),
    ]
    with connect(host, port) as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            one = lambda query: cursor.execute(query).fetchone()
            for expression, expected in literals:
                assert one(f"SELECT {expression}") == (expected,), (binary, expression, one(f"SELECT {expression}"))
            for expression, text, values in records:
                found = one(f"SELECT {expression}")
                assert found == (values if binary else text,), (binary, expression, found)

            panes = cursor.execute("SELECT mean, mean_price, names, p50, bigs FROM panes.every_type WHERE name = 'ann'").fetchall()
            assert sum(float(total) for (total, _), *_ in panes) == 0.75, panes
            assert sum(int(count) for (_, count), *_ in panes) == 2, panes
            assert sum(dec(total) for _, (total, _), *_ in panes) == dec("25.00"), panes
            assert all(type(sketch) is bytes and len(sketch) > 8 for row in panes for sketch in row[2:4]), panes
            every_pane = cursor.execute("SELECT * FROM panes.every_type").fetchall()
            assert len(every_pane) >= 2 and len(every_pane[0]) == len(cursor.description)

            [letter] = cursor.execute("SELECT * FROM dead_letters.types").fetchall()
            letter = dict(zip((column.name for column in cursor.description), letter))
            assert letter["key"] == b"\x00\xff" and letter["payload"].startswith(b'{"ts":"2026'), letter
            value = b'a, "b" (c)'
            expected = [("trace", value), ("empty", None)] if binary else [("trace", "\\x" + value.hex()), ("empty", None)]
            assert letter["headers"] == expected, letter
            assert letter["timestamp"].utcoffset() == datetime.timedelta(0), letter
            assert letter["column"] == "number" and letter["table"] is None, letter


def parameters(host, port):
    with connect(host, port) as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            one = lambda query, *values: cursor.execute(query, values).fetchone()[0]
            assert one("SELECT events FROM every_type WHERE name = %s", "ann") == 2
            assert one("SELECT count(*) FROM every_type WHERE number = %s", 7) == 1
            assert one("SELECT count(*) FROM every_type WHERE big = %s", FIRST["big"]) == 1
            assert one("SELECT count(*) FROM every_type WHERE number > %s", decimal.Decimal("6.5")) == 2
            assert one("SELECT count(*) FROM every_type WHERE price = %s", decimal.Decimal("12.5")) == 1
            assert one("SELECT count(*) FROM every_type WHERE truth = %s", True) == 1
            assert one("SELECT count(*) FROM every_type WHERE day = %s", FIRST["day"]) == 1
            assert one("SELECT count(*) FROM every_type WHERE moment = %s", FIRST["moment"]) == 1
            assert one("SELECT count(*) FROM every_type WHERE window_start >= %s", NOON) == 2
            assert one("SELECT count(*) FROM every_type WHERE name = ANY(%s)", ["ann", "bob"]) == 2
            assert one("SELECT %s::text", None) is None
            assert one("SELECT %s::int + %s::bigint", 1, 2) == 3
            assert one("SELECT count(*) FROM every_type LIMIT %s", 1) == 2
            assert one("SELECT %s", "plain text") == "plain text"
        for _ in range(10):  # becomes a prepared statement on the way
            row = connection.execute("SELECT events FROM every_type WHERE name = %s", ["ann"]).fetchone()
            assert row == (2,)


def refusals(host, port):
    def refused(query, state, *words, values=()):
        with connect(host, port) as connection:
            try:
                connection.execute(query, values)
            except psycopg.Error as error:
                assert error.sqlstate == state, (query, error.sqlstate, str(error))
                told = str(error) + str(error.diag.message_hint)
                for word in words:
                    assert word in told, (query, word, told)
                return error.diag
        raise AssertionError(f"{query} was answered")

    refused("SELECT * FROM every_typ", "42P01", "did you mean every_type?")
    diag = refused("SELECT eventz FROM every_type", "42703", "events")
    assert diag.statement_position == "8", diag.statement_position
    refused("SELECT 1;\nSELEC 2", "42601")
    # Refused when it runs, and when it is parsed: with values a driver speaks the extended protocol.
    refused("SELECT frobnicate(1)", "42883")
    refused("SELECT frobnicate(%s)", "42883", values=(1,))
    refused("INSERT INTO every_type VALUES (1)", "25006")
    refused("DROP TABLE every_type", "25006")
    refused("COPY every_type TO '/tmp/x'", "0A000", "STDOUT")
    refused("COPY every_type FROM STDIN", "0A000")
    refused("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "25006")
    refused("SET nonsense = 1", "42704")
    refused("SET client_encoding = latin1", "22023")
    refused("SELECT 1 / 0", "22012")
    refused("FETCH 1 FROM nobody", "34000")
    refused("SELECT $1::int", "42P02")


def settings(host, port):
    with connect(host, port, autocommit=True, application_name="a notebook") as connection:
        show = lambda name: connection.execute(f"SHOW {name}").fetchone()[0]
        assert show("application_name") == "a notebook"
        assert show("server_version").startswith("16")
        assert show("transaction_isolation") == "read committed"
        connection.execute("SET alluvium.read = 'committed'")
        assert show("alluvium.read") == "committed"
        connection.execute("SELECT count(*) FROM every_type")
        assert '"public.every_type"' in show("alluvium.as_of")
        connection.execute("SET TIME ZONE 'Europe/Berlin'")
        assert connection.info.parameter_status("TimeZone") == "Europe/Berlin"
        text = connection.execute("SELECT window_start::text, window_start FROM every_type LIMIT 1").fetchone()
        assert text[1] == NOON and text[1].utcoffset() == datetime.timedelta(hours=1), text
        connection.execute("RESET ALL")
        connection.execute("DISCARD ALL")
        assert show("TimeZone") == "UTC"


def transactions(host, port):
    with connect(host, port) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        try:
            connection.execute("SELECT nothing")
            raise AssertionError("answered")
        except psycopg.errors.UndefinedColumn:
            pass
        try:
            connection.execute("SELECT 1")
            raise AssertionError("answered in a failed transaction")
        except psycopg.errors.InFailedSqlTransaction:
            pass
        connection.rollback()
        assert connection.execute("SELECT 2").fetchone() == (2,)
        connection.commit()
        with connection.transaction(), connection.transaction():
            assert connection.execute("SELECT 3").fetchone() == (3,)


def cursors(host, port):
    wanted = list(range(1, 2501))
    with connect(host, port) as connection:
        for binary in (False, True):
            with connection.cursor("numbers") as cursor:
                query = "SELECT value FROM generate_series(1, 9000) WHERE value <= %s"
                cursor.execute(query, [2500], binary=binary)
                assert [name.name for name in cursor.description] == ["value"]
                assert [row[0] for row in cursor.fetchmany(10)] == wanted[:10]
                assert cursor.fetchone() == (11,)
                assert [row[0] for row in cursor] == wanted[11:]
    with connect(host, port) as connection, connection.cursor() as cursor:
        streamed = [row[0] for row in cursor.stream("SELECT value FROM generate_series(1, 2500)")]
        assert streamed == wanted


def copies(host, port):
    with connect(host, port) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT name, events FROM every_type ORDER BY name) TO STDOUT") as copy:
            assert list(copy.rows()) == [("ann", "2"), ("bob", "1")]
        with cursor.copy("COPY (SELECT 1 AS a, 'x,\"y' AS b) TO STDOUT (FORMAT csv, HEADER)") as copy:
            assert b"".join(copy).decode() == 'a,b\n1,"x,""y"\n'
        query = "COPY (SELECT value FROM generate_series(1, 3)) TO STDOUT (FORMAT binary)"
        with cursor.copy(query) as copy:
            copy.set_types(["int8"])
            assert list(copy.rows()) == [(1,), (2,), (3,)]
        with cursor.copy("COPY (SELECT 1 AS a WHERE false) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8"])
            assert list(copy.rows()) == []


# Ends after minutes if nobody stops it.
ENDLESS = (
    "SELECT sum(a.value * b.value % 7) FROM generate_series(1, 3000000) AS a(value) "
    "CROSS JOIN generate_series(1, 3000000) AS b(value)"
)


def cancels(host, port):
    with connect(host, port, autocommit=True) as connection:
        timer = threading.Timer(0.5, connection.cancel_safe)
        begin = time.monotonic()
        timer.start()
        try:
            connection.execute(ENDLESS)
            raise AssertionError("answered")
        except psycopg.errors.QueryCanceled:
            pass
        finally:
            timer.cancel()
        took = time.monotonic() - begin
        assert took < 1.5, f"cancelled after {took} s"
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.execute("SET statement_timeout = '300ms'")
        begin = time.monotonic()
        try:
            connection.execute(ENDLESS)
            raise AssertionError("answered")
        except psycopg.errors.QueryCanceled as error:
            assert "timeout" in str(error)
        assert time.monotonic() - begin < 1.3


def streams(host, port):
    """A result larger than memory would allow arrives; most of it is never asked for."""
    with connect(host, port) as connection, connection.cursor() as cursor:
        many = "SELECT value, repeat('x', 1000) FROM generate_series(1, 9000000) AS t(value)"
        # Whatever ends the loop, an open stream would keep the connection from being closed.
        with contextlib.closing(cursor.stream(many)) as rows:
            for number, row in enumerate(rows, 1):
                assert row[0] == number, (row[0], number)
                if number == 50_000:
                    break


def reflection(host, port):
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://analyst@{host}:{port}/alluvium")
    inspector = sqlalchemy.inspect(engine)
    schemas = inspector.get_schema_names()
    for schema in ("public", "panes", "dead_letters", "system"):
        assert schema in schemas, schemas
    tables = inspector.get_table_names()
    assert "every_type" in tables, tables
    columns = {column["name"]: column["type"] for column in inspector.get_columns("every_type")}
    assert isinstance(columns["name"], sqlalchemy.types.String), columns
    assert isinstance(columns["events"], sqlalchemy.types.BigInteger), columns
    assert isinstance(columns["window_start"], sqlalchemy.types.DateTime), columns
    assert isinstance(columns["price"], sqlalchemy.types.Numeric), columns
    assert isinstance(columns["truth"], sqlalchemy.types.Boolean), columns
    assert inspector.get_pk_constraint("every_type")["constrained_columns"] == []
    assert inspector.get_foreign_keys("every_type") == []
    assert inspector.get_indexes("every_type") == []
    assert inspector.has_table("every_type") and not inspector.has_table("no_such_table")
    table = sqlalchemy.Table("every_type", sqlalchemy.MetaData(), autoload_with=engine)
    query = sqlalchemy.select(table.c.name, table.c.events).where(table.c.number > 5).order_by(table.c.name)
    with engine.connect() as connection:
        assert connection.execute(query).all() == [("ann", 2), ("bob", 1)]
        count = sqlalchemy.select(sqlalchemy.func.count()).select_from(table)
        assert connection.execute(count).scalar_one() == 2
        letters = sqlalchemy.Table("types", sqlalchemy.MetaData(), schema="dead_letters", autoload_with=engine)
        payload = connection.execute(sqlalchemy.select(letters.c.payload)).scalar_one()
        assert bytes(payload).startswith(b'{"ts":'), payload
        panes = sqlalchemy.Table("every_type", sqlalchemy.MetaData(), schema="panes", autoload_with=engine)
        states = connection.execute(sqlalchemy.select(panes.c.mean, panes.c.names).where(panes.c.name == "bob")).all()
        assert [(tuple(map(float, mean)), type(names)) for mean, names in states] == [((-1.5, 1.0), bytes)], states
        bound = sqlalchemy.text("SELECT events FROM every_type WHERE name = :name AND price > :least")
        assert connection.execute(bound, {"name": "ann", "least": decimal.Decimal("1.5")}).scalar_one() == 2


def sqlalchemy_errors(host, port):
    """A typo is told as Postgres tells it, a long query is ended through the driver's connection."""
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://analyst@{host}:{port}/alluvium")
    for query, kind, words in [
        ("SELECT eventz FROM every_type", psycopg.errors.UndefinedColumn, "did you mean events?"),
        ("SELECT * FROM every_typ", psycopg.errors.UndefinedTable, "did you mean every_type?"),
    ]:
        with engine.connect() as connection:
            try:
                connection.execute(sqlalchemy.text(query))
                raise AssertionError(f"{query} was answered")
            except sqlalchemy.exc.ProgrammingError as error:
                assert isinstance(error.orig, kind) and words in str(error), error
                assert error.orig.diag.statement_position is not None, error
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        ordered = []

        def cancel():
            ordered.append(time.monotonic())
            driver.cancel_safe()

        timer = threading.Timer(0.5, cancel)
        timer.start()
        try:
            connection.execute(sqlalchemy.text(ENDLESS))
            raise AssertionError("answered")
        except sqlalchemy.exc.OperationalError as error:
            assert isinstance(error.orig, psycopg.errors.QueryCanceled), error
        finally:
            timer.cancel()
        took = time.monotonic() - ordered[0]
        assert took < 1, f"cancelled after {took} s"
        connection.rollback()
        assert connection.execute(sqlalchemy.text("SELECT 1")).scalar_one() == 1


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    wanted = sys.argv[3:]
    parts = [
        every_type, nested, parameters, refusals, settings, transactions, cursors, copies, cancels, streams, reflection,
        sqlalchemy_errors,
    ]
    failed = 0
    for part in parts:
        if wanted and part.__name__ not in wanted:
            continue
        try:
            part(host, port)
            print(f"{part.__name__}: right")
        except Exception as error:  # every part is tried
            failed += 1
            print(f"{part.__name__}: {type(error).__name__}: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
