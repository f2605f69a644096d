"""What happens to the topic: more partitions, and floods of events that cannot be taken.

Owns when a flood counts: when enough broken events were acknowledged during it. Growth counts when every fleet has committed events
of the new partition, which may take as long as a backlog does; the campaign's watch sees it. What became of them is for the auditor.
"""


def grow(campaign, rng):
    """One partition more; the producer uses it before any server knows of it."""
    if not campaign.kafka.real or campaign.partitions >= campaign.most_partitions:
        return
    number = campaign.partitions
    campaign.journal.trying("topic growth", partitions=number + 1)
    campaign.kafka.grow(campaign.topic, number + 1)
    campaign.partitions = number + 1
    campaign.producer.tell({"partitions": campaign.partitions})
    campaign.growing.add(number)


def flood(campaign, rng):
    """Three of ten events are broken for some seconds: below `stop_if`."""
    campaign.journal.trying("poison flood")
    before = campaign.producer.said.get("flooded", 0)
    campaign.producer.tell({"flood": rng.uniform(1, 3)})
    campaign.rest(5)
    flooded = campaign.producer.said.get("flooded", 0) - before
    if flooded >= 100:
        campaign.journal.effect("poison flood", events=flooded)
