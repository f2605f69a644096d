"""The campaign's auditor is right about a right table, and finds each way in which one can be wrong."""

import copy
import datetime
import json
import sys

import pytest
from conftest import ROOT

pyarrow = pytest.importorskip("pyarrow", reason="see tests/python/requirements.txt")
pytest.importorskip("duckdb", reason="see tests/python/requirements.txt")
sys.path.insert(0, str(ROOT / "tests"))

import pyarrow.parquet  # noqa: E402

from campaign import audit, delta, events, floors  # noqa: E402

POOL = [
    events.Event(events.GOOD, b"a", "2026-03-01T12:00:00Z", "ann", 5),
    events.Event(events.HALF, b"h", "2026-03-01T12:00:00Z", "bob", 7),
    events.Event(events.FILTERED, b"f", "2026-03-01T12:00:00Z", "ann", 9),
    events.Event(events.BROKEN, b"broken"),
]
LEDGER = {"counts": [6, 1, 2, 1], "places": [[1, 0, 3], [3, 1, 2]]}
APP = "alluvium/disk/events/{}"


def field(name, kind):
    return {"name": name, "type": kind, "nullable": True, "metadata": {}}


class Table:
    """A Delta table as a list of versions that a test can spoil before it is written."""

    def __init__(self, fields):
        schema = json.dumps({"type": "struct", "fields": [field(name, kind) for name, kind in fields]})
        self.schema = schema
        self.versions = []

    def version(self, info, txns=(), adds=(), removes=()):
        self.versions.append({"info": info, "txns": dict(txns), "adds": list(adds), "removes": list(removes)})

    def write(self, path):
        (path / "_delta_log").mkdir(parents=True)
        for number, version in enumerate(self.versions):
            lines = [{"commitInfo": {"timestamp": 0, "operation": "WRITE", "alluvium": version["info"]}}]
            if number == 0:
                lines.append({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}})
                format = {"provider": "parquet", "options": {}}
                about = {"schemaString": self.schema, "partitionColumns": [], "configuration": {}}
                lines.append({"metaData": {"id": str(path), "format": format} | about})
            lines += [{"txn": {"appId": app, "version": at}} for app, at in version["txns"].items()]
            for name, table in version["adds"]:
                pyarrow.parquet.write_table(table, path / name)
                size = (path / name).stat().st_size
                lines.append({"add": {"path": name, "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": True}})
            lines += [{"remove": {"path": name, "dataChange": True, "deletionTimestamp": 0}} for name in version["removes"]]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (path / f"_delta_log/{number:020}.json").write_text(text)


def panes(rows):
    noon = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)
    return pyarrow.table(
        {
            "window_start": pyarrow.array([noon] * len(rows), pyarrow.timestamp("us", "UTC")),
            "key": [key for key, *_ in rows],
            "events": pyarrow.array([count for _, count, _ in rows], pyarrow.int64()),
            "amount": pyarrow.array([amount for *_, amount in rows], pyarrow.int64()),
        }
    )


def letters(rows):
    return pyarrow.table(
        {
            "partition": pyarrow.array([partition for partition, *_ in rows], pyarrow.int32()),
            "offset": pyarrow.array([offset for _, offset, *_ in rows], pyarrow.int64()),
            "table": pyarrow.array([table for *_, table, _ in rows], pyarrow.string()),
            "payload": pyarrow.array([payload for *_, payload in rows], pyarrow.binary()),
        }
    )


def balance(events_in, counted, filtered, rejected):
    return {"in": events_in, "counted": counted, "filtered": filtered, "rejected": rejected, "late": 0}


def commit(ranges, held):
    return {"kind": "commit", "ranges": ranges, "balance": held}


