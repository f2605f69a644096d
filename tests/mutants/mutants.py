#!/usr/bin/env python3
"""Changes the core in small ways, as `cargo mutants` lists them, and asks whether a test or a schedule of the simulation notices.

    tests/mutants/mutants.py --sample 300 --outcomes outcomes.ndjson     a seeded sample; goes on where the file ends
    tests/mutants/mutants.py --outcomes outcomes.ndjson --table          what came of it
    tests/mutants/mutants.py --outcomes outcomes.ndjson --again --longest 120 --patience 600     asks survivors once more, with more

`cargo mutants` builds the tree once for each mutant, a minute and more here. This builds it once with all of them, each behind a switch
(instrument.py), runs every test once to see which mutants it comes by, and then runs for a mutant only these tests, the quick ones
first, and schedules of the simulation. The outcome is one of

    caught            a test failed, or schedules did, or one of them did not end; `by` says which
    survived          everything passed that comes by it, within --patience
    not reached       no test comes by it, nor do schedules
    does not compile  with what it returns, or not behind a switch
    cannot switch     it has no form that could stand beside the others
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "simulation"))

import instrument  # noqa: E402
import sabotage  # noqa: E402

CRATES = ("engine", "store", "source", "runtime")
TESTS = "cargo test --workspace --locked --tests --no-run --message-format json".split()
ROUNDS = 30
# Of `simulate`: no schedule failed, and something never happened in any of them.
PROVES_NOTHING = 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=pathlib.Path, required=True, help="a line of JSON for each mutant that was tried")
    parser.add_argument("--table", action="store_true", help="only count, and list what survived")
    parser.add_argument("--again", action="store_true", help="those that survived or were not reached, and no others")
    parser.add_argument("--sample", type=int, default=300, help="so many mutants, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crates", nargs="*", default=CRATES)
    parser.add_argument("--minutes", type=float, default=None, help="begin no mutant later than this after the build")
    parser.add_argument("--patience", type=float, default=60, help="seconds of tests, as they take without a mutant, for one mutant")
    parser.add_argument("--longest", type=float, default=20, help="seconds: tests that take longer are left out")
    parser.add_argument("--schedules", type=int, default=400, help="of the simulation, for each mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT / "target/mutants-tree", help="where the changed copy is kept")
    parser.add_argument("--target", type=pathlib.Path, default=ROOT / "target/mutants", help="where it is built, and nothing else")
    return parser.parse_args()


# What is tried


def drawn(settings) -> dict[int, dict]:
    packages = [word for crate in settings.crates for word in ("-p", f"alluvium-{crate}")]
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", "--no-shuffle", *packages], cwd=ROOT, check=True, capture_output=True)
    everything = json.loads(listed.stdout)
    for key, mutant in zip(keys([mutant["name"] for mutant in everything]), everything):
        mutant["key"] = key
    if settings.again:
        left = {key for key, one in outcomes_in(settings.outcomes).items() if one["outcome"] in LEFT}
        found = {number: mutant for number, mutant in enumerate(everything) if mutant["key"] in left}
        print(f"{len(left)} were left, of which {len(found)} are still there", flush=True)
        return found
    # Each by itself, so that a change elsewhere does not change the sample.
    drawn_at = [hashlib.sha256(f"{settings.seed} {mutant['key']}".encode()).digest() for mutant in everything]
    order = sorted(range(len(everything)), key=drawn_at.__getitem__)
    print(f"{len(everything)} mutants, of which {min(settings.sample, len(order))} are drawn", flush=True)
    return {number: everything[number] for number in order[: settings.sample]}


def keys(names: list[str]) -> list[str]:
    """Their names without lines, which every change of a file moves; the second of one name in its place has a number."""
    seen: collections.Counter[str] = collections.Counter()
    found = []
    for name in names:
        place, _, what = name.partition(": ")
        key = f"{place.split(':')[0]}: {what}"
        seen[key] += 1
        found.append(key if seen[key] == 1 else f"{key} #{seen[key]}")
    return found


class Tree:
    """The changed copy, and which mutants had to be left out of it."""

    def __init__(self, settings, mutants: dict[int, dict]):
        self.settings = settings
        self.left_out: dict[int, str] = {}
        self.sources: dict[str, instrument.Source] = {}
        self.insertions: dict[str, list[instrument.Insertion]] = collections.defaultdict(list)
        self.written: dict[str, instrument.Written] = {}
        sabotage.copy_tree(settings.tree)
        types = settings.tree / "crates/types/src"
        replace(types / "mutants.rs", (HERE / "switch.rs").read_bytes())
        replace(types / "lib.rs", (ROOT / "crates/types/src/lib.rs").read_bytes() + b"\npub mod mutants;\n")
        for number, mutant in mutants.items():
            path = mutant["file"]
            source = self.sources.setdefault(path, instrument.Source((ROOT / path).read_bytes()))
            try:
                self.insertions[path] += source.insertions(number, mutant)
            except instrument.CannotSwitch as cause:
                self.left_out[number] = f"cannot switch: {cause}"

    def write(self) -> None:
        for path, source in self.sources.items():
            kept = [insertion for insertion in self.insertions[path] if insertion.mutant not in self.left_out]
            self.written[path] = instrument.Written(source, kept)
            replace(self.settings.tree / path, self.written[path].text)

    def build(self) -> list[dict]:
        """Builds until nothing is wrong; what the compiler refuses is left out. Returns the tests' executables."""
        sabotage.link_what_is_built(self.settings.target, "debug")
        for attempt in range(ROUNDS):
            self.write()
            said = subprocess.run([*TESTS, "--target-dir", str(self.settings.target)], cwd=self.settings.tree, capture_output=True, text=True)
            messages = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
            if said.returncode == 0:
                return [message for message in messages if message.get("executable") and message["profile"]["test"]]
            errors = [m["message"] for m in messages if m["reason"] == "compiler-message" and m["message"]["level"] == "error"]
            refused = {number: error["message"] for error in errors for number in self.blamed(error)}
            refused = {number: why for number, why in refused.items() if number not in self.left_out}
            print(f"build {attempt + 1}: {len(errors)} errors, {len(refused)} mutants are left out", flush=True)
            if not refused:
                sys.exit("\n".join(error["rendered"] for error in errors[:20]) or said.stderr[-3000:])
            self.left_out.update({number: f"does not compile: {why}" for number, why in refused.items()})
        sys.exit(f"after {ROUNDS} builds there still are errors")

    def blamed(self, error: dict) -> set[int]:
        lacks_arms = (error["code"] or {}).get("code") == "E0004"
        places = [error["spans"], *(child["spans"] for child in error["children"])]
        for spans in ([span for span in places[0] if span["is_primary"]], *places):
            numbers = {number for span in spans for number in self.blamed_by(span, lacks_arms)}
            if numbers:
                return numbers
        return set()

    def blamed_by(self, span: dict, lacks_arms: bool) -> set[int]:
        while span:
            if span["file_name"] in self.written:
                return self.written[span["file_name"]].blamed(span["byte_start"], span["byte_end"], lacks_arms)
            span = (span["expansion"] or {}).get("span")
        return set()

    def build_simulation(self) -> pathlib.Path:
        sabotage.link_what_is_built(self.settings.target)
        error = sabotage.build(self.settings.tree, self.settings.target)
        if error:
            sys.exit(error[-3000:])
        return self.settings.target / "release/simulate"


