"""Scenarios of their own, each in a site of its own: what must stop a pipeline by design, and schedules that once went wrong.

Owns these: a topic that is created again, retention that passes, a schema break. In each the server must say that it stands
still and why, must not skip anything, and what it has committed must stay right. And what a campaign has found, reduced.
Does not own faults drawn from a seed (`campaign`).
"""

import http.client
import json
import pathlib
import random
import re
import time

from confluent_kafka import Producer

from . import audit, events
from .actions import storage
from .delta import Folder
from .fleet import NOTHING, Fleet
from .processes import wait_for

PARTITIONS = 3
SEATS = [0, 1]
PATIENCE = 90


class Site:
    """A topic, a table, one server, and a ledger."""

    def __init__(self, folder, kafka, binary, name: str, drain: str, *, stop_if: str = "60% over 1m", s3: bool = False):
        self.name, self.kafka, self.topic = name, kafka, f"scenario-{name.replace(' ', '-')}"
        self.pool = events.pool(len(name), 500)
        self.rng = random.Random(name)
        self.counts, self.places, self.sent = [0] * len(self.pool), [], []
        kafka.create(self.topic, PARTITIONS)
        folder = folder / self.topic
        folder.mkdir()
        self.s3, place, store = None, Folder(folder / "data"), lambda _link: f'{{root: "{folder / "data"}"}}'
        if s3:
            self.s3, place, store = storage.s3_server(folder, kafka.port + 90, 1, SEATS)
        self.fleet = Fleet(
            folder,
            "disk",
            binary,
            kafka=kafka,
            storage=place,
            store=store,
            topic=self.topic,
            links=SEATS,
            commit_every="500ms",
            stop_if=stop_if,
        )
        self.server = self.fleet.add(f"{self.topic}-0", drain)

    def produce(self, count: int, kinds=(events.GOOD,), *, counted=True):
        """To every partition; counted ones are expected in the table."""
        producer = Producer({"bootstrap.servers": self.kafka.brokers, "enable.idempotence": True, "log_level": 0})
        fitting = [number for number, event in enumerate(self.pool) if event.kind in kinds]

        def delivered(error, record, number):
            assert error is None, error
            if self.pool[number].kind in (events.BROKEN, events.HALF):
                self.places.append((number, record.partition(), record.offset()))

        for sent in range(count):
            number = self.rng.choice(fitting)
            call = (lambda error, record, number=number: delivered(error, record, number)) if counted else None
            producer.produce(self.topic, self.pool[number].payload, partition=sent % PARTITIONS, on_delivery=call)
            if counted:
                self.counts[number] += 1
                self.sent.append((number, sent % PARTITIONS))
            producer.poll(0)
        assert producer.flush(60) == 0

    def restore(self):
        """The same events at the same offsets, in a topic that has been created again."""
        producer = Producer({"bootstrap.servers": self.kafka.brokers, "enable.idempotence": True, "log_level": 0})
        for number, partition in self.sent:
            producer.produce(self.topic, self.pool[number].payload, partition=partition)
            producer.poll(0)
        assert producer.flush(60) == 0

    def begin(self, events: int):
        """Until so many events are counted."""
        self.server.start()
        self.produce(events)
        self.wait_until_counted()

    def wait_until_counted(self):
        def caught_up():
            self.fleet.advance()
            return all(audit.sums(log)["in"] >= sum(self.counts) for log in self.fleet.logs.values())

        wait_for(f"{self.name}: every event in the table", PATIENCE, caught_up, 0.2)

    def created_again(self):
        self.kafka.delete(self.topic)
        self.kafka.create(self.topic, PARTITIONS)

    def halted(self, *words: str) -> list[str]:
        """Whether every partition says so, in one of these words."""

        def said():
            reached = self.server.status()
            return reached and len(reached.halted) == PARTITIONS and reached.halted

        try:
            halted = wait_for("the halt", PATIENCE / 2, said, 0.2)
        except TimeoutError:
            reached = self.server.status()
            return [f"{self.name}: no halt; it says {reached}"]
        wrong = [text for text in halted.values() if not any(word in text for word in words)]
        return [f"{self.name}: halted, but says {wrong[0]!r}"] if wrong else []

    def stopped(self, words: str) -> list[str]:
        def said():
            if not self.server.runs():
                return NOTHING
            reached = self.server.status()
            return reached and reached.state == "stopped" and reached

        try:
            reached = wait_for("the stop", PATIENCE, said, 0.2)
        except TimeoutError:
            return [f"{self.name}: the pipeline did not stop; it says {self.server.status()}"]
        if reached is NOTHING:
            told = words in self.server.process.tail()
            code = self.server.process.ended()
            return [f"{self.name}: the server ended with {code} ({'its log says why' if told else 'no word why'}), so SQL answers no more"]
        return self.answers() if words in (reached.reason or "") else [f"{self.name}: stopped, but says {reached.reason!r}"]

    def answers(self) -> list[str]:
        """Whether SQL goes on answering, and with the committed number."""
        door = http.client.HTTPConnection("127.0.0.1", self.server.door(), timeout=30)
        door.request("POST", "/v1/sql", json.dumps({"sql": "select coalesce(sum(events), 0) as n from per_key", "read": "committed"}))
        reply = door.getresponse()
        said = json.loads(reply.read())
        return [] if reply.status == 200 and said["rows"] else [f"{self.name}: SQL answers {reply.status} {said}"]

    def audited(self) -> list[str]:
        """Ends the server and compares the tables with what they must hold."""
        for server in self.fleet.everyone():
            if server.runs():
                # A pipeline that has stopped for good has nothing to drain, and a server of such pipelines may end with 1.
                server.drained(45)
        self.fleet.advance()
        expected = audit.Expected({"counts": self.counts, "places": self.places}, self.pool)
        verdict = audit.audit(self.fleet.storage.fetched(self.fleet.folder / "fetched"), "disk", self.fleet.logs, expected)
        return [f"{self.name}: {finding}" for finding in verdict.findings]


