"""The producer, a process of its own: sends events and writes the only ledger there is.

    python -m campaign.producer SETTINGS      SETTINGS is a JSON object; commands come as JSON lines on stdin

Owns how many of which event the broker has acknowledged, and where every rejected one stands. Does not own what should
become of them (`events`). It never looks at a table: in `recorded` it is told how far it may run ahead.

A record counts when the broker has acknowledged it, a record of a transaction when the transaction is committed. If an
ending cannot be known, that is counted as a doubt, and then the auditor reads the topic itself (`recount`).
"""

import faulthandler
import json
import os
import pathlib
import random
import sys
import threading
import time

from confluent_kafka import KafkaError, KafkaException, Producer

from . import events

POISON = 0.3  # share of broken events while a flood lasts
BROKEN = 0.0005  # and at other times
# Once it shall finish, what has begun may take so many seconds to end; then how it ended is not known.
LAST_WORDS = 150.0
# After so many seconds without room for one more record a client is taken for one that has stopped sending. Outages take less.
STUCK_AFTER = 90.0


class Stuck(Exception):
    """A client has stopped sending."""


class Tally:
    """Counts that threads add to."""

    def __init__(self, size: int):
        self.lock = threading.Lock()
        self.counts = [0] * size
        self.letters: list[tuple[int, int, int]] = []  # event, partition, offset
        self.sent: dict[int, int] = {}
        self.transactions = {"committed": 0, "aborted": 0}
        self.doubts: list[str] = []
        self.flooded = 0

    def doubt(self, what: str):
        with self.lock:
            # Once is enough.
            if what not in self.doubts[-1:]:
                self.doubts.append(what)


