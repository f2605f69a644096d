"""Builds what makes the clock of a process wrong (`skew.c`)."""

import pathlib
import subprocess


def wrong_clocks(folder: pathlib.Path) -> pathlib.Path:
    """The library to preload.

    Raises OSError or CalledProcessError where there is no compiler that can build it.
    """
    library = folder / "skew.so"
    source = pathlib.Path(__file__).with_name("skew.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True, capture_output=True)
    return library
