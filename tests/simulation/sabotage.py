#!/usr/bin/env python3
"""Breaks the product on purpose, one way after the other, and asks whether the simulation finds it.

    tests/simulation/sabotage.py                      all of them; some seconds to build each, then at most 10,000 schedules
    tests/simulation/sabotage.py --only NAME ...      some

Each file in `sabotages/` is a change to the sources with a first line that says what it breaks. They are applied to a copy of the
tree, which has a target folder of its own: cargo would take what is built of the one tree for the other's. Packages of others that
`target/release` has already are linked there. A change that no longer applies, or does not compile, is an error: then it
has to be written anew. Exit code 0: every one was found.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = "cargo build --release --locked -p alluvium -p alluvium-simulation --bin simulate".split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of sabotages")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", type=pathlib.Path, default=ROOT / "target/sabotage", help="where to build, and nothing else")
    parser.add_argument("--tree", type=pathlib.Path, default=None, help="where the copy is kept (default: a temporary folder)")
    return parser.parse_args()


def copy_tree(tree: pathlib.Path) -> None:
    """The files that are in the repository, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if not name or not (ROOT / name).is_file():
            continue
        target = tree / name
        if target.exists() and target.read_bytes() == (ROOT / name).read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)


def link_what_is_built(target: pathlib.Path, profile: str = "release") -> None:
    """Everything but our own packages, as hard links: cargo never writes into such files, it replaces them."""
    built = ROOT / "target" / profile
    if (target / profile).exists() or not built.exists():
        return
    for folder in ("deps", "build", ".fingerprint"):
        for path in (built / folder).rglob("*"):
            place = path.relative_to(built)
            if any("alluvium" in part or part.startswith("simulate") for part in place.parts) or not path.is_file():
                continue
            copy = target / profile / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(path)


def apply(patch: pathlib.Path, tree: pathlib.Path, back: bool = False) -> None:
    command = ["patch", "--quiet", "--strip=1", "--no-backup-if-mismatch", "--fuzz=0"]
    done = subprocess.run(command + (["--reverse"] if back else []), cwd=tree, stdin=patch.open(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{patch.name} does not apply any more; write it anew:\n{done.stdout}{done.stderr}")


def build(tree: pathlib.Path, target: pathlib.Path) -> str | None:
    """What the compiler says if it does not build."""
    done = subprocess.run([*BUILD, "--target-dir", str(target)], cwd=tree, capture_output=True, text=True)
    return done.stderr if done.returncode else None


def simulation(target: pathlib.Path, schedules: int, seed: int) -> list[str]:
    """The command that runs schedules until one fails."""
    return [str(target / "release/simulate"), "--schedules", str(schedules), "--seed", str(seed), "--shrink", "0"]


def main() -> int:
    settings = arguments()
    patches = sorted((HERE / "sabotages").glob("*.patch"))
    if settings.only:
        patches = [patch for patch in patches if patch.stem in settings.only]
    temporary = None
    if settings.tree is None:
        temporary = tempfile.TemporaryDirectory(prefix="alluvium-sabotage-")
    tree = pathlib.Path(temporary.name) if temporary else settings.tree
    copy_tree(tree)
    link_what_is_built(settings.target)
    missed = []
    for patch in patches:
        what = patch.read_text().splitlines()[0]
        apply(patch, tree)
        begun = time.monotonic()
        error = build(tree, settings.target)
        if error:
            sys.exit(f"{patch.name} does not compile; write it anew:\n{error[-3000:]}")
        built = time.monotonic()
        command = simulation(settings.target, settings.schedules, settings.seed)
        said = subprocess.run(command, capture_output=True, text=True).stdout
        apply(patch, tree, back=True)
        found = re.search(r"^seed (\d+) fails after (\d+) schedules:\n(.*)$", said, re.MULTILINE)
        took = f"built in {built - begun:.0f} s, run for {time.monotonic() - built:.0f} s"
        if found:
            seed, after, violation = found.groups()
            print(f"found   {patch.stem:28} after {after:>5} schedules (seed {seed}): {what}\n        {violation.strip()[:200]}", flush=True)
        else:
            missed.append(patch.stem)
            print(f"MISSED  {patch.stem:28} {what} ({took})\n{said[-400:]}", flush=True)
    print(f"{len(patches) - len(missed)} of {len(patches)} were found")
    if temporary:
        temporary.cleanup()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
