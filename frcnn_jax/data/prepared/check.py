"""The faults of a folder's images and objects, and the images and objects that the policy keeps."""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.load import LoadedImage, stated_size
from frcnn_jax.data.records import Box, BoxNotation, ImageRecord, ObjectRecord, SplitRecords

__all__ = ["Check", "CheckedImage", "CheckedSplit", "check_splits", "without_objects"]

_ROUNDING = 1e-9  # pixels; error of corners shifted by 1 and back
_TOLERANCE = 1e-3  # pixels; other tools round when they convert fractions to coordinates
_BORDER = 2.0  # pixels; a box may exceed the border by this much and is clipped
_MILDER = {"size_mismatch": "use_image", "missing_annotation": "empty"}  # if dropping would leave nothing
_LISTED_FACTOR = 10  # factor on the tolerated share for ids without image and annotation


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """A usable image with its usable objects."""

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[ObjectRecord, ...]
    orientation: int = 1  # applied EXIF orientation; size and boxes are those of the turned image


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """The images of a split in the order of its list."""

    images: tuple[CheckedImage, ...]
    dropped: dict[str, int]  # images and objects dropped, by fault
    clipped: int  # boxes cut at the image's border
    own_size: int = 0  # images with a missing or ignored size in their annotation


@dataclasses.dataclass(frozen=True)
class Check:
    """The splits without dropped images and objects, and the faults."""

    splits: dict[str, CheckedSplit]
    errors: tuple[Fault, ...]  # faults that stop
    tolerated: tuple[Fault, ...]  # faults that would stop but are few: their images or objects are dropped
    dropped: tuple[Fault, ...]  # faults that the policy drops
    counts: Mapping[str, int]  # numbers of images, objects, `clipped` boxes, and images with their `own_size`
    classes: tuple[str, ...]
    way_on: Mapping[str, str] | None = None
    """Fields of FaultPolicy that let the preparation go on; None: nothing would remain."""
    excused: Mapping[Fault, str] = dataclasses.field(default_factory=dict)
    """Those of `tolerated` that are many, and why."""
    lenient: bool = False  # a tolerance of 0 would give another result
    orientation: str | None = None  # "apply" or "ignore", as decided for the whole folder
    summary: tuple[str, ...] = ()  # short, for the log when the prepared data are opened again
    mistake: str = ""  # likely reason for faults of most objects; then no setting is offered


def check_splits(
    images: Mapping[str, LoadedImage],
    splits: Mapping[str, SplitRecords],
    classes: Sequence[str],
    policy: FaultPolicy,
    left_out: int = 0,
    excused: Mapping[Fault, str] | None = None,
) -> Check:
    """Images and objects of each split that the policy keeps, and the faults that it forbids.

    Args:
        left_out: number of skipped objects by image; they count for the tolerance.
        excused: faults of images that never stop, with the reason; their images are dropped and do not count for the
            tolerance.
    """
    results = {name: _check_image(image, classes, policy) for name, image in images.items()}
    faults = _all_faults(results, splits)
    excused = {fault: why for fault, why in (excused or {}).items() if getattr(policy, fault.kind) == "error"}
    counted = [image for image in images.values() if excused.keys().isdisjoint(image.faults)]
    totals = {"images": len(counted), "objects": left_out + sum(map(_object_count, counted))}
    tolerated, errors = _tolerated(faults, images, totals, policy, excused)
    if tolerated:
        results = {name: _check_image(image, classes, policy, tolerated) for name, image in images.items()}
    counts = {name: sum(getattr(result, name) for result in results.values()) for name in ("clipped", "own_size")}
    checked = {}
    for name, split in splits.items():
        parts = [results[image_id] for image_id in split.ids]
        dropped = sum((part.dropped for part in parts), Counter(fault.kind for fault in split.faults))
        kept = tuple(part.image for part in parts if part.image is not None)
        clipped, own_size = sum(part.clipped for part in parts), sum(part.own_size for part in parts)
        checked[name] = CheckedSplit(kept, dict(sorted(dropped.items())), clipped, own_size)
    dropped = tuple(fault for fault in faults if getattr(policy, fault.kind) == "drop")
    way_on = _way_on(images, splits, classes, policy, totals, excused, errors) if errors else {}
    faults = tuple(_in_order(errors)), tuple(_in_order(tolerated)), dropped
    return Check(checked, *faults, totals | counts, tuple(classes), way_on, excused, lenient=bool(tolerated))


def without_objects(check: Check, splits: Mapping[str, SplitRecords], measured: Sequence[str]) -> list[str]:
    """A sentence about each split without annotations, or without objects if it is measured."""
    sentences = []
    for name, split in splits.items():
        missing = [any(fault.kind == "missing_annotation" for fault in record.faults) for record in split.records]
        if missing and all(missing):
            sentences.append(f"none of the {len(missing)} images of split {name} has an annotation")
        elif (
            name in measured
            and check.splits[name].images
            and not any(image.objects for image in check.splits[name].images)
        ):
            sentence = f"none of the {len(missing)} images of split {name} has an object, so that they measure nothing"
            sentences.append(f"{sentence}: annotate them, or give others by --data.test")
    return sentences


