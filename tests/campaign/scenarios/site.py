"""One topic, one fleet, and a ledger: where a scenario happens.

Owns producing what is expected and what is not, waiting for what a server says, and the audit at the end. Does not own what goes
wrong (`halts`, `warnings`, `regressions`).
"""

import http.client
import json
import pathlib
import random
import subprocess

from confluent_kafka import Producer

from .. import audit, events
from ..actions import storage
from ..delta import Folder
from ..fleet import NOTHING, Fleet
from ..processes import wait_for

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
        self.at: dict[tuple[int, int], int] = {}  # what is expected, by partition and offset
        self.gaps: dict[str, tuple[int, int]] = {}  # by topic and partition, what is passed over by hand in every table
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
            self.at[record.partition(), record.offset()] = number
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

    def pass_over(self, gaps: dict[int, tuple[int, int]]):
        """Nothing of these offsets is expected any more, and the tables say so."""
        for partition, (start, end) in gaps.items():
            self.gaps[f"{self.topic}/{partition}"] = (start, end)
            for offset in range(start, end):
                self.counts[self.at.pop((partition, offset))] -= 1

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

    def wait_until_shared(self):
        """Until every server has partitions."""
        shared = lambda: all((server.status() or NOTHING).partitions for server in self.fleet.everyone())  # noqa: E731
        wait_for(f"{self.name}: partitions for every server", PATIENCE, shared)

    def wait_until_counted(self):
        def caught_up():
            self.fleet.advance()
            return all(audit.sums(log)["in"] >= sum(self.counts) for log in self.fleet.logs.values())

        wait_for(f"{self.name}: every event in the table", PATIENCE, caught_up, 0.2)

    def goes_on(self) -> list[str]:
        """Whether every expected event is counted in the end."""
        try:
            self.wait_until_counted()
        except TimeoutError as error:
            return [f"{error}; {self.server.status()}"]
        return []

    def created_again(self):
        self.kafka.delete(self.topic)
        self.kafka.create(self.topic, PARTITIONS)

    def halted(self, *words: str) -> list[str]:
        """Whether every partition says so, in one of these words."""

        def said():
            """The log's ends, which tell why, may come after the halt."""
            halted = (self.server.status() or NOTHING).halted.values()
            return len(halted) == PARTITIONS and all(any(word in text for word in words) for text in halted)

        try:
            wait_for("the halt", PATIENCE / 2, said, 0.2)
        except TimeoutError:
            return [f"{self.name}: no such halt; it says {self.server.status()}"]
        return []

    def told(self, server, words: str, patience: float = PATIENCE / 2) -> list[str]:
        """Whether a server says this of itself, and goes on all the same."""
        try:
            wait_for("the words", patience, lambda: words in ((server.status() or NOTHING).reason or ""), 0.2)
        except TimeoutError as error:
            return [f"{self.name}: {error}; it says {server.status()}"]
        return []

    def metric(self, server, name: str) -> float:
        """The largest of all series of this name; 0 where there is none."""
        door = http.client.HTTPConnection("127.0.0.1", server.door(), timeout=30)
        door.request("GET", "/metrics")
        lines = door.getresponse().read().decode().splitlines()
        of_name = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return max((float(line.rsplit(" ", 1)[1]) for line in of_name), default=0.0)

    def measured(self, server, name: str, least: float) -> list[str]:
        found = self.metric(server, name)
        return [] if found >= least else [f"{self.name}: {name} is {found}"]

    def commanded(self, *command: str) -> tuple[int, str]:
        """The exit code of a command beside the server, and all that it says."""
        asked = [str(self.fleet.binary), *command, "-c", str(self.server.file)]
        done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
        return done.returncode, done.stdout

    def pipeline(self, server) -> pathlib.Path:
        """The file that a server runs."""
        return next((self.fleet.folder / server.drain / "pipelines").iterdir())

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
        verdict = audit.audit(self.fleet.storage.fetched(self.fleet.folder / "fetched"), "disk", self.fleet.logs, expected, self.gaps)
        return [f"{self.name}: {finding}" for finding in verdict.findings]
