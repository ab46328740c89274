"""Matches between the detections and objects of a whole test set.

A detection is a hit or ignored by the rule of `voc_map`. Any other is an error, of the first kind that fits:

    duplicate      at least `iou_threshold` with an object of its class that a better detection has found
    localization   at least `BACKGROUND_IOU` with an object of its class
    class          at least `iou_threshold` with an object of another class
    both           at least `BACKGROUND_IOU` with an object of another class
    background     less with every object

An object is missed if it was not found and is not the aim of a localization or class error. These are the
kinds of TIDE (Bolya et al., ECCV 2020), with VOC's own rule about duplicates first. Crowds do not count as objects
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.evaluation.valid_records import paired_records, valid_detections, valid_ground_truth
from frcnn_jax.evaluation.voc_map import best_object, check_iou_threshold, hits_and_ignored, intersections
from frcnn_jax.types import Detections, GroundTruth

__all__ = ["BACKGROUND_IOU", "HIT", "IGNORED", "KINDS", "MEANINGS", "Matches", "match_dataset"]

BACKGROUND_IOU = 0.1
KINDS = ("class", "localization", "both", "duplicate", "background", "missed")
MEANINGS = {
    "class": "confused with another class",
    "localization": "of the right class, but misplaced",
    "both": "of another class, and misplaced",
    "duplicate": "of an object that a better one has found",
    "background": "of no object",
    "missed": "none: no detection of any score is about the object",
}
"""Descriptions of the kinds, for pages."""
HIT, IGNORED = -1, -2
"""Values instead of an index into `KINDS`, for detections that are not errors."""
_CLASS, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
    """All detections and objects, image after image."""

    image: Int[np.ndarray, " D"]  # position of the image
    boxes: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    kinds: Int[np.ndarray, " D"]  # index into KINDS, HIT or IGNORED
    aims: Int[np.ndarray, " D"]  # the object of a hit or an error; -1 for the kinds both and background
    object_image: Int[np.ndarray, " G"]
    object_boxes: Float[np.ndarray, "G 4"]
    object_labels: Int[np.ndarray, " G"]
    counted: Bool[np.ndarray, " G"]  # neither difficult nor a crowd
    found_by: Int[np.ndarray, " G"]  # the detection that hits the object; -1 for none
    iou_threshold: float = 0.5  # of a hit

    @property
    def missed(self) -> Bool[np.ndarray, " G"]:
        """Objects that are not the aim of a hit or of a localization or class error."""
        repairable = (self.kinds == _LOCALIZATION) | (self.kinds == _CLASS)
        about = np.zeros(len(self.counted), bool)
        about[self.aims[repairable]] = True
        return self.counted & (self.found_by < 0) & ~about


def match_dataset(
    detections: Mapping[str, Detections] | Sequence[Detections],
    ground_truth: Mapping[str, GroundTruth] | Sequence[GroundTruth],
    *,
    iou_threshold: float = 0.5,
    num_classes: int | None = None,
) -> Matches:
    """The matches of a test set.

    Args:
        detections, ground_truth: as in `evaluate_voc`.
        iou_threshold: least IoU of a hit.
        num_classes: K; any positive label is allowed if None.

    Raises:
        ValueError: the images of the two differ, a record is malformed, a label is outside 1 ... K, a score or
            coordinate is not finite, or the threshold is not above 0 and at most 1.
    """
    check_iou_threshold(iou_threshold)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _EMPTY}
    detection_count = object_count = 0
    for image, (where, found, truth) in enumerate(paired_records(detections, ground_truth)):
        boxes, scores, labels = valid_detections(found, where, num_classes)
        gt_boxes, gt_labels, difficult, crowd = valid_ground_truth(truth, where, num_classes)
        kinds, aims, found_by = _match(boxes, scores, labels, gt_boxes, gt_labels, difficult, crowd, iou_threshold)
        part = {
            "image": np.full(len(boxes), image),
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "kinds": kinds,
            "aims": np.where(aims < 0, -1, aims + object_count),
            "object_image": np.full(len(gt_boxes), image),
            "object_boxes": gt_boxes,
            "object_labels": gt_labels,
            "counted": ~(difficult | crowd),
            "found_by": np.where(found_by < 0, -1, found_by + detection_count),
        }
        for name, array in part.items():
            parts[name].append(array)
        detection_count, object_count = detection_count + len(boxes), object_count + len(gt_boxes)
    arrays = {name: np.concatenate([_EMPTY[name], *arrays]) for name, arrays in parts.items()}
    return Matches(**arrays, iou_threshold=float(iou_threshold))


_EMPTY = {
    field.name: np.zeros(
        (0, 4) if "boxes" in field.name else 0,
        {"scores": float, "counted": bool}.get(field.name, float if "boxes" in field.name else np.int64),
    )
    for field in dataclasses.fields(Matches)
    if field.name != "iou_threshold"
}


def _match(
    boxes: Float[np.ndarray, "D 4"],
    scores: Float[np.ndarray, " D"],
    labels: Int[np.ndarray, " D"],
    gt_boxes: Float[np.ndarray, "G 4"],
    gt_labels: Int[np.ndarray, " G"],
    difficult: Bool[np.ndarray, " G"],
    crowd: Bool[np.ndarray, " G"],
    threshold: float,
) -> tuple[Int[np.ndarray, " D"], Int[np.ndarray, " D"], Int[np.ndarray, " G"]]:
    """Kind and aim of each detection of an image, and the detection that hits each object."""
    match, on_crowd = best_object(boxes, labels, gt_boxes, gt_labels, crowd, threshold)
    hits, ignored = hits_and_ignored(scores, match, on_crowd, difficult)
    found_by = np.full(len(gt_boxes), -1)
    found_by[match[hits]] = np.flatnonzero(hits)

    same, same_iou, different, different_iou = _nearest(boxes, labels, gt_boxes, gt_labels, crowd)
    kinds = np.full(len(boxes), _BACKGROUND)
    aims = np.full(len(boxes), -1)
    kinds[different_iou >= BACKGROUND_IOU] = _BOTH
    for kind, chosen, aim in (
        (_CLASS, different_iou >= threshold, different),
        (_LOCALIZATION, same_iou >= BACKGROUND_IOU, same),
        (_DUPLICATE, match >= 0, match),
    ):
        kinds[chosen], aims[chosen] = kind, aim[chosen]
    kinds[hits], kinds[ignored] = HIT, IGNORED
    return kinds, aims, found_by


def _nearest(
    boxes: Float[np.ndarray, "D 4"],
    labels: Int[np.ndarray, " D"],
    gt_boxes: Float[np.ndarray, "G 4"],
    gt_labels: Int[np.ndarray, " G"],
    crowd: Bool[np.ndarray, " G"],
) -> tuple[Int[np.ndarray, " D"], Float[np.ndarray, " D"], Int[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """For each detection the object of its class with the largest IoU and that IoU, and the same of other classes."""
    if not len(boxes) or not len(gt_boxes):
        none, zero = np.full(len(boxes), -1), np.zeros(len(boxes))
        return none, zero, none, zero
    iou = np.where(crowd, 0, intersections(boxes, gt_boxes)[1])
    same = labels[:, None] == gt_labels
    found = []
    for values in (np.where(same, iou, 0), np.where(same, 0, iou)):
        best = values.argmax(axis=1)
        found += [best, values[np.arange(len(boxes)), best]]
    return tuple(found)
