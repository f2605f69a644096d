"""Mutants that stand side by side in one source: each is what it says when it is on, and a complaint finds the one it is about."""

import sys

import pytest
from conftest import ROOT

pytest.importorskip("tree_sitter_rust", reason="see tests/python/requirements.txt")
sys.path.insert(0, str(ROOT / "tests/mutants"))

import instrument  # noqa: E402

SOURCE = b"""\
fn all(a: u8, b: u8, c: u8) -> bool {
    let mut n = 1;
    n += 2;
    match (a < b && !is(c), b) {
        (true, _) => n > 1,
        (_, 3) if n > 5 => false,
        _ => Count { n: 2, ..Default::default() }.is_right(),
    }
}
"""
ON = "(if ::alluvium_types::mutants::on({}) {{{}}} else {{{}}})"


def mutant(genre: str, text: bytes, replacement: str, after: bytes = b"") -> dict:
    """One that takes the place of the first `text` behind `after`."""
    start = SOURCE.index(text, SOURCE.index(after))
    place = lambda at: {"line": SOURCE[:at].count(b"\n") + 1, "column": at - (SOURCE[:at].rfind(b"\n"))}  # noqa: E731
    return {"genre": genre, "replacement": replacement, "span": {"start": place(start), "end": place(start + len(text))}}


def written(*mutants: dict) -> instrument.Written:
    source = instrument.Source(SOURCE)
    pieces = [piece for number, one in enumerate(mutants) for piece in source.insertions(number, one)]
    return instrument.Written(source, pieces)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (mutant("BinaryOperator", b"<", "=="), "a < b", ON.format(0, "a == b", "a < b")),
        (mutant("BinaryOperator", b"+=", "-="), "n += 2", ON.format(0, "n -= 2", "n += 2")),
        (mutant("UnaryOperator", b"!", ""), "!is(c)", ON.format(0, "is(c)", "!is(c)")),
        (mutant("MatchArmGuard", b"n > 5", "true"), "n > 5", ON.format(0, "true", "n > 5")),
        (mutant("MatchArm", b"(true, _) => n > 1", ""), "(true, _) =>", "(true, _) if !::alluvium_types::mutants::on(0) =>"),
        (mutant("MatchArm", b"(_, 3) if n > 5 => false", ""), "if n > 5", "if (!::alluvium_types::mutants::on(0) && (n > 5))"),
        (mutant("StructField", b"n: 2", ""), "n: 2", "n: " + ON.format(0, "(<Count as Default>::default()).n", "2")),
        (
            mutant("FnValue", SOURCE[SOURCE.index(b"let") : -2], "false"),
            "let mut",
            "if ::alluvium_types::mutants::on(0) { return false; } let mut",
        ),
    ],
)
def test_each_kind_stands_beside_what_was_there(change, before, after):
    assert written(change).text.decode() == SOURCE.decode().replace(before, after, 1)


def test_what_lies_within_another_is_switched_only_where_that_one_is_off():
    both = written(mutant("BinaryOperator", b"&&", "||"), mutant("BinaryOperator", b"<", ">"), mutant("BinaryOperator", b"<", "=="))
    inner = ON.format(1, "a > b", ON.format(2, "a == b", "a < b"))
    assert ON.format(0, "a < b || !is(c)", f"{inner} && !is(c)") in both.text.decode()


def test_a_complaint_finds_its_mutant():
    changes = [
        mutant("BinaryOperator", b"&&", "||"),
        mutant("BinaryOperator", b"<", "=="),
        mutant("MatchArm", b"(true, _) => n > 1", ""),
        mutant("BinaryOperator", b">", ">=", after=b"n > 1"),
    ]
    all_of = written(*changes)

    def blamed(text: bytes) -> set[int]:
        at = all_of.text.index(text)
        return all_of.blamed(at, at + len(text))

    assert blamed(b"a == b") == {1}
    assert blamed(b"|| !is") == {0}
    assert blamed(b"n >= 1") == {3}
    # Arms are lacking: that is said of what is matched, in which others lie as well.
    scrutinee = all_of.text.index(b"((if"), all_of.text.index(b", b) {")
    assert all_of.blamed(*scrutinee, lacks_arms=True) == {2}
    # Nothing of ours.
    assert blamed(b"fn all") == set()


@pytest.mark.parametrize("genre", ["BinaryOperator", "MatchArm", "StructField"])
def test_what_has_no_such_form_is_refused(genre):
    with pytest.raises(instrument.CannotSwitch):
        written(mutant(genre, b"mut", ""))
