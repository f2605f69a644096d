"""Writes mutants into sources so that one build has them all, each behind a switch.

Where `cargo mutants` would replace `a < b` by `a == b` in a copy of its own, this leaves

    (if alluvium_types::mutants::on(17) {a == b} else {a < b})

so that a process is any one mutant by its environment. Everything is an insertion: what the file had is still there, in order, which is
how a complaint of the compiler is traced to the mutant it is about.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import tree_sitter
import tree_sitter_rust

LANGUAGE = tree_sitter.Language(tree_sitter_rust.language())


@dataclasses.dataclass(frozen=True)
class Insertion:
    """Text before a byte of the file. What it opens or closes has its other end at `other_end`."""

    at: int
    text: bytes
    mutant: int
    closes: bool
    other_end: int

    def order(self) -> tuple:
        """What ends before what begins; the larger thing opens first and closes last."""
        if self.closes:
            return (self.at, 0, -self.other_end, -self.mutant)
        return (self.at, 1, -self.other_end, self.mutant)


class CannotSwitch(Exception):
    """This mutant has no form that could stand beside the others."""


def on(mutant: int) -> bytes:
    return b"::alluvium_types::mutants::on(%d)" % mutant


class Source:
    """One file, and the mutants that are to be put into it."""

    def __init__(self, text: bytes):
        self.text = text
        self.root = tree_sitter.Parser(LANGUAGE).parse(text).root_node
        self.line_starts = [0, *(at + 1 for at, byte in enumerate(text) if byte == 10)]

    def offset(self, place: dict) -> int:
        """Of a line and a column, both counted from 1, columns in characters."""
        start = self.line_starts[place["line"] - 1]
        return start + len(self.text[start:].decode()[: place["column"] - 1].encode())

    def insertions(self, number: int, mutant: dict) -> list[Insertion]:
        start, end = self.offset(mutant["span"]["start"]), self.offset(mutant["span"]["end"])
        by_genre = {
            "FnValue": self.function,
            "BinaryOperator": self.binary,
            "UnaryOperator": self.unary,
            "MatchArmGuard": self.guard,
            "MatchArm": self.arm,
            "StructField": self.field,
        }
        pieces = by_genre[mutant["genre"]](number, start, end, mutant["replacement"].encode())
        return [Insertion(at, text, number, closes, other_end) for at, text, closes, other_end in pieces]

    def function(self, number: int, start: int, end: int, replacement: bytes):
        yield start, b"if %s { return %s; } " % (on(number), replacement), False, end

    def binary(self, number: int, start: int, end: int, replacement: bytes):
        operator = self.at(start, end)
        whole = operator.parent if operator else None
        if whole is None or whole.type not in ("binary_expression", "compound_assignment_expr"):
            raise CannotSwitch("an operator that is no expression's")
        if nearest(whole, "macro_invocation", "token_tree", "let_chain"):
            raise CannotSwitch("in a macro or a chain of lets")
        mutated = self.text[whole.start_byte : start] + replacement + self.text[end : whole.end_byte]
        yield from choice(number, whole, mutated)

    def unary(self, number: int, start: int, end: int, replacement: bytes):
        whole = nearest(self.at(start, end), "unary_expression")
        if whole is None or whole.start_byte != start or nearest(whole, "macro_invocation", "token_tree"):
            raise CannotSwitch("an operator that is no expression's")
        yield from choice(number, whole, replacement + self.text[end : whole.end_byte])

    def guard(self, number: int, start: int, end: int, replacement: bytes):
        if b"let " in self.text[start:end]:
            raise CannotSwitch("a guard that binds")
        yield start, b"(if %s {%s} else {" % (on(number), replacement), False, end
        yield end, b"})", True, start

    def arm(self, number: int, start: int, _end: int, _replacement: bytes):
        arm = nearest(self.at(start, start + 1), "match_arm")
        if arm is None or arm.start_byte != start:
            raise CannotSwitch("no arm begins there")
        pattern = arm.child_by_field_name("pattern")
        condition = pattern.child_by_field_name("condition")
        if condition is None:
            yield pattern.end_byte, b" if !%s" % on(number), True, arm.start_byte
        elif b"let " in condition.text:
            raise CannotSwitch("a guard that binds")
        else:
            yield condition.start_byte, b"(!%s && (" % on(number), False, condition.end_byte
            yield condition.end_byte, b"))", True, condition.start_byte

    def field(self, number: int, start: int, _end: int, _replacement: bytes):
        field = nearest(self.at(start, start + 1), "field_initializer")
        if field is None or field.parent.parent.type != "struct_expression":
            raise CannotSwitch("no field with a value of its own")
        base = next((child for child in field.parent.children if child.type == "base_field_initializer"), None)
        value, name = field.child_by_field_name("value"), field.child_by_field_name("field")
        if base is None:
            raise CannotSwitch("a struct without a base")
        rest = base.text.removeprefix(b"..").strip()
        if rest == b"Default::default()":
            rest = b"<%s as Default>::default()" % field.parent.parent.child_by_field_name("name").text
        yield from choice(number, value, b"(%s).%s" % (rest, name.text))

    def at(self, start: int, end: int):
        return self.root.descendant_for_byte_range(start, end)

    def matches_at(self, start: int) -> Iterator:
        """Every `match` whose scrutinee begins there: what the compiler points to where arms are lacking."""
        node = nearest(self.at(start, start), "match_expression")
        while node is not None:
            if node.child_by_field_name("value").start_byte == start:
                yield node
            node = nearest(node.parent, "match_expression")


def choice(number: int, whole, mutated: bytes):
    yield whole.start_byte, b"(if %s {%s} else {" % (on(number), mutated), False, whole.end_byte
    yield whole.end_byte, b"})", True, whole.start_byte


def nearest(node, *kinds: str):
    """This node or the innermost one around it that is of such a kind, if there is one."""
    while node is not None and node.type not in kinds:
        node = node.parent
    return node


class Written:
    """A file with its mutants in it, and the way back from a place in it."""

    def __init__(self, source: Source, insertions: Iterable[Insertion]):
        self.source = source
        self.insertions = sorted(insertions, key=Insertion.order)
        pieces, at = [], 0
        for insertion in self.insertions:
            pieces += [source.text[at : insertion.at], insertion.text]
            at = insertion.at
        self.text = b"".join([*pieces, source.text[at:]])
        before = itertools.accumulate((len(i.text) for i in self.insertions), initial=0)
        # Where each insertion begins in the written text.
        self.begins = [insertion.at + shift for insertion, shift in zip(self.insertions, before)]

    def place(self, at: int) -> tuple[int, Insertion | None]:
        """The byte of the source that a byte of the written text was, and the insertion that it lies in."""
        index = bisect.bisect_right(self.begins, at) - 1
        if index < 0:
            return at, None
        begun, insertion = self.begins[index], self.insertions[index]
        if at < begun + len(insertion.text):
            return insertion.at, insertion
        return insertion.at + at - begun - len(insertion.text), None

    def blamed(self, start: int, end: int, lacks_arms: bool = False) -> set[int]:
        """The mutants that a complaint about a stretch of the written text may be about: those that it touches, or the innermost one
        around it. Where a `match` lacks arms, what is pointed to is its scrutinee, and those are meant that take an arm away."""
        origin, inside = self.place(start)
        if lacks_arms:
            return {i.mutant for node in self.source.matches_at(origin) for i in self.insertions if is_arm_of(node, i)}
        if inside is not None:
            return {inside.mutant}
        touched = {i.mutant for begun, i in zip(self.begins, self.insertions) if start <= begun < end}
        if touched:
            return touched
        last, _ = self.place(max(start, end - 1))
        around = [i for i in self.insertions if not i.closes and i.at <= origin and last < i.other_end]
        return {max(around, key=lambda i: i.at).mutant} if around else set()


def is_arm_of(node, insertion: Insertion) -> bool:
    return b"!" + on(insertion.mutant) in insertion.text and node.start_byte <= insertion.at < node.end_byte
