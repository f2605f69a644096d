"""A Python process of ours that takes commands as JSON lines and says where it is in the same way.

Owns the talk. Does not own what the process does (`producer`, `trials.flow`).
"""

import json
import pathlib
import subprocess
import sys
import threading

from .processes import Process, wait_for


class Talk:
    """Runs `python -m MODULE SETTINGS`; the settings name the ledger that it leaves at its end."""

    def __init__(self, module: str, settings: dict, log: pathlib.Path):
        self.ledger = pathlib.Path(settings["ledger"])
        command = [sys.executable, "-m", module, json.dumps(settings)]
        here = {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[1])}
        self.process = Process(command, log, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.said: dict = {}  # what it said last
        self.lock = threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.child.stdout:
            said = json.loads(line)
            if "events" in said:
                self.said = said

    def tell(self, what: dict):
        with self.lock:
            self.process.child.stdin.write(json.dumps(what).encode() + b"\n")
            self.process.child.stdin.flush()

    def finish(self) -> dict:
        """Lets it end what it has begun; its ledger."""
        self.tell({"finish": True})
        wait_for("the producer to end", 360, lambda: self.process.ended() is not None, 0.2)
        return json.loads(self.ledger.read_text())
