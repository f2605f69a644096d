"""What is produced: a pool of events made from the seed, and what must become of each.

Owns the events' bytes and the truth about them. Does not own how often each was sent (`producer`), nor what the
tables hold (`audit`).
"""

import dataclasses
import json
import random

KEYS = 499
WINDOWS = 6
BASE = "2026-03-01T12:"  # all windows lie within this hour, so that the tables stay small and every commit meets every window

# What becomes of an event in the two tables.
GOOD, FILTERED, HALF, BROKEN = "good", "filtered", "half", "broken"


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of the pool."""

    kind: str
    payload: bytes
    window: str = ""
    key: str = ""
    amount: int = 0


def good(rng: random.Random, kind: str) -> Event:
    minute, key, amount = rng.randrange(WINDOWS), f"key-{rng.randrange(KEYS)}", rng.randrange(-1000, 1000)
    fields = {"ts": f"{BASE}{minute:02}:{rng.randrange(60):02}Z", "key": key, "amount": amount}
    if kind == FILTERED:
        fields["test"] = True
    if kind == HALF:
        fields["divisor"] = 0
    if rng.random() < 0.2:
        # Another layout than most: the decoder's slower way.
        fields = dict(reversed(fields.items())) | {"note": "“ünïcode” " + "x" * rng.randrange(40)}
    return Event(kind, json.dumps(fields, separators=(",", ":")).encode(), f"{BASE}{minute:02}:00Z", key, amount)


def broken(rng: random.Random) -> Event:
    whole = good(rng, GOOD).payload
    ways = (
        lambda: whole[: rng.randrange(1, len(whole) - 1)],
        lambda: whole.replace(b'"amount":', b'"amount":"x'),
        lambda: b'{"ts":"2026-03-01T12:00:00Z","amount":1}',
        lambda: b'{"ts":"yesterday","key":"key-1","amount":1}',
        lambda: b'{"ts":"2026-03-01T12:00:00Z","key":"key-1","amount":99999999999999999999999}',
        lambda: b"\xff\xfe" + whole,
        lambda: b"",
    )
    return Event(BROKEN, rng.choice(ways)())


def pool(seed: int, size: int = 20_000) -> list[Event]:
    """The same seed makes the same pool. Broken ones come last."""
    rng = random.Random(f"events {seed}")
    kinds = rng.choices((GOOD, FILTERED, HALF), (96, 3.8, 0.2), k=size - size // 100)
    return [good(rng, kind) for kind in kinds] + [broken(rng) for _ in range(size // 100)]
