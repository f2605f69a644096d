"""What was done and what took effect: the schedule as it happened, kept as lines of JSON, and counts by kind.

Owns the record. Does not own which counts suffice (`floors`).
"""

import collections
import json
import pathlib
import threading
import time


class Journal:
    """Many threads write it."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.tried: collections.Counter = collections.Counter()
        self.effects: collections.Counter = collections.Counter()
        self.surprises: list[str] = []
        self.file = path.open("a")

    def write(self, what: str, **more):
        line = {"at": round(time.monotonic() - self.began, 3), "clock": time.strftime("%H:%M:%S"), "what": what} | more
        with self.lock:
            self.file.write(json.dumps(line, default=str) + "\n")
            self.file.flush()

    def trying(self, kind: str, **more):
        with self.lock:
            self.tried[kind] += 1
        self.write(f"try {kind}", **more)

    def effect(self, kind: str, count: int = 1, **more):
        with self.lock:
            self.effects[kind] += count
        self.write(f"effect {kind}", count=count, **more)

    def surprise(self, what: str, **more):
        """Something that must not happen; the campaign fails for it."""
        with self.lock:
            self.surprises.append(what)
        self.write("surprise", text=what, **more)
        print(f"surprise: {what}", flush=True)
