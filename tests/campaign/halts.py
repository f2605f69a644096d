"""What must stop a pipeline, by design: each in a site of its own, with the expected words in its status.

Owns these scenarios: a topic that is created again, retention that passes, a schema break. In each the server must say
that it stands still and why, must not skip anything, and what it has committed must stay right. Does not own faults that a
pipeline must live through (`campaign`).
"""

import http.client
import json
import pathlib
import random
import time

from confluent_kafka import Producer

from . import audit, events
from .delta import Folder
from .fleet import Fleet
from .processes import wait_for

PARTITIONS = 3
PATIENCE = 90


class Site:
    """A topic, a table, one server, and a ledger."""

    def __init__(self, folder: pathlib.Path, kafka, binary: pathlib.Path, name: str, drain: str, stop_if: str = "60% over 1m"):
        self.name, self.kafka, self.topic = name, kafka, f"halts-{name.replace(' ', '-')}"
        self.pool = events.pool(len(name), 500)
        self.rng = random.Random(name)
        self.counts, self.places = [0] * len(self.pool), []
        kafka.create(self.topic, PARTITIONS)
        folder = folder / self.topic
        folder.mkdir()
        self.fleet = Fleet(
            folder,
            "disk",
            binary,
            kafka=kafka,
            storage=Folder(folder / "data"),
            store=lambda _link: f'{{root: "{folder / "data"}"}}',
            topic=self.topic,
            links=[0],
            commit_every="500ms",
            stop_if=stop_if,
        )
        self.server = self.fleet.add(self.topic, drain)

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
            producer.poll(0)
        assert producer.flush(60) == 0

    def wait_until_counted(self):
        def caught_up():
            self.fleet.advance()
            return all(audit.sums(log)["in"] >= sum(self.counts) for log in self.fleet.logs.values())

        wait_for(f"{self.name}: every event in the table", PATIENCE, caught_up, 0.2)

    def created_again(self):
        self.kafka.delete(self.topic)
        self.kafka.create(self.topic, PARTITIONS)

    def halted(self, words: str) -> list[str]:
        """Whether every partition says so, in these words."""

        def said():
            reached = self.server.status()
            return reached and len(reached.halted) == PARTITIONS and reached.halted

        try:
            halted = wait_for("the halt", PATIENCE / 2, said, 0.2)
        except TimeoutError:
            reached = self.server.status()
            return [f"{self.name}: no halt; it says {reached}"]
        wrong = [text for text in halted.values() if words not in text]
        return [f"{self.name}: halted, but says {wrong[0]!r}"] if wrong else []

    def stopped(self, words: str) -> list[str]:
        def said():
            reached = self.server.status()
            return reached and reached.state == "stopped" and reached

        try:
            reached = wait_for("the stop", PATIENCE, said, 0.2)
        except TimeoutError:
            return [f"{self.name}: the pipeline did not stop; it says {self.server.status()}"]
        return [] if words in (reached.reason or "") else [f"{self.name}: stopped, but says {reached.reason!r}"]

    def answers(self) -> list[str]:
        """Whether SQL goes on answering, and with the committed number."""
        door = http.client.HTTPConnection("127.0.0.1", self.server.door(), timeout=30)
        door.request("POST", "/v1/sql", json.dumps({"sql": "select coalesce(sum(events), 0) as n from per_key", "read": "committed"}))
        reply = door.getresponse()
        said = json.loads(reply.read())
        return [] if reply.status == 200 and said["rows"] else [f"{self.name}: SQL answers {reply.status} {said}"]

    def audited(self) -> list[str]:
        """Ends the server and compares the tables with what they must hold."""
        if self.server.runs():
            # A pipeline that has stopped for good has nothing to drain, and a server of such pipelines may end with 1.
            self.server.drained(45)
        self.fleet.advance()
        expected = audit.Expected({"counts": self.counts, "places": self.places}, self.pool)
        verdict = audit.audit(self.fleet.storage.root, "disk", self.fleet.logs, expected)
        return [f"{self.name}: {finding}" for finding in verdict.findings]


def created_again_while_read(site: Site) -> list[str]:
    site.server.start()
    site.produce(1_500)
    site.wait_until_counted()
    site.created_again()
    site.produce(3_000, counted=False)
    return site.halted("created again") + site.answers() + site.audited()


def created_again_while_away(site: Site) -> list[str]:
    """With more events than before, so that no offset gives it away."""
    site.server.start()
    site.produce(1_500)
    site.wait_until_counted()
    site.server.drained(45)
    site.created_again()
    site.produce(3_000, counted=False)
    site.server.start()
    return site.halted("created again") + site.audited()


def created_again_with_less(site: Site) -> list[str]:
    site.server.start()
    site.produce(3_000)
    site.wait_until_counted()
    site.server.drained(45)
    site.created_again()
    site.produce(300, counted=False)
    site.server.start()
    return site.halted("created again") + site.answers() + site.audited()


def retention_passes(site: Site) -> list[str]:
    site.server.start()
    site.produce(1_500)
    site.wait_until_counted()
    site.server.drained(45)
    reached = site.fleet.reached()
    site.produce(1_500, counted=False)
    site.kafka.forget(site.topic, {partition: at + 100 for partition, at in reached.items()})
    site.server.start()
    return site.halted("retention") + site.answers() + site.audited()


def schema_breaks(site: Site) -> list[str]:
    """Everything is broken: `stop_if` stops it; with a rule that lets them pass, each becomes a dead letter once."""
    site.server.start()
    site.produce(1_500)
    site.wait_until_counted()
    site.produce(6_000, (events.BROKEN,))
    found = site.stopped("rejected") + site.answers()
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


SCENARIOS = [
    ("created again while it is read", created_again_while_read, "direct", {}),
    ("created again while away", created_again_while_away, "direct", {}),
    ("created again with less", created_again_with_less, "direct", {}),
    ("created again with less, portable", created_again_with_less, "portable", {}),
    ("retention passes", retention_passes, "direct", {}),
    ("retention passes, portable", retention_passes, "portable", {}),
    ("schema breaks", schema_breaks, "direct", {"stop_if": "20% over 1m"}),
]


def run(folder: pathlib.Path, kafka, binary: pathlib.Path) -> dict[str, list[str]]:
    """Findings by scenario."""
    folder = folder / "halts"
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
            if site and site.server.runs():
                site.server.kill()
        print(f"{name}: {'; '.join(outcomes[name]) or 'as it must be'} ({time.monotonic() - began:.0f} s)", flush=True)
    return outcomes
