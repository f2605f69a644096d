"""The reader that Rust tests call sees a Delta table as its log says, and nothing else."""

import json
import pathlib
import subprocess
import sys

import pytest

duckdb = pytest.importorskip("duckdb", reason="see tests/python/requirements.txt")
READER = pathlib.Path(__file__).with_name("duckdb_reader.py")


@pytest.fixture
def root(tmp_path):
    """A table of two committed files and one that no commit names."""
    table = tmp_path / "tables" / "clicks"
    (table / "_delta_log").mkdir(parents=True)
    fields = [("window_start", "timestamp"), ("page", "string"), ("clicks", "long")]
    schema = {
        "type": "struct",
        "fields": [{"name": n, "type": t, "nullable": True, "metadata": {}} for n, t in fields],
    }
    db = duckdb.connect()
    for name, clicks in (("a", 1), ("b", 20), ("refused", 300)):
        row = f"timestamptz '2026-03-01 12:00:00+00' as window_start, '{name}' as page, {clicks}::bigint as clicks"
        db.execute(f"copy (select {row}) to '{table / name}.parquet'")

    def add(name):
        size = (table / f"{name}.parquet").stat().st_size
        entry = {"path": f"{name}.parquet", "size": size, "partitionValues": {}, "modificationTime": 0, "dataChange": True}
        return {"add": entry}

    metadata = {
        "id": "00000000-0000-0000-0000-000000000000",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema),
        "partitionColumns": [],
        "configuration": {},
    }
    commits = [
        [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}],
        [add("a")],
        [add("b")],
    ]
    for version, actions in enumerate(commits):
        text = "".join(json.dumps(action) + "\n" for action in actions)
        (table / "_delta_log" / f"{version:020}.json").write_text(text)
    return tmp_path


def read(*arguments):
    return subprocess.run([sys.executable, READER, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_summary_counts_committed_rows_alone(root):
    answer = json.loads(read(root, "clicks").stdout)
    assert answer["rows"] == 2
    assert answer["columns"]["clicks"] == {"values": 2, "sum": "21"}
    assert answer["columns"]["window_start"]["min"] == "2026-03-01T12:00:00Z"


def test_a_query_comes_back_as_objects(root):
    answer = read(root, "tables/clicks", "select page, clicks, window_start from panes order by page")
    assert json.loads(answer.stdout) == [
        {"page": "a", "clicks": 1, "window_start": "2026-03-01T12:00:00Z"},
        {"page": "b", "clicks": 20, "window_start": "2026-03-01T12:00:00Z"},
    ]


def test_what_is_no_table_is_refused(root):
    answer = read(root, "visits")
    assert answer.returncode == 1 and "not a Delta table" in answer.stderr


def test_without_duckdb_it_says_skipped(root):
    # -S leaves the installed packages out.
    answer = subprocess.run([sys.executable, "-S", "-I", READER, root, "clicks"], capture_output=True, text=True, check=False)
    assert answer.returncode == 77 and "skipped" in answer.stderr
