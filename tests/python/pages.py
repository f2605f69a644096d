"""Runs what the pages of docs/clients show, against the tables of `alluvium demo`.

    pages.py ALLUVIUM FOLDER HTTP POSTGRES FLIGHT PAGE…

FOLDER is where the demo writes, the next three are the ports of its doors. Each fenced block of a page names its language, and so
who runs it:

    sh          the shell, in the demo's folder
    sql, psql   psql
    sql duckdb  DuckDB
    python      this Python, each block by itself
    java        Java with the jars that ALLUVIUM_JARS names; without it nobody
    text        nobody: it is no statement. One that shows the prompt is compared with what `alluvium sql` says.
    … not-run   nobody; the page says so.

Ends with 0 when everything was as it must be.
"""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import duckdb_reader

# What the pages write, and what stands here.
PORTS = {"http": "8427", "postgres": "8432", "flight": "8433"}


def blocks(page):
    """The fenced blocks of a page: the number of the line, the words after the fence, the text."""
    found, begin, info, lines = [], 0, None, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif info is None:
            begin, info, lines = number, line[3:].split(), []
        else:
            found.append((begin, info, "\n".join(lines) + "\n"))
            info = None
    assert info is None, f"{page}: a block is not closed"
    return found


JAVA = """import java.sql.*;
public class Page {{
    public static void main(String[] arguments) throws Exception {{
{}
    }}
}}
"""


class Runner:
    def __init__(self, alluvium, folder, ports):
        self.folder = folder
        self.ports = ports
        self.programs = tempfile.TemporaryDirectory()
        os.symlink(alluvium, pathlib.Path(self.programs.name) / "alluvium")
        path = f"{self.programs.name}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "PGUSER": "analyst"}

    def here(self, text):
        """The same with the doors that are open here."""
        for door, port in PORTS.items():
            text = re.sub(rf"\b{port}\b", self.ports[door], text)
        return text

    def command(self, arguments, **settings):
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **settings
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def sh(self, text):
        return self.command(["bash", "-euo", "pipefail", "-c", text])

    def psql(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(text)
            file.flush()
            address = ["-h", "127.0.0.1", "-p", self.ports["postgres"], "-d", "alluvium"]
            printed = self.command(["psql", "-X", "-v", "ON_ERROR_STOP=1", *address, "-f", file.name])
        assert "(0 rows)" not in printed and printed.strip(), printed
        return printed

    def duckdb(self, text):
        db = duckdb_reader.connect()
        for statement in text.split(";"):
            # The extension comes from a package here.
            if statement.split()[:1] not in (["INSTALL"], ["LOAD"], []):
                rows = db.execute(statement).fetchall()
                assert rows, statement

    def python(self, text):
        printed = io.StringIO()
        names = {"__name__": "page"}
        with contextlib.redirect_stdout(printed):
            exec(compile(text, "page", "exec"), names)
        for name in ("frame", "final", "measures", "offsets"):
            assert name not in names or len(names[name]) > 0, (name, names[name])

    def java(self, text):
        page = pathlib.Path(self.programs.name) / "Page.java"
        page.write_text(JAVA.format(text))
        # What Arrow's memory asks for.
        options = ["--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", os.environ["ALLUVIUM_JARS"]]
        assert self.command(["java", *options, page]).strip(), "nothing was printed"

    def prompt(self, text):
        """`alluvium=> STATEMENT`, and what is said to that."""
        first, expected = text.split("\n", 1)
        statement = first.removeprefix("alluvium=> ")
        said = subprocess.run(
            ["alluvium", "sql", statement], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert said.stderr == expected, f"{said.stderr}\ninstead of\n{expected}"

    def run(self, info, text):
        """Whether there was something to run."""
        text = self.here(text)
        match info:
            case ["sh"]:
                self.sh(text)
            case ["sql"] | ["psql"]:
                self.psql(text)
            case ["sql", "duckdb"]:
                self.duckdb(text)
            case ["python"]:
                self.python(text)
            case ["java"]:
                if "ALLUVIUM_JARS" not in os.environ:
                    return False
                self.java(text)
            case ["text"] if text.startswith("alluvium=> "):
                self.prompt(text)
            case ["text"] | [_, "not-run"]:
                return False
            case _:
                raise AssertionError(f"nobody knows how to run a block of `{' '.join(info)}`")
        return True


def main(alluvium, folder, http, postgres, flight, *pages):
    runner = Runner(alluvium, folder, {"http": http, "postgres": postgres, "flight": flight})
    os.chdir(folder)
    wrong = 0
    for page in map(pathlib.Path, pages):
        ran = 0
        for line, info, text in blocks(page):
            try:
                ran += runner.run(info, text)
            except Exception as error:  # every block is tried
                wrong += 1
                print(f"{page}:{line}: {type(error).__name__}: {error}")
            if "not-run" in info and "not run by the tests" not in page.read_text():
                wrong += 1
                print(f"{page}:{line}: the page does not say that this is not run by the tests")
        print(f"{page.name}: {ran} blocks")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
