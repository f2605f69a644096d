"""One campaign from its first process to its verdict.

Owns the order of things: start, actions from several lanes at once, healing, catching up, draining, audit. Does not own
what an action does (`actions`), what must hold (`audit`) or how much is enough (`floors`).
"""

import dataclasses
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

from . import audit, events, floors, recount, skew
from .actions import links, servers, storage, topic
from .delta import Folder
from .fleet import DRAINS, Fleet
from .journal import Journal
from .kafka import Embedded, Kafka
from .processes import end_all, wait_for
from .talk import Talk

PARTITIONS = 6
# For so many seconds a request of before an outage can still come: librdkafka's own patience, and some more.
CUT_OFF = 90.0
# For so many seconds an action that has begun may go on after the campaign's minutes: a broker may take most of them to return.
LAST_ACTIONS = 400.0


@dataclasses.dataclass
class Settings:
    """What the command line says."""

    minutes: float
    seed: int
    folder: pathlib.Path
    binary: pathlib.Path
    beside: pathlib.Path | None
    port: int
    rate: int
    residents: int
    fleets: tuple[str, ...]
    real_kafka: bool
    disk_mib: int


def producer(campaign: "Campaign") -> Talk:
    """The producer's process."""
    settings = campaign.settings
    asked = {
        "seed": settings.seed,
        "brokers": campaign.kafka.brokers,
        "topic": campaign.topic,
        "partitions": PARTITIONS,
        "rate": settings.rate,
        "ahead": 500_000 if campaign.kafka.real else 12_000,
        "transactions": campaign.kafka.real,
        "ledger": str(campaign.folder / "ledger.json"),
    }
    return Talk("campaign.producer", asked, campaign.folder / "producer.log")


