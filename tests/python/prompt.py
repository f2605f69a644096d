"""The prompt of `alluvium sql` at a terminal, over storage and over each door of a server.

    prompt.py ALLUVIUM SERVER_FILE URL…

All of them have the table `every_type` that tests/it/clients.rs fills. Ends with 0 when everything was as it must be.
"""

import os
import pathlib
import re
import stat
import sys
import tempfile
import time

import pexpect

# What a terminal is told before and after each text that is edited.
EDITING, DONE = "\x1b[?2004h", "\x1b[?2004l"
ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b;"


class Talk:
    def __init__(self, program, arguments, history):
        environment = {**os.environ, "ALLUVIUM_HISTORY": str(history), "TERM": "xterm-256color", "PAGER": "cat -n"}
        self.child = pexpect.spawn(
            program, ["sql", *arguments], env=environment, dimensions=(40, 150), encoding="utf-8", timeout=60
        )
        self.greeting = self.answer()

    def answer(self):
        """What is printed between two texts that are edited, without colours."""
        self.child.expect_exact(EDITING)
        printed = self.child.before.rsplit(DONE, 1)[-1]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed).replace("\r", "")

    def say(self, line):
        self.child.send(line + "\r")
        return self.answer()

    def leave(self, keys):
        self.child.send(keys)
        self.child.expect(pexpect.EOF)
        self.child.wait()
        assert self.child.exitstatus == 0, self.child.exitstatus


def has(text, *parts):
    for part in parts:
        assert part in text, (part, text)


def conversation(program, arguments, history):
    talk = Talk(program, arguments, history)
    has(talk.greeting, "\\? lists commands")
    has(talk.say("\\d"), "every_type", "dead_letters", "queries")
    has(talk.say("\\d every_type"), "window_start", "name", "doubles")
    has(talk.say("\\d every_typ"), "error", "did you mean", "every_type")
    has(talk.say("\\df"), "date_bin")
    has(talk.say("\\wtach"), "did you mean `\\watch`")

    # A statement of two lines; its answer names rows and time.
    talk.child.send("SELECT name, measure(events) AS n\r")
    table = talk.say("FROM every_type GROUP BY name ORDER BY n DESC LIMIT 2;")
    has(table, " ann ", "2 rows in ")
    has(talk.say("\\asof"), "types/0", "watermark")
    has(talk.say("\\timing off"), "times: off")
    talk.say("\\x")
    has(talk.say("SELECT 1 AS one, 2 AS two;"), "[ 1 ]", "one  1", "two  2", "1 row\n")
    talk.say("\\x off")
    talk.say("\\format csv")
    has(talk.say("SELECT 'a''b;c' AS text; SELECT 7 AS seven;"), "text\na'b;c\n", "seven\n7\n")
    talk.say("\\format table")

    # A mistake is pointed at, and the next statement is answered.
    wrong = talk.say("SELECT evnets FROM every_type;")
    has(wrong, "error", "evnets", "  SELECT", "\n         ^\n", "did you mean events")
    has(talk.say("SELECT 42 AS answer;"), "42")

    # Tab: a column, a relation, a function, a command.
    has(talk.say("SELECT doub\t FROM every_type LIMIT 1;"), " doubles ")
    has(talk.say("SELECT count(*) AS n FROM every_ty\t;"), "1 row")
    has(talk.say("SELECT date_b\tinterval '1 hour', timestamp '2026-01-01 01:30:00');"), "2026-01-01", "01:00:00")
    talk.say("\\tim\t on")

    # More than a screen goes through the pager, which here counts lines.
    has(talk.say("SELECT value FROM generate_series(1, 100) AS t(value);"), "     1\t", "   100\t")

    # Again and again, until ctrl-c.
    talk.say("SELECT 1234 AS number;")
    talk.child.send("\\watch 0.2\r")
    for _ in range(3):
        talk.child.expect_exact("1234")
    talk.child.send("\x03")
    talk.answer()

    # Ctrl-c ends a query within a second, not the prompt; at an empty line it clears it.
    talk.child.send(ENDLESS + "\r")
    time.sleep(1)
    begun = time.monotonic()
    talk.child.send("\x03")
    has(talk.answer(), "cancelled")
    assert time.monotonic() - begun < 1, time.monotonic() - begun
    talk.child.send("SELECT nonsense\x03")
    talk.answer()
    has(talk.say("SELECT count(*) AS left FROM system.queries WHERE query LIKE '%1000000000%';"), " 1 \n1 row")

    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write("-- two\nSELECT 5 AS five;\nSELECT 6 AS six\n")
        file.flush()
        has(talk.say(f"\\i {file.name}"), "five", "six")
    has(talk.say("\\i nowhere.sql"), "error", "nowhere.sql")

    # The last thing that was typed comes back.
    talk.child.send("\x1b[A\r")
    has(talk.answer(), "nowhere.sql")
    talk.leave("\\q\r")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600, oct(history.stat().st_mode)
    assert "measure(events)" in history.read_text()

    # What was typed comes back in the next conversation too, both lines of it.
    talk = Talk(program, arguments, history)
    talk.child.send("\x12measure\r")
    has(talk.answer(), "2 rows in ")
    talk.leave("\x04")


def what_was_set_stays(program, url, history):
    """A connection of Postgres is kept between statements, also when one of them was ended."""
    talk = Talk(program, ["--url", url], history)
    talk.say("SET alluvium.read = 'committed';")
    talk.child.send(ENDLESS + "\r")
    time.sleep(1)
    talk.child.send("\x03")
    has(talk.answer(), "cancelled")
    has(talk.say("SHOW alluvium.read;"), "committed")
    has(talk.say("COPY (SELECT 1) TO STDOUT;"), "error", "--format csv")
    has(talk.say("SELECT 42 AS answer;"), "42")
    talk.leave("\\q\r")


def main(program, server_file, *urls):
    with tempfile.TemporaryDirectory() as folder:
        for number, arguments in enumerate([["-c", server_file], *(["--url", url] for url in urls)]):
            conversation(program, arguments, pathlib.Path(folder) / f"history{number}")
            print(f"{arguments[1]}: right")
        [postgres] = [url for url in urls if url.startswith("postgres")]
        what_was_set_stays(program, postgres, pathlib.Path(folder) / "history")


if __name__ == "__main__":
    main(*sys.argv[1:])
