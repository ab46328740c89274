"""The likely mistake in a folder where most boxes have one fault: clipping or dropping them would be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.evidence.sizes import LEAST_SIDE
from frcnn_jax.data.prepared.load import LoadedImage
from frcnn_jax.data.records import Box

__all__ = ["likely_mistake"]

_KINDS = ("box_outside", "degenerate_box")
_LEAST_COUNT = 3  # fewer faults say nothing about a folder
_ORDERS = {  # format of most boxes: the four numbers of the file
    "yolo": "the centre, width and height of a box, in fractions of the image",
    "coco": "x, y, width and height of a box",
}


class _Written(NamedTuple):
    """A faulty box in the numbers of its file."""

    numbers: Box
    limits: tuple[float, float]  # of the numbers in an image: of width and height
    sides: tuple[float, float]  # width, height in pixels


def likely_mistake(images: Iterable[LoadedImage], errors: Sequence[Fault], total: int, format_name: str) -> str:
    """A sentence about the faults of most objects, and what to put right; empty if there are none.

    Args:
        errors: faults that stop. Those of images with a fault of their own, as another size, do not count.
        total: number of objects in the folder.
    """
    whole = {fault.file for fault in errors if fault.object is None}
    for kind in _KINDS:
        faulty = {(f.file, f.object) for f in errors if f.kind == kind and f.object is not None and f.file not in whole}
        if len(faulty) >= _LEAST_COUNT and 2 * len(faulty) > total:
            written = [
                _written(item.box, image, format_name)
                for image in images
                for item in image.record.objects
                if (image.record.file, item.index) in faulty and image.size is not None
            ]
            why = _outside(written, format_name) if kind == "box_outside" else _degenerate(written, format_name)
            return f"{len(faulty)} of {total} objects have the fault {kind}, too many to clip or drop: {why}"
    return ""


def _written(box: Box, image: LoadedImage, format_name: str) -> _Written:
    height, width = image.size
    x1, y1, x2, y2 = box
    sides = x2 - x1, y2 - y1
    if format_name == "yolo":
        numbers = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, sides[0] / width, sides[1] / height
        return _Written(numbers, (1, 1), sides)
    numbers = (x1, y1, *sides) if format_name == "coco" else image.record.notation.written(box)
    return _Written(numbers, (width, height), sides)


def _outside(written: Sequence[_Written], format_name: str) -> str:
    order = _ORDERS.get(format_name)
    if order and _most(_are_corners(item) for item in written):
        return f"the numbers look like x1 y1 x2 y2, the corners, in place of {order}; write them so"
    if format_name == "yolo" and _most(max(item.numbers) > 1 for item in written):
        return "the numbers look like pixels; divide them by the width and height of the image"
    return "they look like boxes of images of another size; put the images that they were drawn on into the folder"


def _degenerate(written: Sequence[_Written], format_name: str) -> str:
    if _most(0 < max(item.sides) < LEAST_SIDE for item in written):
        again = " divided by the size twice" if format_name == "yolo" else " among boxes in pixels"
        return f"they are below {LEAST_SIDE:g} pixels and look like fractions{again}; write all boxes in one unit"
    if format_name in _ORDERS:
        return f"their numbers are not {_ORDERS[format_name]}; write them so"
    return "the numbers look like x, y, width and height, or like corners in another order; write the corners in order"


def _are_corners(item: _Written) -> bool:
    x1, y1, x2, y2 = item.numbers
    width, height = item.limits
    return 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def _most(answers: Iterable[bool]) -> bool:
    found = list(answers)
    return 2 * sum(found) > len(found)
