#!/usr/bin/env python3
"""What committing costs with more servers than one machine holds: optimistic commits against one committer per table.

    benches/scale_out/model.py

A discrete-event simulation without a random store: `call` is what one call to the store takes, drawn around its mean. Each of N
servers has something to commit every `interval` seconds, at its own phase.

* optimistic: judge, stage (one put), put the next version; when it is taken read on, entry by entry, judge again, put again,
  with the pause that the store crate takes (8 ms doubling to 500 ms, drawn between a quarter and the whole).
* handed over: the server stages its files and sends their names and ranges to the table's committer (one hop), which puts
  everything it was given since its last put as one version, as soon as that put has ended.

Printed: versions a second, puts a commit, and how long a commit takes from its tick to the version.
"""

import argparse
import heapq
import random
import statistics


def draw(rng: random.Random, mean: float) -> float:
    """A call: at least half its mean, with a tail."""
    return mean * (0.5 + rng.expovariate(2.0))


def pause(rng: random.Random, attempts: int) -> float:
    most = min(8 << min(attempts, 6), 500)
    return rng.uniform(most / 4, most) / 1000


def optimistic(servers: int, interval: float, call: float, seconds: float, seed: int):
    rng = random.Random(seed)
    events = [(rng.uniform(0, interval), number, "tick", 0, 0.0, 0) for number in range(servers)]
    heapq.heapify(events)
    version, times, puts = 0, [], 0
    known = [0] * servers
    while events:
        now, server, what, attempts, begun, aimed = heapq.heappop(events)
        if now > seconds:
            break
        if what == "tick":
            # Stages, then puts the version after the one in hand.
            heapq.heappush(events, (now + draw(rng, call), server, "put", 0, now, known[server] + 1))
        elif what == "put":
            # The store decides somewhere on the way.
            heapq.heappush(events, (now + draw(rng, call), server, "answer", attempts + 1, begun, aimed))
            puts += 1
        elif what == "answer":
            if aimed == version + 1:
                version += 1
                known[server] = version
                times.append(now - begun)
                due = begun + interval
                heapq.heappush(events, (max(due, now), server, "tick", 0, 0.0, 0))
            else:
                # Reads on: every entry that it does not have, and one that is not there.
                missed = version - known[server]
                reading = sum(draw(rng, call) for _ in range(missed + 1))
                known[server] = version
                after = now + pause(rng, attempts) + reading
                heapq.heappush(events, (after, server, "again", attempts, begun, 0))
        else:
            known[server] = version
            heapq.heappush(events, (now, server, "put", attempts, begun, known[server] + 1))
    return version / seconds, puts / max(1, len(times)), times, len(times) / seconds


def handed_over(servers: int, interval: float, call: float, seconds: float, seed: int):
    rng = random.Random(seed)
    hop = 0.001
    events = [(rng.uniform(0, interval), number, "tick", 0.0) for number in range(servers)]
    heapq.heapify(events)
    waiting, under_way, versions, times = [], None, 0, []
    while events:
        now, server, what, begun = heapq.heappop(events)
        if now > seconds:
            break
        if what == "tick":
            heapq.heappush(events, (now + draw(rng, call) + hop, server, "given", now))
        elif what == "given":
            waiting.append((server, begun))
        if what == "done":
            versions += 1
            for one, started in under_way:
                times.append(now + hop - started)
                heapq.heappush(events, (max(started + interval, now + hop), one, "tick", 0.0))
            under_way = None
        if waiting and under_way is None:
            under_way, waiting = waiting, []
            heapq.heappush(events, (now + draw(rng, call), -1, "done", 0.0))
    return versions / seconds, versions / max(1, len(times)), times, len(times) / seconds


def line(name: str, servers: int, outcome) -> str:
    versions, puts, times, commits = outcome
    times = sorted(times) or [float("nan")]
    p50, p99 = statistics.median(times), times[min(len(times) - 1, int(0.99 * len(times)))]
    return f"| {name} | {servers} | {commits:.1f} | {versions:.1f} | {puts:.2f} | {1000 * p50:.0f} | {1000 * p99:.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--seed", type=int, default=1)
    settings = parser.parse_args()
    for title, call, interval in (
        ("a local disk, a call 2 ms, commits every second", 0.002, 1.0),
        ("a store 30 ms away, commits every second", 0.030, 1.0),
        ("a store 30 ms away, commits every 10 s", 0.030, 10.0),
    ):
        print(f"\n{title}\n\n| way | servers | commits/s | versions/s | puts a commit | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|")
        for servers in map(int, settings.servers.split(",")):
            for name, way in (("optimistic", optimistic), ("handed over", handed_over)):
                print(line(name, servers, way(servers, interval, call, max(120.0, 12 * interval), settings.seed)))


if __name__ == "__main__":
    main()
