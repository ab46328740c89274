"""Base of readers for any folder layout: the common part of COCO, YOLO, CSV and XML beside images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.formats.tree import ImageFile, ImageTree, normal_name, unique_ids
from frcnn_jax.data.records import STANDARD_SPLITS, ImageRecord, SplitRecords

__all__ = ["ALL", "Entry", "LayoutReader", "warn_once"]

_log = logging.getLogger(__name__)
ALL = "all"
"""The split of images outside all folders and files that are named after a split."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image named by an annotation, before the annotation is read."""

    split: str
    name: str  # as annotated
    file: str  # holds the annotation; relative to the folder, for messages
    found: tuple[ImageFile, ...]  # images with that name
    annotation: Any = None  # for the reader itself


class LayoutReader:
    """Base of readers that find images by name: `_entries` lists them all, `_read` reads one annotation. Images are
    sorted by id.
    """

    layout: str
    unnamed = ""
    """Reason for skipping images without annotation, if the reader does not log it itself."""

    def __init__(self, root: Path, config: DataConfig):
        self.root, self.config = root, config
        self.images = ImageTree(root)
        self.list_faults: dict[str, list[Fault]] = {}
        self.notes: list[Note] = []  # on the whole folder
        splits: dict[str, list[Entry]] = {}
        with _garbage_collection_off():
            for entry in self._entries():
                splits.setdefault(entry.split, []).append(entry)
        if not splits:
            raise FileNotFoundError(f"{root} has no {self.layout}")
        order = [*STANDARD_SPLITS, *sorted(splits)]
        self._splits = {name: splits[name] for name in dict.fromkeys(order) if name in splits}
        if self.unnamed:
            used = {image for entries in splits.values() for entry in entries for image in entry.found}
            unused = [image.below for image in self.images if image not in used]
            if unused:
                warn_once(f"{root}: {len(unused)} images are left out, which {self.unnamed} ({unused[0]})")
        standard = {entry.found for name in STANDARD_SPLITS for entry in splits.get(name, ())}
        rest = sum(entry.found not in standard for entry in splits.get(ALL, ()))
        if rest and standard:
            warn_once(f"{root}: {rest} images are left out, which are in no folder or file of a split")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def read(self, split: str) -> SplitRecords:
        """The images of a split.

        Raises:
            FileNotFoundError: the split does not exist; names the existing ones.
        """
        if split not in self._splits:
            existing = ", ".join(self._splits) or "none"
            raise FileNotFoundError(f"{self.root} has no split {split!r} (there: {existing})")
        records: dict[str, ImageRecord] = {}
        faults = list(self.list_faults.get(split, ()))
        entries = tqdm(self._splits[split], f"Reading {self.root}", unit="image", leave=False, delay=2)
        with _garbage_collection_off():
            for entry, record in zip(entries, self._read_all(self._splits[split]), strict=True):
                if record.image_id in records:
                    faults.append(Fault("duplicate_id", entry.file, None, "image", entry.name, "listed before"))
                else:
                    records[record.image_id] = record
        in_order = tuple(records[image_id] for image_id in sorted(records))
        return SplitRecords(in_order, tuple(faults), tuple(self.notes))

    def left_out(self, split: str) -> int:
        """Number of images in folders of a split without an annotation."""
        used = {image for entries in self._splits.values() for entry in entries for image in entry.found}
        return sum(image.split == split and image not in used for image in self.images)

    def places(self, split: str) -> tuple[str, ...]:
        """Source of a split, for messages: folders or files below the root."""
        folders = (image.folders for entry in self._splits.get(split, ()) for image in entry.found[:1])
        return tuple("/".join(parts) for parts in dict.fromkeys(folders))

    def _entries(self) -> Iterable[Entry]:
        """The images of all splits."""
        raise NotImplementedError

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        """The record with the contents of its annotation."""
        raise NotImplementedError

    def _read_all(self, entries: list[Entry]) -> Iterable[ImageRecord]:
        return (self._read(entry, self._record(entry)) for entry in entries)

    def _record(self, entry: Entry) -> ImageRecord:
        """The record of an image without its annotation."""
        faults = []
        if not entry.found:
            message = "there is no such image in the folder"
            faults.append(Fault("missing_image", entry.file, None, "image", entry.name, message))
            return ImageRecord(normal_name(entry.name), None, entry.file, faults=tuple(faults))
        if len(entry.found) > 1:
            names = ", ".join("/".join((*file.folders, file.name)) for file in entry.found)
            faults.append(Fault("duplicate_id", entry.file, None, "image", names, "several images of one name"))
        image = entry.found[0]
        return ImageRecord(self._ids[image], self.images.path(image), entry.file, faults=tuple(faults))

    @cached_property
    def _ids(self) -> dict[ImageFile, str]:
        return unique_ids(entry.found[0] for entries in self._splits.values() for entry in entries if entry.found)


@functools.lru_cache(maxsize=1000)
def warn_once(text: str, level: int = logging.WARNING) -> None:
    """Logs a line once per process, even if the folder is opened again."""
    _log.log(level, "%s", text)


@contextlib.contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Suspends Python's garbage collector, which takes half the time when many records are made at once."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
