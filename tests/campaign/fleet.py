"""A fleet: servers in one consumer group on one storage root, and what they say about themselves.

Owns the server files, the processes and the questions to them. Does not own what is done to them (`actions`). Servers of
a fleet read in different ways (`direct` or `portable`), each through links of its own to broker and store.
"""

import dataclasses
import http.client
import json
import pathlib
import re
import threading
import zlib

from .delta import Log
from .processes import Process

SESSION = 6.0  # seconds
DRAINS = ("direct", "direct", "portable")
SCHEMA = """version: 1
columns:
  ts: timestamp
  key: string
  amount: int
  test: boolean?
  divisor: int?
"""
PIPELINE = """version: 1
source:
  kafka:
    connection: main
    topics: [{topic}]
    start: earliest
    drain: {drain}
    properties:
      session.timeout.ms: "6000"
      heartbeat.interval.ms: "500"
      topic.metadata.refresh.interval.ms: "5000"
      socket.timeout.ms: "10000"
decode:
  json:
    schema: ../schemas/event.yaml
event_time:
  column: ts
  max_delay: 5s
  idle_after: 10s
where: not coalesce(test, false)
commit_every: {commit_every}
refresh_every: 200ms
tables:
  per_key:
    window: {{tumbling: 1m}}
    group_by:
      key: key
    measures:
      events: count(*)
      amount: sum(amount)
  ratios:
    window: {{tumbling: 1m}}
    group_by:
      key: key
    measures:
      events: count(*)
      amount: sum(amount / coalesce(divisor, 1))
dead_letters:
  stop_if: {stop_if}
"""


@dataclasses.dataclass
class Reached:
    """What a server said about its pipeline."""

    state: str
    reason: str | None
    read: int
    committed: int  # of the table that is behind
    commits: int
    overtaken: int
    partitions: dict[int, int]  # partition: position
    halted: dict[int, str]


NOTHING = Reached("no answer", None, 0, 0, 0, 0, {}, {})


class Server:
    """One place in a fleet: a name in the group, a link, a door. Its process comes and goes."""

    def __init__(self, fleet: "Fleet", name: str, link: int, drain: str):
        self.fleet, self.name, self.link, self.drain = fleet, name, link, drain
        self.slept_at = float("-inf")  # when it woke last
        self.lock = threading.Lock()  # held by whoever does something to the process
        self.port: int | None = None  # of its door, once it says so
        self.process: Process | None = None
        self.skew = 0  # seconds by which its clock is wrong
        self.wanted = False  # whether an end by itself is a surprise
        self.of_another = zlib.crc32(name.encode()) % 2 == 0  # whether its process is of the other version, where there is one
        self.file = fleet.write_server(self)

    def start(self):
        self.of_another = self.fleet.beside is not None and not self.of_another
        command = [str(self.fleet.beside if self.of_another else self.fleet.binary), "run", "-c", str(self.file)]
        env = {"NO_COLOR": "1", "ALLUVIUM_LOG": "info"}
        if self.skew:
            env |= {"LD_PRELOAD": str(self.fleet.skewed), "SKEW_SECONDS": str(self.skew)}
        self.port = None
        self.process = Process(command, self.fleet.folder / "logs" / f"{self.name}.log", env=env, start_new_session=True)
        self.wanted = True

    def door(self) -> int | None:
        """The port of its HTTP door, which its log tells."""
        if self.port is None:
            with self.process.log.open("rb") as log:
                log.seek(self.process.from_byte)
                found = re.search(rb"HTTP listens on http://127\.0\.0\.1:(\d+)", log.read(4096))
            self.port = int(found[1]) if found else None
        return self.port

    def runs(self) -> bool:
        return self.process is not None and self.process.ended() is None

    def kill(self):
        self.wanted = False
        self.process.kill()

    def drained(self, patience: float) -> int | None:
        self.wanted = False
        return self.process.drain(patience)

    def status(self, timeout: float = 1.0) -> Reached | None:
        """`None` while it does not answer."""
        if self.process is None or self.door() is None:
            return None
        try:
            door = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            door.request("GET", "/v1/status")
            said = json.loads(door.getresponse().read())
            door.close()
            pipelines = said if isinstance(said, list) else said["pipelines"]
            if not pipelines:
                return None
            one = pipelines[0]
            tables = one["tables"]
            return Reached(
                state=one["state"],
                reason=one["reason"],
                read=one["events_in"],
                committed=min((table["balance"]["in"] for table in tables), default=0),
                commits=min((table["commits"] for table in tables), default=0),
                overtaken=one["overtaken"],
                partitions={part["partition"]: part["position"] for part in one["partitions"]},
                halted={part["partition"]: part["halted"] for part in one["partitions"] if part["halted"]},
            )
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return None