class Load:
    """Sends until it is told to finish."""

    def __init__(self, settings: dict):
        self.settings = settings
        self.pool = events.pool(settings["seed"])
        self.plain = [number for number, event in enumerate(self.pool) if event.kind in (events.GOOD, events.FILTERED)]
        self.letters = [number for number, event in enumerate(self.pool) if event.kind in (events.BROKEN, events.HALF)]
        self.tally = Tally(len(self.pool))
        self.partitions = settings["partitions"]
        self.topic = settings["topic"]
        self.recorded: dict[int, int] = {}
        self.finishing = threading.Event()
        self.finishing_since = 0.0
        # None is given back before the process ends: that would be to wait for what it waits for.
        self.clients: list[Producer] = []
        self.gave_up = False
        self.flood_until = 0.0
        self.number = 0

    def client(self, **more) -> Producer:
        client = Producer(
            {
                "bootstrap.servers": self.settings["brokers"],
                "linger.ms": 20,
                "compression.type": "lz4",
                "enable.idempotence": True,
                "queue.buffering.max.messages": 500_000,
                "message.timeout.ms": 0,  # never given up: what was sent will be there exactly once
                "topic.metadata.refresh.interval.ms": 1000,
                "log_level": 0,
                **more,
            }
        )
        self.clients.append(client)
        return client

    # Everything but transactions -----------------------------------------------------------------------------------

    def run(self):
        rng = random.Random(f"plain {self.settings['seed']}")
        # Only failures call back here: hundreds of thousands of records a second would.
        only_failures = {"delivery.report.only.error": True}
        quiet = self.client(**only_failures)
        loud = self.client()
        rate, began = self.settings["rate"], time.monotonic()
        spent = 0.0  # time in which nothing was due because the tables were too far behind
        counts = self.tally.counts

        def failed(error, _record):
            self.tally.doubt(f"a record was not delivered: {error}")

        choice, randrange = rng.choice, rng.randrange
        while not self.finishing.is_set():
            now = time.monotonic()
            due = int((now - began - spent) * rate)
            if self.too_far_ahead():
                time.sleep(0.02)
                spent += time.monotonic() - now
                quiet.poll(0)
                loud.poll(0)
                continue
            if self.number >= due:
                quiet.poll(0.005)
                loud.poll(0)
                continue
            flood = now < self.flood_until
            poison = POISON if flood else BROKEN
            for _ in range(min(due - self.number, 500)):
                sent = self.tally.sent
                partition = randrange(self.partitions)
                if rng.random() < poison:
                    try:
                        partition = self.send_loudly(loud, choice(self.letters), partition)
                    except Stuck:
                        loud = self.replaced(loud)
                        partition = self.send_loudly(loud, choice(self.letters), partition)
                    self.tally.flooded += flood
                else:
                    event = choice(self.plain)
                    try:
                        partition = self.produce(quiet, event, partition, failed)
                    except Stuck:
                        quiet = self.replaced(quiet, **only_failures)
                        partition = self.produce(quiet, event, partition, failed)
                    counts[event] += 1
                sent[partition] = sent.get(partition, 0) + 1
                self.number += 1
            quiet.poll(0)
            loud.poll(0)
        for client in (quiet, loud):
            while (left := client.flush(5)) and self.may_wait():
                pass
            if left:
                self.give_up(f"{left} records were not delivered")

    def produce(self, client: Producer, event: int, partition: int, delivered=None) -> int:
        """Hands a record to the client; the partition it went to, which is another one if the client has not heard of it yet."""
        full_since = None
        while True:
            try:
                more = {} if delivered is None else {"on_delivery": delivered}
                client.produce(self.topic, self.pool[event].payload, partition=partition, **more)
                return partition
            except BufferError:
                if not self.may_wait():
                    self.give_up("a record could not be handed over")
                    return partition
                full_since = full_since or time.monotonic()
                if time.monotonic() - full_since > STUCK_AFTER:
                    raise Stuck from None
                client.poll(0.05)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise
                partition = 0

    def replaced(self, client: Producer, **more) -> Producer:
        """Another client for one that has not sent a single record for so long. librdkafka (its issue 5080) may not go on after a
        broker was away. What became of the records it has is not known, so the auditor reads the topic."""
        self.tally.doubt(f"a producer sent nothing for {STUCK_AFTER} s, and was replaced")
        client.purge()
        # What it has counts as sent, and a partition may run ahead of the tables by so much only.
        self.tally.sent = dict(self.recorded)
        return self.client(**more)

    def send_loudly(self, client: Producer, event: int, partition: int, into=None) -> int:
        def delivered(error, record, event=event):
            if error is not None:
                if into is None:
                    self.tally.doubt(f"a record was not delivered: {error}")
                return
            place = (event, record.partition(), record.offset())
            if into is None:
                with self.tally.lock:
                    self.tally.letters.append(place)
                    self.tally.counts[event] += 1
            else:
                into.append(place)

        return self.produce(client, event, partition, delivered)

    def too_far_ahead(self) -> bool:
        ahead = self.settings["ahead"]
        return any(sent - self.recorded.get(partition, 0) > ahead for partition, sent in self.tally.sent.items())

    # Transactions --------------------------------------------------------------------------------------------------

    def run_transactions(self):
        rng = random.Random(f"transactions {self.settings['seed']}")
        names = 0
        while not self.finishing.is_set():
            names += 1
            client = self.client(**{"transactional.id": f"{self.topic}-{names}", "transaction.timeout.ms": 60_000})
            try:
                self.begin_with(client)
                while not self.finishing.is_set():
                    self.transaction(client, rng)
                    time.sleep(rng.uniform(0, 0.3))
            except Stuck:
                self.tally.doubt("a transaction could not be filled")
            except KafkaException as error:
                # The transaction that broke counted its own doubt; a new producer goes on.
                print(json.dumps({"note": f"transactional producer: {error}"}), flush=True)
                time.sleep(1)

    def begin_with(self, client: Producer):
        while True:
            try:
                client.init_transactions(30)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or self.finishing.is_set():
                    raise

    def transaction(self, client: Producer, rng: random.Random):
        client.begin_transaction()
        counted, places = [], []
        aborts = rng.random() < 1 / 3
        for _ in range(rng.randrange(1, 300)):
            while self.too_far_ahead() and not self.finishing.is_set():
                client.poll(0.02)
            partition = rng.randrange(self.partitions)
            if rng.random() < 0.002:
                self.send_loudly(client, rng.choice(self.letters), partition, places)
            else:
                event = rng.choice(self.plain)
                counted.append((event, self.produce(client, event, partition)))
        if aborts:
            # What the broker has is aborted, not what still waits here.
            client.flush(30)
            self.retried(lambda: client.abort_transaction(30))
            self.tally.transactions["aborted"] += 1
            return
        try:
            self.retried(lambda: client.commit_transaction(30))
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self.retried(lambda: client.abort_transaction(30))
                self.tally.transactions["aborted"] += 1
                return
            self.tally.doubt(f"the ending of a transaction is not known: {error}")
            raise
        with self.tally.lock:
            for event, partition in counted:
                self.tally.counts[event] += 1
                self.tally.sent[partition] = self.tally.sent.get(partition, 0) + 1
            for event, partition, offset in places:
                self.tally.counts[event] += 1
                self.tally.letters.append((event, partition, offset))
        self.tally.transactions["committed"] += 1

    def retried(self, step):
        while True:
            try:
                return step()
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                if not self.may_wait():
                    self.give_up(f"a transaction does not end: {error}")
                    raise

    def may_wait(self) -> bool:
        return not self.finishing.is_set() or time.monotonic() - self.finishing_since < LAST_WORDS

    def give_up(self, what: str):
        """The auditor reads the topic then; what every thread does stands in the log."""
        if not self.gave_up:
            self.gave_up = True
            print(what, file=sys.stderr)
            faulthandler.dump_traceback(all_threads=True)
        self.tally.doubt(what)

    # Talk ----------------------------------------------------------------------------------------------------------

    def obey(self):
        for line in sys.stdin:
            match json.loads(line):
                case {"recorded": recorded}:
                    self.recorded = {int(partition): offset for partition, offset in recorded.items()}
                case {"flood": seconds}:
                    self.flood_until = time.monotonic() + seconds
                case {"partitions": count}:
                    self.partitions = count
                case {"finish": _}:
                    break
        self.finishing_since = time.monotonic()
        self.finishing.set()

    def say(self):
        while not self.finishing.wait(0.5):
            print(json.dumps(self.summary()), flush=True)

    def summary(self) -> dict:
        tally = self.tally
        return {
            "events": sum(tally.counts),
            "transactions": tally.transactions,
            "letters": len(tally.letters),
            "flooded": tally.flooded,
            "doubts": len(tally.doubts),
        }

    def write(self, path: pathlib.Path):
        tally = self.tally
        ledger = self.summary() | {"counts": tally.counts, "places": tally.letters, "doubts": tally.doubts}
        path.write_text(json.dumps(ledger))


def main():
    settings = json.loads(sys.argv[1])
    load = Load(settings)
    threads = [threading.Thread(target=load.obey, daemon=True), threading.Thread(target=load.say, daemon=True)]
    if settings["transactions"]:
        threads.append(threading.Thread(target=load.run_transactions, daemon=True))
    for thread in threads:
        thread.start()
    load.run()
    if settings["transactions"]:
        threads[-1].join(LAST_WORDS + 60)
        if threads[-1].is_alive():
            load.give_up("transactions do not end")
    load.write(pathlib.Path(settings["ledger"]))
    print(json.dumps(load.summary() | {"finished": True}), flush=True)
    # What a client still waits for is in the ledger as a doubt; to end one by itself would be to wait for it again.
    os._exit(0)


if __name__ == "__main__":
    main()
