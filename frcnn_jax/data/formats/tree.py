"""A folder of images and annotations in any layout: its files, splits by folder names, and images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from frcnn_jax.data.formats.file_names import (
    common_start,
    composed,
    name_parts,
    named_split,
    normal_name,
    shared_names,
    split_of,
    without_prefix,
)
from frcnn_jax.data.formats.log import warn_once
from frcnn_jax.data.images import DRAWN_SUFFIXES, IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from frcnn_jax.words import joined

__all__ = [
    "USUAL_SUFFIXES",
    "ImageFile",
    "ImageTree",
    "composed",
    "files_below",
    "image_suffix",
    "inner_folder",
    "is_hidden",
    "lines_of",
    "named_split",
    "normal_name",
    "split_of",
    "usual",
]

USUAL_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes that are taken first among files that differ only in the suffix."""
_DEPTH = 5  # folders below the root
# Files of our own folders, whose pictures are no data: of runs, of systems of a comparison, of evaluations.
_OWN = ({"config.json", "checkpoints"}, {"settings.json", "record.json"}, {"metrics.json", "thumbnails"})
_MARKS = frozenset.union(*map(frozenset, _OWN))


def is_hidden(name: str) -> bool:
    """True for a file or folder that no listing shows, such as a Mac's `._NAME` beside NAME, or `__MACOSX` in a zip."""
    return name.startswith((".", "__MACOSX"))


