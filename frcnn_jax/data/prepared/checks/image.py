"""The faults of an image and of its objects, and the parts of it that the policy keeps."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.load import LoadedImage, stated_size
from frcnn_jax.data.records import Box, BoxNotation, ImageRecord, ObjectRecord

__all__ = ["CheckedImage", "ImageCheck", "check_loaded_image"]

_ROUNDING = 1e-9  # pixels; error of corners shifted by 1 and back
_TOLERANCE = 1e-3  # pixels; other tools round when they convert fractions to coordinates
_BORDER = 2.0  # pixels; a box may exceed the border by this much and is clipped
_UNKNOWN = ("unreadable_annotation", "missing_annotation")  # faults of images whose objects are unknown


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """A usable image with its usable objects."""

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[ObjectRecord, ...]
    orientation: int = 1  # applied EXIF orientation; size and boxes are those of the turned image


@dataclasses.dataclass
class ImageCheck:
    image: CheckedImage | None
    faults: list[Fault]
    dropped: Counter[str]
    clipped: int = 0
    own_size: bool = False


def check_loaded_image(
    image: LoadedImage, classes: Sequence[str], policy: FaultPolicy, tolerated: Collection[Fault] = frozenset()
) -> ImageCheck:
    """Faults of the image and of its objects, and the parts that the policy keeps. A dropped image or object has only
    one fault.
    """
    whole = [fault for fault in image.faults if fault.object is None]
    fault = _dropped_for(whole, policy, tolerated)
    if fault:
        return ImageCheck(None, [fault], Counter([fault.kind]))
    record = image.record
    result = ImageCheck(None, list(image.faults), Counter())
    for kind in {fault.object: fault.kind for fault in image.faults if fault.object is not None}.values():
        result.dropped[kind] += 1
    objects = []
    stated = stated_size(record)
    size = image.size or stated or (math.inf, math.inf)
    for item in record.objects:
        box = _clip(item.box, size)
        over = _distance(item.box, box)
        clip = over > _TOLERANCE and (over <= _BORDER + _TOLERANCE or policy.box_outside == "clip")
        faults = _object_faults(item, box if clip else item.box, size, classes, record)
        fault = _dropped_for(faults, policy, tolerated)
        if fault:
            result.dropped[fault.kind] += 1
            result.faults.append(fault)
            continue
        result.faults += faults
        result.clipped += clip
        objects.append(dataclasses.replace(item, box=box))
    unknown = any(fault.kind in _UNKNOWN and getattr(policy, fault.kind) == "error" for fault in whole)
    if record.path is not None and image.size is not None and not unknown:
        result.image = CheckedImage(record.image_id, record.path, image.size, tuple(objects), image.orientation)
        ignored = stated != image.size and policy.size_mismatch == "use_image"
        result.own_size = record.size is not None and (stated is None or ignored)
    return result


def _dropped_for(faults: Sequence[Fault], policy: FaultPolicy, tolerated: Collection[Fault]) -> Fault | None:
    """The first fault that is tolerated or answered by a drop."""
    dropped = (fault for fault in faults if getattr(policy, fault.kind) == "drop")
    return next(dropped, None) or next((fault for fault in faults if fault in tolerated), None)


def _distance(box: Box, clipped: Box) -> float:
    """Pixels by which the box exceeds the border."""
    return max(abs(a - b) for a, b in zip(box, clipped, strict=True))


def _clip(box: Box, size: tuple[float, float]) -> Box:
    """The box moved into the image."""
    height, width = size
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _share_inside(box: Box, size: tuple[float, float]) -> float:
    """Share of the box's area inside the image; 0 of an empty box."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = _clip(box, size)
    area = max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
    return max(right - left, 0.0) * max(bottom - top, 0.0) / area if area else 0.0


def _is_empty(box: Box, notation: BoxNotation) -> bool:
    left, top, right, bottom = notation.written(box)
    x1, y1, x2, y2 = box
    below = x1 + notation.least > x2 or y1 + notation.least > y2
    return below or right - left <= _ROUNDING or bottom - top <= _ROUNDING


def _object_faults(
    item: ObjectRecord, box: Box, size: tuple[float, float], classes: Sequence[str], record: ImageRecord
) -> list[Fault]:
    """Faults of an object with this box, the most important kind first."""
    faults = []
    if item.name not in classes:
        message = textwrap.shorten(f"not one of {', '.join(classes)}", 80, placeholder=" ...")
        faults.append(Fault("unknown_class", record.file, item.index, "name", item.name, message))
    # Values are those in the file, even if the clipped box is checked.
    written = record.notation.describe(item.box)
    if _is_empty(box, record.notation):
        least = record.notation.least
        empty = f"below {least:g} {'pixels' if least > 1 else 'pixel'}" if least else "empty"
        message = f"reversed or {empty}" if box == item.box else "nothing left of it inside the image"
        faults.append(Fault("degenerate_box", record.file, item.index, "bndbox", written, message))
    if _distance(box, _clip(box, size)) > _TOLERANCE:
        message = (
            f"outside the image ({record.notation.limits(size)}), with {_share_inside(box, size):.0%} of it inside"
        )
        faults.append(Fault("box_outside", record.file, item.index, "bndbox", written, message))
    return faults
