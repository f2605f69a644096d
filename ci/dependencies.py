#!/usr/bin/env python3
"""Holds the dependencies to deny.toml: licences, banned crates, crates that may be there only once, sources.

Reads `cargo metadata --locked`, so Cargo.lock must be up to date too. Needs Python 3.11 or newer and nothing beside
it. Advisories are not looked at: `.ci/run advisories` does that where their database can be reached.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The product's workspace, and the model of its protocol, which resolves by itself.
MANIFESTS = ["Cargo.toml", "tests/model/Cargo.toml"]


def is_allowed(expression: str, allowed: set) -> bool:
    """Whether a licence expression (SPDX, or the older `A/B`) can be fulfilled with allowed licences."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def take() -> str:
        nonlocal position
        position += 1
        if position > len(tokens):
            raise ValueError(f"`{expression}` ends too early")
        return tokens[position - 1]

    def following() -> str:
        return tokens[position].upper() if position < len(tokens) else ""

    def one() -> bool:
        token = take()
        if token == "(":
            result = either()
            if take() != ")":
                raise ValueError(f"`{expression}` lacks a parenthesis")
            return result
        if following() == "WITH":
            take()
            token = f"{token} WITH {take()}"
        return token in allowed

    def both() -> bool:
        result = one()
        while following() == "AND":
            take()
            # Evaluated in any case: it has to be read.
            result &= one()
        return result

    def either() -> bool:
        result = both()
        while following() == "OR":
            take()
            result |= both()
        return result

    result = either()
    if position != len(tokens):
        raise ValueError(f"`{expression}` is not a licence expression")
    return result


def findings(metadata: dict, rules: dict) -> list:
    """Everything in the tree that the rules do not allow, one sentence each."""
    found = []
    allowed = set(rules["licenses"]["allow"])
    versions = collections.defaultdict(set)
    dependents = collections.defaultdict(set)
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    for node in metadata["resolve"]["nodes"]:
        for dependency in node["dependencies"]:
            dependents[names[dependency]].add(names[node["id"]])
    sources = set()
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        versions[package["name"]].add(package["version"])
        licence = package["license"]
        if not licence:
            found.append(f"{name} names no licence")
        else:
            try:
                if not is_allowed(licence, allowed):
                    found.append(f"{name} is licensed as `{licence}`, which deny.toml does not allow")
            except ValueError as error:
                found.append(f"{name}: {error}")
        source = package["source"]
        if source is None:
            # A path: only our own crates may be one.
            if package["id"] not in metadata["workspace_members"]:
                found.append(f"{name} comes from a path outside the workspace")
        elif source.startswith("registry+"):
            sources.add(source)
        else:
            found.append(f"{name} comes from {source}, not from the registry")
    if len(sources) > 1:
        found.append(f"more than one registry: {', '.join(sorted(sources))}")
    for ban in rules["bans"]["deny"]:
        present = versions.get(ban["crate"], set())
        if ban.get("deny-multiple-versions"):
            if len(present) > 1:
                found.append(f"{ban['crate']} is there in versions {' and '.join(sorted(present))}; one is allowed")
        elif present:
            # `wrappers`, as cargo-deny means it: who may depend on the crate all the same.
            strangers = dependents[ban["crate"]] - set(ban.get("wrappers", []))
            found += [
                f"{ban['crate']}, which {stranger} wants, is banned: {ban.get('reason', 'see deny.toml')}"
                for stranger in sorted(strangers)
            ]
    return found


def idle(trees: list, rules: dict) -> set:
    """Licences that are allowed and that nothing has."""
    used = " ".join(package["license"] or "" for metadata in trees for package in metadata["packages"])
    allowed = rules["licenses"]["allow"]
    return {f"deny.toml allows {licence}, which nothing uses" for licence in allowed if licence not in used}


def tree(manifest: str, targets: list) -> dict:
    """What cargo knows of a workspace. What is there only for other systems is never built, here as in cargo-deny."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", manifest]
    command += [f"--filter-platform={target}" for target in targets]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    trees = [tree(manifest, rules["graph"]["targets"]) for manifest in MANIFESTS]
    found = {finding for metadata in trees for finding in findings(metadata, rules)} | idle(trees, rules)
    for line in sorted(found):
        print(line, file=sys.stderr)
    packages = {package["id"] for metadata in trees for package in metadata["packages"]}
    print(f"dependencies: {len(packages)} packages, {len(found)} findings")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
