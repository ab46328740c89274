"""Names and splits of a YOLO data set: from data.yaml, or names from a text file such as classes.txt and splits from
Darknet's lists of images.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from frcnn_jax.data.formats.layout import ALL, warn_once
from frcnn_jax.data.formats.split_lists import find_lists, listed_images
from frcnn_jax.data.formats.tree import ImageFile, ImageTree, files_below, inner_folder, lines_of, normal_name
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import canonical_split
from frcnn_jax.words import counted, joined

__all__ = ["NamesFile", "begins_with_row", "find_names", "number_classes"]

_KEYS = ("train", "val", "valid", "validation", "test")
_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
_OVER = 0.1  # a fraction may exceed 1 by this much
_MOST_BYTES = 1 << 18  # most bytes of a YAML file to read
_LONGEST = 4096  # characters of a path


class _Loader(yaml.SafeLoader):
    """Reads YAML without aliases, as a few lines of nested aliases can exhaust a machine's memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*), which is not read")
        return super().compose_node(parent, index)


@dataclasses.dataclass(frozen=True)
class NamesFile:
    """Names of the classes by number, and the places of the splits given in the file."""

    path: Path
    names: dict[int, str]
    places: dict[str, tuple[str, ...]]  # folders or lists of images by split
    base: str = ""  # `path:`, the parent folder of all of them
    pose: int = 0  # numbers for keypoints after each box; 0 without keypoints
    numbered: bool = False  # no file with class names

    def name(self, label: float) -> str | None:
        """The name of a class by its number; None if there is none."""
        if self.numbered:
            return f"class_{int(label)}" if label >= 0 and label.is_integer() else None
        return self.names.get(int(label)) if label.is_integer() else None

    def splits(self, images: ImageTree, labelled: Callable[[ImageFile], bool]) -> dict[str, list[ImageFile]]:
        """Images of each split: given in the file if its places exist, or in Darknet's lists `train.txt` and
        `valid.txt`, else by folder names, else all images.

        Skipped, with a line in the log: a split without any label, a second split with the same images, images in
        folders without any label, and in folders those with the name of another, as `a.png` beside `a.jpg`.
        """
        root = images.root
        folders = {file.folders for file in images if labelled(file)}
        known = [file for file in images if file.folders in folders and file not in images.copies]
        lists = {} if self.places else find_lists(images)
        places_of = self.places or {split: tuple(map(str, paths)) for split, paths in lists.items()}
        found: dict[str, list[ImageFile]] = {}
        for split, places in places_of.items():
            listed = lists[split].values() if lists else (self._at(place, images) for place in places)
            files = [file for place_files in listed for file in place_files]
            files = files or [file for file in known if file.split == split]
            if not any(map(labelled, files)):
                why = "no label file" if files else "no image"
                warn_once(f"{self.path}: its split {split} is left out: {why} for {', '.join(places)}")
            elif same := [name for name, others in found.items() if set(others) == set(files)]:
                warn_once(f"{self.path}: its split {split} is left out: it has the same images as {same[0]}")
            else:
                found[split] = list(dict.fromkeys(files))
        used = {file for files in found.values() for file in files}
        rest = "" if found else ALL
        for file in known:
            split = file.split or rest
            if split and split not in places_of and file not in used:
                found.setdefault(split, []).append(file)
        used = {file for files in found.values() for file in files}
        copies = [file for file in images.copies if file not in used and images.copies[file] in used]
        if copies:
            names = f"{copies[0].below} for {images.copies[copies[0]].name}"
            others = "another of its name" if len(copies) == 1 else "others of their names"
            warn_once(f"{root}: left out {counted(len(copies), 'image')} for {others} ({names})")
        skipped = [file.below for file in images if file not in used and file not in copies]
        if skipped:
            where = f"in no split or in a folder without labels ({min(skipped)})"
            warn_once(f"{root}: left out {counted(len(skipped), 'image')} {where}")
        return found

    def _at(self, place: str, images: ImageTree) -> list[ImageFile]:
        """Images in a folder, or in the list of a text file."""
        path = self._path(place, images.root)
        if path is None:
            return []
        if path.is_file():
            return listed_images(path, images)
        parts = path.relative_to(images.root).parts
        return [file for file in images if file.folders[: len(parts)] == parts and file not in images.copies]

    def _path(self, place: str, root: Path) -> Path | None:
        """The folder or list in `root` that a path written on another machine means: it may begin with folders of that
        machine, or with too many or too few `..`.
        """
        if len(self.base) + len(place) > _LONGEST:
            return None
        for text in (f"{self.base}/{place}" if self.base else place, place):
            parts = [part for part in normal_name(text).split("/") if part not in ("", ".")]
            for path in (Path(text), self.path.parent / text):
                real = Path(os.path.normpath(path))
                if real != root and real.is_relative_to(root) and os.path.exists(real):
                    return real
            names = [part for part in parts if part != ".."]
            least = min(len(names), 2)
            for start in range(len(names) - least + 1):
                for folder in (self.path.parent, root):
                    path = folder.joinpath(*names[start:])
                    if names and os.path.exists(path):
                        return path
        return None


