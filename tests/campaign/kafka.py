"""The broker: a real Apache Kafka by scripts/kafka.sh, or the binary's embedded one.

Owns its life (start, outage, return), its topics, and the links between each server and it. Does not own when
something happens to it. A real one listens once more for every link, and says that it is to be found at the link's proxy:
so each server's connections can be hurt apart from all others'. The embedded one cannot say so and
forgets when it ends: no proxies stand before it, and it has no outages. (Frozen for some seconds it may leave members that
join at that moment without an answer for the five minutes that these wait.)
"""

import itertools
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from .processes import Process, wait_for
from .proxy import Proxy

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Kafka:
    """A real one, of this campaign alone."""

    real = True

    def __init__(self, folder: pathlib.Path, port: int, links: int, binary: pathlib.Path):
        self.folder = folder
        # The controller's port is the next one.
        self.port = port = next(at for at in range(port, port + 50) if hold(at) and hold(at + 1))
        self.brokers = f"127.0.0.1:{port}"
        behind = list(itertools.islice((at for at in range(port + 2, port + 100) if hold(at)), links))
        self.proxies = [Proxy(at) for at in behind]
        before = [proxy.port for proxy in self.proxies]
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"LINK{link}" for link in range(links)]
        listeners = [f"{name}://127.0.0.1:{at}" for name, at in zip(names, behind, strict=True)]
        advertised = [f"{name}://127.0.0.1:{at}" for name, at in zip(names, before, strict=True)]
        own = f"PLAINTEXT://{self.brokers}"
        settings = folder / "further.properties"
        settings.write_text(
            f"listeners={','.join([own, f'CONTROLLER://127.0.0.1:{port + 1}', *listeners])}\n"
            f"advertised.listeners={','.join([own, *advertised])}\n"
            "listener.security.protocol.map=" + ",".join(f"{name}:PLAINTEXT" for name in ["PLAINTEXT", "CONTROLLER", *names]) + "\n"
            "inter.broker.listener.name=PLAINTEXT\n"
            "log.retention.ms=-1\ngroup.min.session.timeout.ms=1000\n"
        )
        shared = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "alluvium/kafka"
        self.env = {"KAFKA_PORT": str(port), "KAFKA_SETTINGS": str(settings), "KAFKA_HEAP": "512m", "KAFKA_PATIENCE": "280"} | (
            {} if "KAFKA_HOME" in os.environ else {"KAFKA_HOME": str(shared)}
        )
        self.home = pathlib.Path(os.environ.get("KAFKA_HOME", shared))
        self.script("clean")
        _real.append(self)
        self.script("start")
        self.admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        self.generations: dict[tuple[str, int], float] = {}
        threading.Thread(target=self.count_generations, daemon=True).start()

    def script(self, command: str):
        log = (self.folder / "kafka.log").open("ab")
        subprocess.run(
            [ROOT / "scripts/kafka.sh", command], env=os.environ | self.env, stdout=log, stderr=log, check=True, timeout=600
        )

    def of_link(self, link: int) -> str:
        return f"127.0.0.1:{self.proxies[link].port}"

    def pid(self) -> int:
        return int((self.home / f"node-{self.port}/pid").read_text())

    def outage(self, kind: str, seconds: float) -> str:
        """The broker is not there for some seconds; returns once it takes requests again, with what was done to it."""
        pid = self.pid()
        if kind == "stop":
            self.script("stop")
        elif kind == "kill":
            self.kill()
        else:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        if kind == "freeze":
            os.kill(pid, signal.SIGCONT)
            self.admin.list_topics(timeout=60)
        else:
            self.come_back()
        return kind

    def kill(self):
        """kill -9, and waits for the end."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        wait_for("the broker to be gone", 20, lambda: not pathlib.Path(f"/proc/{pid}").exists() or zombie(pid))

    def come_back(self):
        """Starts it again, and waits until it takes requests."""
        wait_for("the broker to return", 300, self.returned, 1)
        self.admin.list_topics(timeout=60)

    def returned(self) -> bool:
        try:
            self.script("start")
        except subprocess.CalledProcessError:
            # Somebody's outgoing connection may hold the port for a moment.
            return False
        return True

    def create(self, topic: str, partitions: int, **config):
        made = self.admin.create_topics([NewTopic(topic, partitions, 1, config={"retention.ms": "-1"} | config)])
        made[topic].result(30)
        wait_for("the topic", 30, lambda: len(self.admin.list_topics(topic, timeout=5).topics[topic].partitions) == partitions)

    def delete(self, topic: str):
        self.admin.delete_topics([topic])[topic].result(30)
        wait_for("the topic to go", 30, lambda: topic not in self.admin.list_topics(timeout=5).topics)

    def grow(self, topic: str, partitions: int):
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)

    def forget(self, topic: str, until: dict[int, int]):
        """What retention does: records before these offsets are gone."""
        asked = [TopicPartition(topic, partition, offset) for partition, offset in until.items()]
        for made in self.admin.delete_records(asked).values():
            made.result(30)

    def cut_off(self, topic: str):
        """What a broker does that lost the end of its logs: each partition of the topic keeps the first half of its bytes."""
        self.kill()
        for log in (self.home / f"node-{self.port}/log").glob(f"{topic}-*/*.log"):
            os.truncate(log, log.stat().st_size // 2)
        self.come_back()

    def settle(self, topic: str, **config):
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, set_config=config)
        for made in self.admin.alter_configs([resource]).values():
            made.result(30)

    def count_generations(self):
        """Rebalances as the broker itself records them: every generation of every group is written to its books."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.brokers,
                "group.id": "campaign-reads-the-books",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        topic = "__consumer_offsets"
        while topic not in consumer.list_topics(timeout=30).topics:
            time.sleep(0.5)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
        while True:
            for record in consumer.consume(500, timeout=1):
                found = None if record.error() else generation(record.key(), record.value())
                if found:
                    self.generations.setdefault(found, time.monotonic())

    def rebalances(self) -> int:
        """Generations of groups whose members are servers."""
        return len([group for group, _ in self.generations if group.startswith("alluvium.")])

    def generations_of(self, group: str) -> set[int]:
        return {number for name, number in list(self.generations) if name == group}

    def close(self):
        self.script("clean")