def created_again_while_read(site: Site) -> list[str]:
    site.begin(1_500)
    site.created_again()
    site.produce(3_000, counted=False)
    return site.halted("created again") + site.answers() + site.audited()


def created_again_while_away(site: Site) -> list[str]:
    """With more events than before, so that no offset gives it away."""
    site.begin(1_500)
    site.server.drained(45)
    site.created_again()
    site.produce(3_000, counted=False)
    site.server.start()
    return site.halted("created again") + site.answers() + site.audited()


def restored(site: Site) -> list[str]:
    """The same events at the same offsets in a topic with another id: it halts, and goes on at the operator's word."""
    site.begin(1_500)
    site.server.drained(45)
    site.created_again()
    site.restore()
    site.server.start()
    found = site.halted("created again")
    word = re.search(r"continued_by: {[^:{}]+: (\d+)}", next(iter((site.server.status() or NOTHING).halted.values()), ""))
    if not word:
        return found or [f"{site.name}: the halt does not say what to write"]
    site.server.drained(45)
    pipeline = next((site.fleet.folder / site.server.drain / "pipelines").iterdir())
    topics = next(line for line in pipeline.read_text().splitlines(True) if "topics:" in line)
    more = topics[: len(topics) - len(topics.lstrip())] + f"continued_by: {{{site.topic}: {word[1]}}}\n"
    pipeline.write_text(pipeline.read_text().replace(topics, topics + more))
    site.server.start()
    site.produce(600)
    try:
        site.wait_until_counted()
    except TimeoutError as error:
        found.append(f"{error}; {site.server.status()}")
    return found + site.audited()


def created_again_with_less(site: Site) -> list[str]:
    site.begin(3_000)
    site.server.drained(45)
    site.created_again()
    site.produce(300, counted=False)
    site.server.start()
    # The second where the broker did not tell the log's ends in time.
    return site.halted("created again", "has no record at offset") + site.answers() + site.audited()