def find_names(root: Path) -> NamesFile | None:
    """The names of a YOLO data set; None if the folder has no names, or no label.

    Raises:
        ValueError: several files have class names, or such a file cannot be read.
    """
    if not _has_rows(root):
        return None
    found = [file for file in map(_read_yaml, _paths(root, (".yaml", ".yml"))) if file is not None]
    if not found:
        paths = list(_paths(root, (".txt", ".names", ".labels")))
        named = [path for path in paths if path.name.lower() in _LISTS]
        found = [_read_list(path) for path in named or paths if named or path.suffix.lower() == ".names"]
    if len({(tuple(file.names.items()), tuple(file.places.items()), file.pose) for file in found}) > 1:
        names = joined(str(file.path.relative_to(root)) for file in found)
        raise ValueError(f"{root}: {names} have names of classes; leave one of them in the folder")
    return found[0] if found else None


def number_classes(root: Path) -> NamesFile | None:
    """Classes by number, for a YOLO data set without a file of names; None if no text file with an image's name begins
    with a row of fractions.
    """
    if not _has_rows(root, most=1 + _OVER):
        return None
    stems = {os.path.splitext(name)[0] for _, name in files_below(root, IMAGE_SUFFIXES)}
    if stems.isdisjoint(os.path.splitext(name)[0] for _, name in files_below(root, (".txt",))):
        return None
    return NamesFile(root / "classes.txt", {}, {}, numbered=True)


def _paths(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    inner = inner_folder(root)
    return (inner.joinpath(*folders, name) for folders, name in files_below(inner, suffixes, depth=2))


def _read_yaml(path: Path) -> NamesFile | None:
    """The data set that a file describes; None if it describes something else."""
    if path.stat().st_size > _MOST_BYTES:
        return None
    try:
        text = path.read_text("utf-8-sig")
        content = yaml.load(text.replace("\t", " "), _Loader)
    # Besides its own errors it raises those of invalid dates and numbers, and of endlessly nested lists.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if re.search(rb"^(names|nc)\s*:", path.read_bytes(), re.MULTILINE):
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not YAML in UTF-8, put it right or remove it ({reason})") from error
        return None
    if not isinstance(content, dict) or not {"nc", "path", *_KEYS} & set(content):
        return None
    names = content.get("names")
    names = names.split(",") if isinstance(names, str) else names
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        labels = {int(number): " ".join(str(name).split()) for number, name in pairs}
    except (TypeError, ValueError, OverflowError):
        return None
    places = {canonical_split(key): _texts(content[key]) for key in _KEYS if content.get(key)}
    return NamesFile(path, labels, places, str(content.get("path") or ""), _pose(content.get("kpt_shape")))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _pose(shape: Any) -> int:
    """Number of keypoint values in a row: `[17, 3]` means 17 keypoints with x, y and visibility."""
    known = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    return max(shape[0], 0) * shape[1] if known and shape[1] in (2, 3) else 0


def _read_list(path: Path) -> NamesFile:
    lines = [" ".join(line.split()) for line in lines_of(path)]
    return NamesFile(path, {number: line for number, line in enumerate(lines) if line}, {})


def _has_rows(root: Path, most: float = math.inf) -> bool:
    """True if a text file begins with a row of a YOLO label, with no number above `most` after the class; checks the
    first few non-empty rows.
    """
    looked = 0
    for folders, name in files_below(root, (".txt",)):
        try:
            row = _first_row(root.joinpath(*folders, name))
            if row:
                if max(row[1:]) <= most:
                    return True
                looked += 1
        except ValueError:
            looked += 1
        if looked > 50:
            break
    return False


def begins_with_row(path: Path) -> bool:
    """True if a text file begins with a row of a YOLO label."""
    try:
        return bool(_first_row(path))
    except ValueError:
        return False


def _first_row(path: Path) -> list[float]:
    """The numbers in the first line of a text, if they can be a row of a YOLO label; else [].

    Raises:
        ValueError: a word is not a number.
    """
    with path.open("rb") as file:
        row = file.readline(4096).removeprefix(codecs.BOM_UTF8).split()
    numbers = list(map(float, row))
    is_row = len(row) >= 5 and numbers[0].is_integer() and all(map(math.isfinite, numbers))
    return numbers if is_row else []