_real: list[Kafka] = []


def clean_all():
    """Whatever real broker still runs is ended."""
    for kafka in _real:
        kafka.close()


_held: list[socket.socket] = []


def hold(port: int) -> bool:
    """Takes a port, if it is free, for a listener of ours that comes and goes: the system gives a port that somebody is
    bound to, though he does not listen, to no outgoing connection."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        one.close()
        return False
    _held.append(one)
    return True


def zombie(pid: int) -> bool:
    return " Z " in pathlib.Path(f"/proc/{pid}/stat").read_text()


def generation(key: bytes | None, value: bytes | None) -> tuple[str, int] | None:
    """Group and generation, if this is a record of a group's members (key version 2)."""
    if not key or not value or struct.unpack_from(">h", key)[0] != 2:
        return None
    length = struct.unpack_from(">h", key, 2)[0]
    group = key[4 : 4 + length].decode()
    length = struct.unpack_from(">h", value, 2)[0]
    return group, struct.unpack_from(">i", value, 4 + length)[0]


class Embedded:
    """The binary's own: no Java, no proxies, no transactions, 5 MiB a partition."""

    real = False
    proxies: list = []

    def __init__(self, folder: pathlib.Path, port: int, links: int, binary: pathlib.Path):
        self.binary, self.folder = binary, folder
        self.port = port = next(at for at in range(port, port + 50) if hold(at))
        self.brokers = f"127.0.0.1:{port}"

    def create(self, topic: str, partitions: int):
        command = [str(self.binary), "broker", "--port", str(self.port), "--topic", f"{topic}:{partitions}"]
        self.process = Process(command, self.folder / "broker.log")
        self.admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        wait_for("the topic", 30, lambda: topic in self.admin.list_topics(timeout=5).topics)

    def of_link(self, link: int) -> str:
        return self.brokers

    def rebalances(self) -> None:
        """It keeps no books."""

    def close(self):
        self.process.kill()
