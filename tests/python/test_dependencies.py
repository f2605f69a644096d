"""The dependency rules refuse what they are there to refuse."""

import pytest
from dependencies import findings, is_allowed

ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"}


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only/MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("GPL-2.0-only OR MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT WITH Classpath-exception-2.0", False),
    ],
)
def test_licences_are_read_as_expressions(expression, allowed):
    assert is_allowed(expression, ALLOWED) is allowed


@pytest.mark.parametrize("expression", ["MIT OR", "(MIT", "MIT Apache-2.0", ""])
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError):
        is_allowed(expression, ALLOWED)


def package(name, version="1.0.0", licence="MIT", source="registry+one", **more):
    return {"id": f"{name}@{version}", "name": name, "version": version, "license": licence, "source": source, **more}


def found(*packages, deny=()):
    rules = {"licenses": {"allow": ["MIT"]}, "bans": {"deny": list(deny)}}
    # Ours depends on each of the others, and each of them on the next.
    ids = ["ours@1.0.0", *(package["id"] for package in packages)]
    nodes = [{"id": ids[0], "dependencies": ids[1:]}]
    nodes += [{"id": one, "dependencies": [next_one]} for one, next_one in zip(ids[1:], ids[2:], strict=False)]
    metadata = {
        "packages": [package("ours", source=None), *packages],
        "workspace_members": ["ours@1.0.0"],
        "resolve": {"nodes": nodes},
    }
    return findings(metadata, rules)


def test_a_clean_tree_has_no_findings():
    assert found(package("a"), package("a", "2.0.0")) == []


@pytest.mark.parametrize(
    ("packages", "deny", "says"),
    [
        ([package("a", licence="GPL-3.0-only")], [], "does not allow"),
        ([package("a", licence=None)], [], "names no licence"),
        ([package("a", source="git+somewhere")], [], "not from the registry"),
        ([package("a", source="registry+two"), package("b")], [], "more than one registry"),
        ([package("a", source=None)], [], "outside the workspace"),
        ([package("a"), package("a", "2.0.0")], [{"crate": "a", "deny-multiple-versions": True}], "one is allowed"),
        ([package("a")], [{"crate": "a", "reason": "old"}], "a, which ours wants, is banned: old"),
        ([package("b"), package("a")], [{"crate": "a", "wrappers": ["ours"]}], "a, which b wants, is banned"),
    ],
)
def test_each_rule_finds_its_breach(packages, deny, says):
    assert any(says in line for line in found(*packages, deny=deny))


def test_a_banned_crate_may_be_wanted_by_the_crates_that_the_rule_names():
    deny = [{"crate": "a", "wrappers": ["ours", "b"]}]
    assert found(package("b"), package("a"), deny=deny) == []
