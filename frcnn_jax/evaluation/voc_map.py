"""Mean average precision as the PASCAL VOC development kit measures it, in NumPy.

Detections of a class over all images are processed by falling score. Each is matched to the object of its class and
image that it overlaps most, even if that object is difficult or already found:

    IoU below the threshold     false positive
    object marked difficult     ignored
    object not found yet        true positive, and the object is found
    object already found        false positive (a duplicate)

A crowd is a region of objects that were not annotated one by one, and is not matched by IoU. By COCO's rule, a would-be
false positive is ignored if a crowd of its class covers at least the threshold's share of the detection's own area.
Recall counts the objects that are neither difficult nor crowds. The kit computes widths of inclusive corners as `xmax -
xmin + 1`; for half-open boxes `x2 - x1` is the same number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.evaluation.valid_records import check_class_names, paired_records, valid_detections, valid_ground_truth
from frcnn_jax.types import Detections, GroundTruth

__all__ = [
    "PrecisionRecall",
    "average_of_hits",
    "average_precision",
    "best_object",
    "check_iou_threshold",
    "evaluate_voc",
    "hits_and_ignored",
    "precision_recall",
    "summarize",
]


def check_iou_threshold(iou_threshold: float) -> None:
    """Raises ValueError unless the IoU of a hit is above 0 and at most 1."""
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold: {iou_threshold} is not above 0 and at most 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """The curve of one class: entry i counts the i + 1 best detections. Ignored detections are left out."""

    scores: Float[np.ndarray, " D"]  # falling
    true_positives: Int[np.ndarray, " D"]  # hits among the detections up to here
    objects: int  # neither difficult ones nor crowds
    detections: int  # all, including ignored ones

    @property
    def precision(self) -> Float[np.ndarray, " D"]:
        """Share of the detections up to here that are right."""
        return self.true_positives / np.arange(1, len(self.scores) + 1)

    @property
    def recall(self) -> Float[np.ndarray, " D"]:
        """Share of the objects found up to here; 0 without objects."""
        return self.true_positives / max(self.objects, 1)


def evaluate_voc(
    detections: Mapping[str, Detections] | Sequence[Detections],
    ground_truth: Mapping[str, GroundTruth] | Sequence[GroundTruth],
    *,
    use_07_metric: bool = True,
    iou_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Average precision of each class and their mean.

    Args:
        detections: detections of each image, by image id or in the order of `ground_truth`; entries with mask False are
            ignored. Equal scores keep this order.
        ground_truth: objects of the same images.
        use_07_metric: mean of the precision at 11 recalls (VOC 2007); otherwise the area under the precision
            envelope (VOC 2010 and later).
        class_names: names of labels 1 ... K; without them, occurring labels are named by number.

    Returns:
        `map`, `ap` (by class), `objects` (by class, as counted for recall), `detections` (by class), `images`, `metric`
        ("voc07" or "voc10") and `iou_threshold`, in plain Python types. The AP of a class without objects is None and
        does not enter the mean; the mean over no classes is None.

    Raises:
        ValueError: the images of the two differ, a record is malformed, a label is outside 1 ... K, a score or
            coordinate is not finite, or class names are one text or not distinct.
    """
    curves = precision_recall(detections, ground_truth, iou_threshold=iou_threshold, class_names=class_names)
    return {
        **summarize(curves, use_07_metric=use_07_metric),
        "images": len(ground_truth),
        "iou_threshold": float(iou_threshold),
    }


def precision_recall(
    detections: Mapping[str, Detections] | Sequence[Detections],
    ground_truth: Mapping[str, GroundTruth] | Sequence[GroundTruth],
    *,
    iou_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> dict[str, PrecisionRecall]:
    """The precision-recall curve of each class, by name; arguments and errors as in `evaluate_voc`."""
    check_iou_threshold(iou_threshold)
    if class_names is not None:
        check_class_names(class_names)
    num_classes = None if class_names is None else len(class_names)

    scores, labels, hits, ignored = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, bool)], [np.zeros(0, bool)]
    gt_labels, gt_difficult = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for where, found, truth in paired_records(detections, ground_truth):
        boxes_i, scores_i, labels_i = valid_detections(found, where, num_classes)
        gt_boxes_i, gt_labels_i, gt_difficult_i, crowd_i = valid_ground_truth(truth, where, num_classes)
        match, on_crowd = best_object(boxes_i, labels_i, gt_boxes_i, gt_labels_i, crowd_i, iou_threshold)
        hits_i, ignored_i = hits_and_ignored(scores_i, match, on_crowd, gt_difficult_i)
        scores.append(scores_i)
        labels.append(labels_i)
        hits.append(hits_i)
        ignored.append(ignored_i)
        gt_labels.append(gt_labels_i)
        gt_difficult.append(gt_difficult_i | crowd_i)

    all_scores, all_labels, all_hits, all_ignored = map(np.concatenate, (scores, labels, hits, ignored))
    all_gt_labels, difficult = map(np.concatenate, (gt_labels, gt_difficult))
    by_label = np.argsort(all_labels, kind="stable")
    if class_names is None:
        names = {int(label): str(label) for label in np.union1d(all_labels, all_gt_labels)}
    else:
        names = dict(enumerate(class_names, start=1))
    start = np.searchsorted(all_labels, list(names), side="left", sorter=by_label)
    stop = np.searchsorted(all_labels, list(names), side="right", sorter=by_label)
    curves = {}
    for (label, name), first, last in zip(names.items(), start, stop, strict=True):
        members = by_label[first:last]
        ranked = members[np.argsort(-all_scores[members], kind="stable")]
        counted = ranked[~all_ignored[ranked]]
        curves[name] = PrecisionRecall(
            scores=all_scores[counted],
            true_positives=np.cumsum(all_hits[counted], dtype=np.int64),
            objects=int(np.count_nonzero((all_gt_labels == label) & ~difficult)),
            detections=len(members),
        )
    return curves


