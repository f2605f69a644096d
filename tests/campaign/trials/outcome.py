"""What a trial came to: figures, words, findings, and the few numbers that are made of many.

Owns no bound: each trial judges by its own.
"""

import dataclasses
import json
import math


@dataclasses.dataclass
class Outcome:
    """Of one trial. No finding means that its bound was kept."""

    name: str
    figures: dict = dataclasses.field(default_factory=dict)
    words: list[str] = dataclasses.field(default_factory=list)
    findings: list[str] = dataclasses.field(default_factory=list)

    def say(self, text: str):
        self.words.append(text)
        print(f"{self.name}: {text}", flush=True)

    def text(self) -> str:
        lines = [f"# Trial {self.name}: {'FAILED' if self.findings else 'passed'}", "", *(f"* {word}" for word in self.words)]
        if self.findings:
            lines += ["", "Findings:", "", *(f"* {finding}" for finding in self.findings)]
        return "\n".join([*lines, "", "```json", json.dumps(self.figures, indent=1), "```", ""])


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summed_up(values: list[float]) -> dict[str, float]:
    return {"median": quantile(values, 0.5), "p95": quantile(values, 0.95), "max": max(values), "count": len(values)}


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line that fits best, by least squares."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
