#!/usr/bin/env python3
"""Changes the core in ways that `cargo-mutants` thinks of, one after the other, and asks whether anything notices.

    tests/simulation/mutants.py --minutes 120 --seed 1     a seeded sample, in its order, until the time is over
    tests/simulation/mutants.py --only TEXT ...            those whose name has one of these in it

Each mutant of the store, the source, the runtime and the engine is put to their unit tests first, its own package's before those that
build on it; what these let pass is put to simulated schedules. Outcomes are written as they come to `--outcomes`, one JSON object a line, and
are not tried again, so that a run can go on later. Works on a copy of the tree with target folders of its own, as `sabotage.py` does.

Needs `cargo install cargo-mutants`. Exit code 0: some were tried, and all that compile were noticed. One that changes nothing that anybody could see is not: what
is left over has to be read.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import sabotage

# Each package, and after it those that build on it.
PACKAGES = {
    "alluvium-engine": ("alluvium-engine", "alluvium-runtime"),
    "alluvium-source": ("alluvium-source", "alluvium-runtime"),
    "alluvium-store": ("alluvium-store", "alluvium-runtime"),
    "alluvium-runtime": ("alluvium-runtime",),
}
CHOSEN = [word for package in PACKAGES for word in ("-p", package)]
LONGER = 4  # times as long as without a change a test may take, and ...
AT_LEAST = 60.0  # ... so many seconds
UNVIABLE = "does not compile"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of mutants")
    parser.add_argument("--outcomes", type=pathlib.Path, default=sabotage.ROOT / "target/mutants.ndjson")
    parser.add_argument("--target", type=pathlib.Path, default=sabotage.ROOT / "target/mutants", help="where tests are built")
    parser.add_argument("--simulator", type=pathlib.Path, default=sabotage.ROOT / "target/sabotage", help="where the simulator is built")
    parser.add_argument("--tree", type=pathlib.Path, default=None, help="where the copy is kept (default: a temporary folder)")
    return parser.parse_args()


def listed(tree: pathlib.Path) -> list[dict]:
    """Every mutant, in the order in which they are listed."""
    command = ["cargo", "mutants", "--list", "--json", "--diff", "--no-config", *CHOSEN]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"`cargo mutants` ended with {done.returncode}; `cargo install cargo-mutants --locked` installs it:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Tests:
    """The unit tests of the packages, built and run in the copy."""

    def __init__(self, tree: pathlib.Path, target: pathlib.Path):
        self.tree, self.target = tree, target
        self.usual: dict[str, float] = {}  # seconds without a change

    def build(self) -> dict[str, tuple[str, pathlib.Path]] | None:
        """Each package's test program and folder; nothing when it does not compile."""
        command = ["cargo", "test", "--locked", "--lib", "--no-run", "--message-format", "json", *CHOSEN, "--target-dir", str(self.target)]
        done = subprocess.run(command, cwd=self.tree, capture_output=True, text=True, env=os.environ | {"CARGO_INCREMENTAL": "1"})
        if done.returncode:
            if "could not compile" not in done.stderr:
                sys.exit(f"the tests cannot be built: {done.stderr[-2000:]}")
            return None
        found = {}
        for line in done.stdout.splitlines():
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
                folder = pathlib.Path(message["manifest_path"]).parent
                found[f"alluvium-{folder.name}"] = (message["executable"], folder)
        return found

    def run(self, program: str, folder: pathlib.Path, patience: float | None) -> str | None:
        """Why they fail; nothing when they pass."""
        try:
            done = subprocess.run([program, "-q"], cwd=folder, capture_output=True, text=True, errors="replace", timeout=patience)
        except subprocess.TimeoutExpired:
            return f"not over after {patience:.0f} s"
        if done.returncode == 0:
            return None
        failed = re.search(r"^failures:\n((?:    \S+\n)+)", done.stdout, re.MULTILINE)
        return failed[1].split()[0] if failed else f"ended with {done.returncode}"

    def measure(self):
        programs = self.build()
        if programs is None or set(programs) != set(PACKAGES):
            sys.exit(f"the tests do not compile without a change: {programs}")
        for package, (program, folder) in programs.items():
            begun = time.monotonic()
            if failed := self.run(program, folder, None):
                sys.exit(f"the tests of {package} fail without a change: {failed}")
            self.usual[package] = time.monotonic() - begun

    def notice(self, package: str) -> str | None:
        """Which test notices what was changed in a package; nothing when none does."""
        programs = self.build()
        if programs is None:
            return UNVIABLE
        for tried in PACKAGES[package]:
            patience = max(AT_LEAST, LONGER * self.usual[tried])
            if failed := self.run(*programs[tried], patience):
                return f"{tried}: {failed}"
        return None


