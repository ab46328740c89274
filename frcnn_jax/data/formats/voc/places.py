"""Folders in VOC format at or below a folder, and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from frcnn_jax.data.formats.tree import files_below, inner_folder, is_hidden, split_of
from frcnn_jax.data.formats.voc.annotation import is_annotation
from frcnn_jax.data.images import IMAGE_SUFFIXES

__all__ = ["find_annotation", "in_voc_format", "texts_in", "voc_folders", "voc_part", "voc_root"]

_MOST = 50  # XML files that are checked for VOC's format


def texts_in(folder: Path) -> list[Path]:
    """Text files in a folder, sorted; none if it does not exist."""
    return [folder / name for _, name in files_below(folder, (".txt",), depth=0)]


def voc_part(root: Path, name: str) -> Path:
    """A folder of VOC's layout; also in another case (`jpegimages`) if there are lists; images also in `Images`."""
    return next((path for path in (root / name, *_in_another_case(root, name)) if path.is_dir()), root / name)


def _in_another_case(root: Path, name: str) -> Iterator[Path]:
    """Folders below `root` with that name in another case, if `ImageSets` holds a list of images."""
    lists = [path for path in _named(root, ("imagesets", "main")) if texts_in(path)]
    if lists:
        yield from _named(root, name.lower().split("/"))
        images = _named(root, ("images",)) if name == "JPEGImages" else ()
        yield from (path for path in images if any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir()))


def _named(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Folders at a path, ignoring case."""
    if not parts:
        yield root
    elif root.is_dir():
        for path in sorted(root.iterdir()):
            if path.name.lower() == parts[0] and path.is_dir():
                yield from _named(path, parts[1:])


def voc_folders(root: Path) -> list[Path]:
    """Folders in VOC format: `root`, or else those at most two levels below it, or the single innermost folder.

    Several folders must have lists; without lists they are one data set, with splits by folder names.
    """
    if voc_part(root, "JPEGImages").is_dir() and (
        (root / "JPEGImages").is_dir() or voc_part(root, "Annotations").is_dir()
    ):
        return [root]
    images = (path for pattern in ("*/JPEGImages", "*/*/JPEGImages") for path in root.glob(pattern))
    found = sorted(path.parent for path in images if not any(map(is_hidden, path.relative_to(root).parts)))
    inner = inner_folder(root)
    if not found and inner != root:
        return voc_folders(inner)
    return found if len(found) == 1 else [path for path in found if texts_in(path / "ImageSets/Main")]


def in_voc_format(root: Path) -> bool:
    """True for a folder with JPEGImages, unless no list names images and annotations are outside Annotations or images
    in folders of splits: that is read as XML beside images.
    """
    found = voc_folders(root)
    if any(map(_in_split_folders, found)) and find_annotation(root) is not None:
        return False
    known = any(voc_part(path, "Annotations").is_dir() or texts_in(voc_part(path, "ImageSets/Main")) for path in found)
    return known or bool(found and find_annotation(root) is None)


def _in_split_folders(root: Path) -> bool:
    """True if no list names images, which are in folders named after splits."""
    if texts_in(voc_part(root, "ImageSets/Main")) or texts_in(voc_part(root, "ImageSets")):
        return False
    return any(split_of(folders) for folders, _ in files_below(voc_part(root, "JPEGImages"), IMAGE_SUFFIXES))


def find_annotation(root: Path) -> str | None:
    """A VOC XML file among the first few XML files below a folder; None if there is none."""
    files = zip(range(_MOST), files_below(root, (".xml",)), strict=False)
    below = ("/".join((*folders, name)) for _, (folders, name) in files)
    return next((file for file in below if is_annotation(root / file)), None)


def voc_root(root: Path) -> Path:
    """The folder in VOC format at or below `root`; `root` if there is none.

    Raises:
        ValueError: there are several.
    """
    found = voc_folders(root) or [root]
    if len(found) > 1:
        raise ValueError(f"{root} has several data sets; give one of them as --data.root: {', '.join(map(str, found))}")
    return found[0]
