"""Reader of CSV files with one row per object, as in TensorFlow's tutorials, and one file per split. Corners follow
VOC's convention, as such files are made from VOC's.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.formats.csv_files.columns import WANTED, delimiter_of, encoding_of, first_rows, named_columns
from frcnn_jax.data.formats.csv_files.nearly import nearly_fitting
from frcnn_jax.data.formats.layout import ALL, Entry, LayoutReader
from frcnn_jax.data.formats.log import warn_once
from frcnn_jax.data.formats.tree import named_split, normal_name, split_of
from frcnn_jax.data.formats.voc.annotation import CORNERS
from frcnn_jax.data.formats.voc.reader import VOC_CORNERS
from frcnn_jax.data.records import ImageRecord, ObjectRecord

__all__ = ["CsvReader"]

_SIDES = ("height", "width")
_MARKED = ("difficult", "crowd")
_MARKS = dict.fromkeys(("1", "true", "t", "yes", "y"), True) | dict.fromkeys(
    ("", "0", "-1", "false", "f", "no", "n", "none", "null", "nan", "na", "unspecified"),
    False,  # -1 where Open Images does not say
)


class CsvReader(LayoutReader):
    """Images named in rows. A row without class and corners stands for an image without objects."""

    layout = "CSV file with columns filename, class, xmin, ymin, xmax and ymax"
    unnamed = "no row names"

    @staticmethod
    def fits(root: Path) -> bool:
        return next(_csv_files(root), None) is not None

    @staticmethod
    def lacking(root: Path) -> str:
        """A sentence about the first file that is nearly in the format; empty if there is none."""
        return nearly_fitting(root)

    def __init__(self, root: Path, config: DataConfig):
        lack = "" if self.fits(root) else self.lacking(root)
        if lack:
            raise FileNotFoundError(f"{root}: {lack}")
        super().__init__(root, config)

    def places(self, split: str) -> tuple[str, ...]:
        return (self._files[split],) if split in self._files else super().places(split)

    def _entries(self) -> Iterator[Entry]:
        self._files: dict[str, str] = {}
        for folders, name in _csv_files(self.root):
            of_file, file = named_split(name[:-4]) or split_of(folders) or ALL, "/".join((*folders, name))
            rows: dict[tuple[str, str], list[tuple[int, dict]]] = defaultdict(list)
            for index, row in enumerate(self._with_marks(file)):
                split = named_split(row.get("split", "")) or of_file
                if row["filename"]:
                    rows[split, normal_name(row["filename"])].append((index, row))
                elif any(row.values()):
                    fault = Fault("unreadable_annotation", file, index, "filename", "", "missing")
                    self.list_faults.setdefault(split, []).append(fault)
            for split in dict.fromkeys(split for split, _ in rows) or (of_file,):
                other = self._files.setdefault(split, file)
                if other != file:
                    what = f"{other} and {file} are both of split {split!r}"
                    raise ValueError(f"{self.root}: {what}; leave one of them in the folder")
            for (split, image), image_rows in rows.items():
                found = tuple(self.images.find(image, folders, split))
                yield Entry(split, image, f"{file} ({image})", found, image_rows, folders)

    def _with_marks(self, file: str) -> list[dict[str, str]]:
        """The rows of a file without columns named as marks that hold something else, as "easy" in `difficult`."""
        rows = list(_rows(self.root / file))
        for column in _MARKED:
            other = next((row[column] for row in rows if column in row and _mark(row[column]) is None), None)
            if other is not None:
                warn_once(f"{self.root}: {file}: column {column} is not read, as {other!r} is neither 0 nor 1")
                for row in rows:
                    row.pop(column, None)
        return rows

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        faults, objects, sizes = list(record.faults), [], {}
        for index, row in entry.annotation:
            size = tuple(_number(row.get(side)) for side in _SIDES)
            if all(side is not None and side > 0 for side in size):
                sizes[size] = index
            if any(row[column] for column in ("class", *CORNERS)):
                found = _object(row, index, entry.file)
                (faults if isinstance(found, Fault) else objects).append(found)
        if len(sizes) > 1:
            texts = ", ".join(f"{width:g} x {height:g}" for height, width in sizes)
            faults.append(Fault("size_mismatch", entry.file, None, "width, height", texts, "rows of one image differ"))
        states = any(side in row for _, row in entry.annotation for side in _SIDES)
        size = next(iter(sizes), (0.0, 0.0) if states else None)
        return ImageRecord(
            *(record.image_id, record.path, record.file, size, tuple(objects), tuple(faults), VOC_CORNERS),
            notes=record.notes,
        )


def _object(row: dict[str, str], index: int, file: str) -> ObjectRecord | Fault:
    name = " ".join(row["class"].split())
    if not name:
        return Fault("unreadable_annotation", file, index, "class", "", "missing")
    corners = []
    for corner in CORNERS:
        value = _number(row[corner])
        if value is None:
            return Fault("unreadable_annotation", file, index, corner, row[corner], "not a number")
        corners.append(value)
    marks = {column: bool(_mark(row.get(column, ""))) for column in _MARKED}
    xmin, ymin, xmax, ymax = corners
    return ObjectRecord(index, name, (xmin - 1, ymin - 1, xmax, ymax), **marks)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _csv_files(root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    for folders, name, rows in first_rows(root):
        if rows and set(WANTED).issubset(named_columns(rows[0])):
            yield folders, name


def _mark(text: str) -> bool | None:
    """The value of a mark; None if it is none."""
    return _MARKS.get(text.replace(",", ".").removesuffix(".0").lower())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows by column; missing fields are empty."""
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter)
            decimal_commas = delimiter != ","  # written by spreadsheets in many languages
            columns = named_columns(next(rows, []))
            for row in rows:
                if row:
                    values = [value.strip() for value in row] + [""] * (len(columns) - len(row))
                    fields = dict(zip(columns, values, strict=False))
                    if decimal_commas:
                        fields |= {name: fields[name].replace(",", ".") for name in CORNERS}
                    yield fields
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not UTF-8 text of rows, save it as that ({error})") from error
