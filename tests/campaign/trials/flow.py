"""The producer of the trials, a process of its own: numbered events, at a rate, without a gap.

    python -m campaign.trials.flow SETTINGS      SETTINGS is a JSON object; commands come as JSON lines on stdin

Owns the ledger: how far the numbers got, that the broker acknowledged every one of them, and where each broken event stands. Does not
own what an event is (`numbered`).
"""

import json
import pathlib
import sys
import threading
import time

from confluent_kafka import Producer

from .numbered import KINDS


class Flow:
    """Sends until it is told to finish. Commands: `{"rate": N}`, `{"kind": "good" | "broken"}`, `{"finish": true}`."""

    def __init__(self, settings: dict):
        self.topic, self.partitions, self.rate = settings["topic"], settings["partitions"], settings["rate"]
        self.first = self.number = settings.get("first", 0)
        self.numbering = KINDS[settings.get("keys are", "numbers")](settings["keys"], settings["windows"])
        self.kind = "good"
        self.kinds: list[tuple[int, str]] = []  # from which number on
        self.places: list[tuple[int, int, int]] = []  # number, partition and offset of broken ones
        self.doubts: list[str] = []
        self.finishing = threading.Event()
        self.client = Producer(
            {
                "bootstrap.servers": settings["brokers"],
                "linger.ms": 5,
                "compression.type": "lz4",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # never given up: what was sent will be there exactly once
                "delivery.report.only.error": not settings.get("places", False),
                "log_level": 0,
            }
        )

    def run(self):
        rate, began, base = self.rate, time.monotonic(), self.number
        while not self.finishing.is_set():
            if rate != self.rate:
                rate, began, base = self.rate, time.monotonic(), self.number
            due = base + int((time.monotonic() - began) * rate)
            if self.number >= due:
                self.client.poll(0.002)
                continue
            kind = self.kind
            if not self.kinds or self.kinds[-1][1] != kind:
                self.kinds.append((self.number, kind))
            for _ in range(min(due - self.number, 200)):
                self.send(kind)
            self.client.poll(0)
        while self.client.flush(5):
            pass

    def send(self, kind: str):
        number = self.number
        payload = self.numbering.good(number) if kind == "good" else self.numbering.broken(number)

        def delivered(error, record):
            if error is not None:
                self.doubts.append(f"event {number} was not delivered: {error}")
            elif kind == "broken":
                self.places.append((number, record.partition(), record.offset()))

        while True:
            try:
                self.client.produce(self.topic, payload, partition=number % self.partitions, on_delivery=delivered)
                break
            except BufferError:
                self.client.poll(0.05)
        self.number += 1

    def obey(self):
        for line in sys.stdin:
            match json.loads(line):
                case {"rate": rate}:
                    self.rate = rate
                case {"kind": kind}:
                    self.kind = kind
                case {"finish": _}:
                    break
        self.finishing.set()

    def say(self):
        while not self.finishing.wait(0.25):
            print(json.dumps(self.summary()), flush=True)

    def summary(self) -> dict:
        return {"events": self.number, "broken": len(self.places), "doubts": len(self.doubts)}

    def write(self, path: pathlib.Path):
        """The ledger, and beside it the places, as lines that DuckDB reads."""
        places = path.with_suffix(".places.csv")
        with places.open("w") as file:
            file.write("number,partition,offset\n")
            file.writelines(f"{number},{partition},{offset}\n" for number, partition, offset in self.places)
        ledger = {"events": self.number, "kinds": self.kinds, "doubts": self.doubts[:10], "places": str(places)}
        path.write_text(json.dumps(ledger))


def main():
    settings = json.loads(sys.argv[1])
    flow = Flow(settings)
    for work in (flow.obey, flow.say):
        threading.Thread(target=work, daemon=True).start()
    flow.run()
    flow.write(pathlib.Path(settings["ledger"]))


if __name__ == "__main__":
    main()
