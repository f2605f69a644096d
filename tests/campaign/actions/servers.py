"""What happens to servers: kill -9, SIGSTOP beyond the session, expiry, joins and leaves, drains, wrong clocks.

Owns when each of these counts. An action that finds no fitting server within its patience does nothing.
"""

import signal
import time

from ..fleet import SESSION

PATIENCE = 12.0


def held(campaign, fleet, rng, *, least=1):
    """A running resident that nobody else does something to, locked; `None` when there is none."""
    servers = [server for server in fleet.residents() if server.runs() and not server.process.stopped]
    rng.shuffle(servers)
    if len(servers) < least:
        return None
    return next((server for server in servers if server.lock.acquire(blocking=False)), None)


def in_the_middle(campaign, server):
    """Waits until it has committed and has read further; what it said then."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not campaign.over():
        reached = server.status()
        if reached and reached.commits > 0 and reached.read > reached.committed:
            return reached
        if not server.runs():
            return None
        time.sleep(0.03)
    return None


def kill(campaign, fleet, rng):
    """Counts when the process had committed and had read further, a moment before."""
    server = held(campaign, fleet, rng)
    if server is None:
        return
    try:
        campaign.journal.trying("kill", server=server.name)
        reached = in_the_middle(campaign, server)
        if reached is None:
            return
        time.sleep(rng.uniform(0, 0.9))
        reached = server.status(0.3) or reached
        server.kill()
        if reached.read > reached.committed:
            campaign.journal.effect("kill", server=server.name, read=reached.read, committed=reached.committed)
            if server.of_another:
                campaign.journal.effect("kill of another version", server=server.name)
        time.sleep(rng.choice((0, 0, 0.5, 2)))
        server.skew = 0
        server.start()
    finally:
        server.lock.release()


def expire(campaign, fleet, rng):
    """kill -9 and away for longer than the session: the group gives its partitions to others. Counts when these went on."""
    server = held(campaign, fleet, rng, least=2)
    if server is None:
        return
    try:
        campaign.journal.trying("expiry", server=server.name)
        reached = in_the_middle(campaign, server)
        if reached is None or not reached.partitions:
            return
        server.kill()
        if moved_on(campaign, fleet, reached.partitions, SESSION + 8):
            campaign.journal.effect("expiry", server=server.name, partitions=list(reached.partitions))
            campaign.journal.effect("rebalance")
        server.start()
    finally:
        server.lock.release()


def moved_on(campaign, fleet, partitions, patience) -> bool:
    """Whether others commit beyond what is recorded of these partitions now, after the session is over."""
    time.sleep(SESSION - 0.5)
    before = fleet.reached()
    until = time.monotonic() + patience
    while time.monotonic() < until:
        now = fleet.reached()
        if any(now.get(partition, 0) > before.get(partition, 0) for partition in partitions):
            return True
        time.sleep(0.1)
    return False


def zombie(campaign, fleet, rng):
    """SIGSTOP until others have committed its partitions, then SIGCONT. Counts when it held events that were not committed
    and woke after its partitions had moved on; and apart when a commit of its own was refused then."""
    server = held(campaign, fleet, rng, least=2)
    if server is None:
        return
    try:
        campaign.journal.trying("zombie", server=server.name)
        reached = in_the_middle(campaign, server)
        if reached is None or not reached.partitions:
            return
        time.sleep(rng.uniform(0, 1.0))
        server.process.signal(signal.SIGSTOP)
        moved = moved_on(campaign, fleet, reached.partitions, SESSION + rng.choice((2, 4, 12)))
        if rng.random() < 0.1:
            # Some never wake.
            server.kill()
            server.start()
            return
        server.process.signal(signal.SIGCONT)
        server.slept_at = time.monotonic()
        if moved:
            campaign.journal.effect("zombie", server=server.name, partitions=list(reached.partitions))
            campaign.journal.effect("rebalance", 2)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            after = server.status()
            if after and after.overtaken > reached.overtaken:
                campaign.journal.effect("refused commit", server=server.name)
                break
            time.sleep(0.1)
    finally:
        server.lock.release()


def guest(campaign, fleet, rng):
    """A member that the group has never seen joins, reads, and leaves, politely or not."""
    server = fleet.guest()
    if server is None:
        return
    with server.lock:
        campaign.journal.trying("join", server=server.name)
        server.start()
        until = time.monotonic() + 20
        reached = None
        while time.monotonic() < until and server.runs():
            reached = server.status()
            if reached and reached.partitions:
                campaign.journal.effect("join", server=server.name, partitions=list(reached.partitions))
                campaign.journal.effect("rebalance")
                break
            time.sleep(0.1)
        campaign.rest(rng.uniform(2, 10))
        reached = (server.status() or reached) if server.runs() else None
        campaign.journal.trying("leave", server=server.name)
        if rng.random() < 0.5:
            leave(campaign, server)
        elif server.runs():
            server.kill()
        server.wanted = False
        if reached and reached.partitions and moved_on(campaign, fleet, reached.partitions, SESSION + 8):
            campaign.journal.effect("leave", server=server.name)
            campaign.journal.effect("rebalance")
    fleet.remove(server)


def leave(campaign, server):
    """SIGTERM. It must end with 0; a store or broker that is hurt meanwhile may cost the last commit, and then it ends with 1.
    A process that has begun a moment ago has not asked for the signal yet, and is let come up first."""
    until = time.monotonic() + PATIENCE
    while server.runs() and server.status(0.5) is None and time.monotonic() < until:
        time.sleep(0.1)
    began = time.monotonic()
    code = server.drained(45)
    took = round(time.monotonic() - began, 1)
    campaign.journal.write("drained", server=server.name, code=code, seconds=took)
    if code == 0:
        campaign.journal.effect("drain", server=server.name)
    elif code not in (1, None):
        campaign.journal.surprise(f"{server.name} ended with {code} after SIGTERM", tail=server.process.tail(15))
    else:
        campaign.journal.effect("drain that failed", server=server.name, code=code, tail=server.process.tail(6))


def drain(campaign, fleet, rng):
    """A rolling restart: counts when it ended with 0."""
    server = held(campaign, fleet, rng)
    if server is None:
        return
    try:
        campaign.journal.trying("drain", server=server.name)
        leave(campaign, server)
        server.skew = 0
        server.start()
    finally:
        server.lock.release()


def skew(campaign, fleet, rng):
    """A server comes back with a wrong clock, until its next restart. Commits that carry a wrong time are counted at the end."""
    if fleet.skewed is None:
        return
    server = held(campaign, fleet, rng)
    if server is None:
        return
    try:
        campaign.journal.trying("clock skew", server=server.name)
        server.kill()
        server.skew = rng.choice((-2 * 3600, 3600, 9 * 86_400, -40 * 86_400))
        server.start()
        campaign.journal.write("skewed", server=server.name, by=server.skew)
    finally:
        server.lock.release()
