"""From `kill -9` to the first version with new events: below three seconds, however large the table is.

Owns the measurement. The clock is this process's: it begins before the signal and ends when the next log entry that counts events is
seen in `_delta_log`. The server is started again as soon as the killed process is gone, and nobody asks it anything. Its own log tells
afterwards where the time went.
"""

import os
import pathlib
import random
import subprocess
import time

from .. import audit
from ..processes import wait_for
from ..talk import Talk
from . import numbered, totals
from .outcome import Outcome, summed_up
from .site import Site, milestones

BOUND = 3.0  # seconds
FEW_ROWS = 10
RATE = 2_000  # events a second, all the time
PARTITIONS = 4
GIVEN_UP = 60.0  # seconds after which a recovery is not waited for
QUIET = 8.0  # seconds without a merge: the table has settled
PIPELINE = """version: 1
source:
  kafka: {{connection: main, topics: [{topic}], start: earliest}}
decode:
  json: {{schema: ../schemas/event.yaml}}
event_time: {{column: ts, max_delay: 5s, idle_after: 10s}}
commit_every: 1s
tables:
  totals:
    window: {{tumbling: 1m}}
    group_by: {{key: key}}
    measures:
      events: count(*)
      amount: sum(amount)
"""


def patience(asked) -> float:
    """Seconds within which it ends."""
    return 600 + asked.rows / 10_000 + 2 * asked.kills * 20


def run(asked, kafka, folder: pathlib.Path) -> Outcome:
    outcome = Outcome("recovery", {"bound_s": BOUND, "kills": asked.kills, "rate": RATE})
    for rows in (FEW_ROWS, asked.rows):
        one_table(asked, kafka, folder / f"rows-{rows}", rows, outcome)
    return outcome


def one_table(asked, kafka, folder: pathlib.Path, rows: int, outcome: Outcome):
    topic = f"recovery-{rows}"
    kafka.create(topic, PARTITIONS)
    numbering = numbered.Numbering(rows)
    texts = {"recovery": PIPELINE.format(topic=topic)}
    site = Site(folder, kafka, asked.binary, schema=numbering.schema(), pipelines=texts)
    log, db = site.log("totals"), audit.connect()
    fill(asked.binary, kafka.brokers, topic, numbering, rows, folder / "events.ndjson", db)
    site.server.start()
    site.wait_until_read(log, rows, 120 + rows / 20_000)
    settle(log)
    settings = {"brokers": kafka.brokers, "topic": topic, "partitions": PARTITIONS, "rate": RATE, "keys": rows, "windows": 1, "first": rows}
    flow = Talk("campaign.trials.flow", settings | {"ledger": str(folder / "ledger.json")}, folder / "flow.log")
    site.wait_until_read(log, rows + 5 * RATE, 60)
    rng = random.Random(f"recovery {asked.seed} {rows}")
    kills = []
    for number in range(asked.kills):
        time.sleep(rng.uniform(1.5, 4.5))
        kills.append(recovered(site, log))
        print(f"recovery: {rows:,} rows, kill {number + 1}: {kills[-1]}", flush=True)
    ledger = flow.finish()
    site.wait_until_read(log, ledger["events"], 120)
    found = site.ended() + [f"the ledger has a doubt: {doubt}" for doubt in ledger["doubts"]]
    log.advance()
    held = totals.compare(db, numbering.truth(ledger["events"]), totals.of_table(folder / "data/tables/totals"))
    found += held.findings("totals") + audit.chain(log) + site.proven()
    if held.rows != rows:
        found.append(f"the table was to have {rows:,} rows, not {held.rows:,}")
    outcome.figures[f"{rows} rows"] = figures = judged(kills) | {"events": ledger["events"], "lost": held.lost, "twice": held.twice}
    outcome.findings += [f"{rows:,} rows: {finding}" for finding in too_late(kills) + found]
    all_of_it = figures["seconds"]
    outcome.say(
        f"{rows:,} rows: {len(kills)} kills, seconds until the first version with new events: median {all_of_it['median']:.2f}, "
        f"95th percentile {all_of_it['p95']:.2f}, most {all_of_it['max']:.2f}; load of the machine {figures['load']['median']:.0f}; "
        f"{held.events:,} events, lost {held.lost}, twice {held.twice}"
    )
    spent = ", ".join(f"{step} {seconds['median']:.2f} ({seconds['max']:.2f})" for step, seconds in figures["steps"].items())
    outcome.say(f"{rows:,} rows: where it went, median (most): {spent}")


def fill(binary, brokers, topic: str, numbering, rows: int, lines: pathlib.Path, db):
    """The first events, one a key, by `alluvium produce`."""
    numbering.write(db, rows, lines)
    subprocess.run([binary, "produce", "--brokers", brokers, "--topic", topic, lines], check=True, capture_output=True, timeout=900)
    lines.unlink()


def settle(log):
    """Until nothing has been merged for a while."""
    seen, since = -1, time.monotonic()

    def quiet():
        nonlocal seen, since
        log.advance()
        if log.next != seen:
            seen, since = log.next, time.monotonic()
        return time.monotonic() - since > QUIET

    wait_for("the table to settle", 300, quiet, 0.5)


def recovered(site: Site, log) -> dict:
    """One kill: how long it took, and when the next process came to what."""
    log.advance()
    files, load = len(log.live), os.getloadavg()[0]
    clock, began = time.time(), time.monotonic()
    site.server.kill()
    site.server.start()
    started = time.monotonic() - began
    # What the killed process wrote at the last moment does not count. The new one needs longer than this to its first version.
    log.advance()
    before, took = log.next, None
    while took is None and time.monotonic() - began < GIVEN_UP:
        log.advance()
        if any(counts(info) for info in log.infos[before:]):
            took = time.monotonic() - began
        else:
            time.sleep(0.003)
    first = next((info for info in log.infos[before:] if counts(info)), {})
    reached = milestones(site.lines())
    steps = {name: round(at - clock, 3) for name, at in reached.items()}
    return {
        "seconds": None if took is None else round(took, 3),
        "started": round(started, 3),
        **steps,
        "written": round(first.get("timestamp", 0) / 1000 - clock, 3),
        "events": first.get("alluvium", {}).get("balance", {}).get("in"),
        "files": files,
        "load": round(load, 1),
    }


def counts(info: dict) -> bool:
    """Whether a version has new events."""
    ours = info.get("alluvium", {})
    return ours.get("kind") == "commit" and ours["balance"]["in"] > 0


STEPS = ("started", "doors", "reading", "assigned", "first records", "seconds")
NAMES = ("killed and started", "to open doors", "to reading", "to partitions", "to records", "to the version")


def judged(kills: list[dict]) -> dict:
    """The figures of all kills: in all, and from each step to the next."""
    done = [kill for kill in kills if kill["seconds"] is not None]
    figures = {"seconds": summed_up([kill["seconds"] for kill in done]), "steps": {}, "load": summed_up([kill["load"] for kill in kills])}
    for name, step, last in zip(NAMES, STEPS, (None, *STEPS)):
        spent = [kill[step] - (kill[last] if last else 0) for kill in done if step in kill and (last is None or last in kill)]
        if spent:
            figures["steps"][name] = {key: round(value, 3) for key, value in summed_up(spent).items()}
    return figures | {"each": kills}


def too_late(kills: list[dict]) -> list[str]:
    return [
        f"kill {number + 1} took {kill['seconds'] or f'more than {GIVEN_UP}'} s, more than {BOUND} s: {kill}"
        for number, kill in enumerate(kills)
        if kill["seconds"] is None or kill["seconds"] >= BOUND
    ]
