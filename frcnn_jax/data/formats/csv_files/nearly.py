"""CSV files that are nearly tables of boxes, and what they lack: columns, a header, or columns in place of one."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from frcnn_jax.data.formats.csv_files.columns import WANTED, first_rows, named_columns
from frcnn_jax.data.formats.voc.annotation import CORNERS
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.words import joined

__all__ = ["nearly_fitting"]

_LEAST_KNOWN = 4  # columns of WANTED, to be meant as a table of boxes
_ROWS = 2  # looked at: a header and the first object
_SHOWN = 200  # characters of a header or row in a message
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_FOUR = re.compile(rf"\s*[\[({{]?\s*{_NUMBER}(?:\s*[,;\s]\s*{_NUMBER}){{3}}\s*[\])}}]?\s*", re.IGNORECASE)


def nearly_fitting(root: Path) -> str:
    """A sentence about the first file that has most of the columns, else about one without a header or with a box in
    one column; empty if there is none.
    """
    files = [("/".join((*folders, name)), rows) for folders, name, rows in first_rows(root, _ROWS) if rows]
    found = [[sentence for file, rows in files if (sentence := about(file, rows))] for about in _KINDS]
    for sentences in found:
        if sentences:
            more = len(sentences) - 1
            return sentences[0] + (f" (so in {more} more file{'s' if more > 1 else ''})" if more else "")
    return ""


def _without_columns(file: str, rows: Sequence[list[str]]) -> str:
    columns = named_columns(rows[0])
    missing = [column for column in WANTED if column not in columns]
    if not missing or len(missing) > len(WANTED) - _LEAST_KNOWN:
        return ""
    lack = f"{joined(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    shown = textwrap.shorten(", ".join(map(str.strip, rows[0])), _SHOWN, placeholder=" ...")
    return f"{file} has columns {shown}: {lack}, rename the column that has it, or add one"


def _without_header(file: str, rows: Sequence[list[str]]) -> str:
    """Tables of keras-retinanet and others that begin with the first object: an image's name and four numbers."""
    row = [value.strip() for value in rows[0]]
    numbers = [bool(re.fullmatch(_NUMBER, value, re.IGNORECASE)) for value in row]
    images = [os.path.splitext(value)[1].lower() in IMAGE_SUFFIXES for value in row]
    without_object = len(row) == len(WANTED) and not any(row[1:])
    if not any(images) or (sum(numbers) < len(CORNERS) and not without_object):
        return ""
    header = f"the names of its columns, as filename, class, {', '.join(CORNERS)} in the file's order,"
    if images[0] and len(row) == len(WANTED) and (without_object or numbers == [False, *[True] * 4, False]):
        header = f"the line {','.join(('filename', *CORNERS, 'class'))}"  # keras-retinanet's order
    return f"{file} has no header, as it begins with {','.join(row)[:_SHOWN]!r}: put {header} first"


def _with_a_box_in_one_column(file: str, rows: Sequence[list[str]]) -> str:
    columns = named_columns(rows[0])
    if len(rows) < _ROWS or "filename" not in columns:
        return ""
    place = next((place for place, value in enumerate(rows[1][: len(columns)]) if _FOUR.fullmatch(value)), None)
    if place is None:
        return ""
    return (
        f"{file} has the box in one column, {rows[0][place].strip()} = {rows[1][place].strip()!r}, which is not read: "
        f"write columns {','.join(WANTED)} in its place, where xmax is xmin + width if it holds x, y, width and height"
    )


_KINDS = (_without_columns, _without_header, _with_a_box_in_one_column)
