#!/usr/bin/env python3
"""What committing costs with more servers than one machine holds: optimistic commits against one committer per table.

    benches/scale_out/model.py

A discrete-event simulation without a random store: `call` is what one call to the store takes, drawn around its mean. Each of N
servers has something to commit every `interval` seconds, at its own phase.

* optimistic: stage (one put), put the next version; when it is taken pause as the store crate does (8 ms doubling to 500 ms, drawn
  between a quarter and the whole), read on, two entries at once and up to 16, judge again, put again. Whoever has met others reads on
  before the first put. Each commit is two: of dead letters and of the table.
* handed over: the server stages its files and sends their names and ranges to the table's committer (one hop), which puts
  everything it was given since its last put as one version, as soon as that put has ended.

Left out: that the store's answers slow each other down, which those of one server on the same machine do.

Printed: versions a second, puts a commit, and how long a commit takes from its tick to the version.
"""

import argparse
import heapq
import random
import statistics

# Entries that are asked for at once, at most.
READ_AHEAD = 16


def draw(rng: random.Random, mean: float) -> float:
    """A call: at least half its mean, with a tail."""
    return mean * (0.5 + rng.expovariate(2.0))


def pause(rng: random.Random, attempts: int) -> float:
    most = min(8 << min(attempts, 6), 500)
    return rng.uniform(most / 4, most) / 1000


def optimistic(servers: int, interval: float, call: float, seconds: float, seed: int):
    """As `store` does it, with a dead letter in every commit: first the letters' table, then the pipeline's."""
    rng = random.Random(seed)
    versions, known = [0, 0], [[0, 0] for _ in range(servers)]
    times, puts, commits = [], 0, 0

    def read_on(server: int, log: int):
        ahead = 2
        while True:
            # Asked for at once: the slowest of them decides.
            yield max(draw(rng, call) for _ in range(ahead))
            behind = versions[log] - known[server][log]
            known[server][log] += min(ahead, behind)
            if behind < ahead:
                return
            ahead = min(2 * ahead, READ_AHEAD)

    def commit(server: int, log: int, has_met_others: bool):
        nonlocal puts
        yield draw(rng, call)  # the file
        if has_met_others:
            yield from read_on(server, log)
        attempts = 0
        while True:
            aimed = known[server][log] + 1
            took = draw(rng, call)
            yield took / 2  # the store decides somewhere on the way
            puts += 1
            is_next = aimed == versions[log] + 1
            versions[log] += is_next
            yield took / 2
            if is_next:
                known[server][log] = aimed
                return
            yield pause(rng, attempts)
            attempts += 1
            yield from read_on(server, log)

    def serve(server: int):
        nonlocal commits
        since, is_shared = [0, 0], [False, False]
        yield rng.uniform(0, interval)
        while True:
            begun = clock
            for log in (0, 1):
                # Whoever met others' versions the last time reads on before the first put.
                yield from commit(server, log, is_shared[log])
                own = known[server][log]
                since[log], is_shared[log] = own, own > since[log] + 1
            times.append(clock - begun)
            commits += 1
            yield max(0.0, begun + interval - clock)

    clock = 0.0
    processes = [serve(number) for number in range(servers)]
    due = [(0.0, number) for number in range(servers)]
    while clock <= seconds:
        clock, number = heapq.heappop(due)
        heapq.heappush(due, (clock + next(processes[number]), number))
    return versions[1] / seconds, puts / max(1, 2 * commits), times, commits / seconds


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
