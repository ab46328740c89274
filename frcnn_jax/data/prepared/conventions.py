"""Conventions that a folder's files do not state: EXIF orientation and the counting of corners.

Marked images are turned or not; corners count from 0 or 1, or are fractions of the image. Each is one decision for the
whole folder, from the evidence of all its images.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.images import turned_size
from frcnn_jax.data.prepared.evidence.sizes import find_fractions
from frcnn_jax.data.prepared.load import LoadedImage, stated_size
from frcnn_jax.data.records import Box, BoxNotation, ImageRecord, ObjectRecord

__all__ = ["CORNER_SHARE", "Conventions", "find_conventions", "follow"]

CORNER_SHARE = 0.005
"""Least share of the objects as evidence for a way to count corners."""
_CORNER_COUNT = 3
_ROUNDING = 1e-6  # of whole numbers
_MANY = 10  # least ratio of the majority to the minority, to decide
_LEAST = 1.0  # pixels; smaller boxes have no inclusive corners, as which a folder in VOC format is stored
_INCLUSIVE = (1.0, 1.0, 0.0, 0.0)  # shift of the notation with inclusive corners, which may be counted in several ways
_SHIFTS = {  # relative to VOC's: shift of the box, and the notation of the corners in the file
    "one_based": ((0, 0, 0, 0), _INCLUSIVE),
    "zero_based": ((1, 1, 1, 1), (0.0, 0.0, -1.0, -1.0)),
    "zero_based_open": ((1, 1, 0, 0), (0.0, 0.0, 0.0, 0.0)),
}
_TEXTS = {
    "one_based": "1-based and inclusive, as VOC's own",
    "zero_based": "0-based and inclusive",
    "zero_based_open": "0-based, with xmax and ymax at the border itself",
}


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Decisions for a whole folder, and the sentences that state them."""

    turned: bool  # images with an EXIF orientation are turned
    corners: str  # a choice of `data.corners`
    sentences: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()  # evidence against the decision; only if `orientation` is auto
    fractions: bool = False  # boxes are fractions of the image, although the format has pixels
    odd: frozenset[str] = frozenset()  # ids of images with such evidence, if they are a small minority


def find_conventions(images: Sequence[LoadedImage], config: DataConfig) -> Conventions:
    """The decisions for a folder, from the settings or, if `auto`, from the evidence.

    Raises:
        ValueError: `config.corners` is set, but no image has corners that may be counted in several ways.
    """
    turned, sentences, faults, odd = _find_orientation(images, config.orientation, config.faults.tolerance)
    fractions = find_fractions(images)
    if config.corners != "auto":
        _check_corners(images, config, fractions is not None)
    if fractions:
        corners, more = "one_based", [fractions.sentence]
    else:
        corners, more = _find_corners(images, config.corners, turned)
    return Conventions(turned, corners, (*sentences, *more), tuple(faults), bool(fractions), odd)


def follow(image: LoadedImage, conventions: Conventions) -> LoadedImage:
    """The image in its final frame: turned or as stored, with 0-based, half-open boxes.

    A stated size that differs from the image's becomes a fault.
    """
    record, orientation = image.record, image.mark if conventions.turned else 1
    if conventions.fractions and image.size is not None:
        record = _in_pixels(record, turned_size(image.size, orientation))
    if conventions.corners != "one_based" and record.notation.shift == _INCLUSIVE:
        record = _recount(record, conventions.corners)
    if image.size is None:
        return dataclasses.replace(image, record=record, orientation=orientation)
    size, stated = turned_size(image.size, orientation), stated_size(record)
    if record.fractions and size != image.size:
        x, y = size[1] / image.size[1], size[0] / image.size[0]
        record = dataclasses.replace(
            record, objects=_mapped(record, lambda box: _each(operator.mul, box, (x, y, x, y)))
        )
    faults = image.faults
    undecided = bool(conventions.faults) and stated == turned_size(image.size, image.mark if orientation == 1 else 1)
    if stated is not None and stated != size and not undecided:
        message = f"the image has {size[1]} x {size[0]} pixels (width x height)"
        if image.mark != 1:
            message += f"; its EXIF orientation, {image.mark}, is {'followed' if orientation != 1 else 'ignored'}"
        value = f"{stated[1]:g} x {stated[0]:g}"
        faults = (Fault("size_mismatch", record.file, None, "size", value, message), *faults)
    return dataclasses.replace(image, record=record, size=size, faults=faults, orientation=orientation)


def _find_orientation(
    images: Sequence[LoadedImage], setting: str, tolerance: float
) -> tuple[bool, list[str], list[Fault], frozenset[str]]:
    """The decision, sentences, faults if the evidence is contradictory, and ids of the minority if that is small: at
    most the tolerated share, or a tenth of the majority.
    """
    marked = [image for image in images if image.mark != 1]
    if not marked or setting != "auto":
        return setting != "ignore", [_orientation_text(marked, len(images), setting)] if marked else [], [], frozenset()
    as_turned, as_stored = [], []
    for image in marked:
        if image.mark >= 5 and image.size is not None and image.size[0] != image.size[1]:
            if stated_size(image.record) == turned_size(image.size, image.mark):
                as_turned.append(image)
            elif stated_size(image.record) == image.size:
                as_stored.append(image)
    turned = len(as_turned) >= len(as_stored)
    odd, others = (as_stored, as_turned) if turned else (as_turned, as_stored)
    evidence = f"{len(as_turned)} state the size of the turned image, {len(as_stored)} that of the image as it lies"
    evidence = evidence if odd or others else "none of them states a size that says which"
    faults, ids = [], frozenset()
    if tolerance and odd and (len(odd) <= tolerance * (len(odd) + len(others)) or len(others) >= _MANY * len(odd)):
        ids = frozenset(image.record.image_id for image in odd)
        evidence += f", which is decided against (the first: {odd[0].record.file})"
    else:
        faults = [_contradiction(image, turned, len(others)) for image in odd]
    sentence = _orientation_text(marked, len(images), "apply" if turned else "ignore", evidence)
    return turned, [sentence], faults, ids


