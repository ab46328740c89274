"""Choice among several formats that fit a folder, where they hold the same objects, as a CSV file made from XML files
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.layout import warn_once
from frcnn_jax.data.records import STANDARD_SPLITS, Box, ObjectRecord

if TYPE_CHECKING:
    from frcnn_jax.data.formats.table import AnnotationReader

__all__ = ["choose_format"]

_TOLERANCE = 1.0  # pixels; conversions round corners, or shift them by one

Objects = dict[Path, tuple[ObjectRecord, ...]]


def choose_format(root: Path, config: DataConfig, formats: Mapping[str, type[AnnotationReader]]) -> str:
    """Name of the format to read, if all of them hold the same objects: the one with most standard splits, else the
    first. A line of the log says so.

    Raises:
        ValueError: they differ, or one cannot be read; names a difference, and how to choose.
    """
    first, *others = formats
    ways = f"the formats {' and '.join(formats)} fit"
    try:
        readers = {name: reader(root, config) for name, reader in formats.items()}
        objects = _objects(readers[first])
        differences = (_difference(root, {first: objects, name: _objects(readers[name])}) for name in others)
        difference = next(filter(None, differences), None)
    except (OSError, ValueError) as error:
        difference = str(error)
    if difference:
        how = f"set data.format to one of them, as with --data.format {first}"
        raise ValueError(f"{root}: {ways}, and do not hold the same objects ({difference}); {how}")
    splits = {name: [split for split in STANDARD_SPLITS if split in readers[name].splits] for name in formats}
    chosen = max(formats, key=lambda name: len(splits[name]))
    rest = " or ".join(name for name in formats if name != chosen)
    warn_once(f"{root}: {ways} and hold the same objects: {chosen} is read; --data.format reads {rest}")
    return chosen


def _objects(reader: AnnotationReader) -> Objects:
    """Objects of each image that has some, in all splits."""
    found: Objects = {}
    for record in (record for split in reader.splits for record in reader.read(split).records):
        # A file of all images may lie beside files of the splits.
        if record.path and len(record.objects) > len(found.get(record.path, ())):
            found[record.path] = record.objects
    return found


def _difference(root: Path, found: dict[str, Objects]) -> str:
    """A difference between the objects of two formats; empty if there is none."""
    (one, of_one), (other, of_other) = found.items()
    for path in [*of_one, *(path for path in of_other if path not in of_one)]:
        objects = of_one.get(path, ()), of_other.get(path, ())
        if not _same(*objects):
            counts = f"{len(objects[0])} of {one}, {len(objects[1])} of {other}"
            what = counts if len(objects[0]) != len(objects[1]) else "other classes or boxes"
            return f"objects of {path.relative_to(root)}: {what}"
    return ""


def _same(one: Iterable[ObjectRecord], other: Iterable[ObjectRecord]) -> bool:
    """True if every object has an equal of its own in the other list."""
    left = list(other)
    for item in one:
        equal = next((o for o in left if o.name == item.name and _near(o.box, item.box)), None)
        if equal is None:
            return False
        left.remove(equal)
    return not left


def _near(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(one, other, strict=True))
