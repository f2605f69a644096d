"""ADBC against a server with users, over TLS.

    flight_users.py URI AUTHORITY.pem USER TOKEN < PASSWORD

USER may read the table `per_key` and not its panes; the token's user may read `system` and not the table. Ends with 0 when
everything was as it must be.
"""

import pathlib
import sys

import adbc_driver_flightsql.dbapi
import adbc_driver_manager


def ask(uri, query, **options):
    with adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


def refused(words, uri, query, **options):
    try:
        rows = ask(uri, query, **options)
    except adbc_driver_manager.Error as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"{query} was answered: {rows}")


def main(uri, authority, user, token):
    password = sys.stdin.readline().rstrip("\n")
    trusted = {"adbc.flight.sql.client_option.tls_root_certs": pathlib.Path(authority).read_text()}
    named = {**trusted, "username": user, "password": password}
    bearer = {**trusted, "adbc.flight.sql.authorization_header": f"Bearer {token}"}
    assert ask(uri, "SELECT count(*) FROM per_key", **named) == [(0,)]
    assert ask(uri, "SELECT count(*) FROM system.pipelines", **bearer) == [(1,)]
    refused("permission denied for table", uri, "SELECT * FROM panes.per_key", **named)
    refused("permission denied for table", uri, "SELECT * FROM per_key", **bearer)
    refused("UNAUTHENTICATED", uri, "SELECT 1", **trusted)
    refused("UNAUTHENTICATED", uri, "SELECT 1", **{**named, "password": "canary-wrong"})
    refused("certificate", uri, "SELECT 1", username=user, password=password)


main(*sys.argv[1:])
