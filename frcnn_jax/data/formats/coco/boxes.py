"""The box of one object in COCO's JSON."""

from __future__ import annotations

from typing import Any

from frcnn_jax.data.formats.rotation import around_rotated, read_angle
from frcnn_jax.data.records import Box

__all__ = ["is_number", "read_box", "read_rotation"]

_LARGEST = 1e15  # largest plausible number of pixels


def read_box(item: dict) -> Box | None:
    """x1, y1, x2 and y2 from `bbox`, maybe written as texts; without it, the box around the polygons; None without
    both. Of a rotated rectangle it is the box around it.
    """
    box, outline = item.get("bbox"), item.get("segmentation")
    if isinstance(box, list) and len(box) == 4:
        box = list(map(_as_number, box))
        if not all(map(is_number, box)):
            return None
        x, y, width, height = box
        return around_rotated((x, y, x + width, y + height), read_rotation(item))
    if box or not (isinstance(outline, list) and outline):
        return None
    polygons = outline if isinstance(outline[0], list) else [outline]
    if not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons):
        return None
    values = [value for polygon in polygons for value in polygon]
    if not all(map(is_number, values)):
        return None
    xs, ys = ([float(value) for polygon in polygons for value in polygon[start::2]] for start in (0, 1))
    x, y = min(xs), min(ys)
    # By way of the width, so that prepared boxes are equal to the last bit to those of earlier versions.
    return x, y, x + (max(xs) - x), y + (max(ys) - y)


def read_rotation(item: dict) -> float:
    """Degrees by which `bbox` is turned; 0 beside an outline, which `bbox` is around."""
    attributes = item.get("attributes")
    if not isinstance(attributes, dict) or not item.get("bbox") or item.get("segmentation"):
        return 0.0
    return read_angle(attributes.get("rotation"))


def is_number(value: Any) -> bool:
    """True for a finite number of plausible size."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _as_number(value: Any) -> Any:
    """The number in a text; anything else unchanged."""
    try:
        return float(value) if isinstance(value, int | str) and not isinstance(value, bool) else value
    except (ValueError, OverflowError):
        return value
