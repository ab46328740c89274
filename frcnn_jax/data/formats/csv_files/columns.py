"""Encoding, delimiter, first rows and columns of CSV files."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax.data.formats.tree import files_below
from frcnn_jax.data.formats.voc.annotation import CORNERS

__all__ = ["WANTED", "delimiter_of", "encoding_of", "first_rows", "named_columns"]

WANTED = ("filename", "class", *CORNERS)
"""Columns of a table of boxes."""
_MOST = 4096  # characters of a row
_NAMES = {  # other column names, written by VoTT and scripts; the first existing one counts
    **dict.fromkeys(("image", "image_name", "file_name", "file", "image_path", "path", "img", "img_name"), "filename"),
    **dict.fromkeys(("imageid", "image_id"), "filename"),  # last, as they may be numbers beside the names
    **dict.fromkeys(("class_name", "label", "category", "label_name", "labelname", "category_name"), "class"),
    **{f"{corner[0]}_{corner[1:]}": corner for corner in CORNERS},
    **dict(zip(("x1", "y1", "x2", "y2"), CORNERS, strict=True)),
    **dict.fromkeys(("set", "subset"), "split"),
    **dict.fromkeys(("is_difficult", "isdifficult"), "difficult"),
    **dict.fromkeys(("isgroupof", "is_group_of", "iscrowd", "is_crowd"), "crowd"),
}


def first_rows(root: Path, count: int = 1) -> Iterator[tuple[tuple[str, ...], str, list[list[str]]]]:
    """Folders, name and first rows of each CSV file; of an empty file there are none."""
    for folders, name in files_below(root, (".csv",)):
        path = root.joinpath(*folders, name)
        with path.open(encoding=encoding_of(path), errors="ignore", newline="") as file:
            lines = list(itertools.takewhile(bool, (file.readline(_MOST) for _ in range(count))))
        try:
            yield folders, name, list(csv.reader(lines, delimiter=delimiter_of("".join(lines[:1]))))
        except csv.Error:  # not a table, or in another form
            continue


def named_columns(header: list[str]) -> list[str]:
    """The names of columns, with those of other tools replaced by ours."""
    columns = [column.strip().lower() for column in header]
    for other, name in _NAMES.items():
        if other in columns and name not in columns:
            columns[columns.index(other)] = name
    return columns


def encoding_of(path: Path) -> str:
    """The encoding that a file's first bytes state: UTF-16, as some programs of tables write it, or UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def delimiter_of(line: str) -> str:
    """The delimiter of a table's first line."""
    return max(",;\t", key=line.count)
