"""Trials: three questions about the real binary that a campaign of random faults does not answer, each with a bound of its own.

Owns which there are and the order of things around them. Each is a file: how it is done and what it is judged by.
"""

import dataclasses
import json
import pathlib

from ..kafka import Kafka
from ..processes import end_all
from . import load, poison, recovery

TRIALS = {"recovery": recovery, "poison": poison, "load": load}


@dataclasses.dataclass
class Asked:
    """What the command line says."""

    folder: pathlib.Path
    binary: pathlib.Path
    port: int
    seed: int
    minutes: float | None  # of a trial that takes some; its own where none are asked for
    kills: int  # of each table of `recovery`
    rows: int  # of its large table

    def lasting(self, minutes: float) -> float:
        return self.minutes or minutes


def patience(names: list[str], asked: Asked) -> float:
    return sum(TRIALS[name].patience(asked) for name in names)


def run(names: list[str], asked: Asked) -> tuple[str, list[str]]:
    """Report and findings. The figures are left in the folder, as JSON."""
    kafka = Kafka(asked.folder / "kafka-trials", asked.port, 0, asked.binary)
    outcomes = []
    try:
        for name in names:
            outcomes.append(TRIALS[name].run(asked, kafka, asked.folder / name))
            end_all()
    finally:
        end_all()
        kafka.close()
    figures = {outcome.name: outcome.figures | {"findings": outcome.findings} for outcome in outcomes}
    (asked.folder / "trials.json").write_text(json.dumps(figures, indent=1))
    findings = [f"{outcome.name}: {finding}" for outcome in outcomes for finding in outcome.findings]
    return "\n".join(outcome.text() for outcome in outcomes), findings
