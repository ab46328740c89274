"""The faults of a folder's images: all found before anything is written, then reported together or dropped."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import DatasetFaultError, Fault
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.images import check_image, exif_orientation
from frcnn_jax.data.records import Box, BoxNotation, ImageRecord, ObjectRecord, SplitRecords

__all__ = [
    "CheckedImage",
    "CheckedSplit",
    "LoadedImage",
    "check_splits",
    "find_classes",
    "load_images",
    "raise_or_report",
]

_log = logging.getLogger(__name__)
_ROUNDING = 1e-9  # pixels; of corners moved by 1 and back
_TOLERANCE = 1e-3  # pixels; other tools round when they turn fractions of the size into coordinates


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """A record, and what its image file says."""

    record: ImageRecord
    size: tuple[int, int] | None  # height, width of the image file
    faults: tuple[Fault, ...]  # of the record and of the image
    turned: bool = False  # has an EXIF orientation


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """An image that may be used, with the objects that may be used."""

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[ObjectRecord, ...]
    notation: BoxNotation
    turned: bool = False  # has an EXIF orientation


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """The images of a split in the order of its list."""

    images: tuple[CheckedImage, ...]
    dropped: dict[str, int]  # images and objects dropped, by fault
    clipped: int  # boxes cut at the image's border


def load_images(splits: Iterable[SplitRecords], root: Path, title: str) -> dict[str, LoadedImage]:
    """Reads and decodes the image of every record, with a progress bar.

    Raises:
        ValueError: an id stands for two images.
    """
    records: dict[str, ImageRecord] = {}
    for record in (record for split in splits for record in split.records):
        other = records.setdefault(record.image_id, record)
        if other.path != record.path:
            raise ValueError(f"{root}: the id {record.image_id!r} stands for {other.path} and for {record.path}")
    found = map_in_threads(lambda record: _load_image(record, root), list(records.values()))
    return {image.record.image_id: image for image in tqdm(found, f"Checking {title}", len(records), unit="image")}


def find_classes(images: dict[str, LoadedImage]) -> tuple[str, ...]:
    """All class names in the records, sorted."""
    return tuple(sorted({item.name for image in images.values() for item in image.record.objects}))


def check_splits(
    images: dict[str, LoadedImage], splits: dict[str, SplitRecords], classes: Sequence[str], policy: FaultPolicy
) -> tuple[dict[str, CheckedSplit], list[Fault]]:
    """Images and objects of each split that the policy keeps, and the faults that it forbids."""
    results = {image_id: _check_image(image, classes, policy) for image_id, image in images.items()}
    errors = [fault for result in results.values() for fault in result.faults if getattr(policy, fault.kind) == "error"]
    checked = {}
    for name, split in splits.items():
        parts = [results[image_id] for image_id in split.ids]
        dropped = sum((part.dropped for part in parts), Counter(fault.kind for fault in split.faults))
        errors += [fault for fault in split.faults if getattr(policy, fault.kind) == "error"]
        kept = tuple(part.image for part in parts if part.image is not None)
        checked[name] = CheckedSplit(kept, dict(sorted(dropped.items())), sum(part.clipped for part in parts))
    return checked, sorted(errors, key=lambda fault: (fault.file, fault.object or 0))


def raise_or_report(title: str, checked: dict[str, CheckedSplit], errors: Sequence[Fault]) -> None:
    """Ends the preparation with all faults that are not allowed; logs once what was dropped or clipped.

    Raises:
        DatasetFaultError: `errors` is not empty.
        ValueError: no split has an image.
    """
    if errors:
        raise DatasetFaultError(title, errors)
    if not any(split.images for split in checked.values()):
        raise ValueError(f"{title}: no split has any image left")
    for name, split in checked.items():
        counts = [f"{count} for {kind}" for kind, count in split.dropped.items()]
        if counts:
            _log.warning("%s, split %s: dropped %s", title, name, ", ".join(counts))
        if split.clipped:
            _log.warning("%s, split %s: clipped %d boxes to the image", title, name, split.clipped)
        turned = [image.path.name for image in split.images if image.turned]
        if turned:
            _log.warning(
                "%s, split %s: %d images have an EXIF orientation, which is ignored: boxes are to be in pixels as they "
                "lie in the file (the first: %s)",
                *(title, name, len(turned), turned[0]),
            )


@dataclasses.dataclass
class _Result:
    image: CheckedImage | None
    faults: list[Fault]
    dropped: Counter[str]
    clipped: int = 0


def _load_image(record: ImageRecord, root: Path) -> LoadedImage:
    faults = [fault for fault in record.faults if fault.object is None]
    size, orientation = None, 1
    if record.path is not None:
        try:
            data = record.path.read_bytes()
            size, orientation = check_image(data), exif_orientation(data)
        except (ValueError, OSError) as error:
            file = os.path.relpath(record.path, root)
            faults.append(Fault("unreadable_image", file, None, "file", record.path.name, str(error)))
    if size is not None and record.size is not None and size != record.size:
        value = f"{record.size[1]:g} x {record.size[0]:g}"
        message = f"the image has {size[1]} x {size[0]} pixels (width x height)"
        if orientation != 1:
            message += f"; its EXIF orientation, {orientation}, is ignored"
        faults.append(Fault("size_mismatch", record.file, None, "size", value, message))
    faults += [fault for fault in record.faults if fault.object is not None]
    return LoadedImage(record, size, tuple(faults), turned=orientation != 1)


def _check_image(image: LoadedImage, classes: Sequence[str], policy: FaultPolicy) -> _Result:
    """Faults of the image and of its objects, and what the policy leaves of them. What is dropped for one fault has
    no others."""
    kind = _dropped_for([fault for fault in image.faults if fault.object is None], policy)
    if kind:
        return _Result(None, [], Counter([kind]))
    record = image.record
    result = _Result(None, list(image.faults), Counter())
    for kind in {fault.object: fault.kind for fault in image.faults if fault.object is not None}.values():
        result.dropped[kind] += 1
    objects = []
    size = image.size or record.size or (math.inf, math.inf)
    for item in record.objects:
        box = _clip(item.box, size)
        clip = policy.box_outside == "clip" and _is_outside(item.box, box)
        faults = _object_faults(item, box if clip else item.box, size, classes, record)
        kind = _dropped_for(faults, policy)
        if kind:
            result.dropped[kind] += 1
            continue
        result.faults += faults
        result.clipped += clip
        objects.append(dataclasses.replace(item, box=box))
    if record.path is not None and image.size is not None:
        kept = record.image_id, record.path, image.size, tuple(objects), record.notation, image.turned
        result.image = CheckedImage(*kept)
    return result


def _dropped_for(faults: Sequence[Fault], policy: FaultPolicy) -> str | None:
    """The first kind of fault that the policy drops."""
    return next((fault.kind for fault in faults if getattr(policy, fault.kind) == "drop"), None)


def _is_outside(box: Box, clipped: Box) -> bool:
    return max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > _TOLERANCE


def _clip(box: Box, size: tuple[float, float]) -> Box:
    """The box moved into the image."""
    height, width = size
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _is_empty(box: Box, notation: BoxNotation) -> bool:
    left, top, right, bottom = notation.written(box)
    return right - left <= _ROUNDING or bottom - top <= _ROUNDING


def _object_faults(
    item: ObjectRecord, box: Box, size: tuple[float, float], classes: Sequence[str], record: ImageRecord
) -> list[Fault]:
    """Faults of an object that gets this box, the kind that counts first."""
    faults = []
    if item.name not in classes:
        message = textwrap.shorten(f"not one of {', '.join(classes)}", 80, placeholder=" ...")
        faults.append(Fault("unknown_class", record.file, item.index, "name", item.name, message))
    # Values are given as in the file, also where the check is of the clipped box.
    written = record.notation.describe(item.box)
    if _is_empty(box, record.notation):
        message = "reversed or empty" if box == item.box else "nothing left of it inside the image"
        faults.append(Fault("degenerate_box", record.file, item.index, "bndbox", written, message))
    if _is_outside(box, _clip(box, size)):
        message = f"outside the image ({record.notation.limits(size)})"
        faults.append(Fault("box_outside", record.file, item.index, "bndbox", written, message))
    return faults
