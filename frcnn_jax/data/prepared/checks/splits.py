"""The faults of a folder's splits, and the images and objects that the policy keeps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.checks.image import CheckedImage, check_loaded_image
from frcnn_jax.data.prepared.checks.tolerance import all_faults, object_count, tolerated_faults, way_on
from frcnn_jax.data.prepared.load import LoadedImage
from frcnn_jax.data.records import SplitRecords
from frcnn_jax.words import counted

__all__ = ["Check", "CheckedSplit", "check_splits", "without_objects"]


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
    results = {name: check_loaded_image(image, classes, policy) for name, image in images.items()}
    faults = all_faults(results, splits)
    excused = {fault: why for fault, why in (excused or {}).items() if getattr(policy, fault.kind) == "error"}
    counted = [image for image in images.values() if excused.keys().isdisjoint(image.faults)]
    totals = {"images": len(counted), "objects": left_out + sum(map(object_count, counted))}
    tolerated, errors = tolerated_faults(faults, images, totals, policy, excused)
    if tolerated:
        results = {name: check_loaded_image(image, classes, policy, tolerated) for name, image in images.items()}
    counts = {name: sum(getattr(result, name) for result in results.values()) for name in ("clipped", "own_size")}
    checked = {}
    for name, split in splits.items():
        parts = [results[image_id] for image_id in split.ids]
        dropped = sum((part.dropped for part in parts), Counter(fault.kind for fault in split.faults))
        kept = tuple(part.image for part in parts if part.image is not None)
        clipped, own_size = sum(part.clipped for part in parts), sum(part.own_size for part in parts)
        checked[name] = CheckedSplit(kept, dict(sorted(dropped.items())), clipped, own_size)
    dropped = tuple(fault for fault in faults if getattr(policy, fault.kind) == "drop")
    settings = way_on(images, splits, classes, policy, totals, excused, errors) if errors else {}
    faults = tuple(_in_order(errors)), tuple(_in_order(tolerated)), dropped
    return Check(checked, *faults, totals | counts, tuple(classes), settings, excused, lenient=bool(tolerated))


def without_objects(check: Check, splits: Mapping[str, SplitRecords], measured: Sequence[str]) -> list[str]:
    """A sentence about each split without annotations, or without objects if it is measured."""
    sentences = []
    for name, split in splits.items():
        missing = [any(fault.kind == "missing_annotation" for fault in record.faults) for record in split.records]
        if missing and all(missing):
            sentences.append(f"none of the {counted(len(missing), 'image')} of split {name} has an annotation")
        elif (
            name in measured
            and check.splits[name].images
            and not any(image.objects for image in check.splits[name].images)
        ):
            images = counted(len(missing), "image")
            sentence = f"none of the {images} of split {name} has an object, so that nothing is measured"
            sentences.append(f"{sentence}: annotate objects, or give another split by --data.test")
    return sentences


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.object or 0, fault.kind))
