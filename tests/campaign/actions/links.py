"""What happens between servers and broker, between servers and S3, and to the broker itself.

Owns when each of these counts: a link's fault when it met bytes or connections that were alive, an outage when no fleet
committed anything new while it lasted and all did afterwards.
"""

import threading
import time


def hurt(campaign, proxy, rng, where: str):
    """One fault of one link."""
    kind = rng.choice(("delay", "cut", "half_close", "throttle", "silence", "refused"))
    seconds = rng.uniform(1, 9)
    proxy.hurt_at = time.monotonic()
    campaign.journal.trying(f"{where} {kind}", port=proxy.port, seconds=round(seconds, 1))
    before = proxy.did[kind]
    match kind:
        case "delay":
            proxy.delay = rng.uniform(0.1, 2.0)
        case "throttle":
            proxy.rate = rng.choice((2_000, 20_000, 100_000))
        case "silence":
            proxy.silent = True
        case "refused":
            proxy.refusing = True
            proxy.cut()
        case "cut":
            for _ in range(rng.randrange(1, 4)):
                proxy.cut()
                campaign.rest(0.3)
            seconds = 0
        case "half_close":
            proxy.half_close()
    campaign.rest(seconds)
    proxy.heal()
    proxy.hurt_at = time.monotonic()
    if kind in ("silence", "half_close"):
        # What was dropped is missing in the stream; nobody could go on with it.
        proxy.cut()
    if proxy.did[kind] > before:
        campaign.journal.effect(f"{where} {kind}", port=proxy.port, times=proxy.did[kind] - before)


def kafka_link(campaign, rng):
    if campaign.kafka.proxies:
        hurt(campaign, rng.choice(campaign.kafka.proxies[: campaign.links_in_use]), rng, "kafka link")


def s3_link(campaign, rng):
    if campaign.s3:
        hurt(campaign, rng.choice(campaign.s3.proxies), rng, "s3 link")


def outage(campaign, rng):
    """The broker is killed, stopped or frozen."""
    kind = rng.choice(("kill", "stop", "freeze"))
    seconds = rng.uniform(1.5, 8)
    campaign.journal.trying("broker outage", how=kind, seconds=round(seconds, 1))
    quiet = {}

    def look(moment):
        quiet[moment] = {fleet.pipeline: sum(fleet.reached().values()) for fleet in campaign.fleets}

    timer = threading.Timer(seconds, look, ("late",))
    timer.start()
    campaign.outage_at = time.monotonic()
    kind = campaign.kafka.outage(kind, seconds)
    timer.join()
    campaign.outage_at = time.monotonic()
    until = time.monotonic() + 25
    while time.monotonic() < until:
        look("after")
        if all(quiet["after"][name] > quiet["late"][name] for name in quiet["late"]):
            campaign.journal.effect("broker outage", how=kind, seconds=round(seconds, 1))
            campaign.journal.effect(f"broker {kind}")
            return
        time.sleep(0.2)
    campaign.journal.write("after an outage nobody went on within 25 s", how=kind)
