"""Events that follow from their number: what a table must hold follows from how many were sent.

Owns the events' bytes and the truth about them, as SQL for DuckDB. Does not own how many were sent (`flow`).
"""

import dataclasses
import hashlib

STRIDE = 7_368_787  # prime, and so without a common divisor with any number of keys here
AMOUNTS = 2_001
TOO_LARGE = 5_000_000_000  # for an `int`


@dataclasses.dataclass(frozen=True)
class Numbering:
    """Which event a number is."""

    keys: int
    windows: int = 1

    def schema(self, device: str = "int") -> str:
        return f"version: 1\ncolumns:\n  ts: timestamp\n  key: {self.key_type}\n  amount: int\n  device: {device}\n"

    key_type = "bigint"

    def key(self, number: int) -> bytes:
        """As JSON."""
        return b"%d" % (number * STRIDE % self.keys)

    def key_query(self) -> str:
        return f"number * {STRIDE} % {self.keys}"

    def good(self, number: int) -> bytes:
        return (b"%b,\"device\":%d}") % (self.start(number), number % 1000)

    def broken(self, number: int) -> bytes:
        """One that a required `device: int` refuses, and `device: bigint?` takes: it lacks, or it is too large."""
        return self.start(number) + (b"}" if number % 2 else b",\"device\":%d}" % TOO_LARGE)

    def start(self, number: int) -> bytes:
        return b'{"ts":"2026-03-01T12:%02d:30Z","key":%b,"amount":%d' % (
            number % self.windows,
            self.key(number),
            number % AMOUNTS - AMOUNTS // 2,
        )

    def truth(self, events: int) -> str:
        """A query of DuckDB's for every total of the events 0 to `events`, by window and key."""
        return f"""select number % {self.windows} as minute, {self.key_query()} as key, count(*) as events,
            sum(number % {AMOUNTS} - {AMOUNTS // 2})::bigint as amount from range({events}) numbers(number) group by all"""

    def rows(self, events: int) -> dict[tuple[str, int], tuple[int, int]]:
        """The same in memory: (window, key) to (number, sum)."""
        rows: dict = {}
        for number in range(events):
            place = (f"2026-03-01T12:{number % self.windows:02}:00Z", number * STRIDE % self.keys)
            count, amount = rows.get(place, (0, 0))
            rows[place] = (count + 1, amount + number % AMOUNTS - AMOUNTS // 2)
        return rows

    def write(self, db, events: int, path):
        """The good events 0 to `events` as lines, many millions of them in seconds."""
        db.execute(
            f"""copy (select printf('{{"ts":"2026-03-01T12:%02d:30Z","key":%d,"amount":%d,"device":%d}}', number % {self.windows},
                number * {STRIDE} % {self.keys}, number % {AMOUNTS} - {AMOUNTS // 2}, number % 1000) from range({events}) numbers(number))
                to '{path}' (format csv, header false, quote '', escape '', delimiter E'\\x01')"""
        )


class Worded(Numbering):
    """Keys are long words that hardly compress, so that few events make a store busy."""

    key_type = "string"
    PIECES = 10

    def key(self, number: int) -> bytes:
        key = number * STRIDE % self.keys
        return b'"%b"' % "".join(hashlib.md5(b"%d %d" % (key, piece)).hexdigest() for piece in range(self.PIECES)).encode()

    def key_query(self) -> str:
        key = f"(number * {STRIDE} % {self.keys})"
        return " || ".join(f"md5({key} || ' {piece}')" for piece in range(self.PIECES))


KINDS = {"numbers": Numbering, "words": Worded}
