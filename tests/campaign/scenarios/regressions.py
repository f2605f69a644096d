"""Schedules that once went wrong, as a campaign found them, reduced."""

from ..fleet import NOTHING
from ..processes import wait_for
from .site import PATIENCE, Site


def offsets_come_late(site: Site) -> list[str]:
    """The store is so slow in a rebalance that the recorded offsets come only after it. Nothing stops here: with the store
    as before, everything is counted, of partitions that are new to the server too."""
    other = site.fleet.add(f"{site.topic}-1", "direct")
    for server in (site.server, other):
        server.start()
    site.produce(1_500)
    site.wait_until_counted()
    site.wait_until_shared()
    site.s3.set({"slow": 1.0})
    site.server.kill()
    try:
        wait_for("the offsets to be unknown", PATIENCE, lambda: "cannot be read yet" in ((other.status() or NOTHING).reason or ""))
    except TimeoutError as error:
        return [f"{site.name}: not shown, {error}"]
    finally:
        site.s3.set({})
    site.produce(1_500)
    try:
        site.wait_until_counted()
    except TimeoutError as error:
        return [f"{error}; it says {other.status()}, recorded is {site.fleet.reached()}"]
    return site.audited()
