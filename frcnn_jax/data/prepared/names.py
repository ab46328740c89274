"""Renaming and selection of classes, as the settings say."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.records import ImageRecord, SplitRecords

__all__ = [
    "OtherClasses",
    "RenamedReader",
    "of_classes",
    "slip_renames",
    "slips",
    "spelt_alike",
    "standard_classes",
    "warn_of_slips",
    "without_slips",
]

_log = logging.getLogger(__name__)


class RenamedReader(AnnotationReader):
    """Wraps another reader and renames classes. All renames apply at once, so that two names can be swapped."""

    def __init__(self, reader: AnnotationReader, pairs: Sequence[str]):
        self.layout, self.splits = reader.layout, reader.splits
        self._reader = reader
        self.names: dict[str, str] = {}
        for pair in pairs:
            old, new = (" ".join(name.split()) for name in pair.split("=", 1))
            first = self.names.setdefault(old, new)
            if first != new:
                raise ValueError(f"data.rename: {old!r} is read as {first!r} and as {new!r}; give one")
        self._found: set[str] = set()
        self.was_read = False  # True once records were read

    def read(self, split: str) -> SplitRecords:
        self.was_read = True
        records = self._reader.read(split)
        notes = (note for note in records.notes if not (note.kind == "class" and note.place in self.names))
        return dataclasses.replace(records, records=tuple(map(self._renamed, records.records)), notes=tuple(notes))

    def content(self, splits: Sequence[str], hash_file: Callable[[Path], str]) -> list[Any] | None:
        """The other reader's value for a hash, with the renames; None if it has none."""
        content = self._reader.content(splits, hash_file)
        return None if content is None else [["renamed", sorted(self.names.items())], *content]

    def image_names(self, splits: Sequence[str]) -> list[str]:
        return self._reader.image_names(splits)

    def places(self, split: str) -> tuple[str, ...]:
        return self._reader.places(split)

    def check_used(self, root: Path) -> None:
        """
        Raises:
            ValueError: no object of any split has one of the names.
        """
        for split in self.splits:
            if not self.names.keys() <= self._found:
                self.read(split)
        absent = [old for old in self.names if old not in self._found]
        if absent:
            existing = ", ".join(sorted(self._found)) or "none"
            raise ValueError(
                f"{root}: data.rename: no object of class {', '.join(map(repr, absent))} (there: {existing})"
            )

    def _renamed(self, record: ImageRecord) -> ImageRecord:
        self._found.update(item.name for item in record.objects)
        if not any(item.name in self.names for item in record.objects):
            return record
        objects = (dataclasses.replace(item, name=self.names.get(item.name, item.name)) for item in record.objects)
        return dataclasses.replace(record, objects=tuple(objects))


@dataclasses.dataclass(frozen=True)
class OtherClasses:
    """Skipped objects of classes that are not wanted."""

    counts: dict[str, int]  # by image
    absent: tuple[str, ...] = ()  # wanted classes without objects

    def count(self, image_ids: Sequence[str]) -> int:
        return sum(self.counts.get(image_id, 0) for image_id in image_ids)


def of_classes(
    splits: dict[str, SplitRecords], config: DataConfig, trained: Sequence[str] | None, root: Path
) -> tuple[dict[str, SplitRecords], OtherClasses]:
    """The splits with only objects of the classes `config.classes`; all objects if that is None.

    A line in the log names the others, and classes without objects. A name that differs from a wanted one only in case
    is kept, as it is a likely mistake that the check reports.

    Args:
        trained: splits that are trained on; None if the classes are not those of the settings.

    Raises:
        ValueError: no object is of the classes of the settings, or none that is trained on; or a name without objects
            is a list of names.
    """
    classes = config.classes
    if classes is None:
        return splits, OtherClasses({})
    if trained is not None:
        _check_classes(splits, config, trained, root)
    wanted, slips = set(classes), set(map(spelt_alike, classes))
    counts, others, found = {}, Counter(), set()

    def kept(record: ImageRecord) -> ImageRecord:
        objects = tuple(item for item in record.objects if item.name in wanted or spelt_alike(item.name) in slips)
        found.update(item.name for item in objects)
        if len(objects) == len(record.objects):
            return record
        if record.image_id not in counts:
            others.update(item.name for item in record.objects if item not in objects)
            counts[record.image_id] = len(record.objects) - len(objects)
        return dataclasses.replace(record, objects=objects)

    kept_splits = {
        name: dataclasses.replace(split, records=tuple(map(kept, split.records))) for name, split in splits.items()
    }
    absent = tuple(name for name in classes if name not in found)
    if counts:
        text = ", ".join(f"{name} {count}" for name, count in others.most_common(20))
        hint = f"; no object is of class {', '.join(absent)}" if absent else ""
        which = "not in data.classes"
        if trained is None:
            which = "of no image of train, validation or test (data.classes would name them)"
        _log.warning("%s: objects of classes that are %s are left out: %s%s", root, which, text, hint)
    return kept_splits, OtherClasses(counts, absent)


