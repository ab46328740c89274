"""Readers that do what none may, for the test of `fuzz.py` itself. The first file, whole, they all read."""

import os
import tempfile
from pathlib import Path

import numpy as np

from tests.reliability import fuzz
from tests.reliability.targets import Target

WHOLE = b"a whole file of a kind that nobody has"


def fail(error: Exception) -> None:
    raise error


def hang() -> None:
    while True:
        pass


def run() -> None:
    os.system("true")


def write() -> None:
    with open(Path(tempfile.gettempdir()) / "written", "w"):
        pass
    (Path(tempfile.gettempdir()) / "written").unlink()


BAD = {
    "crash": os.abort,
    "hang": hang,
    "memory": lambda: np.ones(3 << 30, np.uint8),
    "key_error": lambda: fail(KeyError("a")),
    "two_lines": lambda: fail(ValueError("a\nb")),
    "empty": lambda: fail(ValueError("")),
    "shout": lambda: print("a\n" * 99),
    "write": write,
    "run": run,
    "good": lambda: fail(ValueError("it is damaged")),
}


def reader(act):
    def read(folder: Path) -> None:
        if (folder / "a").read_bytes() != WHOLE:
            act()

    return Target("a", lambda folder: [WHOLE], read)


def main() -> None:
    fuzz.SECONDS = 0.2
    fuzz.find_target = lambda kind: reader(BAD[kind])
    # Each change makes another file.
    fuzz.make_input = lambda kind, target, seeds, seed, number: b"%d" % number
    fuzz.main()
