"""Format-neutral annotations: the output of readers and the input of checks and preparation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from frcnn_jax.data.faults import Fault, Note

__all__ = [
    "HALF_OPEN",
    "STANDARD_SPLITS",
    "BoxNotation",
    "ImageRecord",
    "ObjectRecord",
    "SplitRecords",
    "canonical_split",
    "float_boxes",
    "with_trainval",
]

STANDARD_SPLITS = ("train", "validation", "trainval", "test")

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class BoxNotation:
    """A format's notation for box corners, for messages and for the definition of an empty box.

    A box `x1 y1 x2 y2`, 0-based and half-open, is written in the file as these numbers plus `shift`. It is empty if the
    numbers in the file coincide: VOC's corners are inclusive, and its boxes of one pixel count as empty. So it is if a
    side is below `least`.
    """

    names: tuple[str, str, str, str] = ("x1", "y1", "x2", "y2")
    shift: Box = (0.0, 0.0, 0.0, 0.0)
    least: float = dataclasses.field(default=0.0, repr=False)  # pixels

    def written(self, box: Box) -> Box:
        """The corners as written in the file."""
        x1, y1, x2, y2 = (value + shift for value, shift in zip(box, self.shift, strict=True))
        return x1, y1, x2, y2

    def describe(self, box: Box) -> str:
        """The corners as written in the file, with their names."""
        return ", ".join(f"{name} {value:g}" for name, value in zip(self.names, self.written(box), strict=True))

    def limits(self, size: tuple[float, float]) -> str:
        """Corners that lie inside an image of height and width `size`."""
        left, top, right, bottom = self.names
        low_x, low_y, high_x, high_y = self.written((0, 0, size[1], size[0]))
        low = f"{left}, {top} from {low_x:g}" if low_x == low_y else f"{left} from {low_x:g}, {top} from {low_y:g}"
        return f"{low}, {right} to {high_x:g}, {bottom} to {high_y:g}"


HALF_OPEN = BoxNotation()


@dataclasses.dataclass(frozen=True)
class ObjectRecord:
    """One annotated object."""

    index: int  # position among the file's objects, from 0
    name: str  # name of its class
    box: Box  # x1 y1 x2 y2 in pixels, 0-based and half-open
    difficult: bool = False
    crowd: bool = False  # marks a group of objects
    truncated: bool = False
    pose: str = "unspecified"


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image with its objects. An id identifies one image of a folder, in all splits.

    Raises:
        ValueError: the id or the image's file name is not UTF-8.
    """

    image_id: str
    path: Path | None  # of the image; None if it does not exist
    file: str  # holds the annotation; relative to the folder, for messages
    size: tuple[float, float] | None = None  # stated height and width; None: use the image's own
    objects: tuple[ObjectRecord, ...] = ()
    faults: tuple[Fault, ...] = ()  # of the files and of the objects left out, as `missing_annotation`
    notation: BoxNotation = HALF_OPEN
    fractions: bool = dataclasses.field(default=False, repr=False)
    """The file has fractions, which the reader converted with the stored image's size: boxes stretch if it is turned.
    """
    optional: bool = dataclasses.field(default=False, repr=False)
    """The file may list more images than the folder has, as the folder may be a part of a larger data set."""
    # Not in the repr of a record, which determines names of prepared folders.
    notes: tuple[Note, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        try:
            f"{self.image_id}{self.path.name if self.path else ''}".encode()
        except UnicodeEncodeError:
            file = str(self.path or self.file).encode(errors="backslashreplace").decode()
            way = "rename it, as with: convmv -f latin1 -t utf8 -r --notest FOLDER"
            raise ValueError(f"{file}: the name is not UTF-8; {way}") from None


@dataclasses.dataclass(frozen=True)
class SplitRecords:
    """The images of a split in order, each once."""

    records: tuple[ImageRecord, ...]
    faults: tuple[Fault, ...] = ()  # of the list itself, as `duplicate_id` for each line left out
    notes: tuple[Note, ...] = dataclasses.field(default=(), repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(record.image_id for record in self.records)


def float_boxes(boxes: Any) -> Float[np.ndarray, "B 4"]:
    """Boxes as float32 if they are integers or in half precision, for correct areas and mirrored corners.

    Sizes of unsigned integers would wrap, and products in half precision overflow.
    """
    boxes = np.asarray(boxes).reshape(-1, 4)
    return boxes if boxes.dtype in (np.float32, np.float64) else boxes.astype(np.float32)


def canonical_split(name: str) -> str:
    """TFDS's name of a split: `validation` for `val` and `valid`, others unchanged."""
    return "validation" if name in ("val", "valid") else name


def with_trainval(splits: dict[str, SplitRecords]) -> dict[str, SplitRecords]:
    """The splits, with train followed by validation as `trainval` if that is missing."""
    if "trainval" in splits or not {"train", "validation"} <= set(splits):
        return splits
    records = {r.image_id: r for name in ("train", "validation") for r in splits[name].records}
    return splits | {"trainval": SplitRecords(tuple(records.values()))}