class Fleet:
    """All of them, and the logs of the tables they write."""

    def __init__(
        self,
        folder: pathlib.Path,
        pipeline: str,
        binary: pathlib.Path,
        *,
        beside: pathlib.Path | None = None,
        kafka,
        storage,
        store,
        topic: str,
        links: list[int],
        commit_every: str,
        stop_if: str,
    ):
        self.folder, self.pipeline, self.binary, self.beside, self.kafka = folder, pipeline, binary, beside, kafka
        self.storage, self.store, self.topic = storage, store, topic
        self.links = links
        self.logs = {name: Log(storage, f"tables/{name}") for name in ("per_key", "ratios")}
        self.servers: list[Server] = []
        self.skewed: pathlib.Path | None = None  # the library that makes clocks wrong, where there is one
        self.lock = threading.Lock()
        self.guests = 0
        for drain in ("direct", "portable"):
            site = folder / drain
            (site / "pipelines").mkdir(parents=True, exist_ok=True)
            (site / "schemas").mkdir(exist_ok=True)
            (site / "schemas/event.yaml").write_text(SCHEMA)
            text = PIPELINE.format(topic=topic, drain=drain, commit_every=commit_every, stop_if=stop_if)
            (site / f"pipelines/{pipeline}.yaml").write_text(text)

    def write_server(self, server: Server) -> pathlib.Path:
        site = self.folder / server.drain
        (site / "secret").write_text("test")
        path = site / f"{server.name}.yaml"
        path.write_text(
            "version: 1\n"
            f"storage: {self.store(server.link)}\n"
            "connections:\n  kafka:\n    main:\n"
            f'      brokers: "{self.kafka.of_link(server.link)}"\n'
            'listen: {http: "127.0.0.1:0", postgres: off, flight: off}\n'
            "workers: 2\nmemory: {ingest: 64MiB, query: 64MiB}\n"
            f"instance: {server.name}\n"
        )
        return path

    def add(self, name: str, drain: str) -> Server | None:
        """A new place, on a link that nobody uses; `None` when all are taken."""
        with self.lock:
            free = [link for link in self.links if link not in {server.link for server in self.servers}]
            if not free:
                return None
            server = Server(self, name, free[0], drain)
            self.servers.append(server)
            return server

    def remove(self, server: Server):
        with self.lock:
            self.servers.remove(server)

    def guest(self) -> Server | None:
        """A member that the group has never seen."""
        self.guests += 1
        return self.add(f"{self.pipeline}-guest-{self.guests}", DRAINS[self.guests % len(DRAINS)])

    def residents(self) -> list[Server]:
        with self.lock:
            return [server for server in self.servers if "guest" not in server.name]

    def everyone(self) -> list[Server]:
        with self.lock:
            return list(self.servers)

    def advance(self):
        for log in self.logs.values():
            log.advance()

    def reached(self) -> dict[int, int]:
        """The recorded offset of each partition in the table that is behind."""
        behind: dict[int, int] = {}
        standings = [log.reached() for log in self.logs.values()]
        for place in set.union(*(set(standing) for standing in standings)):
            if place[0] == self.topic:
                behind[place[1]] = min(standing.get(place, 0) for standing in standings)
        return behind

    def commits(self) -> int:
        return sum(log.kinds.get("commit", 0) for log in self.logs.values())

    def commanded(self, *arguments: str) -> Process:
        """A command of the product beside the servers."""
        server = self.residents()[0]
        command = [str(self.binary), arguments[0], "-c", str(server.file), *arguments[1:]]
        return Process(command, self.folder / "logs" / f"{arguments[0]}.log", env={"NO_COLOR": "1"})
