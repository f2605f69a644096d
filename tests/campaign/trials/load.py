"""Full speed for minutes while the store slows to a tenth of its speed for a third of the time.

Owns the course of it and the bounds: memory stays flat, no rebalance, the lag drains while events go on, nothing lost, nothing twice.
The store's speed is set by what the commits of the flow need: twice that at first, so that they take half of it, and merges what is left;
then a tenth of that, which is a fifth of the need. Keys are long, so that even then a part of a file (8 MiB) takes less than the 30 s that
an S3 client waits for one request.
"""

import os
import pathlib
import statistics
import threading
import time
import typing

from .. import audit
from ..actions import storage
from ..processes import wait_for
from ..talk import Talk
from . import numbered, totals
from .outcome import Outcome, slope
from .site import VERIFYING, Site

MINUTES = 30.0
RATE = 10_000
PARTITIONS, KEYS, WINDOWS = 6, 100_000, 6
LATENCY = 0.005  # seconds a request at the store's full speed
SLOWER = 10
INGEST, BESIDE = 64, 150  # MiB: the budget, and what the process may have beside it
FEW = 3 * RATE  # events of lag that are three commits' worth
GROUP = "alluvium.load"
PIPELINE = """version: 1
source:
  kafka: {connection: main, topics: [load], start: earliest}
decode:
  json: {schema: ../schemas/event.yaml}
event_time: {column: ts, max_delay: 5s, idle_after: 10s}
commit_every: 1s
tables:
  totals:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures:
      events: count(*)
      amount: sum(amount)
"""


def patience(asked) -> float:
    """Seconds within which it ends."""
    return 60 * asked.lasting(MINUTES) * 2 + 900 + VERIFYING


def run(asked, kafka, folder: pathlib.Path) -> Outcome:
    outcome = Outcome("load")
    seconds = 60 * asked.lasting(MINUTES)
    kafka.create("load", PARTITIONS)
    folder.mkdir()
    s3, bucket, store = storage.s3_server(folder, kafka.port + 90, asked.seed, [0])
    more = f"memory: {{ingest: {INGEST}MiB, query: 64MiB}}\n"
    numbering = numbered.Worded(KEYS, WINDOWS)
    texts = {"load": PIPELINE}
    site = Site(folder / "site", kafka, asked.binary, schema=numbering.schema(), pipelines=texts, more=more, s3=(bucket, store(0)))
    log = site.log("totals")
    settings = {"brokers": kafka.brokers, "topic": "load", "partitions": PARTITIONS, "rate": RATE, "keys": KEYS, "windows": WINDOWS}
    settings |= {"keys are": "words", "ledger": str(folder / "ledger.json")}
    site.server.start()
    flow = Talk("campaign.trials.flow", settings, folder / "flow.log")
    site.wait_until_read(log, 10 * RATE, 120)
    watch = Watch(site, flow, log)
    need = needed(log, min(30.0, seconds / 6))
    s3.pace(seconds=LATENCY, rate=2 * need)
    gives = f"which gives {2 * need / 1e6:.2f} MB/s from here on"
    outcome.say(f"commits of {RATE:,} events a second need {need / 1e6:.2f} MB/s of the store, {gives}")
    generations = kafka.generations_of(GROUP)
    watch.phase = "before"
    time.sleep(seconds / 3)
    s3.pace(seconds=LATENCY * SLOWER, rate=2 * need / SLOWER)
    watch.phase = "slow"
    time.sleep(seconds / 3)
    s3.pace(seconds=LATENCY, rate=2 * need)
    watch.phase = "after"
    ended = time.monotonic()
    time.sleep(seconds / 3)
    # At worst nothing was written while it was slow: that fits into the half that the flow leaves in as long. Merges take a part.
    allowed = 1.5 * seconds / 3 + 60
    try:
        wait_for("the lag to drain", max(1.0, ended + allowed - time.monotonic()), lambda: watch.drained(ended) is not None, 0.5)
    except TimeoutError:
        outcome.findings.append(f"the lag did not drain within {allowed:.0f} s; it is {watch.samples[-1]}")
    time.sleep(5)
    samples = watch.end()
    after = kafka.generations_of(GROUP)
    s3.pace()
    ledger = flow.finish()
    site.wait_until_read(log, ledger["events"], 300)
    peak = memory(site.server.process.pid, "VmHWM")
    outcome.findings += site.ended()
    judge(outcome, samples, ended, allowed, took_by_phase(site.lines(), samples))
    late = sum("kind Timeout" in text for _, text in site.lines())
    outcome.figures["requests that timed out"] = late
    outcome.say(f"peak of the process {peak:.0f} MiB; {late} requests to the store timed out")
    outcome.figures |= {"peak MiB": round(peak, 1), "need MB/s": round(need / 1e6, 3), "generations": [sorted(generations), sorted(after)]}
    if after != generations:
        outcome.findings.append(f"the group went from the generations {sorted(generations)} to {sorted(after)}")
    log.advance()
    root = bucket.fetched(folder / "fetched")
    held = totals.compare(audit.connect(), numbering.truth(ledger["events"]), totals.of_table(root / "tables/totals"))
    verdict, found = site.verified("load")
    outcome.figures["verify"] = verdict
    outcome.findings += held.findings("totals") + audit.chain(log) + site.proven() + found
    outcome.findings += [f"the ledger has a doubt: {doubt}" for doubt in ledger["doubts"]]
    outcome.figures |= {"events": held.events, "lost": held.lost, "twice": held.twice, "versions": log.kinds}
    outcome.say(f"{held.events:,} events of {ledger['events']:,}, lost {held.lost}, twice {held.twice}; versions {log.kinds}; verify {verdict}")
    write(samples, folder / "samples.csv")
    s3.process.kill()
    return outcome


