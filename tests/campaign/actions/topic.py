"""What happens to the topic: more partitions, and floods of events that cannot be taken.

Owns when each of these counts: growth when every fleet has committed events of the new partition, a flood when enough
broken events were acknowledged during it. What became of them is for the auditor.
"""

import time


def grow(campaign, rng):
    """One partition more; the producer uses it before any server knows of it."""
    if not campaign.kafka.real or campaign.partitions >= campaign.most_partitions:
        return
    number = campaign.partitions
    campaign.journal.trying("topic growth", partitions=number + 1)
    campaign.kafka.grow(campaign.topic, number + 1)
    campaign.partitions = number + 1
    campaign.producer.tell({"partitions": campaign.partitions})
    until = time.monotonic() + 60
    while time.monotonic() < until and not campaign.over():
        if all(fleet.reached().get(number, 0) > 0 for fleet in campaign.fleets):
            campaign.journal.effect("topic growth", partition=number)
            return
        time.sleep(0.2)
    campaign.journal.write("a new partition was not read in time", partition=number)


def flood(campaign, rng):
    """Three of ten events are broken for some seconds: below `stop_if`."""
    campaign.journal.trying("poison flood")
    before = campaign.producer.said.get("flooded", 0)
    campaign.producer.tell({"flood": rng.uniform(1, 3)})
    campaign.rest(5)
    flooded = campaign.producer.said.get("flooded", 0) - before
    if flooded >= 100:
        campaign.journal.effect("poison flood", events=flooded)
