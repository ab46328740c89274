"""Reader of YOLO's text files: a row `class x y width height` per object, in fractions of the image; x and y are the
box's centre. A YAML file holds the class names and maybe the folders of the splits.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.file_names import without_prefix
from frcnn_jax.data.formats.layout import Entry, LayoutReader, warn_once
from frcnn_jax.data.formats.matching.candidates import in_own_folders, without_claimed
from frcnn_jax.data.formats.split_lists import ListedImages
from frcnn_jax.data.formats.tree import ImageFile, files_below, normal_name, split_of
from frcnn_jax.data.formats.yolo.names import NamesFile, begins_with_row, find_names, number_classes
from frcnn_jax.data.images import image_size
from frcnn_jax.data.records import Box, BoxNotation, ImageRecord, ObjectRecord
from frcnn_jax.words import counted, joined

__all__ = ["YoloReader"]

Key = tuple[tuple[str, ...], str]  # of a label file: its folders and stem

# Messages give a box by its corners in pixels; it is empty if its width or height is 0.
_NOTATION = BoxNotation(("left", "top", "right", "bottom"))
_DIGITS = 1e-6  # of the image's side: a box may exceed the image by this much, as rows are written with 6 digits
_EXACT = 1e-9  # pixels; twice the rounding error of fractions in the largest images


class YoloReader(LayoutReader):
    """Images of the folders in the YAML file, else all images. Labels are in a folder `labels` for `images`, beside the
    images, or in another folder. An image with a missing or empty label file has no objects. A row that occurs twice is
    one object, as for YOLO's own tools. A label file with rows but without image is a fault.
    """

    layout = "YAML file with names and folder labels"

    def __init__(self, root: Path, config: DataConfig):
        names = find_names(root) or number_classes(root)
        if names is None:
            raise FileNotFoundError(f"{root} has no data.yaml with names (or classes.txt): add it")
        if names.numbered and not config.rename:
            warn_once(
                f"{root}: no file names the classes, which are class_0, class_1 and so on: name them, as with "
                f'--data.rename "class_0=cat" "class_1=dog", or write the names, one a line, to {names.path}'
            )
        self.names: NamesFile = names
        self.labels = {
            (tuple(map(normal_name, folders)), normal_name(name)[:-4]): "/".join((*folders, name))
            for folders, name in files_below(root, (".txt",))
        }
        super().__init__(root, config)
        self.notes += (Note("class", name) for name in names.names.values())
        alike: dict[str, list[str]] = {}
        for number, name in names.names.items():
            alike.setdefault(name, []).append(str(number))
        self.notes += (
            Note("", f"classes {joined(numbers)} are one class, as their name is {name!r}")
            for name, numbers in alike.items()
            if len(numbers) > 1
        )

    @staticmethod
    def fits(root: Path) -> bool:
        return find_names(root) is not None

    @staticmethod
    def may_fit(root: Path) -> bool:
        return number_classes(root) is not None

    def content(self, splits: Sequence[str], hashes: Callable[[Path], str]) -> list[Any]:
        """The names of the classes, and hashes of the label files and images of the splits. So checking if a prepared
        folder is up to date reads no file that is unchanged.
        """
        entries = [entry for split in splits for entry in self._splits.get(split, ())]
        images = dict.fromkeys(entry.found[0] for entry in entries if entry.found)
        labels = dict.fromkeys(entry.annotation for entry in entries if entry.annotation is not None)
        files = {image: self.images.path(image) for image in images} | {name: self.root / name for name in labels}
        digests = dict(zip(files, map_in_threads(hashes, files.values()), strict=True))
        found = []
        for entry in entries:
            parts = [[self._ids[image], image.below, digests[image]] for image in entry.found[:1]]
            found.append([entry.split, entry.name, entry.file, len(entry.found), digests.get(entry.annotation), *parts])
        faults = [str(fault) for split in splits for fault in self.list_faults.get(split, ())]
        classes = [sorted(self.names.names.items()), self.names.pose, self.names.numbered]
        return [classes, found, faults]

    def _entries(self) -> Iterator[Entry]:
        if self.images.prefixed:
            self.labels = _without_prefixes(self.labels)
        labels = self._labels_of_images()
        if not any(labels.values()):
            labels |= self._by_name()
        if not any(labels.values()):
            return
        split_of_folder: dict[str, str] = {}
        for split, files in self.names.splits(self.images, lambda file: labels[file] is not None).items():
            for file in files:
                below, label = "/".join((*file.folders, file.name)), labels[file]
                yield Entry(split, below, label or below, (file,), label)
                if label is not None:
                    split_of_folder.setdefault(os.path.dirname(label), split)
        yield from self._without_image(split_of_folder, labels)

    def _find_lists(self) -> ListedImages:
        return {}  # `names` reads them, where the YAML file gives no split

    def _unmatched(self, entries: list[Entry]) -> str:
        if entries or any(self._labels_of_images().values()):
            return ""
        label = next((label for label in self.labels.values() if begins_with_row(self.root / label)), "")
        image = next(iter(self.images), None)
        if image is None:
            return f"there is no image for its label files ({label}): add the images, as to a folder images"
        return f"no label file has the name of an image ({label}, {image.below}): rename the ones or the others"

    def _without_image(self, split_of_folder: dict[str, str], labels: dict[ImageFile, str | None]) -> Iterator[Entry]:
        """Label files with rows but without an image, where others have one; elsewhere a text may be anything. A line
        of the log counts those whose image has another label.

        Args:
            split_of_folder: the split of the images with labels in a folder.
            labels: the label file of each image.
        """
        used, seconds = set(labels.values()), []
        for (folders, stem), label in self.labels.items():
            split = split_of_folder.get(os.path.dirname(label))
            if split is None or label in used or not begins_with_row(self.root / label):
                continue
            found = self.images.find(stem, folders, split_of(folders), by_stem=True)
            if any(labels[image] for image in found if _folded(image.stem) == _folded(stem)):
                seconds.append(label)
            else:
                yield Entry(split, label.removesuffix(label[-4:]), label, ())
        if seconds:
            warn_once(
                f"{self.root}: left out {counted(len(seconds), 'label file')} of images with another ({seconds[0]})"
            )

    def _labels_of_images(self) -> dict[ImageFile, str | None]:
        """The label file of each image; one whose name differs in case, if no other file can be meant."""
        found: dict[ImageFile, str | None] = {}
        for file in self.images:
            key = tuple(map(normal_name, file.folders)), normal_name(file.stem)
            found[file] = next((self.labels[other] for other in _keys(*key, self.labels) if other in self.labels), None)
        used, free = set(found.values()), defaultdict(list)
        for (folders, stem), label in self.labels.items():
            if label not in used:
                free[tuple(map(_folded, folders)), _folded(stem)].append(label)
        near: dict[ImageFile, str] = {}
        for file in (file for file in self.images if free and found[file] is None):
            keys = _keys(tuple(map(_folded, file.folders)), _folded(file.stem), free)
            (label, *others) = next((free[key] for key in keys if key in free), [""])
            if label and not others:
                near[file] = label
        images = Counter(label for file, label in near.items() if file not in self.images.copies)
        return found | {file: label for file, label in near.items() if images[label] == 1}

    def _by_name(self) -> dict[ImageFile, str | None]:
        """Label files in folders of any name, for images with exactly one candidate."""
        found: dict[ImageFile, str | None] = {}
        places = [
            (stem, folders, self.images.find(stem, folders, split_of(folders), by_stem=True))
            for folders, stem in self.labels
        ]
        for images, label in zip(
            without_claimed(in_own_folders(places, self.images)), self.labels.values(), strict=True
        ):
            if len(images) == 1:
                found[images[0]] = None if images[0] in found else label
        return found

    def _read_all(self, entries: list[Entry]) -> Iterable[ImageRecord]:
        return map_in_threads(lambda entry: self._read(entry, self._record(entry)), entries)

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        if not entry.found:
            return record
        faults, polygons, repeated = list(record.faults), 0, 0
        objects: dict[tuple[str, Box], ObjectRecord] = {}
        rows = self._rows(entry, faults)
        if rows:
            try:
                size = image_size(record.path.read_bytes())
            except (ValueError, OSError):
                rows = []  # the check reports the image as unreadable
        for index, row in enumerate(map(str.split, rows)):
            found = _object(row, index, self.names, entry.file, size)
            if isinstance(found, Fault):
                faults.append(found)
                continue
            repeated += (found.name, found.box) in objects
            objects.setdefault((found.name, found.box), found)
            polygons += len(row) not in (5, 5 + self.names.pose)
        counts = {"polygon": polygons, "repeated": repeated}
        notes = [Note(kind, entry.file, count) for kind, count in counts.items() if count]
        notes += [Note("unlabelled", entry.name)] if entry.annotation is None else []
        return ImageRecord(
            *(record.image_id, record.path, record.file, None, tuple(objects.values()), tuple(faults), _NOTATION),
            fractions=True,
            notes=tuple(notes),
        )

    def _rows(self, entry: Entry, faults: list[Fault]) -> list[str]:
        if entry.annotation is None:
            return []
        try:
            text = (self.root / entry.annotation).read_text("utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            faults.append(Fault("unreadable_annotation", entry.file, None, "file", entry.annotation, str(error)))
            return []
        return [line for line in text.splitlines() if line.strip()]


def _keys(folders: tuple[str, ...], stem: str, known: Container[Key]) -> Iterator[Key]:
    """Folders and stems of the label file that an image may have, the likeliest first."""
    places = [folders]
    if "images" in [name.lower() for name in folders]:
        last = max(i for i, name in enumerate(folders) if name.lower() == "images")
        places = [(*folders[:last], name, *folders[last + 1 :]) for name in ("labels", "Labels")] + places
    elif not folders or (("labels",), stem) in known:
        places = [("labels", *folders), ("labels",), *places]
    else:
        places = [(*folders[:-1], "labels", folders[-1]), (*folders, "labels"), ("labels", *folders), *places]
    return ((place, stem) for place in places)


def _folded(name: str) -> str:
    return normal_name(name).casefold()


def _without_prefixes(labels: dict[Key, str]) -> dict[Key, str]:
    """The label files by names without Label Studio's prefix, where these are different."""
    counts = Counter((folders, without_prefix(stem)) for folders, stem in labels)
    short = {key: (key[0], without_prefix(key[1])) for key in labels}
    return {short[key] if counts[short[key]] == 1 else key: label for key, label in labels.items()}


