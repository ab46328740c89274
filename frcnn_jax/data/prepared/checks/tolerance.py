"""The faults that are few enough to be tolerated, and the settings with which none stops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.checks.image import CheckedImage, ImageCheck, check_loaded_image
from frcnn_jax.data.prepared.load import LoadedImage
from frcnn_jax.data.records import SplitRecords

__all__ = ["all_faults", "object_count", "tolerated_faults", "way_on"]

_MILDER = {"size_mismatch": "use_image", "missing_annotation": "empty"}  # if dropping would leave nothing
_LISTED_FACTOR = 10  # factor on the tolerated share for ids without image and annotation


def all_faults(results: Mapping[str, ImageCheck], splits: Mapping[str, SplitRecords]) -> list[Fault]:
    """All faults of images and lists, each once."""
    found = [fault for result in results.values() for fault in result.faults]
    return list(dict.fromkeys([*found, *(fault for split in splits.values() for fault in split.faults)]))


def object_count(image: LoadedImage) -> int:
    return len(image.record.objects) + len({f.object for f in image.record.faults if f.object is not None})


def tolerated_faults(
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


def way_on(
    images: Mapping[str, LoadedImage],
    splits: Mapping[str, SplitRecords],
    classes: Sequence[str],
    policy: FaultPolicy,
    totals: Mapping[str, int],
    excused: Collection[Fault],
    errors: Sequence[Fault],
) -> dict[str, str] | None:
    """Settings that let the preparation go on; None if they would leave no image, or no object."""

    def settings_with(answers: Mapping[str, str]) -> tuple[dict[str, str], list[CheckedImage]]:
        """These answers, `drop` for all other faults that stop; and the remaining images."""
        settings = dict(answers)
        while True:
            current = dataclasses.replace(policy, **settings)
            results = {name: check_loaded_image(image, classes, current) for name, image in images.items()}
            _, stopping = tolerated_faults(all_faults(results, splits), images, totals, current, excused)
            if not stopping:
                return dict(sorted(settings.items())), [result.image for result in results.values() if result.image]
            settings |= {fault.kind: "clip" if fault.kind == "box_outside" else "drop" for fault in stopping}

    had_objects = any(map(object_count, images.values()))
    found = {fault.kind for fault in errors}
    milder = [(kind, answer) for kind, answer in _MILDER.items() if kind in found]
    for count in range(len(milder) + 1):
        for answers in itertools.combinations(milder, count):
            settings, kept = settings_with(dict(answers))
            if kept and (not had_objects or any(image.objects for image in kept)):
                return settings
    return None