def _contradiction(image: LoadedImage, turned: bool, others: int) -> Fault:
    height, width = stated_size(image.record) or (0, 0)
    this, other = ("as it lies in the file", "turned") if turned else ("turned", "as they lie in the file")
    message = f"the size of the image {this}, but {others} others state theirs {other}"
    return Fault("orientation", image.record.file, None, "size", f"{width:g} x {height:g}", message)


def _orientation_text(marked: Sequence[LoadedImage], count: int, decision: str, evidence: str = "") -> str:
    what = "ignored" if decision == "ignore" else "followed, as viewers do"
    reason = f"data.orientation auto: {evidence}" if evidence else f"data.orientation {decision}"
    first, have = marked[0].record.path, "has" if len(marked) == 1 else "have"
    return (
        f"{len(marked)} of {count} images {have} an EXIF orientation, which is {what} ({reason}; "
        f"as {first.name if first else marked[0].record.image_id})"
    )


def _check_corners(images: Sequence[LoadedImage], config: DataConfig, fractions: bool) -> None:
    """Raises ValueError if the setting would change nothing."""
    notations = [image.record.notation for image in images]
    fractions = fractions or any(image.record.fractions for image in images)
    if fractions or (notations and all(notation.shift != _INCLUSIVE for notation in notations)):
        boxes = "fractions of the image" if fractions else ", ".join(notations[0].names)
        raise ValueError(
            f"data.corners = {config.corners!r} is for corners in XML or CSV files, and changes nothing in "
            f"{config.root}, where boxes are {boxes}: leave it out, or give --data.corners auto"
        )


def _find_corners(images: Sequence[LoadedImage], setting: str, turned: bool) -> tuple[str, list[str]]:
    if setting != "auto":
        return setting, []
    objects = at_zero = at_border = broken = 0
    for image in images:
        record = image.record
        if record.notation.shift != _INCLUSIVE:
            continue
        actual = turned_size(image.size, image.mark if turned else 1) if image.size else (0, 0)
        height, width = stated_size(record) or actual
        objects += len(record.objects)
        for item in record.objects:
            xmin, ymin, xmax, ymax = record.notation.written(item.box)
            at_zero += abs(xmin) < 0.5 or abs(ymin) < 0.5
            at_border += xmax == width or ymax == height
            broken += any(abs(value - round(value)) > _ROUNDING for value in (xmin, ymin, xmax, ymax))
    if 2 * broken > objects:
        evidence = f"{broken} of {objects} objects have corners between pixels, which inclusive corners cannot have"
        return "zero_based_open", [f"corners are {_TEXTS['zero_based_open']} (data.corners auto: {evidence})"]
    least = max(_CORNER_COUNT, CORNER_SHARE * objects)
    zero_based = "zero_based_open" if at_border >= least else "zero_based"
    corners = zero_based if at_zero >= least else "one_based"
    if not at_zero:
        return corners, []
    evidence = f"{at_zero} of {objects} objects have a corner of 0"
    if corners == "one_based":
        evidence += ", too few to count from there: these are clipped"
    elif at_border:
        few = "" if corners == "zero_based_open" else ", too few to count: these are clipped"
        evidence += f", {at_border} have xmax = width or ymax = height{few}"
    return corners, [f"corners are {_TEXTS[corners]} (data.corners auto: {evidence})"]


def _in_pixels(record: ImageRecord, size: tuple[int, int]) -> ImageRecord:
    """The record with its boxes converted from fractions to pixels."""
    sides = (size[1], size[0]) * 2
    objects = _mapped(record, lambda box: _each(operator.mul, record.notation.written(box), sides))
    return dataclasses.replace(record, objects=objects, notation=BoxNotation(record.notation.names, least=_LEAST))


def _recount(record: ImageRecord, corners: str) -> ImageRecord:
    """The record with its boxes converted from VOC's counting, which the reader assumed."""
    shift, written = _SHIFTS[corners]
    objects = _mapped(record, lambda box: _each(operator.add, box, shift))
    notation = BoxNotation(record.notation.names, written, _LEAST)
    return dataclasses.replace(record, objects=objects, notation=notation)


def _each(operation: Callable[[float, float], float], box: Box, values: Box) -> Box:
    x1, y1, x2, y2 = map(operation, box, values)
    return x1, y1, x2, y2


def _mapped(record: ImageRecord, function: Callable[[Box], Box]) -> tuple[ObjectRecord, ...]:
    return tuple(dataclasses.replace(item, box=function(item.box)) for item in record.objects)
