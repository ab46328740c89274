"""Boxes that are fractions of the image, and boxes too small to be meant as pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from frcnn_jax.data.prepared.load import LoadedImage

__all__ = ["LEAST_SIDE", "Fractions", "find_fractions", "mark_tiny"]

LEAST_SIDE = 2.0  # pixels; where most objects are smaller, boxes are not pixels
_ROUNDING = 1e-6  # of fractions
_SHARE = 0.9  # least share of the objects


@dataclasses.dataclass(frozen=True)
class Fractions:
    """Numbers of objects in a folder whose boxes are fractions of the image."""

    count: int  # with all corners between 0 and 1
    total: int

    @property
    def sentence(self) -> str:
        shown = f"all {self.total}" if self.count == self.total else f"{self.count} of {self.total} objects"
        return f"boxes are fractions of the image, as {shown} are between 0 and 1"


def find_fractions(images: Sequence[LoadedImage]) -> Fractions | None:
    """The numbers if at least 90 % of the objects have all written corners between 0 and 1, and some of these are
    neither 0 nor 1; else None. The rest are faults: one box over the border says nothing about the others.
    """
    records = [image.record for image in images]
    if any(record.fractions for record in records):  # already converted to pixels by the reader
        return None
    boxes = [record.notation.written(item.box) for record in records for item in record.objects]
    inside = [box for box in boxes if all(-_ROUNDING <= value <= 1 + _ROUNDING for value in box)]
    broken = any(abs(value - round(value)) > _ROUNDING for box in inside for value in box)
    return Fractions(len(inside), len(boxes)) if broken and len(inside) >= _SHARE * len(boxes) else None


def mark_tiny(images: Mapping[str, LoadedImage]) -> dict[str, LoadedImage]:
    """The images; if more than half of the objects have no side of 2 pixels, boxes with a smaller one count as empty.

    Such are fractions mixed with pixels, or fractions that were divided by the image's size twice.
    """
    boxes = [item.box for image in images.values() for item in image.record.objects]
    tiny = sum(0 < max(x2 - x1, y2 - y1) < LEAST_SIDE for x1, y1, x2, y2 in boxes)
    if 2 * tiny <= len(boxes):
        return dict(images)
    return {name: _with_least(image) for name, image in images.items()}


def _with_least(image: LoadedImage) -> LoadedImage:
    notation = dataclasses.replace(image.record.notation, least=LEAST_SIDE)
    return dataclasses.replace(image, record=dataclasses.replace(image.record, notation=notation))