def average_precision(curve: PrecisionRecall, *, use_07_metric: bool = True) -> float | None:
    """The curve's average precision, or None without objects.

    VOC 2007: the mean over recalls 0, 0.1 ... 1 of the best precision at that recall or above. The recalls are
    multiples of 0.1 in floating point, as in the public evaluators, so that figures can be compared: 3, 6 or 7 objects
    of 10 fall short of 3 * 0.1, 6 * 0.1 and 7 * 0.1 by the last bit. VOC 2010: the area under that best precision as a
    function of recall.
    """
    hits = np.flatnonzero(np.diff(curve.true_positives, prepend=0))
    return average_of_hits(curve.precision[hits], curve.objects, use_07_metric=use_07_metric)


def average_of_hits(precision: Float[np.ndarray, " H"], objects: int, *, use_07_metric: bool = True) -> float | None:
    """Average precision from the precision at each found object, by falling score; it depends on nothing else.

    Returns:
        None without objects.
    """
    if objects == 0:
        return None
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if use_07_metric:
        recall = np.arange(1, len(precision) + 1) / objects
        first = np.searchsorted(recall, np.arange(11) * 0.1, side="left")
        return float(np.append(envelope, 0.0)[first].sum() / 11)
    return float(envelope.sum() / objects)


def summarize(curves: Mapping[str, PrecisionRecall], *, use_07_metric: bool = True) -> dict[str, Any]:
    """The measures of `evaluate_voc` that follow from the curves: all except `images` and `iou_threshold`."""
    ap = {name: average_precision(curve, use_07_metric=use_07_metric) for name, curve in curves.items()}
    measured = [value for value in ap.values() if value is not None]
    return {
        "map": float(np.mean(measured)) if measured else None,
        "ap": ap,
        "objects": {name: curve.objects for name, curve in curves.items()},
        "detections": {name: curve.detections for name, curve in curves.items()},
        "metric": "voc07" if use_07_metric else "voc10",
    }


def intersections(
    boxes: Float[np.ndarray, "D 4"], gt_boxes: Float[np.ndarray, "G 4"]
) -> tuple[Float[np.ndarray, "D G"], Float[np.ndarray, "D G"]]:
    """The intersection of each box and each object in square pixels, and their IoU, 0 if both are empty."""
    corners = np.minimum(boxes[:, None, 2:], gt_boxes[:, 2:]) - np.maximum(boxes[:, None, :2], gt_boxes[:, :2])
    common = np.maximum(corners, 0).prod(axis=2)
    areas, gt_areas = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, gt_boxes))
    union = areas[:, None] + gt_areas - common
    return common, common / np.where(union > 0, union, 1)


def best_object(
    boxes: Float[np.ndarray, "D 4"],
    labels: Int[np.ndarray, " D"],
    gt_boxes: Float[np.ndarray, "G 4"],
    gt_labels: Int[np.ndarray, " G"],
    gt_crowd: Bool[np.ndarray, " G"],
    threshold: float,
) -> tuple[Int[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """For each detection of an image, the object of its class with the largest IoU, -1 below the threshold; and a mask
    of detections that a crowd of their class covers by that share.
    """
    if len(boxes) == 0 or len(gt_boxes) == 0:
        return np.full(len(boxes), -1), np.zeros(len(boxes), bool)
    intersection, iou = intersections(boxes, gt_boxes)
    same = labels[:, None] == gt_labels
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    on_crowd = gt_crowd & same & (intersection > 0) & (intersection >= threshold * area)
    iou = np.where(same & ~gt_crowd, iou, 0)
    best = iou.argmax(axis=1)  # the first of equals, as in the kit
    return np.where(iou[np.arange(len(boxes)), best] >= threshold, best, -1), on_crowd.any(axis=1)


def hits_and_ignored(
    scores: Float[np.ndarray, " D"],
    match: Int[np.ndarray, " D"],
    on_crowd: Bool[np.ndarray, " D"],
    difficult: Bool[np.ndarray, " G"],
) -> tuple[Bool[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """Masks of an image's detections: the hits, which are the best-scored one of each object; and those that do not
    count, with a difficult object or on a crowd.

    Args:
        match, on_crowd: as from `best_object`.
    """
    order = np.argsort(-scores, kind="stable")
    claims = order[match[order] >= 0]
    claims = claims[~difficult[match[claims]]]
    _, first = np.unique(match[claims], return_index=True)
    hits = np.zeros(len(scores), bool)
    hits[claims[first]] = True
    ignored, matched = on_crowd & ~hits, match >= 0
    ignored[matched] |= difficult[match[matched]]
    return hits, ignored