def replace(path: pathlib.Path, content: bytes) -> None:
    """Only what differs: cargo goes by when a file was written."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


# Who notices


@dataclasses.dataclass(frozen=True)
class Executable:
    path: str
    folder: str
    name: str


@dataclasses.dataclass
class Test:
    executable: Executable
    name: str
    seconds: float
    reached: frozenset[int]


def run(command: list[str], folder: str, patience: float, **environment: str) -> int | None:
    """The exit code, or none if it had to be ended."""
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also what a failed test has started and left behind.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def reached_by(command: list[str], folder: str, patience: float) -> tuple[int | None, frozenset[int], float]:
    with tempfile.NamedTemporaryFile(prefix="alluvium-reached-") as noted:
        begun = time.monotonic()
        code = run(command, folder, patience, ALLUVIUM_MUTANTS_REACHED=noted.name)
        took = time.monotonic() - begun
        return code, frozenset(int(line) for line in pathlib.Path(noted.name).read_text().split()), took


def executables(built: list[dict]) -> list[Executable]:
    found = []
    for message in built:
        folder = str(pathlib.Path(message["manifest_path"]).parent)
        package = pathlib.Path(folder).name
        found.append(Executable(message["executable"], folder, f"{package}/{message['target']['name']}"))
    return found


def run_by_default(executable: Executable) -> list[str]:
    def listed(*flags: str) -> list[str]:
        said = subprocess.run([executable.path, "--list", *flags], cwd=executable.folder, capture_output=True, text=True).stdout
        return [line.removesuffix(": test") for line in said.splitlines() if line.endswith(": test")]

    ignored = set(listed("--ignored"))
    return [name for name in listed() if name not in ignored]


class Kept:
    """What tests of a build came by, beside the build: another sample of the same build need not ask again."""

    def __init__(self, path: pathlib.Path):
        self.path, self.writing = path, threading.Lock()
        self.lines = {(line["built"], line["name"]): line for line in read(path)}

    @staticmethod
    def built(executable: Executable) -> str:
        return f"{executable.path} {os.stat(executable.path).st_mtime_ns}"

    def of(self, executable: Executable, name: str) -> Test | None:
        line = self.lines.get((self.built(executable), name))
        return line and Test(executable, name, line["seconds"], frozenset(line["reached"]))

    def add(self, test: Test) -> None:
        line = {"built": self.built(test.executable), "name": test.name, "seconds": test.seconds, "reached": sorted(test.reached)}
        with self.writing, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def every_test(settings, built: list[dict]) -> list[Test]:
    """Each test alone, once: how long it takes and what it comes by."""
    names = [(executable, name) for executable in executables(built) for name in run_by_default(executable)]
    kept = Kept(settings.target / "reached.ndjson")

    def alone(executable: Executable, name: str) -> Test | str:
        known = kept.of(executable, name)
        if known is None:
            code, reached, took = reached_by([executable.path, "--exact", name], executable.folder, settings.longest)
            if code is None:
                return f"{executable.name} {name}: longer than {settings.longest:.0f} s"
            if code != 0:
                return f"{executable.name} {name}: fails without a mutant"
            known = Test(executable, name, took, reached)
            kept.add(known)
        return known if known.seconds <= settings.longest else f"{executable.name} {name}: longer than {settings.longest:.0f} s"

    with concurrent.futures.ThreadPoolExecutor(settings.jobs) as pool:
        all_of = list(pool.map(lambda pair: alone(*pair), names))
    for left_out in (test for test in all_of if isinstance(test, str)):
        print(f"left out: {left_out}", flush=True)
    tests = [test for test in all_of if isinstance(test, Test)]
    print(f"{len(tests)} tests, {sum(test.seconds for test in tests):.0f} s one after the other", flush=True)
    return tests


class Judge:
    """Runs, for one mutant, what comes by it."""

    def __init__(self, settings, tests: list[Test], simulate: pathlib.Path):
        self.settings, self.simulate = settings, simulate
        self.tests = sorted((test for test in tests if test.reached), key=lambda test: test.seconds)
        code, self.simulated, self.simulation_takes = reached_by(self.simulation(), str(ROOT), 600)
        if code == PROVES_NOTHING:
            sys.exit("a kind of fault never happens in these schedules; take more of them, or another seed")
        if code != 0:
            sys.exit("schedules fail without a mutant")

    def simulation(self) -> list[str]:
        schedules = str(self.settings.schedules)
        return [str(self.simulate), "--jobs", "1", "--schedules", schedules, "--seed", str(self.settings.seed), "--shrink", "0"]

    def outcome(self, number: int, mutant: dict) -> dict:
        begun = time.monotonic()
        crate = mutant["package"].removeprefix("alluvium-")
        own_first = sorted((t for t in self.tests if number in t.reached), key=lambda t: not t.executable.name.startswith(crate))
        is_simulated = number in self.simulated
        verdict = {"outcome": "survived", "tests": len(own_first), "simulated": is_simulated}
        if not own_first and not is_simulated:
            verdict["outcome"] = "not reached"
        for by in self.notices(number, own_first, is_simulated):
            verdict = {"outcome": "caught", "by": by}
            break
        return verdict | {"seconds": round(time.monotonic() - begun, 1)}

    def notices(self, number: int, tests: list[Test], is_simulated: bool) -> Iterator[str]:
        parts = list(self.parts(tests))
        for turn, (executable, part) in enumerate(parts):
            # Schedules take about as long as the second part of tests.
            if is_simulated and turn == 2:
                yield from self.schedules(number)
            names = [test.name for test in part]
            patience = 20 + 10 * sum(test.seconds for test in part)
            code = run([executable.path, "--exact", "--test-threads", "2", *names], executable.folder, patience, ALLUVIUM_MUTANT=str(number))
            if code != 0:
                how = "does not end" if code is None else "fails"
                yield f"{executable.name}: {names[0] if len(names) == 1 else f'one of {len(names)} tests'} {how}"
        if is_simulated and len(parts) <= 2:
            yield from self.schedules(number)

    def schedules(self, number: int) -> Iterator[str]:
        code = run(self.simulation(), str(ROOT), 20 + 10 * self.simulation_takes, ALLUVIUM_MUTANT=str(number))
        if code != 0:
            yield {None: "schedules do not end", PROVES_NOTHING: "schedules do not meet something any more"}.get(code, "schedules")

    def parts(self, tests: Iterable[Test]) -> Iterator[tuple[Executable, list[Test]]]:
        """Tests of one executable at a time: at first of a second or two, then more and more, up to all the patience there is."""
        left, size = self.settings.patience, 1.5
        by_executable: dict[Executable, list[Test]] = collections.defaultdict(list)
        for test in tests:
            by_executable[test.executable].append(test)
        while by_executable and left > 0:
            for executable, waiting in list(by_executable.items()):
                part, seconds = [], 0.0
                while waiting and (not part or seconds + waiting[0].seconds <= size) and len(part) < 400:
                    seconds += waiting[0].seconds
                    part.append(waiting.pop(0))
                if not waiting:
                    del by_executable[executable]
                left -= seconds
                yield executable, part
                if left <= 0:
                    return
            size *= 4


# What is told


LEFT = ("survived", "not reached")


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outcomes_in(path: pathlib.Path) -> dict[str, dict]:
    """The last word on each mutant, by its key."""
    return {one["key"]: one for one in read(path)}


def table(outcomes: list[dict]) -> None:
    counts = collections.defaultdict(collections.Counter)
    for one in outcomes:
        counts[one["file"].split("/")[1]][one["outcome"]] += 1
    for crate, of_crate in sorted(counts.items()):
        print(f"{crate:8} " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(of_crate.items())))
    for one in sorted(outcomes, key=lambda one: (one["outcome"], one["name"])):
        if one["outcome"] in LEFT:
            print(f"{one['outcome']:12} {one['number']:5} {one['name']}")


def main() -> int:
    settings = arguments()
    if settings.table:
        table(list(outcomes_in(settings.outcomes).values()))
        return 0
    mutants = drawn(settings)
    known = outcomes_in(settings.outcomes)
    tree = Tree(settings, mutants)
    built = tree.build()
    simulate = tree.build_simulation()
    begun = time.monotonic()
    judge = Judge(settings, every_test(settings, built), simulate)
    print(f"schedules take {judge.simulation_takes:.0f} s and come by {len(judge.simulated)} mutants", flush=True)
    writing = threading.Lock()

    def one(number: int) -> None:
        mutant = mutants[number]
        # What is asked about again was chosen by its outcome.
        is_asked = settings.again or mutant["key"] not in known
        if not is_asked or (settings.minutes is not None and time.monotonic() - begun > settings.minutes * 60):
            return
        if number in tree.left_out:
            outcome, _, why = tree.left_out[number].partition(": ")
            verdict = {"outcome": outcome, "why": why}
        else:
            verdict = judge.outcome(number, mutant)
        line = {"number": number, "key": mutant["key"], "name": mutant["name"], "file": mutant["file"], "genre": mutant["genre"]} | verdict
        with writing, settings.outcomes.open("a") as file:
            file.write(json.dumps(line) + "\n")

    with concurrent.futures.ThreadPoolExecutor(settings.jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(one, number) for number in mutants]):
            done.result()
    table(list(outcomes_in(settings.outcomes).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