class Campaign:
    """Everything that actions reach for."""

    def __init__(self, settings: Settings):
        self.settings, self.folder = settings, settings.folder
        self.journal = Journal(self.folder / "schedule.ndjson")
        self.topic = "events"
        self.partitions, self.most_partitions = PARTITIONS, PARTITIONS + 10
        # Partitions that are new and of which some fleet has not committed events yet.
        self.growing: set[int] = set()
        self.fleets: list[Fleet] = []
        self.disk: pathlib.Path | None = None
        self.disk_fleet: Fleet | None = None
        self.s3: storage.Server | None = None
        self.ending = threading.Event()
        self.watching = threading.Event()
        self.notes: list[str] = []
        self.checkpoints: list[dict] = []

    def over(self) -> bool:
        return self.ending.is_set()

    def rest(self, seconds: float):
        self.ending.wait(seconds)

    # Start -----------------------------------------------------------------------------------------------------------

    def start(self):
        settings = self.settings
        seats = settings.residents + 2
        self.links_in_use = seats * len(settings.fleets)
        broker = Kafka if settings.real_kafka else Embedded
        self.skewed = self.wrong_clocks()
        self.kafka = broker(self.folder / "kafka", settings.port, self.links_in_use, settings.binary)
        self.kafka.create(self.topic, PARTITIONS)
        for number, kind in enumerate(settings.fleets):
            self.fleets.append(self.fleet(kind, list(range(number * seats, (number + 1) * seats))))
            self.fleets[-1].skewed = self.skewed
        self.producer = producer(self)
        for fleet in self.fleets:
            for number in range(settings.residents):
                fleet.add(f"{fleet.pipeline}-{number}", DRAINS[number % len(DRAINS)]).start()
        for fleet in self.fleets:
            wait_for(f"the first commits of {fleet.pipeline}", 300, lambda fleet=fleet: fleet.advance() or fleet.commits() > 3)

    def wrong_clocks(self) -> pathlib.Path | None:
        """Builds what makes a process's clock wrong; `None` without a compiler."""
        try:
            return skew.wrong_clocks(self.folder)
        except (OSError, subprocess.CalledProcessError) as error:
            self.notes.append(f"no clock was wrong: {error}")
            return None

    def fleet(self, kind: str, seats: list[int]) -> Fleet:
        settings = self.settings
        folder = self.folder / kind
        folder.mkdir()
        if kind == "disk":
            self.disk = self.small_disk(folder / "data")
            place, store = Folder(folder / "data"), lambda _link: f'{{root: "{folder / "data"}"}}'
        else:
            self.s3, place, store = storage.s3_server(folder, settings.port + 90, settings.seed, seats)
        fleet = Fleet(
            folder,
            kind,
            settings.binary,
            beside=settings.beside,
            kafka=self.kafka,
            storage=place,
            store=store,
            topic=self.topic,
            links=seats,
            commit_every="1s" if kind == "disk" else "800ms",
            # Above what a flood brings even where an outage parts its events from the good ones.
            stop_if="95% over 10m",
        )
        if kind == "disk":
            self.disk_fleet = fleet
        return fleet

    def small_disk(self, at: pathlib.Path) -> pathlib.Path | None:
        """A file system that can be filled without hurting anybody else; `None` where none may be mounted."""
        at.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.settings.disk_mib}m", "tmpfs", at], capture_output=True)
        if mounted.returncode == 0:
            return at
        self.notes.append("no disk was full: no small file system could be mounted: " + mounted.stderr.decode().strip())
        return None

    # Lanes -----------------------------------------------------------------------------------------------------------

    def lanes(self):
        """Name, mean seconds between two actions, and the actions with their weights."""
        for fleet in self.fleets:
            yield f"kills {fleet.pipeline}", 6, [(12, servers.kill, fleet), (1, servers.drain, fleet), (1, servers.skew, fleet)]
            yield f"sleeps {fleet.pipeline}", 10, [(4, servers.zombie, fleet), (1, servers.expire, fleet)]
            yield f"guests {fleet.pipeline}", 8, [(1, servers.guest, fleet)]
            yield f"upkeep {fleet.pipeline}", 30, [(1, storage.upkeep, fleet)]
            if fleet is self.disk_fleet:
                yield "disk", 60, [(1, storage.full, fleet)]
        if self.kafka.real:
            yield "kafka links", 15, [(1, links.kafka_link, None)]
            yield "broker", 40, [(1, links.outage, None)]
        if self.s3:
            yield "s3", 12, [(4, storage.s3_faults, None), (1, storage.slow_store, None), (2, links.s3_link, None)]
        yield "topic", 25, [(1, topic.grow, None), (2, topic.flood, None)]

    def lane(self, name: str, mean: float, choices: list):
        rng = random.Random(f"{name} {self.settings.seed}")
        # In a short campaign everything comes sooner.
        mean *= min(1.0, max(0.25, self.settings.minutes / 10))
        self.rest(rng.uniform(0, mean))
        while not self.over():
            _, action, fleet = rng.choices(choices, [weight for weight, *_ in choices])[0]
            # Each action has draws of its own, so that one that ends early does not move the others'.
            draws = random.Random(rng.random())
            try:
                action(self, *([fleet] if fleet else []), draws)
            except Exception as error:  # noqa: BLE001 an action that breaks must not end the campaign unseen
                self.journal.write("an action broke", lane=name, action=action.__name__, error=repr(error))
                self.broken_actions += 1
                if action is links.outage:
                    # Without a broker nothing can be shown any more.
                    self.journal.surprise(f"the broker did not come back: {error}")
                    self.ending.set()
            self.rest(rng.expovariate(1 / mean))

    broken_actions = 0
    outage_at = float("-inf")

    def run(self):
        threading.Thread(target=self.watch, daemon=True).start()
        # One that does not end is told of below, and does not keep the whole campaign from ending.
        threads = [threading.Thread(target=self.lane, args=lane, name=lane[0], daemon=True) for lane in self.lanes()]
        for thread in threads:
            thread.start()
        until = time.monotonic() + self.settings.minutes * 60
        last = time.monotonic()
        while (now := time.monotonic()) < until and not self.over():
            time.sleep(0.5)
            if now - last > 60:
                last = now
                self.tell_progress()
                if self.disk_fleet:
                    storage.age(self, self.disk_fleet)
        self.ending.set()
        until = time.monotonic() + LAST_ACTIONS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                frame = sys._current_frames().get(thread.ident)
                stands = "".join(traceback.format_stack(frame)) if frame else "it has just ended"
                self.journal.surprise(f"the lane {thread.name} did not end within {LAST_ACTIONS:.0f} s", stands=stands)

    def tell_progress(self):
        done = {kind: count for kind, count in sorted(self.journal.effects.items())}
        lag = {fleet.pipeline: self.producer.said.get("events", 0) - sum(fleet.reached().values()) for fleet in self.fleets}
        print(f"{int(time.monotonic() - self.journal.began)} s: {self.producer.said} behind {lag} {done}", flush=True)
        self.journal.write("progress", effects=done, said=self.producer.said, lag=lag)

    def watch(self):
        """Reads every log as it grows, tells the producer how far it may go, and looks for ends that nobody asked for."""
        while not self.watching.is_set():
            try:
                for fleet in self.fleets:
                    fleet.advance()
                reached = [fleet.reached() for fleet in self.fleets]
                for number in [new for new in list(self.growing) if all(one.get(new, 0) > 0 for one in reached)]:
                    self.journal.effect("topic growth", partition=number)
                    self.growing.discard(number)
                behind = {partition: min(one.get(partition, 0) for one in reached) for partition in range(self.partitions)}
                if self.producer.process.ended() is None and not self.over():
                    self.producer.tell({"recorded": behind})
            except Exception as error:  # noqa: BLE001 the next look may succeed
                self.journal.write("the watch stumbled", error=repr(error))
            for fleet in self.fleets:
                for server in fleet.everyone():
                    self.look_after(server)
            self.watching.wait(0.2)

    def look_after(self, server):
        if not server.wanted or not server.lock.acquire(blocking=False):
            return
        try:
            code = server.process.ended()
            if code is not None:
                if code == 1 and server.process.has_said("was fenced") and self.was_cut_off(server):
                    self.journal.effect("fenced by its own past", server=server.name)
                else:
                    self.journal.surprise(f"{server.name} ended by itself with {code}", tail=server.process.tail(15))
                server.skew = 0
                server.start()
                return
            reached = server.status(0.5)
            if reached and reached.halted:
                self.journal.surprise(f"{server.name} halted {reached.halted}")
                server.kill()
                server.start()
            elif reached and reached.state == "stopped" and "was fenced" in (reached.reason or "") and self.was_cut_off(server):
                # It says so before it ends; the next look sees that.
                pass
            elif reached and reached.state == "stopped":
                self.journal.surprise(f"{server.name} stopped: {reached.reason}", tail=server.process.tail(15))
                server.kill()
                server.start()
        finally:
            server.lock.release()

    def was_cut_off(self, server) -> bool:
        """Whether the broker was away from this server lately, or it slept. An offset that librdkafka could not tell Kafka then is told once
        more after the server has joined anew, under its former name, and the broker takes the two for two servers."""
        links = self.kafka.proxies[server.link : server.link + 1]
        hurt = [self.outage_at, server.slept_at, *(proxy.hurt_at for proxy in links)]
        return time.monotonic() - max(hurt) < CUT_OFF

    # End -------------------------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, audit.Verdict]:
        """Heals everything, lets the fleets catch up, ends them, audits, and has the product compute its tables again from Kafka."""
        for proxy in [*self.kafka.proxies, *(self.s3.proxies if self.s3 else [])]:
            proxy.heal()
        if self.s3:
            self.s3.set({})
        for fleet in self.fleets:
            for server in fleet.everyone():
                if server.runs() and server.process.stopped:
                    server.process.signal(signal.SIGCONT)
        ledger = self.producer.finish()
        pool = events.pool(self.settings.seed)
        if ledger["doubts"]:
            ledger = recount.recounted(ledger, self.kafka.brokers, self.topic, self.partitions, pool)
        self.ledger = ledger
        expected = audit.Expected(ledger, pool)
        began = time.monotonic()
        for fleet in self.fleets:
            for table, log in fleet.logs.items():

                def caught_up(log=log):
                    log.advance()
                    return audit.sums(log)["in"] >= expected.total

                try:
                    wait_for(f"{fleet.pipeline} to catch up", 240, caught_up, 0.5)
                except TimeoutError as error:
                    said = [(server.name, server.status()) for server in fleet.everyone()]
                    self.journal.surprise(f"{error}: {table} has {audit.sums(log)['in']} of {expected.total}", said=said)
        self.journal.write("caught up", seconds=round(time.monotonic() - began, 1))
        self.watching.set()
        for fleet in self.fleets:
            for server in fleet.everyone():
                with server.lock:
                    if server.runs():
                        code = server.drained(45)
                        if code != 0:
                            self.journal.surprise(f"{server.name} ended with {code} after SIGTERM in peace", tail=server.process.tail(15))
        verdicts = {}
        for fleet in self.fleets:
            fleet.advance()
            root = fleet.storage.fetched(self.folder / "fetched" / fleet.pipeline)
            verdicts[fleet.pipeline] = audit.audit(root, fleet.pipeline, fleet.logs, expected)
            self.count_skewed(fleet)
        for fleet in self.fleets:
            verdicts[fleet.pipeline].findings += self.agreed(fleet, 120, "audit") + self.agreed(fleet, 600, "verify", fleet.pipeline)
        self.count_the_rest()
        return verdicts

    def agreed(self, fleet: Fleet, patience: float, *command: str) -> list[str]:
        """What the product itself says in the end of the fleet's tables; a finding when that is not that all is well."""
        asked = fleet.commanded(*command)
        began = time.monotonic()
        try:
            code = asked.child.wait(patience)
        except subprocess.TimeoutExpired:
            asked.kill()
            code = f"nothing for {patience:.0f} s"
        self.journal.write("asked", command=command, fleet=fleet.pipeline, code=code, seconds=round(time.monotonic() - began, 1))
        return [] if code == 0 else [f"{fleet.pipeline}: `alluvium {' '.join(command)}` ended with {code}: {asked.tail(20)}"]

    def count_the_rest(self):
        """What others have counted."""
        journal = self.journal
        journal.effect("aborted transaction", self.ledger["transactions"]["aborted"])
        journal.effect("dead letter", self.ledger["letters"])
        self.notes += [f"the ledger has a doubt: {doubt}" for doubt in self.ledger["doubts"][:10]]
        if self.broken_actions:
            self.notes.append(f"{self.broken_actions} actions broke off, see schedule.ndjson")
        if (counted := self.kafka.rebalances()) is not None:
            self.notes.append(f"by the broker's own books the groups went through {counted} generations")
            journal.effects["rebalance"] = min(counted, journal.effects["rebalance"])
        if self.s3:
            for kind, count in self.s3.counts().items():
                if kind in ("before", "after", "late", "slow", "refused", "ambiguous", "late but taken"):
                    journal.effect(f"s3 {kind}" if kind != "ambiguous" else "ambiguous commit", count)

    def missing(self) -> list[str]:
        """Kinds of faults that could not be had here."""
        missing = [] if self.kafka.real else list(floors.NEEDS_KAFKA)
        if self.disk is None:
            missing.append("disk full")
        if self.s3 is None:
            missing += ["s3", "ambiguous", "slow store"]
        if self.skewed is None:
            missing.append("commit with a wrong clock")
        return missing

    def count_skewed(self, fleet: Fleet):
        """Commits that carry a time which is not ours."""
        now = time.time() * 1000
        least = now - (self.settings.minutes * 60 + 600) * 1000
        for log in fleet.logs.values():
            wrong = sum(not least < info.get("timestamp", now) < now + 300_000 for info in log.infos)
            if wrong:
                self.journal.effect("commit with a wrong clock", wrong)

    def close(self, *, keep: bool):
        """Ends every process; the small disk's content is kept as evidence if asked."""
        self.ending.set()
        self.watching.set()
        for fleet in self.fleets:
            for server in fleet.everyone():
                server.wanted = False
        end_all()
        if hasattr(self, "kafka"):
            self.kafka.close()
        if self.disk:
            if keep:
                shutil.copytree(self.disk, self.folder / "disk/kept", dirs_exist_ok=True)
            subprocess.run(["umount", "-l", self.disk], check=False)