def _check_classes(splits: Mapping[str, SplitRecords], config: DataConfig, trained: Sequence[str], root: Path) -> None:
    """
    Raises:
        ValueError: no object is of the classes of the settings, or none that is trained on; or a name without objects
            is a list of names.
    """
    classes = config.classes or ()
    found = {name: {item.name for record in part.records for item in record.objects} for name, part in splits.items()}
    existing = set().union(*found.values())
    absent = [name for name in classes if name not in existing]
    lists = [name for name in absent if existing & set(_parts(name))]
    if existing and (lists or existing.isdisjoint(classes)):
        wrong = lists or absent
        message = f"no object of class {', '.join(map(repr, wrong))} (there: {', '.join(sorted(existing))})"
        if any("," in name for name in wrong):
            names = [part for name in classes for part in (_parts(name) if name in wrong else [name])]
            message += f"; names are separated by spaces: --data.classes {shlex.join(dict.fromkeys(names))}"
        raise ValueError(f"{root}: data.classes: {message}")
    # Names in another case are left to the check, which reports them as faults.
    learned = set().union(*(found.get(name, set()) for name in trained))
    unlearned = set(map(spelt_alike, learned)).isdisjoint(map(spelt_alike, classes))
    if learned and unlearned and all(name.startswith("folder/") for name in config.train):
        named = ", ".join(map(repr, classes))
        raise ValueError(
            f"{root}: data.classes: no image to train on has an object of class {named} "
            f"(there: {', '.join(sorted(learned))})"
        )
    if existing and absent and existing <= set(classes):
        _log.warning("%s: no object is of class %s, which data.classes names", root, ", ".join(absent))


def _parts(name: str) -> list[str]:
    """The names in a list with commas."""
    return [part.strip() for part in name.split(",") if part.strip()]


def standard_classes(reader: AnnotationReader, standard: Sequence[str]) -> tuple[str, ...] | None:
    """Class names in the standard splits, so that another split has the same labels; None without standard splits."""
    records = [record for name in standard for record in reader.read(name).records]
    return tuple(sorted({item.name for record in records for item in record.objects})) or None


def spelt_alike(name: str) -> str:
    """A key that is equal for names that differ only in case or in the form of letters."""
    return unicodedata.normalize("NFKC", name).casefold()


def warn_of_slips(title: str, classes: Sequence[str]) -> None:
    """Warns about classes with nearly the same spelling, a possible mistake."""
    for sentence in slips(classes):
        _log.warning("%s: %s", title, sentence)


def slips(classes: Sequence[str]) -> list[str]:
    """A sentence about classes with nearly the same spelling, with the setting that makes them one; [] if none."""
    groups = [names for names in _alike(classes) if len(names) > 1]
    if not groups:
        return []
    named = "; ".join(", ".join(map(repr, names)) for names in groups)
    each = "they become one" if len(groups) == 1 else "each of these groups becomes one"
    renames = shlex.join(slip_renames(classes))
    return [f"classes of their own, but spelt alike: {named}; {each} by --data.rename {renames}"]


def slip_renames(classes: Sequence[str]) -> list[str]:
    """Values of `data.rename` that make classes with nearly the same spelling one; [] if there are none."""
    return [f"{name}={names[-1]}" for names in _alike(classes) for name in names[:-1]]


def without_slips(objects: Mapping[str, int]) -> dict[str, int]:
    """Numbers of objects by class after the renames that `slips` names."""
    return {names[-1]: sum(objects[name] for name in names) for names in _alike(list(objects))}


def _alike(classes: Sequence[str]) -> list[list[str]]:
    """The classes in groups of nearly the same spelling, each sorted."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(spelt_alike(name), []).append(name)
    return list(map(sorted, groups.values()))
