"""Names of classes that are codes, as Open Images writes them: /m/019jd, which a file beside the boxes calls Boat."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from frcnn_jax.data.formats.csv_files.columns import encoding_of
from frcnn_jax.data.formats.tree import files_below
from frcnn_jax.words import listed

__all__ = ["code_renames", "coded_classes"]

_CODE = re.compile(r"/[a-z]/[0-9a-z_]+")
_MOST = 12  # classes to be renamed in a command
_LONGEST = 1 << 22  # bytes of a file of names
_SHOWN = 3


def code_renames(root: Path, classes: Sequence[str]) -> list[str]:
    """Values of `data.rename` for classes that are codes, from the file that names them; [] if there are none, or too
    many for a command.
    """
    pairs = [f"{code}={name}" for code, name in _names(root, classes)[1].items()]
    return pairs if len(pairs) <= _MOST else []


def coded_classes(root: Path, classes: Sequence[str]) -> list[str]:
    """A sentence about classes that are codes, with the setting that gives them their names; [] if no file has any."""
    file, names = _names(root, classes)
    if not names:
        return []
    pairs = list(map(shlex.quote, code_renames(root, classes)))
    shown = listed([f"{code} is {name}" for code, name in names.items()], _SHOWN)
    rename = f"--data.rename {' '.join(pairs)}" if pairs else "data.rename = CODE=NAME for each, in a config"
    return [f"classes are codes, which {file} names ({shown}): they get these names by {rename}"]


def _names(root: Path, classes: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The first file of codes and names, and the names of those classes that it has."""
    codes = [name for name in classes if _CODE.fullmatch(name)]
    for folders, file in files_below(root, (".csv",)) if codes else ():
        path = root.joinpath(*folders, file)
        if "class" in file.lower() and path.stat().st_size <= _LONGEST:
            with path.open(encoding=encoding_of(path), errors="ignore", newline="") as lines:
                try:
                    rows = [row for row in csv.reader(line.replace("\0", "") for line in lines) if len(row) == 2]
                except csv.Error:  # as after a quote that is not closed
                    continue
            known = {code.strip(): " ".join(name.split()) for code, name in rows}
            names = {code: known[code] for code in codes if known.get(code)}
            if names:
                return "/".join((*folders, file)), names
    return "", {}
