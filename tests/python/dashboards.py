"""What dashboards and BI tools ask a Postgres server, asked by drivers that they use.

    dashboards.py HOST PORT

The server has the table `every_type` that tests/it/clients.rs fills. Ends with 0 when everything was as it must be.
"""

import sys

import psycopg2
import psycopg2.extras
import sqlalchemy

# The search path as Grafana looks it up to tell which tables need no schema before their names.
SEARCH_PATH = """
    SELECT CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
    FROM generate_series(
        array_lower(string_to_array(current_setting('search_path'),','),1),
        array_upper(string_to_array(current_setting('search_path'),','),1)
    ) as i, string_to_array(current_setting('search_path'),',') s
"""


def grafana(cursor):
    """Its connection test, the lists of its query builder, and the queries that its macros become."""

    def rows(query):
        cursor.execute(query)
        return cursor.fetchall()

    assert rows("SELECT 1") == [(1,)]
    assert rows("SELECT current_setting('server_version_num')::int/100 as version")[0][0] >= 1200
    tables = rows(
        f"""SELECT CASE WHEN quote_ident(table_schema) IN ({SEARCH_PATH})
            THEN quote_ident(table_name) ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
            FROM information_schema.tables
            WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
            ORDER BY 1"""
    )
    assert {("public.every_type",), ("panes.every_type",), ("system.commits",)} <= set(tables), tables
    columns = rows(
        """SELECT quote_ident(column_name) AS "column", data_type AS "type"
           FROM information_schema.columns
           WHERE quote_ident(table_schema) = 'public' AND quote_ident(table_name) = 'every_type'"""
    )
    expected = {
        ("window_start", "timestamp with time zone"),
        ("name", "text"),
        ("day", "date"),
        ("truth", "boolean"),
        ("events", "bigint"),
        ("doubles", "double precision"),
        ("prices", "numeric"),
    }
    assert expected <= set(columns), columns
    # $__timeGroupAlias, $__timeFilter, $__unixEpochFilter.
    series = rows(
        """SELECT floor(extract(epoch from window_start)/300)*300 AS "time", name AS metric, measure(events) AS value
           FROM every_type WHERE window_start BETWEEN '2026-03-01T00:00:00Z' AND '2026-03-02T00:00:00.5Z'
           GROUP BY 1, 2 ORDER BY 1, 2"""
    )
    assert series == [(1772366400.0, "ann", 2), (1772366400.0, "bob", 1)], series
    series = rows(
        """SELECT date_trunc('hour', window_start) AS time, sum(events) AS events FROM every_type
           WHERE extract(epoch from window_start) >= 1772323200 AND extract(epoch from window_start) <= 1772409600
           GROUP BY time ORDER BY time"""
    )
    assert [int(events) for _, events in series] == [3], series
    # A variable's values.
    assert rows("SELECT DISTINCT name FROM every_type ORDER BY 1") == [("ann",), ("bob",)]


def metabase(cursor):
    """Its synchronisation beside what its JDBC driver asks (tests/java): kinds of tables, and fingerprints of columns."""

    def rows(query, *values):
        cursor.execute(query, values)
        return cursor.fetchall()

    found = rows(
        """SELECT table_schema, table_name, table_type FROM information_schema.tables
           WHERE table_schema = ANY(%s) ORDER BY 1, 2""",
        ["public", "system"],
    )
    assert ("public", "every_type", "BASE TABLE") in found, found
    assert ("system", "queries", "VIEW") in found, found
    [(least, most, count)] = rows('SELECT min("window_start"), max("window_start"), count(distinct "name") FROM "public"."every_type"')
    assert least == most and count == 2
    sample = rows('SELECT substring("public"."every_type"."name", 1, 1234) AS "name" FROM "public"."every_type" LIMIT 10000')
    assert sorted(sample) == [("ann",), ("bob",)], sample
    by_hour = rows(
        """SELECT DATE_TRUNC('hour', "public"."every_type"."window_start") AS "window_start", SUM("public"."every_type"."events") AS "sum"
           FROM "public"."every_type" GROUP BY DATE_TRUNC('hour', "public"."every_type"."window_start")
           ORDER BY DATE_TRUNC('hour', "public"."every_type"."window_start") ASC"""
    )
    assert len(by_hour) == 1 and by_hour[0][1] == 3, by_hour