class Simulator:
    """Schedules with the product as it is in the copy."""

    def __init__(self, tree: pathlib.Path, settings):
        self.tree, self.settings = tree, settings
        self.patience: float | None = None

    def measure(self):
        begun = time.monotonic()
        if noticed := self.notice():
            sys.exit(f"the simulation fails without a change: {noticed}")
        self.patience = max(AT_LEAST, LONGER * (time.monotonic() - begun))

    def notice(self) -> str | None:
        """What it notices; nothing when every schedule passes."""
        if error := sabotage.build(self.tree, self.settings.simulator):
            return f"the tests pass, and the simulator does not compile: {error[-500:]}"
        command = sabotage.simulation(self.settings.simulator, self.settings.schedules, self.settings.seed)
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=self.patience)
        except subprocess.TimeoutExpired:
            return f"simulation: not over after {self.patience:.0f} s"
        if done.returncode == 0:
            return None
        found = re.search(r"^seed \d+ fails after \d+ schedules:\n(.*)$", done.stdout, re.MULTILINE)
        return f"simulation: {found[1].strip()[:200] if found else f'ended with {done.returncode}'}"


def change(mutant: dict, tree: pathlib.Path, *more: str):
    command = ["patch", "--quiet", "--no-backup-if-mismatch", "--fuzz=0", *more, str(tree / mutant["file"])]
    subprocess.run(command, input=mutant["diff"], text=True, check=True, stdout=subprocess.DEVNULL)


def tried(mutant: dict, tests: Tests, simulator: Simulator, tree: pathlib.Path) -> dict:
    """What becomes of one."""
    begun = time.monotonic()
    outcome = {"name": mutant["name"], "diff": mutant["diff"]}
    change(mutant, tree)
    by = tests.notice(mutant["package"]) or simulator.notice()
    change(mutant, tree, "--reverse")
    kind = "survived" if by is None else "unviable" if by == UNVIABLE else "caught"
    return outcome | {"outcome": kind, "by": by, "seconds": round(time.monotonic() - begun, 1)}


def main() -> int:
    settings = arguments()
    temporary = None
    if settings.tree is None:
        temporary = tempfile.TemporaryDirectory(prefix="alluvium-mutants-")
    tree = pathlib.Path(temporary.name) if temporary else settings.tree
    sabotage.copy_tree(tree)
    sabotage.link_what_is_built(settings.simulator)
    mutants = listed(tree)
    print(f"{len(mutants)} mutants", flush=True)
    random.Random(settings.seed).shuffle(mutants)
    if settings.only:
        mutants = [mutant for mutant in mutants if any(text in mutant["name"] for text in settings.only)]
    known = {}
    if settings.outcomes.exists():
        lines = settings.outcomes.read_text().splitlines(keepends=True)
        # The last one may have been cut off.
        known = {one["diff"]: one for one in (json.loads(line) for line in lines if line.endswith("\n"))}
    tests = Tests(tree, settings.target)
    tests.measure()
    print("without a change: " + ", ".join(f"{package} {seconds:.0f} s" for package, seconds in tests.usual.items()), flush=True)
    simulator = Simulator(tree, settings)
    simulator.measure()
    outcomes = []
    until = time.monotonic() + 60 * settings.minutes
    settings.outcomes.parent.mkdir(parents=True, exist_ok=True)
    for mutant in mutants:
        one = known.get(mutant["diff"])
        if one is None:
            if time.monotonic() > until:
                break
            one = tried(mutant, tests, simulator, tree)
            with settings.outcomes.open("a") as file:
                file.write(json.dumps(one) + "\n")
            print(f"{one['outcome']:9} {one['seconds']:>5.0f} s  {one['name']}: {one['by'] or 'nothing notices'}", flush=True)
        outcomes.append(one)
    counts = collections.Counter(one["outcome"] for one in outcomes)
    print(f"of {len(outcomes)} mutants {dict(counts)}")
    if temporary:
        temporary.cleanup()
    return 1 if counts["survived"] or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
