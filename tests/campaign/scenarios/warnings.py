"""What must be told while a pipeline goes on.

Owns these: a transaction that nobody ends, servers that differ in their files, a clock that is off, credentials that expire. In each the status and a metric
must say so, and every event must be counted as ever.
"""

from confluent_kafka import Producer

from ..skew import wrong_clocks
from .site import Site

AHEAD = 3 * 86_400  # seconds
# Twice as long as a transaction is open before it is told of, and a minute: an assignment in between begins to count anew.
LONG = 660


def transaction_hangs(site: Site) -> list[str]:
    """What stands behind it is not read, and the server says since when; once it is aborted, all but its own is counted."""
    site.begin(1_500)
    settings = {"transactional.id": site.topic, "transaction.timeout.ms": 900_000, "log_level": 0}
    producer = Producer({"bootstrap.servers": site.kafka.brokers} | settings)
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(10):
        producer.produce(site.topic, site.pool[0].payload, partition=0)
    producer.flush(30)
    site.produce(900)
    found = site.told(site.server, f"holds {site.topic}/0 back", LONG)
    found += site.measured(site.server, "alluvium_kafka_open_transaction_records", 300)
    producer.abort_transaction(30)
    return found + site.goes_on() + site.audited()


def definitions_differ(site: Site) -> list[str]:
    """Two servers of which one knows a column more, and would refuse events for it that the other takes: each says that they differ."""
    other = site.fleet.add(f"{site.topic}-1", "portable")
    with (site.fleet.folder / other.drain / "schemas/event.yaml").open("a") as schema:
        schema.write("  note: string?\n")
    both = (site.server, other)
    for server in both:
        server.start()
    site.wait_until_shared()
    found = []
    for server in both:
        for _ in range(20):
            site.produce(150)
            site.wait_until_counted()
            if not site.told(server, "give every server the same pipeline and schema files", 1):
                break
        found += site.told(server, "give every server the same pipeline and schema files", 1)
        found += site.measured(server, "alluvium_pipeline_version_conflict", 1)
    return found + site.audited()


def credentials_expire(site: Site) -> list[str]:
    """The store refuses every request while events come; with rights again, the server goes on by itself."""
    site.begin(1_500)
    site.s3.set({"denied": 1.0})
    try:
        site.produce(1_500)
        found = site.told(site.server, "ExpiredToken")
    finally:
        site.s3.set({})
    if not site.s3.counts().get("denied PUT"):
        found.append(f"{site.name}: nothing was put meanwhile, so nothing was refused")
    return found + site.goes_on() + site.audited()


def clock_is_off(site: Site) -> list[str]:
    """Not the storage's, by days."""
    site.fleet.skewed = wrong_clocks(site.fleet.folder)
    site.server.skew = AHEAD
    site.begin(1_500)
    found = site.told(site.server, "s ahead of the storage's")
    found += site.measured(site.server, "alluvium_clock_ahead_seconds", AHEAD - 60)
    site.produce(300)
    return found + site.goes_on() + site.audited()