def needed(log, seconds: float) -> float:
    """Bytes a second that commits write."""
    log.advance()
    before, began = log.next, time.monotonic()
    time.sleep(seconds)
    log.advance()
    sizes = zip(log.infos[before:], log.sizes[before:])
    return sum(size for info, size in sizes if info.get("alluvium", {}).get("kind") == "commit") / (time.monotonic() - began)


def memory(pid: int, what: str) -> float:
    """MiB, of `/proc/PID/status`."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"there is no {what}")


class Sample(typing.NamedTuple):
    """One second of it."""

    at: float  # monotonic
    clock: float  # since 1970
    phase: str
    resident: float  # MiB
    lag: int
    recorded: int  # events that the table has
    load: float  # of the machine
    counted: float = 0.0  # MiB that the server itself counts against its budget


class Watch:
    """Looks every second, and keeps what it saw as samples."""

    def __init__(self, site: Site, flow: Talk, log):
        self.site, self.flow, self.log = site, flow, log
        self.phase, self.samples, self.ending = "start", [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ending.wait(1.0):
            try:
                resident = memory(self.site.server.process.pid, "VmRSS")
                sent = self.flow.said["events"]
                self.log.advance()
                recorded = sum(self.log.reached().values())
            except (OSError, ValueError, KeyError):
                continue  # the process is gone, which the end of the trial tells
            counted = self.site.pipeline("load").get("memory_used", 0) / (1 << 20)
            lag, load = max(0, sent - recorded), os.getloadavg()[0]
            self.samples.append(Sample(time.monotonic(), time.time(), self.phase, resident, lag, recorded, load, counted))
            if len(self.samples) % 20 == 0:
                print(f"load: {self.phase}: {resident:.0f} MiB, {lag:,} behind, load {load:.0f}", flush=True)

    def drained(self, since: float) -> float | None:
        return drained(self.samples, since)

    def end(self) -> list[Sample]:
        self.ending.set()
        self.thread.join(30)
        return self.samples


def drained(samples: list[Sample], since: float) -> float | None:
    """Seconds from `since` until the lag was small."""
    return next((sample.at - since for sample in samples if sample.at > since and sample.lag < FEW), None)


def took_by_phase(lines: list[tuple[float, str]], samples: list[Sample]) -> dict[str, list[float]]:
    """Seconds that commits took, as the server's log tells, by the phase in which they ended."""
    took: dict[str, list[float]] = {}
    begins = {}
    for sample in samples:
        begins.setdefault(sample.phase, sample.clock)
    for at, text in lines:
        if " committed " in text and "took_ms=" in text:
            phase = [name for name, clock in begins.items() if clock <= at][-1:] or ["start"]
            took.setdefault(phase[0], []).append(int(text.split("took_ms=")[1].split()[0]) / 1000)
    return took


def judge(outcome: Outcome, samples: list[Sample], ended: float, allowed: float, took: dict[str, list[float]]):
    """Memory and lag, by phase, against their bounds."""
    bound = INGEST + BESIDE
    phases = {}
    for phase in dict.fromkeys(sample.phase for sample in samples):
        of_it = [sample for sample in samples if sample.phase == phase]
        first, last = of_it[0], of_it[-1]
        phases[phase] = {
            "seconds": len(of_it),
            "most MiB": round(max(sample.resident for sample in of_it), 1),
            "MiB a minute": round(slope([(sample.at / 60, sample.resident) for sample in of_it]), 2),
            "most MiB counted": round(max(sample.counted for sample in of_it), 1),
            "most behind": max(sample.lag for sample in of_it),
            "behind at its end": last.lag,
            "events a second": round((last.recorded - first.recorded) / max(1.0, last.at - first.at)),
            "commits": len(took.get(phase, ())),
            "commit seconds, median": round(statistics.median(took[phase]), 3) if took.get(phase) else None,
            "load": round(statistics.median(sample.load for sample in of_it), 1),
        }
    most = max(sample.resident for sample in samples)
    over_all = slope([(sample.at / 60, sample.resident) for sample in samples])
    seconds = drained(samples, ended)
    outcome.figures |= {"bound MiB": bound, "most MiB": round(most, 1), "MiB a minute": round(over_all, 2), "phases": phases}
    outcome.figures |= {"drained after s": seconds and round(seconds, 1), "allowed s": allowed}
    if most >= bound:
        outcome.findings.append(f"the server had {most:.0f} MiB, more than the {bound} of its budget and {BESIDE}")
    if "slow" in phases and phases["slow"]["most behind"] < 2 * FEW:
        outcome.findings.append("the slow store held nothing up, so this trial shows nothing: raise RATE")
    # Commits and merges come in turns, and with them the lag rises and falls.
    least = min((sample.lag for sample in [sample for sample in samples if sample.phase == "before"][-15:]), default=0)
    if least > FEW:
        outcome.findings.append(f"it did not keep up before the store slowed: at least {least:,} events behind; lower RATE")
    counted = max(sample.counted for sample in samples)
    outcome.say(f"resident memory at most {most:.0f} MiB of {bound}, {over_all:+.2f} MiB a minute over all; the server counted {counted:.0f}")
    for phase, figures in phases.items():
        outcome.say(f"{phase}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    outcome.say(f"the lag was gone {seconds or float('nan'):.0f} s after the store was fast again, {allowed:.0f} s were allowed")


def write(samples: list[Sample], path: pathlib.Path):
    lines = ["second,phase,resident_mib,counted_mib,behind,recorded,load"]
    lines += [
        f"{one.at - samples[0].at:.1f},{one.phase},{one.resident:.1f},{one.counted:.1f},{one.lag},{one.recorded},{one.load:.1f}"
        for one in samples
    ]
    path.write_text("\n".join(lines) + "\n")
