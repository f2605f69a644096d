"""Child processes that end with the campaign, each with a log of its own.

Owns starting, signalling and reaping. Ends only what it started, by its number. Does not own what a process is for.
"""

import atexit
import os
import pathlib
import signal
import subprocess
import time

_started: list["Process"] = []


class Process:
    """A running child. Its messages are appended to `log`."""

    def __init__(self, command: list[str], log: pathlib.Path, *, env: dict | None = None, **more):
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as messages:
            messages.write(f"--- {' '.join(command)}\n".encode())
            messages.flush()
            self.from_byte = messages.tell()  # where its messages begin
            more = {"stdin": subprocess.DEVNULL, "stdout": messages, "stderr": messages} | more
            self.child = subprocess.Popen(command, env=os.environ | (env or {}), **more)
        self.began = time.monotonic()
        self.stopped = False
        _started.append(self)

    @property
    def pid(self) -> int:
        return self.child.pid

    def ended(self) -> int | None:
        return self.child.poll()

    def signal(self, which: signal.Signals):
        if self.ended() is None:
            self.child.send_signal(which)
        self.stopped = which == signal.SIGSTOP or (self.stopped and which != signal.SIGCONT)

    def kill(self):
        """kill -9, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.child.wait()

    def drain(self, patience: float) -> int | None:
        """SIGTERM; its exit code, or `None` when it did not end in time and was killed."""
        if self.stopped:
            self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def tail(self, lines: int = 40) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 20_000))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def has_said(self, words: str) -> bool:
        """Whether these words stand anywhere in what it has said. What a process ends with may come after many lines about other things."""
        with self.log.open("rb") as log:
            log.seek(self.from_byte)
            return words.encode() in log.read()


def end_all():
    """Whatever still runs is killed."""
    for process in _started:
        if process.ended() is None:
            process.kill()


atexit.register(end_all)


def wait_for(what: str, patience: float, ask, every: float = 0.05):
    """Asks until there is an answer that is not None or False."""
    until = time.monotonic() + patience
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > until:
            raise TimeoutError(f"waited {patience:.0f} s for {what}")
        time.sleep(every)