def retention_passes(site: Site) -> list[str]:
    site.begin(1_500)
    site.server.drained(45)
    reached = site.fleet.reached()
    site.produce(1_500, counted=False)
    site.kafka.forget(site.topic, {partition: at + 100 for partition, at in reached.items()})
    site.server.start()
    return site.halted("retention") + site.answers() + site.audited()


def schema_breaks(site: Site) -> list[str]:
    """Everything is broken: `stop_if` stops it; with a rule that lets them pass, each becomes a dead letter once."""
    site.begin(1_500)
    site.produce(6_000, (events.BROKEN,))
    found = site.stopped("rejected")
    if site.server.runs():
        site.server.kill()
    pipeline = next((site.fleet.folder / site.server.drain / "pipelines").iterdir())
    pipeline.write_text(pipeline.read_text().replace("stop_if: 20% over 1m", "stop_if: 100% over 1m"))
    site.server.start()
    site.produce(300)
    try:
        site.wait_until_counted()
    except TimeoutError as error:
        found.append(f"{error}; {site.server.status()}")
    return found + site.audited()


def offsets_come_late(site: Site) -> list[str]:
    """The store is so slow in a rebalance that the recorded offsets come only after it. Nothing stops here: with the store
    as before, everything is counted, of partitions that are new to the server too."""
    other = site.fleet.add(f"{site.topic}-1", "direct")
    for server in (site.server, other):
        server.start()
    site.produce(1_500)
    site.wait_until_counted()
    wait_for("both to have partitions", PATIENCE, lambda: all((server.status() or NOTHING).partitions for server in (site.server, other)))
    site.s3.set({"slow": 1.0})
    site.server.kill()
    try:
        wait_for("the offsets to be unknown", PATIENCE, lambda: "cannot be read yet" in ((other.status() or NOTHING).reason or ""))
    except TimeoutError as error:
        return [f"{site.name}: not shown, {error}"]
    finally:
        site.s3.set({})
    site.produce(1_500)
    try:
        site.wait_until_counted()
    except TimeoutError as error:
        return [f"{error}; it says {other.status()}, recorded is {site.fleet.reached()}"]
    return site.audited()


SCENARIOS = [
    ("offsets come late", offsets_come_late, "direct", {"s3": True}),
    ("created again while it is read", created_again_while_read, "direct", {}),
    ("created again while away", created_again_while_away, "direct", {}),
    ("created again while away, portable", created_again_while_away, "portable", {}),
    ("restored", restored, "direct", {}),
    ("created again with less", created_again_with_less, "direct", {}),
    ("created again with less, portable", created_again_with_less, "portable", {}),
    ("retention passes", retention_passes, "direct", {}),
    ("retention passes, portable", retention_passes, "portable", {}),
    ("schema breaks", schema_breaks, "direct", {"stop_if": "20% over 1m"}),
]


def run(folder: pathlib.Path, kafka, binary: pathlib.Path) -> dict[str, list[str]]:
    """Findings by scenario."""
    folder = folder / "scenarios"
    folder.mkdir()
    outcomes = {}
    for name, scenario, drain, more in SCENARIOS:
        began = time.monotonic()
        site = None
        try:
            site = Site(folder, kafka, binary, name.replace(",", ""), drain, **more)
            outcomes[name] = scenario(site)
        except (TimeoutError, AssertionError) as error:
            outcomes[name] = [f"{name}: {error!r}; {site.server.status() if site else ''}"]
        finally:
            for server in site.fleet.everyone() if site else ():
                if server.runs():
                    server.kill()
            if site and site.s3:
                site.s3.process.kill()
        print(f"{name}: {'; '.join(outcomes[name]) or 'as it must be'} ({time.monotonic() - began:.0f} s)", flush=True)
    return outcomes
