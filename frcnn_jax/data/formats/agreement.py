"""Choice among several formats that fit a folder, where they hold the same objects, as a CSV file made from XML files
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.layout import warn_once
from frcnn_jax.data.records import STANDARD_SPLITS, Box, ObjectRecord
from frcnn_jax.words import joined

__all__ = ["choose_format", "has_all"]

_TOLERANCE = 1.0  # pixels; conversions round corners, or shift them by one

Objects = dict[Path, tuple[ObjectRecord, ...]]


def choose_format(
    root: Path, config: DataConfig, formats: Mapping[str, type[AnnotationReader]]
) -> tuple[str, AnnotationReader]:
    """Name and reader of the format with most standard splits, else of the first. A line of the log says so.

    Raises:
        ValueError: the formats differ in an object or in an image without objects, or one cannot be read; names a
            difference, and how to choose.
    """
    ways = f"the formats {joined(formats)} fit"
    try:
        readers = {name: reader(root, config) for name, reader in formats.items()}
        contents = {name: _objects(reader) for name, reader in readers.items()}
    except (OSError, ValueError) as error:
        raise _undecided(root, ways, str(error), next(iter(formats))) from error
    splits = {name: [split for split in STANDARD_SPLITS if split in readers[name].splits] for name in formats}
    chosen = max(formats, key=lambda name: len(splits[name]))
    for name in formats:
        differences = _differences(root, {chosen: contents[chosen], name: contents[name]}) if name != chosen else []
        if differences:
            count = f"{len(differences)} of {len(contents[chosen] | contents[name])} images differ"
            held = "; ".join(f"splits of {known}: {', '.join(names) or 'none'}" for known, names in splits.items())
            raise _undecided(root, ways, f"{differences[0]}; {count}; {held}", chosen)
    rest = " or ".join(name for name in formats if name != chosen)
    warn_once(f"{root}: {ways} and hold the same objects: {chosen} is read; --data.format {rest} reads the other")
    return chosen, readers[chosen]


def _undecided(root: Path, ways: str, difference: str, example: str) -> ValueError:
    how = f"set data.format to one of them, as with --data.format {example}"
    return ValueError(f"{root}: {ways}, and do not hold the same objects ({difference}); {how}")


def _objects(reader: AnnotationReader) -> Objects:
    """Objects of each annotated image, in all splits."""
    found: Objects = {}
    for record in (record for split in reader.splits for record in reader.read(split).records):
        # A file of all images may lie beside files of the splits.
        if record.path and len(record.objects) >= len(found.get(record.path, ())):
            found[record.path] = record.objects
    return found


def _differences(root: Path, found: dict[str, Objects]) -> list[str]:
    """Sentences about the images that the first of two formats lacks or has otherwise."""
    (one, of_one), (other, of_other) = found.items()
    differences = []
    for path in of_one | of_other:
        objects, name = (of_one.get(path, ()), of_other.get(path, ())), path.relative_to(root)
        if len(objects[0]) != len(objects[1]):
            differences.append(f"objects of {name}: {len(objects[0])} of {one}, {len(objects[1])} of {other}")
        elif not has_all(*objects):
            differences.append(f"objects of {name}: other classes, boxes or marks")
        elif path not in of_one:
            differences.append(f"{name}: without objects in {other}, not annotated in {one}")
    return differences


def has_all(one: tuple[ObjectRecord, ...], other: tuple[ObjectRecord, ...]) -> bool:
    """True if each object of the second list has an equal of its own in the first one."""
    left = list(one)
    for item in other:
        equal = next((o for o in left if _is_equal(o, item)), None)
        if equal is None:
            return False
        left.remove(equal)
    return True


def _is_equal(one: ObjectRecord, other: ObjectRecord) -> bool:
    marks = [(item.name, item.difficult, item.crowd) for item in (one, other)]
    return marks[0] == marks[1] and _near(one.box, other.box)


def _near(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(one, other, strict=True))
