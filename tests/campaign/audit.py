"""The auditor: decides, from the log's JSON and the files' Parquet by DuckDB, whether anything is lost or twice.

Owns what must hold. Does not own what was produced (`producer` wrote that down), and shares no code with the product's
store or query. Each finding is one sentence; no finding means that

* every partition's ranges chain from its start to what is recorded now, without gap or overlap (P1, P7);
* every commit's balance holds, and their sums are what the ledger says (P13);
* for every table, window and key the number and the sum are the ledger's;
* every event that could not be taken is a dead letter once, with its bytes, at its place (P22), and there is no other.
"""

import collections
import hashlib
import pathlib
import sys

from . import events
from .delta import Log, partition_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from duckdb_reader import connect  # noqa: E402

PER_KEY, RATIOS = "per_key", "ratios"
SHOWN = 5  # findings of one sort that are written out


class Expected:
    """What the ledger says, made comparable."""

    def __init__(self, ledger: dict, pool: list[events.Event]):
        counts = ledger["counts"]
        self.rows = {PER_KEY: collections.Counter(), RATIOS: collections.Counter()}
        self.sums = {PER_KEY: collections.Counter(), RATIOS: collections.Counter()}
        by_kind: collections.Counter = collections.Counter()
        for event, count in zip(pool, counts, strict=True):
            by_kind[event.kind] += count
            for table, kinds in ((PER_KEY, (events.GOOD, events.HALF)), (RATIOS, (events.GOOD,))):
                if event.kind in kinds and count:
                    self.rows[table][event.window, event.key] += count
                    self.sums[table][event.window, event.key] += count * event.amount
        self.total = sum(counts)
        filtered, broken, half = by_kind[events.FILTERED], by_kind[events.BROKEN], by_kind[events.HALF]
        balance = lambda rejected: {  # noqa: E731
            "in": self.total,
            "counted": self.total - filtered - rejected,
            "filtered": filtered,
            "rejected": rejected,
        }
        self.balances = {PER_KEY: balance(broken), RATIOS: balance(broken + half)}
        self.letters: collections.Counter = collections.Counter()
        for number, partition, offset in ledger["places"]:
            event = pool[number]
            table = None if event.kind == events.BROKEN else RATIOS
            self.letters[partition, offset, table, hashlib.sha256(event.payload).hexdigest()] += 1


def chain(log: Log, gaps: dict[str, tuple[int, int]] | None = None) -> list[str]:
    """Ranges against each other and against what is recorded; balances of single commits. `gaps` are what was passed over by hand."""
    gaps = gaps or {}
    found = list(log.violations)
    at: dict[str, int] = {}
    moved: set[str] = set()
    for version, (info, txns) in enumerate(zip(log.infos, log.txns, strict=True)):
        ours = info.get("alluvium", {})
        offsets = {"{}/{}".format(*place): number for app, number in txns.items() if (place := partition_of(app))}
        where = f"{log.table} version {version}"
        match ours.get("kind"):
            case "start":
                for place, start in ours.get("starts", {}).items():
                    place = as_place(place)
                    if place in at:
                        found.append(f"{where}: {place} is started at {start}, but was at {at[place]}")
                    at[place] = start
                    if offsets.get(place) != start:
                        found.append(f"{where}: {place} starts at {start}, recorded is {offsets.get(place)}")
            case "commit":
                ranges = {as_place(place): pair for place, pair in ours["ranges"].items()}
                for place, (start, end) in ranges.items():
                    if at.get(place) != start:
                        word = "nothing" if place not in at else ("a gap" if start > at[place] else "an overlap")
                        found.append(f"{where}: {place} starts at {start} after {at.get(place)}: {word}")
                    if end <= start:
                        found.append(f"{where}: {place} has an empty range {start}..{end}")
                    at[place] = end
                    if offsets.get(place) != end:
                        found.append(f"{where}: {place} ends at {end}, recorded is {offsets.get(place)}")
                for place in offsets.keys() - ranges.keys():
                    found.append(f"{where}: {place} is recorded at {offsets[place]} without a range")
                balance = ours["balance"]
                if balance["in"] != balance["counted"] + balance["filtered"] + balance["rejected"]:
                    found.append(f"{where}: the balance does not hold: {balance}")
            case "seek":
                for place, pair in ours["seeks"].items():
                    place = as_place(place)
                    if at.get(place) != pair[0] or offsets.get(place) != pair[1]:
                        found.append(f"{where}: {place} is moved by {pair}, was at {at.get(place)}, recorded is {offsets.get(place)}")
                    if gaps.get(place) != tuple(pair):
                        found.append(f"{where}: {place} is moved by {pair}, and what was to be passed over is {gaps.get(place)}")
                    at[place] = pair[1]
                    moved.add(place)
                for place in offsets.keys() - {as_place(place) for place in ours["seeks"]}:
                    found.append(f"{where}: {place} is moved without being named")
            case "watermark":
                for place, offset in offsets.items():
                    if at.get(place) != offset:
                        found.append(f"{where}: {place} is moved from {at.get(place)} to {offset} by a watermark")
            case "create" | "compact" | "grow" | "replay" | "sweep" | "expiry":
                for place in offsets:
                    found.append(f"{where}: {place} is moved by {ours['kind']}")
            case kind:
                found.append(f"{where}: a commit of an unknown kind {kind}")
    return found + [f"{log.table}: {place} was not moved over {gaps[place]}" for place in gaps.keys() - moved]