def _all_faults(results: Mapping[str, _Result], splits: Mapping[str, SplitRecords]) -> list[Fault]:
    """All faults of images and lists, each once."""
    found = [fault for result in results.values() for fault in result.faults]
    return list(dict.fromkeys([*found, *(fault for split in splits.values() for fault in split.faults)]))


def _object_count(image: LoadedImage) -> int:
    return len(image.record.objects) + len({f.object for f in image.record.faults if f.object is not None})


def _tolerated(
    faults: Sequence[Fault],
    images: Mapping[str, LoadedImage],
    totals: Mapping[str, int],
    policy: FaultPolicy,
    excused: Collection[Fault],
) -> tuple[frozenset[Fault], list[Fault]]:
    """Faults of images and of objects that are few enough to be tolerated; and the faults that stop."""
    owners = {fault: name for name, image in images.items() for fault in image.faults if fault.object is None}
    listed_only = {name for name, image in images.items() if _is_listed_only(image)}
    groups: dict[str, list[Fault]] = {"images": [], "objects": [], "listed": []}
    for fault in faults:
        if getattr(policy, fault.kind) == "error" and fault not in excused:
            key = "objects" if fault.object is not None else "images"
            groups["listed" if owners.get(fault) in listed_only else key].append(fault)
    shares = {"images": policy.tolerance, "objects": policy.tolerance, "listed": _LISTED_FACTOR * policy.tolerance}
    few: list[Fault] = []
    for key, group in groups.items():
        # An image or an object with several faults counts once; a line of a list is identified by its number.
        count = len(
            {owners.get(fault, (fault.file, fault.field if fault.object is None else fault.object)) for fault in group}
        )
        if count <= shares[key] * totals["objects" if key == "objects" else "images"]:
            few += group
    tolerated = frozenset(few).union(excused)
    return tolerated, [fault for group in groups.values() for fault in group if fault not in tolerated]


def _is_listed_only(image: LoadedImage) -> bool:
    """True for an id of a list that has neither an image nor an annotation."""
    return {"missing_image", "missing_annotation"} <= {fault.kind for fault in image.faults}


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.object or 0, fault.kind))


def _way_on(
    images: Mapping[str, LoadedImage],
    splits: Mapping[str, SplitRecords],
    classes: Sequence[str],
    policy: FaultPolicy,
    totals: Mapping[str, int],
    excused: Collection[Fault],
    errors: Sequence[Fault],
) -> dict[str, str] | None:
    """Settings that let the preparation go on; None if they would leave no image, or no object."""
    had_objects = any(map(_object_count, images.values()))
    found = {fault.kind for fault in errors}
    milder = [(kind, answer) for kind, answer in _MILDER.items() if kind in found]
    for count in range(len(milder) + 1):
        for answers in itertools.combinations(milder, count):
            settings, kept = _settings(images, splits, classes, policy, totals, excused, dict(answers))
            if kept and (not had_objects or any(image.objects for image in kept)):
                return settings
    return None


def _settings(
    images: Mapping[str, LoadedImage],
    splits: Mapping[str, SplitRecords],
    classes: Sequence[str],
    policy: FaultPolicy,
    totals: Mapping[str, int],
    excused: Collection[Fault],
    answers: Mapping[str, str],
) -> tuple[dict[str, str], list[CheckedImage]]:
    """Settings that let the preparation go on, and the remaining images: these answers, else `drop`."""
    settings = dict(answers)
    while True:
        current = dataclasses.replace(policy, **settings)
        results = {name: _check_image(image, classes, current) for name, image in images.items()}
        _, errors = _tolerated(_all_faults(results, splits), images, totals, current, excused)
        if not errors:
            return dict(sorted(settings.items())), [result.image for result in results.values() if result.image]
        settings |= {fault.kind: "clip" if fault.kind == "box_outside" else "drop" for fault in errors}


@dataclasses.dataclass
class _Result:
    image: CheckedImage | None
    faults: list[Fault]
    dropped: Counter[str]
    clipped: int = 0
    own_size: bool = False


def _check_image(
    image: LoadedImage, classes: Sequence[str], policy: FaultPolicy, tolerated: Collection[Fault] = frozenset()
) -> _Result:
    """Faults of the image and of its objects, and the parts that the policy keeps. A dropped image or object has only
    one fault.
    """
    whole = [fault for fault in image.faults if fault.object is None]
    fault = _dropped_for(whole, policy, tolerated)
    if fault:
        return _Result(None, [fault], Counter([fault.kind]))
    record = image.record
    result = _Result(None, list(image.faults), Counter())
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
    if record.path is not None and image.size is not None:
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
        message = f"outside the image ({record.notation.limits(size)})"
        faults.append(Fault("box_outside", record.file, item.index, "bndbox", written, message))
    return faults
