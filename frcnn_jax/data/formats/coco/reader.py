"""Reader of COCO's JSON, also from Roboflow: one file per split, beside the images or in a folder of annotations. Boxes
are x, y, width and height, 0-based; fractions of pixels are kept.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.coco.boxes import is_number, read_box, read_rotation
from frcnn_jax.data.formats.coco.categories import category_names, class_name, class_notes, id_key
from frcnn_jax.data.formats.layout import ALL, Entry, LayoutReader
from frcnn_jax.data.formats.tree import files_below, named_split, split_of
from frcnn_jax.data.records import BoxNotation, ImageRecord, ObjectRecord

__all__ = ["CocoReader"]

_KEYS = ("images", "annotations", "categories")
_MOST = 50  # JSON files in a folder; more are files of single images in another format
# Messages name corners instead of width and height; a box is empty if its width or height is 0.
_NOTATION = BoxNotation(("x", "y", "x + width", "y + height"))


class CocoReader(LayoutReader):
    """Images and annotations of all JSON files with COCO's lists; files of one split are joined. A category without
    objects is not a class.
    """

    layout = "JSON file with images, annotations and categories"
    unnamed = "no file lists"

    @staticmethod
    def fits(root: Path) -> bool:
        return next(_coco_files(root), None) is not None

    @staticmethod
    def lacking(root: Path) -> str:
        """A sentence about a folder with too many files in COCO's format; empty if there is none."""
        for folders, names in _json_files(root).items():
            if len(names) > _MOST and _has_keys(root.joinpath(*folders, names[0])):
                first = "/".join((*folders, names[0]))
                what = f"{len(names)} JSON files in one folder (the first: {first}) are more than the {_MOST} read"
                return f"{what}: join them to one of each split, or put them into several folders"
        return ""

    def content(self, splits: Sequence[str], hashes: Callable[[Path], str]) -> list[Any]:
        """Hashes of the splits' files and images, and the image of each name. So checking if a prepared folder is up to
        date builds no records.
        """
        entries = [entry for split in splits for entry in self._splits.get(split, ())]
        images = dict.fromkeys(entry.found[0] for entry in entries if entry.found)
        digests = dict(zip(images, map_in_threads(hashes, [self.images.path(image) for image in images]), strict=True))
        found = []
        for entry in entries:
            names = [[self._ids[image], image.below, digests[image]] for image in entry.found[:1]]
            found.append([entry.split, entry.name, len(entry.found), *names])
        parts = {split: [split, ALL] if split in self._lists or split in self._divided else [split] for split in splits}
        named = {split: [file for part in parts[split] for file in self._files.get(part, ())] for split in splits}
        files = {split: [[file, hashes(self.root / file)] for file in named[split]] for split in splits}
        # For one file as in earlier versions, so that their prepared folders keep their names.
        return [{split: keys[0] if len(keys) == 1 else keys for split, keys in files.items()}, found]

    def places(self, split: str) -> tuple[str, ...]:
        return tuple(self._files.get(split, ())) or super().places(split)

    def numbers(self) -> tuple[dict[str, set[Any]], dict[str, set[Any]]]:
        """The ids as they are in the files: of images by record id, of classes by name. Of one id in two notations, as
        1 and "1", the first counts.
        """
        images: dict[str, dict[Any, Any]] = defaultdict(dict)
        for entry in (entry for entries in self._splits.values() for entry in entries if entry.found):
            number = entry.annotation[0]["id"]
            images[self._ids[entry.found[0]]].setdefault(id_key(number), number)
        return _values(images), _values(self._numbers)

    def _entries(self) -> Iterator[Entry]:
        self._files: dict[str, list[str]] = {}  # of each split
        self._categories: dict[tuple[Any, Any], bool] = {}  # ids and names in all files; True if it has objects
        self._numbers: dict[str, dict[Any, Any]] = defaultdict(dict)  # ids of each class, as they are in the files
        files: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for folders, name in _coco_files(self.root):
            split = named_split(name.rpartition(".")[0]) or split_of(folders) or ALL
            files[split].append((folders, name))
        for split, split_files in files.items():
            if len(split_files) > 1:  # COCO's own folder has key points of the same images too
                split_files = [file for file in split_files if file[1].startswith("instances")] or split_files
            self._files[split] = ["/".join((*folders, name)) for folders, name in split_files]
            entries = (entry for folders, name in split_files for entry in self._file_entries(split, folders, name))
            yield from self._joined(split, entries) if len(split_files) > 1 else entries
        self.notes += class_notes(self._categories)

    def _joined(self, split: str, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries of several files with equal categories and no image in common.

        Raises:
            ValueError: categories differ or images repeat; names two of the files.
        """
        first: Entry | None = None
        listed: dict[Any, str] = {}
        for entry in self._own(entries):
            first, file = first or entry, _file_of(entry)
            other = listed.setdefault(entry.found or entry.name, file)
            why = f"both list {entry.name}" if other != file else ""
            if first.annotation[2] != entry.annotation[2]:
                other, why = _file_of(first), "their categories differ"
            if why:
                names = f"{other} and {file}"
                raise ValueError(
                    f"{self.root}: {names} are both of split {split!r}, but {why}; leave one of them in the folder"
                )
            yield entry

    def _file_entries(self, split: str, folders: tuple[str, ...], name: str) -> Iterator[Entry]:
        file = "/".join((*folders, name))
        content = _load(self.root / file)
        used = {id_key(item.get("category_id")) for item in content["annotations"] if isinstance(item, dict)}
        names = category_names(self.root / file, content["categories"], used)
        for item in filter(lambda item: isinstance(item, dict), content["categories"]):
            if id_key(item.get("id")) is not None and item.get("name") is not None:
                self._numbers[class_name(item["name"])].setdefault(id_key(item["id"]), item["id"])
        objects: dict[Any, list[tuple[int, dict]]] = defaultdict(list)
        faults = self.list_faults.setdefault(split, [])
        for index, item in enumerate(content["annotations"]):
            if isinstance(item, dict):
                objects[id_key(item.get("image_id"))].append((index, item))
            else:
                faults.append(Fault("unreadable_annotation", file, index, "annotation", str(item), "not an object"))
        for category in names.items():
            self._categories[category] = category[0] in used or self._categories.get(category, False)
        seen = set()
        for index, image in enumerate(content["images"]):
            stated, key = _stated(image)
            if not stated or key is None:
                value = json.dumps(image)[:80]
                faults.append(
                    Fault("unreadable_annotation", file, None, f"images[{index}]", value, "no id or file_name")
                )
                continue
            if key in seen:
                faults.append(
                    Fault("duplicate_id", file, None, f"images[{index}]", str(key), "the id of another image")
                )
                continue
            seen.add(key)
            found = tuple(self.images.find(stated, folders, split))
            yield Entry(split, stated, f"{file} ({stated})", found, (image, objects.pop(key, []), names), folders)
        for key, items in objects.items():
            for index, _ in items:
                message = "there is no image of that id in the file"
                faults.append(Fault("missing_image", file, index, "image_id", str(key), message))

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        image, items, names = entry.annotation
        faults, objects, outlines, rotated = list(record.faults), [], 0, 0
        for index, item in items:
            found = _object(item, index, names, entry.file)
            (faults if isinstance(found, Fault) else objects).append(found)
            outlines += isinstance(found, ObjectRecord) and not item.get("bbox")
            rotated += isinstance(found, ObjectRecord) and read_rotation(item) != 0
        counts = {"outline": outlines, "rotated": rotated}
        size = tuple(image.get(side) for side in ("height", "width"))
        stated = all(is_number(side) and side > 0 for side in size)
        return ImageRecord(
            *(record.image_id, record.path, record.file, size if stated else (0.0, 0.0)),
            *(tuple(objects), tuple(faults), _NOTATION),
            optional=True,
            notes=(*record.notes, *(Note(kind, entry.file, count) for kind, count in counts.items() if count)),
        )


def _file_of(entry: Entry) -> str:
    return entry.file.removesuffix(f" ({entry.name})")


def _object(item: dict, index: int, names: dict[Any, Any], file: str) -> ObjectRecord | Fault:
    def fault(kind: str, field: str, message: str) -> Fault:
        return Fault(kind, file, index, field, str(item.get(field)), message)

    name = names.get(id_key(item.get("category_id")))
    if name is None:
        return fault("unknown_class", "category_id", f"not one of the {len(names)} categories of the file")
    name = class_name(name)
    if not name:
        return fault("unreadable_annotation", "category_id", "the category has no name")
    box, crowd = read_box(item), item.get("iscrowd", 0)
    if box is None:
        return fault("unreadable_annotation", "bbox", "not four numbers")
    if crowd not in (0, 1, None):
        return fault("unreadable_annotation", "iscrowd", "neither 0 nor 1")
    return ObjectRecord(index, name, box, crowd=bool(crowd))


def _stated(image: Any) -> tuple[str, Any]:
    """Name and id of an image; an empty name or None if they are missing."""
    if not isinstance(image, dict):
        return "", None
    name = image.get("file_name")
    return (name if isinstance(name, str) else ""), id_key(image.get("id"))


def _values(numbers: dict[str, dict[Any, Any]]) -> dict[str, set[Any]]:
    return {name: set(of_name.values()) for name, of_name in numbers.items()}


def _load(path: Path) -> dict[str, list]:
    """The content of a file, which has lists of images, annotations and categories.

    Raises:
        ValueError: it is not JSON, or one of the three is not a list.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # RecursionError for endlessly nested lists
        raise ValueError(f"{path}: not JSON, export it again ({error})") from error
    for key in _KEYS:
        if not (isinstance(content, dict) and isinstance(content.get(key), list)):
            raise ValueError(f"{path}: {key} is not a list, as COCO's format has it")
    return content


def _coco_files(root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    for folders, names in _json_files(root).items():
        if len(names) <= _MOST:
            yield from ((folders, name) for name in names if _has_keys(root.joinpath(*folders, name)))


def _json_files(root: Path) -> dict[tuple[str, ...], list[str]]:
    """Names of the JSON files in each folder."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for folders, name in files_below(root, (".json",)):
        found[folders].append(name)
    return found


def _has_keys(path: Path) -> bool:
    """True if the text of a file has COCO's three lists, in any order and at any position."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(re.search(rb'"%s"\s*:\s*\[' % key.encode(), text) for key in _KEYS)
