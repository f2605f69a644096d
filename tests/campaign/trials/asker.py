"""Asks a server the same question every second and judges every answer.

Owns what a right answer is: while events are refused, exactly what was counted before; once they are taken, no row less than
before and none beyond the truth. Does not own what is done to the server: it is told when the process is away.
"""

import contextlib
import threading
import time

EVERY = 1.0
STALLED = 15.0  # seconds without progress of the pipeline beside, with the process there


class Asker:
    """Two tables: one whose pipeline is poisoned, and one of a pipeline that must not feel it."""

    def __init__(self, site, truth: dict):
        self.site = site
        self.least = dict(truth)  # by (window, key): number and sum
        self.most = dict(truth)
        self.away: bool | int = False
        self.absences = 0
        self.answered = self.while_away = 0
        self.slowest = 0.0
        self.beside = 0  # events of the other table
        self.moved_at = time.monotonic()
        self.longest_pause = 0.0
        self.findings: list[str] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @contextlib.contextmanager
    def process_away(self):
        """From before the process ends until after the new one's door is open."""
        self.away, self.absences = True, self.absences + 1
        try:
            yield
        finally:
            self.away, self.moved_at = False, time.monotonic()

    def may_rise_to(self, most: dict):
        self.most = dict(most)

    def run(self):
        while not self.ending.wait(EVERY):
            began, absences, away = time.monotonic(), self.absences, self.away
            try:
                rows = self.site.rows("select window_start, key, events, amount from totals")
                beside = int(self.site.rows("select coalesce(sum(events), 0) as n from beside")[0]["n"])
            except (OSError, ValueError, KeyError) as error:
                if away or self.away or absences != self.absences:
                    self.while_away += 1
                else:
                    self.find(f"no answer: {error!r}")
                continue
            self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            found, self.least = judge(rows, self.least, self.most)
            for finding in found:
                self.find(finding)
            self.look_beside(beside)

    def look_beside(self, events: int):
        now = time.monotonic()
        if events < self.beside:
            self.find(f"the table beside went from {self.beside} to {events}")
        if events > self.beside:
            self.beside, self.moved_at = events, now
        self.longest_pause = max(self.longest_pause, now - self.moved_at)

    def find(self, what: str):
        if len(self.findings) < 20:
            self.findings.append(f"at {time.strftime('%H:%M:%S')}: {what}")

    def end(self) -> list[str]:
        self.ending.set()
        self.thread.join(30)
        if self.longest_pause > STALLED:
            self.findings.append(f"the pipeline beside stood still for {self.longest_pause:.0f} s")
        return self.findings


def judge(rows: list[dict], least: dict, most: dict) -> tuple[list[str], dict]:
    """Findings, and the rows that no later answer may be behind."""
    held = {(row["window_start"], int(row["key"])): (int(row["events"]), int(row["amount"])) for row in rows}
    found = []
    for place in held.keys() | least.keys():
        count, before, limit = (side.get(place, (0, 0)) for side in (held, least, most))
        if not before[0] <= count[0] <= limit[0]:
            found.append(f"{place} has {count[0]} events, must be {before[0]} to {limit[0]}")
        for edge in (before, limit):
            if count[0] == edge[0] and count[1] != edge[1]:
                found.append(f"{place} has the sum {count[1]} of {count[0]} events, must be {edge[1]}")
    return found, held
