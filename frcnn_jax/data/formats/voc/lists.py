"""Lists of image ids in VOC format, as written by VOC's tools and others."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

from frcnn_jax.data.formats.tree import composed, lines_of, normal_name
from frcnn_jax.data.images import IMAGE_SUFFIXES

__all__ = [
    "SplitList",
    "is_class_file",
    "listed_ids",
    "parent_of",
    "read_split",
    "with_mark",
    "with_trainval",
]

_SHOWN = 100  # characters of a line in a message
_QUOTED = re.compile(r'"([^"]+)"(\s+(?:-1|0|1))?')


@dataclasses.dataclass(frozen=True)
class SplitList:
    """Image ids in the order of a split's text file, each once."""

    file: str  # relative to the folder, for messages
    ids: tuple[str, ...]
    repeats: tuple[tuple[int, str], ...] = ()  # line number and id of repeated ids


def read_split(path: Path, name: str, known: dict[str, list[str]], folders: Collection[str] = ()) -> SplitList:
    """The ids in a split file: one per line, maybe with a second column -1, 0 or 1.

    An id may contain spaces; a line that is a `known` id has no second column. The name of an image file stands for its
    id. Quotes around an id, which Datumaro writes if it has spaces, are ignored. An id may include one of the
    `folders`.

    Raises:
        ValueError: a line is another path, or the text is not UTF-8.
    """
    ids: dict[str, None] = {}
    repeats = []
    for number, line in enumerate(lines_of(path), 1):
        image_id = line.strip()
        if not image_id:
            continue
        parts = image_id.rsplit(maxsplit=1)
        quoted = _QUOTED.fullmatch(image_id)
        if quoted and composed(image_id) not in known:
            image_id = quoted[1].strip()
        elif composed(image_id) not in known and len(parts) == 2 and parts[1] in ("-1", "0", "1"):
            image_id = parts[0]
        below = normal_name(image_id)
        if parent_of(below) in folders:
            image_id = below
        elif "\0" in image_id or Path(image_id).name != image_id or PureWindowsPath(image_id).name != image_id:
            raise ValueError(
                f"{path}: line {number} = {image_id[:_SHOWN]!r}: a path, where the id of an image is wanted"
            )
        stem, suffix = os.path.splitext(image_id)
        if composed(image_id) not in known and composed(stem) in known and suffix.lower() in IMAGE_SUFFIXES:
            image_id = stem
        if image_id in ids:
            repeats.append((number, image_id))
        ids[image_id] = None
    return SplitList(name, tuple(ids), tuple(repeats))


def parent_of(image_id: str) -> str:
    """The folder in an id; empty if it has none."""
    return image_id.rpartition("/")[0]


def listed_ids(splits: dict[str, SplitList]) -> tuple[str, ...]:
    """All ids of the splits, each once."""
    return tuple(dict.fromkeys(image_id for split in splits.values() for image_id in split.ids))


def with_trainval(splits: dict[str, SplitList]) -> dict[str, SplitList]:
    """The splits, with train followed by validation as `trainval` if that is missing."""
    if "trainval" in splits or not {"train", "validation"} <= set(splits):
        return splits
    return splits | {"trainval": SplitList("", listed_ids({name: splits[name] for name in ("train", "validation")}))}


def is_class_file(name: str, files: dict[str, Path]) -> bool:
    """True for a file CLASS_SPLIT.txt beside another file SPLIT.txt, with a column of -1, 0 and 1."""
    if not any(name.endswith(f"_{other}") for other in files):
        return False
    lines = [_QUOTED.sub(r"id\2", line).split() for line in lines_of(files[name]) if line.strip()]
    return all(len(parts) == 2 and parts[1] in ("-1", "0", "1") for parts in lines)


def with_mark(line: str) -> bool:
    """True for an empty line, or a line with a second column -1, 0 or 1."""
    return not line.strip() or (len(line.split()) > 1 and line.split()[-1] in ("-1", "0", "1"))
