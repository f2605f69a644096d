"""Reads Delta logs as plain JSON, on disk or in S3, as they grow: the auditor's eyes.

Owns where an entry stands and what of it an auditor needs. Does not own what is right (`audit`), and shares no code with
the product.
"""

import json
import pathlib
import threading


class Folder:
    """A storage root on disk."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def get(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def fetched(self, _into: pathlib.Path) -> pathlib.Path:
        return self.root


class Bucket:
    """A storage root in the campaign's S3 server, read past its faults."""

    def __init__(self, port: int, bucket: str, prefix: str):
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix = bucket, prefix
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 8}, max_pool_connections=8),
        )
        self.client.meta.events.register("before-send.s3", lambda request, **_: request.headers.update({"x-campaign": "auditor"}))

    def get(self, path: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{path}")["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def fetched(self, into: pathlib.Path) -> pathlib.Path:
        """Everything, as files."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/"):
            for entry in page.get("Contents", []):
                path = into / entry["Key"].removeprefix(f"{self.prefix}/")
                if not path.exists() or path.stat().st_size != entry["Size"]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(self.client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read())
        return into


class Log:
    """One table's log, each entry read once. What the product says about itself there is kept as it stands."""

    def __init__(self, storage, table: str):
        self.storage, self.table = storage, table
        self.lock = threading.Lock()
        self.next = 0
        self.offsets: dict[tuple[str, int], int] = {}
        self.infos: list[dict] = []  # commitInfo, by version
        self.txns: list[dict[str, int]] = []  # by version
        self.sizes: list[int] = []  # bytes of the files that a version adds
        self.live: dict[str, int] = {}  # file: version that added it
        self.added: dict[str, int] = {}
        self.kinds: dict[str, int] = {}
        self.violations: list[str] = []

    def advance(self):
        """Takes in what came since the last time."""
        with self.lock:
            while (text := self.storage.get(f"{self.table}/_delta_log/{self.next:020}.json")) is not None:
                self.take(self.next, text)
                self.next += 1

    def take(self, version: int, text: bytes):
        lines = [json.loads(line) for line in text.splitlines()]
        info, txns = {}, {}
        self.sizes.append(sum(line["add"].get("size", 0) for line in lines if "add" in line))
        for line in lines:
            match line:
                case {"commitInfo": found}:
                    info = found
                case {"txn": {"appId": app, "version": number}}:
                    if app in txns:
                        self.violations.append(f"{self.table} version {version}: {app} is recorded twice")
                    txns[app] = number
                case {"add": {"path": path}}:
                    if path in self.added:
                        self.violations.append(f"{self.table} version {version}: {path} was added before, in {self.added[path]}")
                    self.live[path] = self.added[path] = version
                case {"remove": {"path": path}}:
                    if self.live.pop(path, None) is None:
                        self.violations.append(f"{self.table} version {version}: {path} is removed, but was not there")
        self.infos.append(info)
        self.txns.append(txns)
        kind = info.get("alluvium", {}).get("kind", "?")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        for app, number in txns.items():
            place = partition_of(app)
            if place:
                self.offsets[place] = number

    def reached(self) -> dict[tuple[str, int], int]:
        with self.lock:
            return dict(self.offsets)


def partition_of(app: str) -> tuple[str, int] | None:
    """Topic and partition of an offset's id, `alluvium/<pipeline>/<topic>/<partition>`."""
    parts = app.split("/")
    if len(parts) == 4 and parts[0] == "alluvium" and parts[3].isdecimal():
        return parts[2], int(parts[3])
    return None