def power_bi(cursor):
    """Its navigator: tables and views, columns with their types, keys, of which there are none."""

    def rows(query):
        cursor.execute(query)
        return cursor.fetchall()

    tables = rows(
        """select TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE from INFORMATION_SCHEMA.tables
           where TABLE_SCHEMA not in ('information_schema', 'pg_catalog') order by TABLE_SCHEMA, TABLE_NAME"""
    )
    assert ("public", "every_type", "BASE TABLE") in tables, tables
    columns = rows(
        """select COLUMN_NAME, ORDINAL_POSITION, IS_NULLABLE, case when (data_type like '%unsigned%') then DATA_TYPE || ' unsigned' else DATA_TYPE end as DATA_TYPE
           from INFORMATION_SCHEMA.columns where TABLE_SCHEMA = 'public' and TABLE_NAME = 'every_type'
           order by TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"""
    )
    assert columns[0] == ("window_start", 1, "NO", "timestamp with time zone"), columns
    keys = rows(
        """select i.CONSTRAINT_SCHEMA || '_' || i.CONSTRAINT_NAME as INDEX_NAME, ii.COLUMN_NAME, ii.ORDINAL_POSITION,
                  case when i.CONSTRAINT_TYPE = 'PRIMARY KEY' then 'Y' else 'N' end as PRIMARY_KEY
           from INFORMATION_SCHEMA.table_constraints i inner join INFORMATION_SCHEMA.key_column_usage ii
             on i.CONSTRAINT_SCHEMA = ii.CONSTRAINT_SCHEMA and i.CONSTRAINT_NAME = ii.CONSTRAINT_NAME
           where i.TABLE_SCHEMA = 'public' and i.TABLE_NAME = 'every_type' and i.CONSTRAINT_TYPE in ('PRIMARY KEY', 'UNIQUE')"""
    )
    assert keys == [], keys
    assert rows("select character_set_name from INFORMATION_SCHEMA.character_sets") == [("UTF8",)]


def superset(host, port):
    """Its lists of schemas, tables and columns, and a chart's query, through the driver that it comes with."""
    engine = sqlalchemy.create_engine(f"postgresql+psycopg2://analyst@{host}:{port}/alluvium")
    inspector = sqlalchemy.inspect(engine)
    assert {"public", "panes", "system", "dead_letters"} <= set(inspector.get_schema_names())
    assert "every_type" in inspector.get_table_names(schema="public")
    assert "queries" in inspector.get_view_names(schema="system")
    columns = {column["name"]: str(column["type"]) for column in inspector.get_columns("every_type", schema="public")}
    assert columns["window_start"] == "TIMESTAMP" and columns["events"] == "BIGINT", columns
    assert inspector.get_pk_constraint("every_type")["constrained_columns"] == []
    assert inspector.get_indexes("every_type") == []
    with engine.connect() as connection:
        chart = connection.execute(
            sqlalchemy.text(
                """SELECT DATE_TRUNC('minute', window_start) AS __timestamp, name AS name, sum(events) AS "SUM(events)"
                   FROM public.every_type
                   WHERE window_start >= TO_TIMESTAMP('2026-03-01 00:00:00.000000', 'YYYY-MM-DD HH24:MI:SS.US')
                     AND window_start < TO_TIMESTAMP('2026-03-02 00:00:00.000000', 'YYYY-MM-DD HH24:MI:SS.US')
                   GROUP BY DATE_TRUNC('minute', window_start), name ORDER BY "SUM(events)" DESC LIMIT 10000"""
            )
        ).fetchall()
    assert [(row[1], int(row[2])) for row in chart] == [("ann", 2), ("bob", 1)], chart


def main(host, port):
    connection = psycopg2.connect(host=host, port=port, dbname="alluvium", user="analyst")
    for ask in (grafana, metabase, power_bi):
        # Each statement alone, as the tools send them.
        connection.autocommit = True
        with connection.cursor() as cursor:
            ask(cursor)
    # A server-side cursor, as tools read large results.
    connection.autocommit = False
    with connection.cursor(name="large") as cursor:
        cursor.itersize = 10
        cursor.execute("SELECT value FROM generate_series(1, 100) AS t(value)")
        assert sum(value for (value,) in cursor) == 5050
    connection.close()
    superset(host, port)


if __name__ == "__main__":
    main(*sys.argv[1:])
