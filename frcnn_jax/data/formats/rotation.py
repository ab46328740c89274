"""Rotated rectangles, which CVAT writes as the rectangle before it is turned and an attribute `rotation`."""

from __future__ import annotations

import math
from typing import Any

from frcnn_jax.data.records import Box

__all__ = ["around_rotated", "read_angle"]


def read_angle(value: Any) -> float:
    """Degrees of an attribute `rotation`, from 0 to below 180; 0 if it is not a number, as tools name attributes of
    other meanings so. Half a turn does not change a rectangle.
    """
    try:
        degrees = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return degrees % 180 if math.isfinite(degrees) else 0.0


def around_rotated(box: Box, degrees: float) -> Box:
    """The box around a rectangle x1 y1 x2 y2 that is turned about its centre, in the rectangle's unit; a reversed
    rectangle remains as it is.
    """
    x1, y1, x2, y2 = box
    if not degrees or x1 >= x2 or y1 >= y2:
        return box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = (x2 - x1) * cosine + (y2 - y1) * sine, (x2 - x1) * sine + (y2 - y1) * cosine
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