def right_root():
    """What a product without a fault leaves of the ledger above."""
    columns = [("window_start", "timestamp"), ("key", "string"), ("events", "long"), ("amount", "long")]
    tables = {}
    for name, half in (("per_key", 1), ("ratios", 0)):
        table = Table(columns)
        table.version({"kind": "create"})
        starts = {"events/0": 0, "events/1": 0}
        # The topic's id stands beside its offsets, and is none.
        recorded = {APP.format(0): 0, APP.format(1): 0, APP.format("partitions"): 2, APP.format("id"): 2**62}
        table.version({"kind": "start", "starts": starts}, recorded)
        first = commit({"events/0": [0, 4]}, balance(4, 3 + half, 0, 1 - half))
        table.version(first, {APP.format(0): 4}, [("a", panes([("ann", 3, 15)] + [("bob", 1, 7)] * half))])
        table.version(
            commit({"events/0": [4, 5], "events/1": [0, 5]}, balance(6, 3, 2, 1)),
            {APP.format(0): 5, APP.format(1): 5},
            [("b", panes([("ann", 3, 15)]))],
        )
        table.version({"kind": "compact"}, {"alluvium/layout": 1}, [("c", panes([("ann", 6, 30)] + [("bob", 1, 7)] * half))], ["a", "b"])
        tables[name] = table
    dead = Table([("partition", "integer"), ("offset", "long"), ("table", "string"), ("payload", "binary")])
    dead.version({"kind": "create"})
    dead.version({"kind": "dead_letters"}, adds=[("l", letters([(0, 3, "ratios", b"h"), (1, 2, None, b"broken")]))])
    return tables | {"dead": dead}


def verdict_of(folder, root):
    for name in ("per_key", "ratios"):
        root[name].write(folder / "tables" / name)
    root["dead"].write(folder / "dead_letters/disk")
    logs = {name: delta.Log(delta.Folder(folder), f"tables/{name}") for name in ("per_key", "ratios")}
    for log in logs.values():
        log.advance()
    return audit.audit(folder, "disk", logs, audit.Expected(LEDGER, POOL))


def test_a_right_table_is_right(tmp_path):
    verdict = verdict_of(tmp_path, right_root())
    assert verdict.findings == [] and (verdict.lost, verdict.twice) == (0, 0)


def gap(root):
    root["per_key"].versions[3]["info"]["ranges"]["events/0"] = [5, 6]


def overlap(root):
    root["per_key"].versions[3]["info"]["ranges"]["events/0"] = [3, 5]


def offsets_alone(root):
    root["per_key"].versions[3]["info"]["ranges"].pop("events/1")


def moved_by_a_merge(root):
    root["ratios"].versions[4]["txns"][APP.format(0)] = 9


def balance_that_does_not_hold(root):
    root["ratios"].versions[2]["info"]["balance"]["counted"] += 1


def events_that_never_came(root):
    root["ratios"].versions[2]["info"]["balance"] = balance(5, 4, 0, 1)


def row_lost(root):
    root["per_key"].versions[4]["adds"] = [("c", panes([("ann", 6, 30)]))]


def file_removed_by_half(root):
    root["per_key"].versions[4]["removes"] = ["a"]


def merged_twice(root):
    again = copy.copy(root["per_key"].versions[4])
    again["adds"] = [("d", panes([("ann", 6, 30), ("bob", 1, 7)]))]
    root["per_key"].versions.append(again)


def sum_is_wrong(root):
    root["per_key"].versions[4]["adds"] = [("c", panes([("ann", 6, 31), ("bob", 1, 7)]))]


def letter_twice(root):
    root["dead"].version({"kind": "dead_letters"}, adds=[("m", letters([(1, 2, None, b"broken")]))])


def letter_lost(root):
    root["dead"].versions[1]["adds"] = [("l", letters([(1, 2, None, b"broken")]))]


def letter_with_other_bytes(root):
    root["dead"].versions[1]["adds"] = [("l", letters([(0, 3, "ratios", b"h"), (1, 2, None, b"brokem")]))]


SABOTAGES = [
    gap,
    overlap,
    offsets_alone,
    moved_by_a_merge,
    balance_that_does_not_hold,
    events_that_never_came,
    row_lost,
    file_removed_by_half,
    merged_twice,
    sum_is_wrong,
    letter_twice,
    letter_lost,
    letter_with_other_bytes,
]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_each_wrong_table_is_found(tmp_path, sabotage):
    root = right_root()
    sabotage(root)
    assert verdict_of(tmp_path, root).findings


def test_an_hour_has_the_floors_that_were_asked_for():
    asked = floors.floors(60, [])
    least = {"kill": 300, "zombie": 60, "rebalance": 200, "broker outage": 30, "ambiguous commit": 50, "disk full": 20}
    assert {kind: asked[kind] for kind in least} == least
    for minutes in (2, 10, 60):
        asked = floors.floors(minutes, [])
        assert all(asked[kind] >= least for kind, least in floors.SHORT.items())
    assert not any(kind.startswith("kafka link") for kind in floors.floors(60, list(floors.NEEDS_KAFKA)))