def files_below(root: Path, suffixes: Iterable[str], depth: int = _DEPTH) -> Iterator[tuple[tuple[str, ...], str]]:
    """Sorted files with these suffixes (upper or lower case), a few folders deep: the folders below the root, and the
    name.

    Hidden files and folders are skipped, and pictures that our commands have drawn. Below the root, folders of runs and
    their evaluations are left out with a line, and so are those that may not be read. A folder is visited once: under
    its own name, not that of a link beside it.
    """
    endings, seen = tuple(suffixes), set()

    def visit(folder: str, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                shown = sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
        except PermissionError:
            if not parts:
                raise
            warn_once(f"{folder} is left out, as it may not be read")
            return
        names, folders = {entry.name for entry in shown}, []
        if parts and any(marks <= names for marks in _OWN):
            warn_once(f"{folder} is left out, as it holds results, {joined(sorted(names & _MARKS))}")
            return
        for entry in shown:
            name = entry.name.lower()
            if name.endswith(endings) and entry.is_file():
                if not name.endswith(DRAWN_SUFFIXES):
                    yield parts, entry.name
            elif entry.is_dir():
                folders.append(entry)
        if len(parts) < depth:
            for entry in sorted(folders, key=lambda entry: entry.is_symlink()):
                yield from visit(entry.path, (*parts, entry.name))

    if root.is_dir():
        yield from visit(str(root), ())


def inner_folder(root: Path) -> Path:
    """`root`, or the folder inside it at the end of nested single folders, as in unpacked archives."""
    for _ in range(_DEPTH):
        if not root.is_dir():
            break
        shown = [path for path in root.iterdir() if not is_hidden(path.name)]
        if len(shown) != 1 or not shown[0].is_dir():
            break
        root = shown[0]
    return root


def lines_of(path: Path) -> list[str]:
    """Lines of a text.

    Raises:
        ValueError: the text is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, save it as that ({error})") from error


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image below the root."""

    folders: tuple[str, ...]
    name: str
    split: str | None  # named by its folders

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def below(self) -> str:
        """Path below the root."""
        return "/".join((*self.folders, self.name))


class ImageTree:
    """All images below a folder, found by the names in annotations. A file that cannot be read, such as a phone's
    `.heic`, is left out if another with its name lies beside it.
    """

    def __init__(self, root: Path):
        self.root = root
        self.prefixed = False
        """Names in annotations may begin with 8 hexadecimal digits and a hyphen, which Label Studio adds."""
        splits: dict[tuple[str, ...], str | None] = {}
        self._by_stem: dict[str, list[ImageFile]] = {}
        for folders, name in files_below(root, IMAGE_SUFFIXES):
            if folders not in splits:
                splits[folders] = split_of(folders)
            file = ImageFile(folders, name, splits[folders])
            self._by_stem.setdefault(normal_name(file.stem).casefold(), []).append(file)
        self.unreadable = [copy for copy, other in self.copies.items() if _order(copy)[0] == 2 > _order(other)[0]]
        """Files that are left out."""
        for file in self.unreadable:
            self._by_stem[normal_name(file.stem).casefold()].remove(file)
            del self.copies[file]

    @cached_property
    def copies(self) -> dict[ImageFile, ImageFile]:
        """Images with the file beside each that differs only in the suffix and is taken first."""
        of_name: dict[tuple[tuple[str, ...], str], list[ImageFile]] = {}
        for files in self._by_stem.values():
            for file in files if len(files) > 1 else ():
                of_name.setdefault((file.folders, normal_name(file.stem)), []).append(file)
        in_order = (sorted(files, key=_order) for files in of_name.values())
        return {file: first for first, *others in in_order for file in others}

    @cached_property
    def splits(self) -> frozenset[str]:
        """Splits with their own image folders."""
        return frozenset(file.split for files in self._by_stem.values() for file in files if file.split)

    def __len__(self) -> int:
        return sum(map(len, self._by_stem.values()))

    def __iter__(self) -> Iterator[ImageFile]:
        for files in self._by_stem.values():
            yield from files

    def path(self, file: ImageFile) -> Path:
        return self.root.joinpath(*file.folders, file.name)

    def find(self, name: str, near: tuple[str, ...], split: str | None, *, by_stem: bool = False) -> list[ImageFile]:
        """Images with that name; several if they are ambiguous.

        Among images with the same name, the best are those with folders that match the longest part of the name, then
        those of the split, then those nearest to the folder `near`: with more common parent folders, or more folder
        names in the same order, as in `images/cats` and `annotations/cats`. A split with its own folders has no images
        in folders of other splits.

        Args:
            name: a file name, maybe with folders, also in another system's notation.
            near: folders of the annotation, below the root.
            split: the split that the annotation belongs to.
            by_stem: ignore the name's suffix, for names without the suffix of an image.
        """
        *folders, last = name_parts(name) or [""]
        last = without_prefix(last) if self.prefixed else last
        stem, suffix = os.path.splitext(last)
        if suffix.lower() not in IMAGE_SUFFIXES or (by_stem and last.casefold() in self._by_stem):
            stem, by_stem = last, True
        found = self._by_stem.get(stem.casefold(), [])
        if not by_stem:
            same = [file for file in found if image_suffix(file.name) == image_suffix(last)]
            converted = len(found) == 1 or suffix.lower() in UNREADABLE_SUFFIXES
            found = found if converted and not same else same
        split = split_of(folders) or split
        if split in self.splits:
            found = [file for file in found if file.split in (split, None)]
        if len(found) < 2:
            return list(found)

        def rank(file: ImageFile) -> tuple:
            known = tuple(map(normal_name, file.folders))
            exact = normal_name(file.name)
            return (
                common_start(reversed(known), reversed(folders)),
                file.split == split,
                common_start(file.folders, near),
                os.path.splitext(exact)[0] == stem,
                exact == last,
                shared_names(file.folders, near),
            )

        ranks = [rank(file) for file in found]
        return [file for file, file_rank in zip(found, ranks, strict=True) if file_rank == max(ranks)]


def usual(files: Sequence[ImageFile]) -> list[ImageFile]:
    """The files with a usual suffix; all if none has."""
    return [file for file in files if _order(file)[0] == 0] or list(files)


def _order(file: ImageFile) -> tuple[int, int, str]:
    """The order among files that differ only in their suffix."""
    suffix = os.path.splitext(file.name)[1].lower()
    kind = 0 if suffix in USUAL_SUFFIXES else 2 if suffix in UNREADABLE_SUFFIXES else 1
    return kind, IMAGE_SUFFIXES.index(suffix), file.name


def image_suffix(name: str) -> str:
    """The suffix in lower case, .jpg for .jpeg; empty if it is none of an image."""
    suffix = os.path.splitext(name)[1].lower()
    return {".jpeg": ".jpg"}.get(suffix, suffix) if suffix in IMAGE_SUFFIXES else ""
