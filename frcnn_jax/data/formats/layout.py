"""Base of readers for any folder layout: the common part of COCO, YOLO, CSV and XML beside images."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.file_names import name_parts, split_of
from frcnn_jax.data.formats.log import warn_once
from frcnn_jax.data.formats.matching.candidates import in_own_folders
from frcnn_jax.data.formats.matching.ids import missing_ids, unique_ids
from frcnn_jax.data.formats.split_lists import ListedImages, find_lists
from frcnn_jax.data.formats.tree import ImageFile, ImageTree, image_suffix
from frcnn_jax.data.records import STANDARD_SPLITS, ImageRecord, SplitRecords
from frcnn_jax.progress import Progress
from frcnn_jax.words import counted

__all__ = ["ALL", "Entry", "LayoutReader", "warn_once"]

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
    folders: tuple[str, ...] = ()  # of the annotation, below the root


class LayoutReader(AnnotationReader):
    """Base of readers that find images by name: `_entries` lists them all, `_read` reads one annotation. Images are
    sorted by id.
    """

    unnamed = ""
    """Reason for skipping images without annotation, if the reader does not log it itself."""
    lists_first = False
    """Lists of splits beside the annotations count before the splits of the entries, not only where these have none."""

    def __init__(self, root: Path, config: DataConfig):
        self.root, self.config = root, config
        self.images = ImageTree(root)
        self.list_faults: dict[str, list[Fault]] = {}
        self.notes: list[Note] = []  # on the whole folder
        if self.images.unreadable:
            first, count = self.images.unreadable[0].below, len(self.images.unreadable)
            beside = "another of its name lies beside it" if count == 1 else "others of their names lie beside them"
            warn_once(f"{root}: left out {counted(count, 'image')} that cannot be read, as {beside} ({first})")
        splits: dict[str, list[Entry]] = {}
        self._divided: set[str] = set()  # splits with images of files of no split
        with _garbage_collection_off():
            entries = self._matched()
            self._lists = self._find_lists()
            for entry in self._in_lists(entries):
                splits.setdefault(entry.split, []).append(entry)
        self._keep_faults(splits)
        if not splits:
            raise FileNotFoundError(f"{root} has no {self.layout}")
        order = [*STANDARD_SPLITS, *sorted(splits)]
        self._splits = {name: splits[name] for name in dict.fromkeys(order) if name in splits}
        if self.unnamed:
            used = {image for entries in splits.values() for entry in entries for image in entry.found}
            unused = [image.below for image in self.images if image not in used]
            if unused:
                warn_once(f"{root}: left out {counted(len(unused), 'image')} that {self.unnamed} ({unused[0]})")
        standard = {entry.found for name in STANDARD_SPLITS for entry in splits.get(name, ())}
        rest = [entry.name for entry in splits.get(ALL, ()) if entry.found not in standard]
        if rest and standard:
            warn_once(f"{root}: left out {counted(len(rest), 'image')} in no folder or file of a split ({rest[0]})")

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
        entries = Progress(self._splits[split], f"Reading {self.root}", unit="image", leave=False, delay=2)
        with _garbage_collection_off():
            for entry, record in zip(entries, self._read_all(self._splits[split]), strict=True):
                if record.image_id in records:
                    faults.append(Fault("duplicate_id", entry.file, None, "image", entry.name, "listed before"))
                else:
                    records[record.image_id] = record
        in_order = tuple(records[image_id] for image_id in sorted(records))
        return SplitRecords(in_order, tuple(faults), tuple(self.notes))

    def image_names(self, splits: Iterable[str]) -> list[str]:
        """Paths below the root of the images of splits."""
        entries = (entry for split in splits for entry in self._splits.get(split, ()))
        return [image.below for image in dict.fromkeys(entry.found[0] for entry in entries if entry.found)]

    def left_out(self, split: str) -> int:
        """Number of images in folders and lists of a split without an annotation."""
        listed = {image for files in self._lists.get(split, {}).values() for image in files}
        used = {image for entries in self._splits.values() for entry in entries for image in entry.found}
        return sum((image.split == split or image in listed) and image not in used for image in self.images)

    def places(self, split: str) -> tuple[str, ...]:
        """Source of a split, for messages: folders or files below the root."""
        if split in self._lists:
            return tuple(str(path.relative_to(self.root)) for path in self._lists[split])
        folders = (image.folders for entry in self._splits.get(split, ()) for image in entry.found[:1])
        return tuple("/".join(parts) for parts in dict.fromkeys(folders))

    def _matched(self) -> list[Entry]:
        """The entries; with names as before an import into Label Studio, if no other name is that of an image.

        Raises:
            FileNotFoundError: there are images, but no entry has one.
        """
        entries = self._own(self._entries())
        if any(entry.found for entry in entries) or not (message := self._unmatched(entries)):
            return entries
        self.images.prefixed, self.list_faults, self.notes = True, {}, []
        entries = self._own(self._entries())
        first = next((entry for entry in entries if entry.found), None)
        if first is None:
            raise FileNotFoundError(f"{self.root}: {message}")
        what = "names are read without the 8 digits that Label Studio puts before them"
        self.notes.append(Note("", f"{what} ({first.file}: {first.found[0].name})"))
        return entries

    def _own(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries without images of other folders."""
        entries = list(entries)
        matched = in_own_folders([(entry.name, entry.folders, entry.found) for entry in entries], self.images)
        return [
            entry if len(found) == len(entry.found) else dataclasses.replace(entry, found=tuple(found))
            for entry, found in zip(entries, matched, strict=True)
        ]

    def _unmatched(self, entries: list[Entry]) -> str:
        """The message that no entry has an image; empty if there are no entries or no images."""
        image = next(iter(self.images), None)
        if not entries or image is None:
            return ""
        names = f"{entries[0].file}, {image.below}"
        return f"no annotation has the name of an image ({names}): rename the ones or the others"

    def _find_lists(self) -> ListedImages:
        """Lists of splits beside the annotations."""
        return find_lists(self.images)

    def _in_lists(self, entries: list[Entry]) -> Iterator[Entry]:
        """The entries in the splits of the lists; without lists and files of splits, in those of the images' folders if
        these divide them all. An image in none of the lists stays in its split, if that has no list.
        """
        splits: dict[ImageFile, dict[str, None]] = {}
        for split, lists in self._lists.items():
            for file in (file for files in lists.values() for file in files):
                splits.setdefault(file, {})[split] = None
        by_folders = self._folders_divide(entries)
        for entry in entries:
            listed = splits.get(entry.found[0], {}) if entry.found else {}
            if listed and (self.lists_first or entry.split == ALL):
                self._divided |= set(listed) if entry.split == ALL else set()
                yield from (dataclasses.replace(entry, split=split) for split in listed)
            elif by_folders:
                split = self._folder_split(entry)
                self._divided |= {split} - {ALL}
                yield dataclasses.replace(entry, split=split)
            else:
                unlisted = self.lists_first and entry.found and entry.split in self._lists
                yield dataclasses.replace(entry, split=ALL) if unlisted else entry

    def _keep_faults(self, splits: dict[str, list[Entry]]) -> None:
        """Puts the faults of files of no split, and missing images that they name, into the first split with images of
        these files, as no other split that is used has them.
        """
        into = [name for name in STANDARD_SPLITS if name in self._divided]
        if into:
            self.list_faults.setdefault(into[0], []).extend(self.list_faults.pop(ALL, ()))
        by_folders = [name for name in into if name not in self._lists]
        if by_folders and ALL in splits:
            splits[by_folders[0]] += splits.pop(ALL)

    def _folders_divide(self, entries: list[Entry]) -> bool:
        """True if all images lie in folders of splits, those to train on and others, and nothing else gives splits."""
        splits = {self._folder_split(entry) for entry in entries if entry.found}
        in_files = any(entry.split != ALL for entry in entries)
        return not self._lists and not in_files and ALL not in splits and "train" in splits and len(splits) > 1

    def _folder_split(self, entry: Entry) -> str:
        """The split in the names of an image's folders; of a missing image, that in its name if images have it."""
        if entry.found:
            return entry.found[0].split or ALL
        split = split_of(name_parts(entry.name)[:-1])
        return split if split in self.images.splits else ALL

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
            return ImageRecord(self._missing[entry.name, entry.folders], None, entry.file, faults=tuple(faults))
        if len(entry.found) > 1:
            names = ", ".join("/".join((*file.folders, file.name)) for file in entry.found)
            faults.append(Fault("duplicate_id", entry.file, None, "image", names, "several images of one name"))
        image, suffix = entry.found[0], image_suffix(entry.name)
        other = suffix and suffix != image_suffix(image.name)
        notes = (Note("suffix", f"{entry.name}: {image.below}"),) if other else ()
        path = self.images.path(image)
        return ImageRecord(self._ids[image], path, entry.file, faults=tuple(faults), notes=notes)

    @cached_property
    def _ids(self) -> dict[ImageFile, str]:
        return unique_ids(entry.found[0] for entries in self._splits.values() for entry in entries if entry.found)

    @cached_property
    def _missing(self) -> dict[tuple[str, tuple[str, ...]], str]:
        """Ids of the missing images by the names and folders of their entries."""
        entries = (entry for entries in self._splits.values() for entry in entries if not entry.found)
        return missing_ids(((entry.name, entry.folders) for entry in entries), self._ids.values())


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