def as_place(text: str) -> str:
    """`topic/partition`, however the log writes it."""
    topic, _, partition = text.replace("[", "/").rstrip("]").rpartition("/")
    return f"{topic}/{int(partition)}"


def sums(log: Log) -> dict[str, int]:
    total: collections.Counter = collections.Counter()
    for info in log.infos:
        ours = info.get("alluvium", {})
        if ours.get("kind") == "commit":
            total.update({name: ours["balance"][name] for name in ("in", "counted", "filtered", "rejected")})
    return {name: total[name] for name in ("in", "counted", "filtered", "rejected")}


def differences(name: str, expected: dict, held: dict) -> list[str]:
    """Keys whose values differ, the first few in words."""
    keys = sorted((key for key in expected.keys() | held.keys() if expected.get(key, 0) != held.get(key, 0)), key=str)
    found = [f"{name} {key}: the ledger says {expected.get(key, 0)}, the table {held.get(key, 0)}" for key in keys[:SHOWN]]
    if len(keys) > SHOWN:
        found.append(f"{name}: {len(keys) - SHOWN} more differ")
    return found


class Verdict:
    """What was found in one storage root."""

    def __init__(self):
        self.findings: list[str] = []
        self.lost = self.twice = 0
        self.facts: dict = {}


def audit(
    root: pathlib.Path, pipeline: str, logs: dict[str, Log], expected: Expected, gaps: dict[str, tuple[int, int]] | None = None
) -> Verdict:
    """Everything, of a root whose servers have ended; `gaps` by topic and partition, where somebody has passed something over."""
    verdict, db = Verdict(), connect()
    for table in (PER_KEY, RATIOS):
        log = logs[table]
        verdict.findings += chain(log, gaps)
        totals = sums(log)
        verdict.findings += differences(f"{pipeline}: balance of {table},", expected.balances[table], totals)
        rows, amounts = grouped(db, root / "tables" / table, log, verdict)
        verdict.findings += differences(f"{pipeline}: {table}, events of", expected.rows[table], rows)
        verdict.findings += differences(f"{pipeline}: {table}, sum of", expected.sums[table], amounts)
        for key in expected.rows[table].keys() | rows.keys():
            difference = rows.get(key, 0) - expected.rows[table].get(key, 0)
            verdict.twice += max(0, difference)
            verdict.lost += max(0, -difference)
        verdict.facts[table] = {"versions": log.next, "kinds": log.kinds, "files": len(log.live), "events": totals["in"]}
    verdict.findings += letters(db, root / "dead_letters" / pipeline, expected, verdict)
    return verdict


def grouped(db, path: pathlib.Path, log: Log, verdict: Verdict):
    """Number and sum by window and key; by the Delta extension, and once more by the files that the log's JSON names."""
    query = """select strftime(window_start, '%Y-%m-%dT%H:%M:%SZ'), "key", sum(events)::bigint, sum(amount)::bigint
               from {source} group by all"""
    if not log.live:
        return {}, {}
    files = ",".join(f"'{path / name}'" for name in log.live)
    by_files = sorted(db.execute(query.format(source=f"read_parquet([{files}], hive_partitioning = false)")).fetchall())
    by_delta = sorted(db.execute(query.format(source=f"delta_scan('{path}')")).fetchall())
    if by_files != by_delta:
        verdict.findings.append(f"{path.name}: the log's JSON and DuckDB's Delta extension disagree about the live files")
    return {row[:2]: row[2] for row in by_files}, {row[:2]: row[3] for row in by_files}


def letters(db, path: pathlib.Path, expected: Expected, verdict: Verdict) -> list[str]:
    held: collections.Counter = collections.Counter()
    if (path / "_delta_log").is_dir():
        query = f"""select partition, "offset", "table", sha256(payload), count(*)::bigint from delta_scan('{path}') group by all"""
        for partition, offset, table, digest, count in db.execute(query).fetchall():
            held[partition, offset, table, digest] += count
    twice = sum(count - 1 for count in held.values() if count > 1)
    verdict.facts["dead letters"] = {"expected": sum(expected.letters.values()), "held": sum(held.values()), "twice": twice}
    verdict.lost += sum((expected.letters - held).values())
    verdict.twice += sum((held - expected.letters).values())
    return differences(f"{path.name}: dead letter", expected.letters, held)
