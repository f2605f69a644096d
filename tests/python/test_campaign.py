"""The campaign's auditor is right about a right table, and finds each way in which one can be wrong; so do the trials' judges."""

import ast
import copy
import datetime
import inspect
import json
import sys
import time

import pytest
from conftest import ROOT

pyarrow = pytest.importorskip("pyarrow", reason="see tests/python/requirements.txt")
pytest.importorskip("duckdb", reason="see tests/python/requirements.txt")
sys.path.insert(0, str(ROOT / "tests"))

import pyarrow.parquet  # noqa: E402

from campaign import audit, delta, events, floors, processes, s3  # noqa: E402
from campaign.trials import asker, load, numbered, outcome, recovery, site, totals  # noqa: E402

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


def verdict_of(folder, root, gaps=None):
    for name in ("per_key", "ratios"):
        root[name].write(folder / "tables" / name)
    root["dead"].write(folder / "dead_letters/disk")
    logs = {name: delta.Log(delta.Folder(folder), f"tables/{name}") for name in ("per_key", "ratios")}
    for log in logs.values():
        log.advance()
    return audit.audit(folder, "disk", logs, audit.Expected(LEDGER, POOL), gaps)


def test_a_right_table_is_right(tmp_path):
    verdict = verdict_of(tmp_path, right_root())
    assert verdict.findings == [] and (verdict.lost, verdict.twice) == (0, 0)


