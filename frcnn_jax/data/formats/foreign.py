"""Annotations that are not read: those of other tools, told by their keys, and those beside a folder of images."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax.data.formats.tree import files_below, is_hidden

__all__ = ["annotations_beside", "foreign_format"]

_BYTES = 1 << 18  # read of a file: its first keys
_FILES, _IN_FOLDER = 6, 2  # files that are looked at for each suffix, and of one folder
_ENTRIES = 2000  # of the parent folder
_FOLDERS = frozenset(("annotations", "annotation", "annots", "imagesets", "labels", "xml", "xmls"))
# The declaration and comments before an XML file's root; atomic, so that many of them take no longer.
_XML_HEAD = rb"\s*(?>(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>]*>)\s*)*+"
_CSV_COLUMNS = re.compile(rb"x_?min", re.IGNORECASE)
_COCO_KEYS, _YAML_NAMES = re.compile(rb'"(images|annotations|categories)"\s*:\s*\['), re.compile(rb"(?m)^names\s*:")
_STUDIO_HEADER = re.compile(rb"(?=[^\n]*\bannotator\b)[^\n]*\bannotation_id\b")
_READABLE = {".csv": _CSV_COLUMNS, ".json": _COCO_KEYS, ".yaml": _YAML_NAMES, ".yml": _YAML_NAMES}


def _keys(start: str, *names: str) -> re.Pattern[bytes]:
    """Pattern of a JSON text that begins with `start` and has all of the keys; a name may be several, as `a|b`."""
    found = "".join(rf'(?=.*"(?:{name})"\s*:)' for name in names)
    return re.compile(rf"\s*{re.escape(start)}{found}".encode(), re.DOTALL)


# Name of a format, the export to choose instead, and by suffix the patterns of a file's beginning.
_SIGNATURES: tuple[tuple[str, str, dict[str, tuple[re.Pattern[bytes], ...]]], ...] = (
    (
        "CVAT's own XML",
        'export it from CVAT as "COCO 1.0" or "PASCAL VOC 1.1" with its images, and give that folder',
        {".xml": (re.compile(_XML_HEAD + rb"<annotations[^>]*>\s*<(version|meta|image|track)\b", re.DOTALL),)},
    ),
    (
        "LabelMe's JSON of one image",
        "convert it to COCO, as with: pip install labelme2coco; labelme2coco FOLDER, and put its file into "
        "FOLDER/annotations; or to VOC by labelme2voc.py of LabelMe's examples",
        {".json": (_keys("{", "shapes", "imagePath|shape_type"),)},
    ),
    (
        "of the VGG Image Annotator (VIA)",
        "export it from VIA in COCO format, and put that file into the folder",
        {
            ".json": (_keys("{", "_via_img_metadata|regions", "file_attributes"),),
            ".csv": (re.compile(rb"[^\n]*\bregion_shape_attributes\b"),),
        },
    ),
    (
        "Label Studio's JSON",
        "export it from Label Studio as COCO, YOLO or Pascal VOC XML, and give that folder",
        {".json": (_keys("[", "annotations|completions", "data"), _keys("[", "rectanglelabels"))},
    ),
    (
        "Label Studio's table",
        "export it from Label Studio as COCO, YOLO or Pascal VOC XML, and give that folder",
        {suffix: (_STUDIO_HEADER, re.compile(rb".*rectanglelabels", re.DOTALL)) for suffix in (".csv", ".tsv")},
    ),
    (
        "Supervisely's JSON of one image",
        "export it from Supervisely as COCO, YOLO or Pascal VOC, and give that folder",
        {".json": (_keys("{", "objects", "size", "tags"),)},
    ),
)


def foreign_format(root: Path) -> str:
    """A sentence about the first file that another tool has written, with the export to choose; empty if none is found.

    Only the beginnings of a few files are read.
    """
    for suffix in (".xml", ".json", ".csv", ".tsv"):
        for file in itertools.islice(_first_files(root, suffix), _FILES):
            beginning = _beginning(root / file)
            for name, cure, patterns in _SIGNATURES:
                if any(pattern.match(beginning) for pattern in patterns.get(suffix, ())):
                    return f"{file} is {name}, which is not read: {cure}"
    return ""


def annotations_beside(root: Path) -> Path | None:
    """The first entry of the parent folder that may hold the annotations of `root`: a folder with such a name, or a
    CSV, JSON or YAML file with such columns or keys. Nothing below the parent's own entries is looked at.
    """
    files = 0
    with contextlib.suppress(OSError), os.scandir(root.parent) as entries:
        for entry in itertools.islice(entries, _ENTRIES):
            if is_hidden(entry.name) or entry.name == root.name:
                continue
            pattern = _READABLE.get(os.path.splitext(entry.name)[1].lower())
            if pattern is None:
                if entry.name.lower() in _FOLDERS and entry.is_dir():
                    return Path(entry.path)
            elif files < _FILES and entry.is_file():
                files += 1
                if pattern.search(_beginning(Path(entry.path))):
                    return Path(entry.path)
    return None


def _first_files(root: Path, suffix: str) -> Iterator[str]:
    """The first files of each folder, relative to the root."""
    counts: Counter[tuple[str, ...]] = Counter()
    for folders, name in files_below(root, (suffix,)):
        counts[folders] += 1
        if counts[folders] <= _IN_FOLDER:
            yield "/".join((*folders, name))


def _beginning(path: Path) -> bytes:
    """The first bytes of a file, without a byte order mark; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_BYTES).removeprefix(b"\xef\xbb\xbf")
    except OSError:
        return b""
