"""How often each kind of fault must have taken effect, by the length of the campaign.

A campaign that hurt nothing proved nothing: below a floor it fails, whatever the auditor says.
"""

import math

# An hour's worth, with a real Kafka, on two cores.
HOUR = {
    "kill": 300,
    "zombie": 60,
    "rebalance": 200,
    "broker outage": 30,
    "ambiguous commit": 50,
    "disk full": 20,
    "expiry": 15,
    "join": 50,
    "leave": 40,
    "drain": 15,
    "kafka link cut": 5,
    "kafka link delay": 5,
    "kafka link half_close": 5,
    "kafka link throttle": 5,
    "kafka link silence": 5,
    "kafka link refused": 5,
    "s3 before": 50,
    "s3 after": 50,
    "s3 late": 50,
    "s3 late but taken": 15,
    "s3 slow": 50,
    "s3 refused": 50,
    "slow store": 5,
    "merging by hand": 40,
    "vacuum": 40,
    "topic growth": 6,
    "poison flood": 20,
    "commit with a wrong clock": 50,
    "aborted transaction": 500,
    "dead letter": 500,
}
# What needs a real Kafka.
NEEDS_KAFKA = ("topic growth", "aborted transaction", "kafka link", "broker outage")
# In a few minutes chance, and what else the machine does, decide more.
FEW, EASE = 10.0, 0.25
# Two minutes, in which everything comes sooner: less than half of what two busy cores reach.
SHORT = {
    "kill": 6,
    "zombie": 1,
    "rebalance": 6,
    "broker outage": 1,
    "ambiguous commit": 1,
    "disk full": 1,
    "join": 2,
    "s3 after": 3,
    "s3 late": 3,
    "merging by hand": 3,
    "vacuum": 3,
    "aborted transaction": 30,
    "dead letter": 50,
}


def floors(minutes: float, missing: list[str]) -> dict[str, int]:
    """For a campaign of this length; kinds that begin with one of `missing` are not asked for."""
    share = minutes / 60 * (EASE if minutes < FEW else 1)
    least = {kind: count * min(1, minutes / 2) for kind, count in SHORT.items()}
    asked = {kind: math.floor(max(count * share, least.get(kind, 0))) for kind, count in HOUR.items()}
    return {kind: count for kind, count in asked.items() if count and not kind.startswith(tuple(missing))}
