"""Annotations in no format's terms: what a reader makes of a folder, and all that checking and preparation work on."""

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
    """Corners of a box as files of a format count them, for messages and for the rule when a box is empty.

    A box `x1 y1 x2 y2`, 0-based and half-open, stands in the file as those numbers plus `shift`. It is empty where the
    numbers in the file coincide: VOC's corners are inclusive, and its boxes of one pixel count as empty.
    """

    names: tuple[str, str, str, str] = ("x1", "y1", "x2", "y2")
    shift: Box = (0.0, 0.0, 0.0, 0.0)

    def written(self, box: Box) -> Box:
        """The corners as they stand in the file."""
        x1, y1, x2, y2 = (value + shift for value, shift in zip(box, self.shift, strict=True))
        return x1, y1, x2, y2

    def describe(self, box: Box) -> str:
        """The corners as they stand in the file, with their names."""
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
    name: str  # of its class
    box: Box  # x1 y1 x2 y2 in pixels, 0-based and half-open
    area: float | None = None  # in square pixels, where the file states it
    difficult: bool = False
    crowd: bool = False  # stands for a group of objects
    truncated: bool = False
    pose: str = "unspecified"


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image with its objects. In a folder an id stands for one image, in whatever splits it is."""

    image_id: str
    path: Path | None  # of the image; None if it does not exist
    file: str  # holds the annotation; relative to the folder, for messages
    size: tuple[float, float] | None = None  # stated height and width; None: the image's own counts
    objects: tuple[ObjectRecord, ...] = ()
    faults: tuple[Fault, ...] = ()  # of the files and of the objects left out, as `missing_annotation`
    notation: BoxNotation = HALF_OPEN
    fractions: bool = dataclasses.field(default=False, repr=False)
    """The file has fractions of the image, which the reader took of the image as it lies: boxes stretch as it turns."""
    optional: bool = dataclasses.field(default=False, repr=False)
    """The file may list more images than the folder has, as those of a whole of which this is a part."""
    # Not in the text of a record, from which names of prepared folders are made.
    notes: tuple[Note, ...] = dataclasses.field(default=(), repr=False)


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
    """Boxes as numbers in which areas and mirrored corners are right: float32 in place of integers and half precision.

    Sizes of unsigned integers would wrap, and products of half precision overflow.
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
