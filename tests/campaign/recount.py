"""What the topic itself holds, for a ledger that has a doubt.

Owns reading it as a consumer of committed records does, by librdkafka, and counting events by their bytes. Does not own when
that is asked for (`campaign`).
"""

from confluent_kafka import Consumer, TopicPartition

from . import events

SILENT = 60.0  # seconds without a record, an end or an error


def recounted(ledger: dict, brokers: str, topic: str, partitions: int, pool: list[events.Event]) -> dict:
    """The ledger with the counts and the places that the topic has. A transaction that is open ends by its own time-out first."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "campaign-recounts",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    numbers = {event.payload: number for number, event in enumerate(pool)}
    refused = {number for number, event in enumerate(pool) if event.kind in (events.BROKEN, events.HALF)}
    counts, places = [0] * len(pool), []
    # An end is told where the last stable record is, so that of an open transaction is no end.
    ends = {}
    for partition in range(partitions):
        ends[partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
    left = {partition for partition, end in ends.items() if end > 0}
    consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
    while left:
        records = consumer.consume(10_000, timeout=SILENT)
        if not records:
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