def _object(row: list[str], index: int, names: NamesFile, file: str, size: tuple[int, int]) -> ObjectRecord | Fault:
    def fault(kind: str, field: str, message: str) -> Fault:
        return Fault(kind, file, index, field, " ".join(row)[:80], message)

    try:
        label, *numbers = map(float, row)
    except ValueError:
        return fault("unreadable_annotation", "row", "not numbers only")
    if not all(map(math.isfinite, (label, *numbers))):
        return fault("unreadable_annotation", "row", "not finite")
    if len(numbers) in (4, 4 + names.pose):
        x, y, width, height = numbers[:4]
        fractions = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    elif names.pose:
        count = f"{len(row)} numbers, neither 5 of a box nor {5 + names.pose} with keypoints (kpt_shape)"
        return fault("unreadable_annotation", "row", count)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        fractions = min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    else:
        return fault("unreadable_annotation", "row", f"{len(row)} numbers, neither 5 of a box nor a polygon's")
    name = names.name(label)
    if name is None:
        known = "a whole number from 0" if names.numbered else f"one of the {len(names.names)} names"
        return fault("unknown_class", "class", f"not {known}")
    return ObjectRecord(index, name, _pixels(fractions, size))


def _pixels(fractions: Box, size: tuple[int, int]) -> Box:
    """The box in pixels, without errors of the last digit: whole numbers and short fractions are restored, and a box
    that reached the border does not cross it.
    """
    sides = (size[1], size[0]) * 2
    box = []
    for fraction, side in zip(fractions, sides, strict=True):
        value = fraction * side
        short = round(value, 6)
        value = short if abs(value - short) < _EXACT else value
        near = min(max(value, 0.0), float(side))
        box.append(near if abs(value - near) <= _DIGITS * side else value)
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2
