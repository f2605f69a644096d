"""Whether a table and its dead letters are what the ledger says, by DuckDB.

Owns the comparison. Shares no code with the product; the truth is `numbered`'s and the producer's.
"""

import dataclasses


@dataclasses.dataclass
class Totals:
    """How a table's totals by window and key differ from the truth."""

    events: int  # that the table has
    rows: int  # windows and keys that it has
    lost: int
    twice: int
    wrong_sums: int  # rows whose number is right and whose sum is not
    examples: list

    def findings(self, name: str) -> list[str]:
        if not (self.lost or self.twice or self.wrong_sums):
            return []
        return [f"{name}: lost {self.lost}, twice {self.twice}, {self.wrong_sums} wrong sums, such as {self.examples}"]


def compare(db, truth: str, held: str) -> Totals:
    """`truth` and `held` are queries for (minute, key, events, amount)."""
    db.execute(f"create or replace temp table differences as {BOTH.format(truth=truth, held=held)}")
    events, rows, lost, twice, wrong = db.execute(
        """select coalesce(sum(has), 0)::bigint, count(*) filter (has > 0), coalesce(sum(greatest(must - has, 0)), 0)::bigint,
           coalesce(sum(greatest(has - must, 0)), 0)::bigint, count(*) filter (has = must and has_amount <> must_amount) from differences"""
    ).fetchone()
    wrong_ones = "select * from differences where has <> must or has_amount <> must_amount order by 1, 2 limit 5"
    return Totals(events, rows, lost, twice, wrong, db.execute(wrong_ones).fetchall())


BOTH = """
select coalesce(t.minute, h.minute) as minute, coalesce(t.key, h.key) as key, coalesce(t.events, 0) as must,
    coalesce(h.events, 0) as has, coalesce(t.amount, 0) as must_amount, coalesce(h.amount, 0) as has_amount
from ({truth}) t full join ({held}) h on t.minute = h.minute and t.key = h.key"""


def of_table(path) -> str:
    return f"""select minute(window_start) as minute, key, sum(events)::bigint as events, sum(amount)::bigint as amount
        from delta_scan('{path}') group by all"""


def letters(db, held: str, broken: str, recorded: dict[int, int]) -> tuple[dict, list[str]]:
    """Letters against the broken events that were sent: (partition, offset, payload) in both queries. Every one below the recorded
    offset of its partition must be a letter; one beyond it may be, for letters are committed before tables. Figures and findings."""
    db.execute(f"create or replace temp table letters as {held}")
    db.execute(f"create or replace temp table broken as {broken}")
    db.execute("create or replace temp table recorded (partition int, next_offset bigint)")
    if recorded:
        db.executemany("insert into recorded values (?, ?)", list(recorded.items()))
    one = lambda query: db.execute(query).fetchone()[0]  # noqa: E731
    refused = 'select b.* from broken b join recorded r on b.partition = r.partition where b."offset" < r.next_offset'
    missing = one(f"select count(*) from ({refused}) b anti join letters l using (partition, \"offset\", payload)")
    foreign = one('select count(*) from letters l anti join broken b using (partition, "offset", payload)')
    twice = one('select count(*) - count(distinct (partition, "offset")) from letters')
    figures = {"letters": one("select count(*) from letters"), "refused": one(f"select count(*) from ({refused})"), "missing": missing}
    figures |= {"foreign": foreign, "twice": twice}
    words = {"missing": "refused events are no letters", "foreign": "letters are no broken event of ours"}
    words["twice"] = "letters are there twice"
    return figures, [f"{figures[kind]} {text}" for kind, text in words.items() if figures[kind]]
