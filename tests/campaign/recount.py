"""What the topic itself holds, for a ledger that has a doubt.

Owns reading it as a consumer of committed records does, by librdkafka, and counting events by their bytes. Does not own when
that is asked for (`campaign`).
"""

import time

from confluent_kafka import Consumer, TopicPartition

from . import events

# For so many seconds nothing may come. The broker ends an open transaction after 60 s, and looks for such every ten.
SILENT = 120.0


def recounted(ledger: dict, brokers: str, topic: str, partitions: int, pool: list[events.Event]) -> dict:
    """The ledger with the counts and the places that the topic has. A transaction that is open ends by its own time-out first."""
    settings = {
        "bootstrap.servers": brokers,
        "group.id": "campaign-recounts",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "log_level": 0,
    }
    # Who reads committed records is told an end before the first transaction that is open.
    every = Consumer(settings | {"isolation.level": "read_uncommitted"})
    ends = {
        partition: every.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1] for partition in range(partitions)
    }
    every.close()
    consumer = Consumer(settings | {"isolation.level": "read_committed"})
    numbers = {event.payload: number for number, event in enumerate(pool)}
    refused = {number for number, event in enumerate(pool) if event.kind in (events.BROKEN, events.HALF)}
    counts, places = [0] * len(pool), []
    left = {partition for partition, end in ends.items() if end > 0}
    consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
    heard = time.monotonic()
    while left:
        records = consumer.consume(10_000, timeout=1.0)
        if records:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENT:
            raise TimeoutError(f"{topic}: nothing came of {sorted(left)} for {SILENT:.0f} s")
        for record in records:
            if record.error():
                # Of the topic's end and of errors that librdkafka mends itself; one that lasts ends in silence.
                if record.offset() is not None and record.offset() >= ends.get(record.partition(), 0):
                    left.discard(record.partition())
                continue
            number = numbers[record.value() or b""]
            counts[number] += 1
            if number in refused:
                places.append((number, record.partition(), record.offset()))
    consumer.close()
    return ledger | {"counts": counts, "places": places, "events": sum(counts), "letters": len(places)}
