"""What happens to storage: a disk that is full, an S3 server that fails, files merged and deleted beside all that.

Owns when each of these counts: a full disk when a server's write was refused for it, an S3 fault when the S3 server did
it to a request, merging by hand when the command ended with 0 while commits went on.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

from ..delta import Bucket
from ..kafka import hold
from ..processes import Process
from ..proxy import Proxy

BUCKET = "lake"
KINDS = ("before", "after", "late", "slow", "refused")
MEANS_FULL = "No space left"


def full(campaign, fleet, rng):
    """The fleet's small file system is filled to the last byte for some seconds."""
    disk = campaign.disk
    if disk is None or fleet is not campaign.disk_fleet:
        return
    seconds = rng.uniform(2, 9)
    campaign.journal.trying("disk full", seconds=round(seconds, 1))
    before = refusals(fleet)
    ballast = disk / "ballast"
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not campaign.over():
            fill(ballast)
            time.sleep(0.2)
    finally:
        ballast.unlink(missing_ok=True)
    time.sleep(0.3)
    met = refusals(fleet) - before
    if met > 0:
        campaign.journal.effect("disk full", writes=met)


def fill(path):
    """Takes what is free, also what became free since."""
    with path.open("ab") as file:
        block = bytes(1 << 20)
        size = len(block)
        while size:
            try:
                os.write(file.fileno(), block[:size])
            except OSError:
                size //= 2


def refusals(fleet) -> int:
    """How often servers have complained that no space is left."""
    total = 0
    for log in (fleet.folder / "logs").glob("*.log"):
        text = log.read_text(errors="replace")
        total += text.count(MEANS_FULL)
    return total


def s3_faults(campaign, rng):
    """A share of requests fails in one way, or in several, for some seconds."""
    if campaign.s3 is None:
        return
    kinds = list(dict.fromkeys(next(campaign.s3.kinds) for _ in range(rng.choice((1, 1, 2)))))
    shares = {kind: rng.choice((0.1, 0.3, 0.6)) / len(kinds) for kind in kinds}
    # Replies to commits are lost, too, mostly.
    shares["unsaid"] = (1 - sum(shares.values())) * rng.choice((0.2, 0.5, 0.9))
    campaign.journal.trying("s3 faults", shares=shares)
    campaign.s3.set(shares)
    campaign.rest(rng.uniform(2, 8))
    campaign.s3.set({})


def slow_store(campaign, rng):
    """Nearly every request takes seconds."""
    if campaign.s3 is None:
        return
    campaign.journal.trying("slow store")
    before = campaign.s3.counts().get("slow", 0)
    campaign.s3.set({"slow": 0.9})
    campaign.rest(rng.uniform(4, 12))
    campaign.s3.set({})
    if campaign.s3.counts().get("slow", 0) > before + 3:
        campaign.journal.effect("slow store")


def upkeep(campaign, fleet, rng):
    """Two `compact` and one `vacuum` at the same time, beside servers that write and merge."""
    campaign.journal.trying("merging by hand", fleet=fleet.pipeline)
    before = {name: log.kinds.get("compact", 0) for name, log in fleet.logs.items()}
    commands = [fleet.commanded("compact"), fleet.commanded("compact"), fleet.commanded("vacuum")]
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0.05, 0.5))
        commands[0].kill()
    until = time.monotonic() + 90
    while time.monotonic() < until and any(command.ended() is None for command in commands):
        time.sleep(0.1)
    codes = []
    for command in commands:
        if command.ended() is None:
            command.kill()
        codes.append(command.ended())
    merged = sum(log.kinds.get("compact", 0) - before[name] for name, log in fleet.logs.items())
    campaign.journal.write("merged by hand", fleet=fleet.pipeline, codes=codes, versions=merged)
    if 0 in codes[:2] and merged:
        campaign.journal.effect("merging by hand", fleet=fleet.pipeline)
    if codes[2] == 0:
        campaign.journal.effect("vacuum", fleet=fleet.pipeline)


def age(campaign, fleet):
    """Files that are surely not in flight look four days old, so that `vacuum` may delete those that no version names."""
    if fleet is not campaign.disk_fleet:
        return
    now = time.time()
    for path in (fleet.storage.root / "tables").rglob("*.parquet"):
        try:
            written = path.stat().st_mtime
            if "_delta_log" not in path.parts and now - 300 > written > now - 86_400:
                os.utime(path, (now - 4 * 86_400,) * 2)
        except FileNotFoundError:
            continue


def s3_server(folder: pathlib.Path, port: int, seed: int, seats: list[int]):
    """Starts one, with a link for each seat; and where tables lie in it, for the auditor and for servers."""
    port = next(at for at in range(port, port + 100) if hold(at))
    here = {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "campaign.s3", str(port), BUCKET, str(seed)]
    process = Process(command, folder / "s3.log", env=here, stdout=subprocess.PIPE)
    assert process.child.stdout.readline().strip() == b"ready", process.tail()
    proxies = {seat: Proxy(port) for seat in seats}

    def store(link: int) -> str:
        return (
            f'{{root: "s3://{BUCKET}/site", endpoint: "http://127.0.0.1:{proxies[link].port}", region: us-east-1,'
            " access_key: test, secret_key: {file: secret}, allow_http: true}"
        )

    return Server(process, port, list(proxies.values()), dealt(KINDS, seed)), Bucket(port, BUCKET, "site"), store


def dealt(kinds: tuple[str, ...], seed: int) -> Iterator[str]:
    """All kinds in an order that is drawn, and again all in another: none stays away for long, also in a short campaign."""
    rng = random.Random(f"kinds {seed}")
    while True:
        yield from rng.sample(kinds, len(kinds))


class Server:
    """The S3 server as a process, seen from the campaign."""

    def __init__(self, process, port: int, proxies: list, kinds: Iterator[str]):
        self.process, self.port, self.proxies = process, port, proxies
        # What fails next.
        self.kinds = kinds

    def call(self, path: str, shares: dict | None = None) -> dict:
        data = None if shares is None else json.dumps(shares).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/_campaign/{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def set(self, shares: dict):
        self.call("faults", shares)

    def pace(self, **asked: float):
        """`seconds` a request and `rate` bytes a second of all; neither: as fast as it goes."""
        self.call("pace", asked)

    def counts(self) -> dict:
        return self.call("counts")
