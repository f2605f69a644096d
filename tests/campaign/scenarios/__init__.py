"""Scenarios of their own, each in a site of its own.

Owns the list and the running of it. `halts` are what must stop a pipeline by design, `warnings` what must be told while it goes on,
`regressions` what a campaign has found, reduced. Does not own faults drawn from a seed (`campaign`).
"""

import pathlib
import time

from . import halts, regressions, warnings
from .site import SEATS, Site

__all__ = ["SCENARIOS", "SEATS", "run"]

SCENARIOS = [
    ("offsets come late", regressions.offsets_come_late, "direct", {"s3": True}),
    ("created again while it is read", halts.created_again_while_read, "direct", {}),
    ("created again while away", halts.created_again_while_away, "direct", {}),
    ("created again while away, portable", halts.created_again_while_away, "portable", {}),
    ("restored", halts.restored, "direct", {}),
    ("created again with less", halts.created_again_with_less, "direct", {}),
    ("created again with less, portable", halts.created_again_with_less, "portable", {}),
    ("retention passes", halts.retention_passes, "direct", {}),
    ("retention passes, portable", halts.retention_passes, "portable", {}),
    ("cut off", halts.cut_off, "direct", {}),
    ("cut off, portable", halts.cut_off, "portable", {}),
    ("cut off and grown", halts.cut_off_and_grown, "direct", {}),
    ("schema breaks", halts.schema_breaks, "direct", {"stop_if": "20% over 1m"}),
    ("definitions differ", warnings.definitions_differ, "direct", {}),
    ("clock is off", warnings.clock_is_off, "direct", {}),
    ("credentials expire", warnings.credentials_expire, "direct", {"s3": True}),
    ("transaction hangs", warnings.transaction_hangs, "direct", {}),
]


def run(folder: pathlib.Path, kafka, binary: pathlib.Path, only: list[str]) -> dict[str, list[str]]:
    """Findings by scenario; of all of them where none is named."""
    folder = folder / "scenarios"
    folder.mkdir()
    outcomes = {}
    for name, scenario, drain, more in SCENARIOS:
        if only and name not in only:
            continue
        began = time.monotonic()
        site = None
        try:
            site = Site(folder, kafka, binary, name.replace(",", ""), drain, **more)
            outcomes[name] = scenario(site)
        except Exception as error:  # whatever it is, it is that scenario's, and the others go on
            outcomes[name] = [f"{name}: {error!r}; {site.server.status() if site else ''}"]
        finally:
            for server in site.fleet.everyone() if site else ():
                if server.runs():
                    server.kill()
            if site and site.s3:
                site.s3.process.kill()
        print(f"{name}: {'; '.join(outcomes[name]) or 'as it must be'} ({time.monotonic() - began:.0f} s)", flush=True)
    return outcomes
