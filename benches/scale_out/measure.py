#!/usr/bin/env python3
"""How far optimistic commits carry: N servers of one consumer group that commit to the same table.

    benches/scale_out/measure.py --processes 1,2,4,8,16 --seconds 30

Every server is a small `alluvium run`. All of them commit every `--commit-every` over one storage root, on a local folder or, with
`--store-delay`, behind a store that takes so long for each call (moto with a delay in front, as far away as S3 is). Counted are
versions, puts, and how long a commit took. Whether the table is right is the campaign's question.

Needs Java and Maven for a Kafka (`scripts/kafka.sh`), or one at KAFKA_BROKERS, and a release build.
Owns the measurement. What the figures mean for more servers than fit here is `model.py`'s.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PIPELINE = """version: 1
source:
  kafka:
    connection: main
    topics: [{topic}]
    start: earliest
    properties: {{session.timeout.ms: "6000", heartbeat.interval.ms: "500"}}
decode:
  json: {{schema: ../schemas/click.yaml}}
event_time: {{column: ts, max_delay: 30s, idle_after: 1m}}
commit_every: {commit_every}
refresh_every: 500ms
tables:
  per_country:
    window: {{tumbling: 1m}}
    group_by: {{country: country}}
    measures: {{clicks: count(*), bytes: sum(bytes)}}
"""
SERVER = """version: 1
storage: {storage}
connections: {{kafka: {{main: {{brokers: "{brokers}"}}}}}}
listen: {{http: "127.0.0.1:0", postgres: off, flight: off}}
workers: 1
memory: {{ingest: 64MiB, query: 64MiB}}
instance: {name}
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--commit-every", default="1s")
    parser.add_argument("--rate", type=int, default=4000, help="events a second, for all servers together")
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--store-delay", type=float, default=0, help="milliseconds that every call to an S3 store takes; 0: a local folder")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/alluvium")
    return parser.parse_args()


def kafka(*command: str) -> str:
    done = subprocess.run([ROOT / "scripts/kafka.sh", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


class Server:
    def __init__(self, binary: pathlib.Path, site: pathlib.Path, name: str, text: str):
        self.file = site / f"{name}.yaml"
        self.file.write_text(text)
        self.log = site / f"{name}.log"
        self.process = subprocess.Popen(
            [binary, "run", "-c", self.file], stdout=self.log.open("w"), stderr=subprocess.STDOUT, env=os.environ | {"NO_COLOR": "1"}
        )

    def ask(self, path: str) -> str | None:
        found = re.search(r"HTTP listens on (http://127\.0\.0\.1:\d+)", self.log.read_text())
        try:
            return urllib.request.urlopen(found[1] + path, timeout=5).read().decode() if found else None
        except OSError:
            return None

    def holds_partitions(self) -> bool:
        said = self.ask("/v1/status")
        pipelines = json.loads(said) if said else []
        pipelines = pipelines if isinstance(pipelines, list) else pipelines["pipelines"]
        return bool(pipelines) and bool(pipelines[0]["partitions"])

    def metrics(self) -> dict[str, float]:
        text = self.ask("/metrics") or ""
        names = ("commits_total", "commit_puts_total", "commit_duration_seconds_sum", "commit_duration_seconds_count")
        values = {}
        for name in names:
            found = re.search(rf"^alluvium_{name}\{{[^}}]*per_country[^}}]*\}} (\S+)$", text, re.M)
            values[name] = float(found[1]) if found else 0.0
        return values

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(settings, brokers: str, topic: str, count: int) -> dict:
    site = pathlib.Path(tempfile.mkdtemp(prefix="alluvium-scale-"))
    (site / "pipelines").mkdir()
    shutil.copytree(ROOT / "schemas", site / "schemas")
    (site / "pipelines/clicks.yaml").write_text(PIPELINE.format(topic=topic, commit_every=settings.commit_every))
    storage, s3 = f"{{root: {site / 'data'}}}", None
    if settings.store_delay:
        s3, storage = start_store(settings, site)
    servers = [
        Server(settings.binary, site, f"s{number}", SERVER.format(storage=storage, brokers=brokers, name=f"s{number}"))
        for number in range(count)
    ]
    try:
        until = time.monotonic() + 120
        while not all(server.holds_partitions() for server in servers):
            if time.monotonic() > until:
                sys.exit(f"{count} servers did not all get partitions: {site}")
            time.sleep(0.5)
        time.sleep(5)
        before, begun = [server.metrics() for server in servers], time.monotonic()
        time.sleep(settings.seconds)
        after, took = [server.metrics() for server in servers], time.monotonic() - begun
        moved = [{name: late[name] - early[name] for name in late} for early, late in zip(before, after, strict=True)]
        commits = sum(one["commits_total"] for one in moved)
        puts = sum(one["commit_puts_total"] for one in moved)
        times = [one["commit_duration_seconds_sum"] / max(1, one["commit_duration_seconds_count"]) for one in moved]
        return {
            "processes": count,
            "commits a second": round(commits / took, 2),
            "wanted a second": count / seconds_of(settings.commit_every),
            "puts a commit": round(puts / max(1, commits), 2),
            "mean commit ms": round(1000 * statistics.mean(times)),
            "slowest server's mean ms": round(1000 * max(times)),
        }
    finally:
        for server in servers:
            server.process.terminate()
        for server in servers:
            server.end()
        if s3:
            s3.terminate()
            s3.wait()
        shutil.rmtree(site, ignore_errors=True)


def start_store(settings, site: pathlib.Path):
    """The campaign's S3 server, with a delay before every answer."""
    python = os.environ.get("ALLUVIUM_PYTHON", sys.executable)
    command = [python, ROOT / "benches/scale_out/far_store.py", str(settings.store_delay)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    endpoint = server.stdout.readline().strip()
    if not endpoint.startswith("http"):
        sys.exit("the S3 server did not start; it needs the packages of tests/python/requirements.txt (ALLUVIUM_PYTHON)")
    (site / "secret").write_text("test")
    return server, (
        f'{{root: "s3://far/site", endpoint: "{endpoint}", region: us-east-1, access_key: test, '
        f"secret_key: {{file: secret}}, allow_http: true}}"
    )


def seconds_of(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def main():
    settings = arguments()
    brokers = os.environ.get("KAFKA_BROKERS")
    started = brokers is None
    if started:
        brokers = re.search(r"KAFKA_BROKERS=(\S+)", kafka("start"))[1]
    topic = f"scale-{int(time.time())}"
    os.environ["KAFKA_BROKERS"] = brokers
    producer = None
    try:
        kafka("topics", "--create", "--topic", topic, "--partitions", str(settings.partitions))
        producer = subprocess.Popen(
            [settings.binary, "generate", "--brokers", brokers, "--topic", topic, "--rate", str(settings.rate)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for count in map(int, settings.processes.split(",")):
            print(json.dumps(measure(settings, brokers, topic, count)), flush=True)
    finally:
        if producer:
            producer.terminate()
            producer.wait()
        if started:
            kafka("stop")


if __name__ == "__main__":
    main()