def test_trials_call_the_auditor_as_it_is_written(tmp_path):
    # They take long, so no test runs one; an argument that is missing would show after ten minutes only.
    root = right_root()
    verdict_of(tmp_path, root)
    log = delta.Log(delta.Folder(tmp_path), "tables/per_key")
    log.advance()
    assert audit.chain(log) == []
    for trial in (ROOT / "tests/campaign/trials").glob("*.py"):
        for call in ast.walk(ast.parse(trial.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                if call.func.value.id == "audit" and not any(isinstance(given, ast.Starred) for given in call.args):
                    named = {word.arg: None for word in call.keywords if word.arg}
                    inspect.signature(getattr(audit, call.func.attr)).bind(*call.args, **named)


class Full:
    """A client that takes nothing."""

    def __init__(self, *_):
        self.is_purged = False

    def produce(self, *_, **__):
        raise BufferError

    def poll(self, _):
        return 0

    def purge(self):
        self.is_purged = True


def test_a_client_that_stops_sending_is_replaced_and_the_topic_read(monkeypatch):
    producer = pytest.importorskip("campaign.producer")
    monkeypatch.setattr(producer, "Producer", Full)
    monkeypatch.setattr(producer, "STUCK_AFTER", 0.01)
    load = producer.Load({"seed": 1, "brokers": "", "partitions": 1, "topic": "t"})
    first = load.client()
    with pytest.raises(producer.Stuck):
        load.produce(first, 0, 0)
    second = load.replaced(first)
    assert first.is_purged and second is not first
    assert len(load.tally.doubts) == 1
    load.replaced(second)
    assert len(load.tally.doubts) == 1, "the same is said once"


def gap(root):
    root["per_key"].versions[3]["info"]["ranges"]["events/0"] = [5, 6]


def overlap(root):
    root["per_key"].versions[3]["info"]["ranges"]["events/0"] = [3, 5]


def offsets_alone(root):
    root["per_key"].versions[3]["info"]["ranges"].pop("events/1")


def moved_by_a_merge(root):
    root["ratios"].versions[4]["txns"][APP.format(0)] = 9


def moved_by_hand(root):
    for table in ("per_key", "ratios"):
        root[table].version({"kind": "seek", "seeks": {"events/1": [5, 9]}}, {APP.format(1): 9})


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
    moved_by_hand,
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


def test_what_was_to_be_passed_over_is_passed_over_and_nothing_else(tmp_path):
    root = right_root()
    moved_by_hand(root)
    assert verdict_of(tmp_path / "asked", root, {"events/1": (5, 9)}).findings == []
    for name, root, gaps in (
        ("not done", right_root(), {"events/1": (5, 9)}),
        ("too far", root, {"events/1": (5, 8)}),
        ("elsewhere", root, {"events/0": (5, 9)}),
    ):
        assert verdict_of(tmp_path / name, root, gaps).findings, name


def test_what_a_process_says_is_found_wherever_it_stands_and_only_in_its_own_life(tmp_path):
    log = tmp_path / "server.log"
    talk = "print('was fenced'); print('backing off\\n' * 3000)"
    first = processes.Process([sys.executable, "-c", talk], log)
    assert first.child.wait(60) == 0
    assert "was fenced" not in first.tail(15)
    assert first.has_said("was fenced")
    second = processes.Process([sys.executable, "-c", "print('drained')"], log)
    assert second.child.wait(60) == 0
    assert second.has_said("drained") and not second.has_said("was fenced")


def test_an_hour_has_the_floors_that_were_asked_for():
    asked = floors.floors(60, [])
    least = {"kill": 300, "zombie": 60, "rebalance": 200, "broker outage": 30, "ambiguous commit": 50, "disk full": 20}
    assert {kind: asked[kind] for kind in least} == least
    for minutes in (2, 10, 60):
        asked = floors.floors(minutes, [])
        assert all(asked[kind] >= least for kind, least in floors.SHORT.items())
    assert not any(kind.startswith("kafka link") for kind in floors.floors(60, list(floors.NEEDS_KAFKA)))


# Trials ---------------------------------------------------------------------------------------------------------------

NUMBERS = numbered.Numbering(keys=7, windows=3)


def held_by(rows):
    """A query for a table that holds these rows of (window, key): (number, sum)."""
    values = ", ".join(f"({int(window[14:16])}, {key}, {count}, {amount})" for (window, key), (count, amount) in rows.items())
    return f"select * from (values {values}) held(minute, key, events, amount)"


def test_numbered_events_come_to_what_their_truth_says(tmp_path):
    db, sent = audit.connect(), [json.loads(NUMBERS.good(number)) for number in range(500)]
    NUMBERS.write(db, 500, tmp_path / "lines")
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == sent
    rows: dict = {}
    for event in sent:
        place = (event["ts"].replace(":30Z", ":00Z"), event["key"])
        count, amount = rows.get(place, (0, 0))
        rows[place] = (count + 1, amount + event["amount"])
    assert rows == NUMBERS.rows(500)
    same = totals.compare(db, NUMBERS.truth(500), held_by(rows))
    assert (same.events, same.rows, same.lost, same.twice, same.wrong_sums, same.findings("t")) == (500, len(rows), 0, 0, 0, [])


def test_keys_that_are_words_are_the_same_in_both_languages():
    words = numbered.Worded(keys=11, windows=2)
    sent = {json.loads(words.good(number))["key"] for number in range(50)}
    assert {key for _, key, *_ in audit.connect().execute(words.truth(50)).fetchall()} == sent


def lose(rows, place):
    rows[place] = (rows[place][0] - 1, rows[place][1])


def count_twice(rows, place):
    rows[place] = (2 * rows[place][0], 2 * rows[place][1])


def spoil_sum(rows, place):
    rows[place] = (rows[place][0], rows[place][1] + 1)


def lose_row(rows, place):
    rows.pop(place)


def invent_row(rows, place):
    rows["2026-03-01T12:05:00Z", 3] = (1, 1)


@pytest.mark.parametrize("sabotage", [lose, count_twice, spoil_sum, lose_row, invent_row], ids=lambda one: one.__name__)
def test_totals_that_are_not_the_truth_are_found(sabotage):
    rows = NUMBERS.rows(500)
    sabotage(rows, next(iter(rows)))
    assert totals.compare(audit.connect(), NUMBERS.truth(500), held_by(rows)).findings("t")


@pytest.mark.parametrize(
    ("letters_held", "findings"),
    [
        ([(0, 1, "a"), (0, 2, "b")], 0),
        ([(0, 1, "a"), (0, 2, "b"), (0, 5, "c")], 0),  # beyond what is recorded: a kill came between
        ([(0, 1, "a")], 1),
        ([(0, 1, "a"), (0, 2, "b"), (0, 2, "b")], 1),
        ([(0, 1, "a"), (0, 2, "other")], 2),
        ([(0, 1, "a"), (0, 2, "b"), (1, 9, "d")], 1),
    ],
)
def test_letters_are_the_refused_events_once(letters_held, findings):
    def query(rows):
        values = ", ".join(f"({partition}, {offset}, '{text}')" for partition, offset, text in rows)
        return f'select partition, "offset", payload from (values {values}) rows(partition, "offset", payload)'

    broken = query([(0, 1, "a"), (0, 2, "b"), (0, 5, "c")])
    assert len(totals.letters(audit.connect(), query(letters_held), broken, {0: 3})[1]) == findings


def answer(rows):
    return [{"window_start": window, "key": key, "events": str(n), "amount": str(amount)} for (window, key), (n, amount) in rows.items()]


def test_answers_while_events_are_refused_are_what_was_counted_before():
    counted = NUMBERS.rows(300)
    assert asker.judge(answer(counted), counted, counted) == ([], counted)
    for sabotage in (lose, count_twice, spoil_sum, lose_row, invent_row):
        rows = dict(counted)
        sabotage(rows, next(iter(rows)))
        assert asker.judge(answer(rows), counted, counted)[0], sabotage.__name__


def test_answers_after_the_fix_rise_to_the_truth_and_no_further():
    before, between, after = (NUMBERS.rows(events) for events in (300, 400, 500))
    assert asker.judge(answer(between), before, after) == ([], between)
    assert asker.judge(answer(before), between, after)[0]
    assert asker.judge(answer(after), before, between)[0]


def test_figures_of_many():
    assert outcome.summed_up([3, 1, 2]) == {"median": 2, "p95": 3, "max": 3, "count": 3}
    assert outcome.quantile(list(range(1, 101)), 0.95) == 95
    assert outcome.slope([(0, 1), (1, 3), (2, 5)]) == 2 and outcome.slope([(0, 1)]) == 0


def test_milestones_are_the_first_of_each():
    text = """\
2026-11-26T03:52:15.230101Z  INFO HTTP listens on http://127.0.0.1:35587
2026-11-26T03:52:15.386449Z  INFO reading pipeline=trial drain="direct"
2026-11-26T03:52:15.601003Z  INFO partitions assigned pipeline=trial partitions=3
not a line of ours
2026-11-26T03:52:19.661067Z  INFO committed pipeline=trial table=totals version=2 events=300 rejected=0 late=0 took_ms=10
2026-11-26T03:52:20.661067Z  INFO committed pipeline=trial table=totals version=3 events=300 rejected=0 late=0 took_ms=20
"""
    lines = site.stamped(text)
    reached = site.milestones(lines)
    assert list(reached) == ["doors", "reading", "assigned", "committed"]
    assert round(reached["committed"] - reached["doors"], 3) == 4.431
    begins = lines[0][0]
    samples = [load.Sample(0, begins, "before", 1, 0, 0, 0), load.Sample(5, begins + 5, "slow", 1, 0, 0, 0)]
    assert load.took_by_phase(lines, samples) == {"before": [0.01], "slow": [0.02]}


def test_a_recovery_that_is_late_or_does_not_come_is_found():
    kills = [{"seconds": 1.2, "load": 1}, {"seconds": 2.999, "load": 1}, {"seconds": 3.0, "load": 1}, {"seconds": None, "load": 1}]
    assert [finding.split()[1] for finding in recovery.too_late(kills)] == ["3", "4"]
    assert recovery.judged(kills)["seconds"] == {"median": 2.999, "p95": 3.0, "max": 3.0, "count": 3}


def watched(memory=(100, 100), lag=(0, 200_000, 0)):
    """Ninety seconds of a load trial: memory from and to, the lag at the end of each third."""
    samples = []
    for second in range(90):
        phase = ("before", "slow", "after")[second // 30]
        start = (0, *lag)[second // 30]
        behind = int(start + (lag[second // 30] - start) * (second % 30 + 1) / 30)
        resident = memory[0] + (memory[1] - memory[0]) * second / 89
        samples.append(load.Sample(second, 1000.0 + second, phase, resident, behind, second, 1.0))
    return samples


@pytest.mark.parametrize(
    ("samples", "findings"),
    [
        (watched(), 0),
        (watched(memory=(100, load.INGEST + load.BESIDE)), 1),
        (watched(lag=(0, 1_000, 0)), 1),  # nothing was held up
        (watched(lag=(100_000, 200_000, 0)), 1),
    ],
)
def test_the_load_is_judged_by_its_bounds(samples, findings):
    judged = outcome.Outcome("load")
    load.judge(judged, samples, 60, 90, {"slow": [1.0]})
    assert len(judged.findings) == findings
    assert 60 + judged.figures["drained after s"] == next(one.at for one in samples if one.at > 60 and one.lag < load.FEW)


def test_a_store_at_a_pace_takes_its_time():
    pace = s3.Pace()
    began = time.monotonic()
    pace.keep(10**9, 0)
    assert time.monotonic() - began < 0.05
    pace.set({"seconds": 0.01, "rate": 10_000})
    for _ in range(2):
        pace.keep(500, pace.seconds)
    assert time.monotonic() - began >= 0.12 - 0.001
