"""Lists of a split's images in text files beside the annotations, such as `train.txt` and `test.txt`: of Darknet, of
PaddleDetection (`./images/a.jpg ./annotations/a.xml`), or of plain ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax.data.formats.file_names import named_split
from frcnn_jax.data.formats.log import warn_once
from frcnn_jax.data.formats.tree import ImageFile, ImageTree, files_below, inner_folder, lines_of
from frcnn_jax.data.images import IMAGE_SUFFIXES

__all__ = ["ListedImages", "find_lists", "listed_images", "read_lists"]

_DEPTH = 2  # folders below the root
_SHOWN = 80  # characters of a line in a message
_IMAGE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))[\s,;]", re.IGNORECASE)
_MARK = re.compile(r"\s+(?:-1|0|1)$")

ListedImages = dict[str, dict[Path, list[ImageFile]]]
"""Images in the order of the lines, by split and list."""


def find_lists(images: ImageTree) -> ListedImages:
    """The lists at most two folders below the root of the images, or below the single folder inside it."""
    inner = inner_folder(images.root)
    files = files_below(inner, (".txt",), _DEPTH)
    return read_lists((inner.joinpath(*folders, name) for folders, name in files), images)


def read_lists(paths: Iterator[Path], images: ImageTree) -> ListedImages:
    """The lists among text files: those named after a split with a line that names an image. A line of the log names
    the others, except texts of single images, such as labels.
    """
    found: ListedImages = {}
    for path in paths:
        split = named_split(path.stem)
        lines = _lines(path) if split else []
        near = _near(path, images)
        if split and not _is_label(lines):
            if any(_find(line, near, images) for line in lines):
                found.setdefault(split, {})[path] = listed_images(path, images)
            elif not images.find(path.stem, near, None, by_stem=True):
                why = f"no line names an image in the folder ({lines[0][:_SHOWN]})" if lines else "it is empty"
                warn_once(f"{path} is not read: {why}")
    return found


def listed_images(path: Path, images: ImageTree) -> list[ImageFile]:
    """Images in the order of a list; a line of the log counts lines without image, or with several.

    Raises:
        ValueError: the text is not UTF-8.
    """
    lines = [line.strip() for line in lines_of(path) if line.strip()]
    found = [_find(line, _near(path, images), images) for line in lines]
    for what, matches in (
        ("name no image in the folder and are left out", [not files for files in found]),
        ("name several images, of which the first is taken", [len(files) > 1 for files in found]),
    ):
        if any(matches):
            warn_once(f"{path}: {sum(matches)} of {len(lines)} lines {what} ({lines[matches.index(True)]})")
    return [file for files in found for file in files[:1]]


def _lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8-sig", "ignore")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _near(path: Path, images: ImageTree) -> tuple[str, ...]:
    return path.relative_to(images.root).parts[:-1] if path.is_relative_to(images.root) else ()


def _is_label(lines: list[str]) -> bool:
    """True for a text that begins with a row of numbers, as YOLO's labels do."""
    return bool(lines and re.fullmatch(r"[-+.\deE]+(\s+[-+.\deE]+){4,}", lines[0]))


def _find(line: str, near: tuple[str, ...], images: ImageTree) -> list[ImageFile]:
    return next(filter(None, (images.find(name, near, None) for name in _names(line))), [])


def _names(line: str) -> Iterator[str]:
    """Names of an image that a line may mean: the whole line, its beginning up to an image's suffix, the line without
    a column of -1, 0 or 1, quotes, or the suffix of an annotation.
    """
    yield line
    image = _IMAGE.match(line)
    if image:
        yield image[1].strip("\"'")
    else:
        yield re.sub(r"\.xml$", "", _MARK.sub("", line).strip("\"'"), flags=re.IGNORECASE)
