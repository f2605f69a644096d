"""Makes the repository's scripts importable for their tests."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
for folder in ("ci", "scripts", "tests/golden", "tests/python"):
    sys.path.insert(0, str(ROOT / folder))
sys.dont_write_bytecode = True
