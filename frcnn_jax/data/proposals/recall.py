"""Recall of proposals: the share of a data set's objects that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.data.records import float_boxes

__all__ = ["best_overlaps", "proposal_recall"]


def proposal_recall(
    proposals: Sequence[Float[np.ndarray, "P 4"]],
    annotations: Sequence[Any],
    classes: Sequence[str],
    thresholds: Sequence[float] = (0.5, 0.7),
) -> dict[float, dict[str, Any]]:
    """Share of the objects that some proposal covers; difficult objects and crowds are skipped.

    Args:
        annotations: `GroundTruth` of each image.
        thresholds: least IoU of a covered object.

    Returns:
        By threshold: `overall` and `per_class` (by name); NaN without objects.
    """
    best, labels = [np.zeros(0)], [np.zeros(0, np.int64)]
    for boxes, truth in zip(proposals, annotations, strict=True):
        keep = ~(np.asarray(truth.difficult, bool) | np.asarray(truth.crowd, bool))
        best.append(best_overlaps(np.asarray(truth.boxes)[keep], boxes)[1])
        labels.append(np.asarray(truth.labels)[keep])
    iou, label = np.concatenate(best), np.concatenate(labels)
    return {
        threshold: {
            "overall": _share(iou >= threshold),
            "per_class": {name: _share(iou[label == k] >= threshold) for k, name in enumerate(classes, start=1)},
        }
        for threshold in thresholds
    }


def best_overlaps(
    objects: Float[np.ndarray, "G 4"], boxes: Float[np.ndarray, "P 4"]
) -> tuple[Int[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """For each object the index of the box with the highest IoU (the first of equals), and the IoU.

    Without boxes the IoU is 0 and the index -1; two empty boxes have an IoU of 0. Integers and half precision are
    computed in float32.
    """
    objects, boxes = float_boxes(objects), float_boxes(boxes)
    if not len(boxes):
        return np.full(len(objects), -1), np.zeros(len(objects))
    low = np.maximum(objects[:, None, :2], boxes[None, :, :2])
    high = np.minimum(objects[:, None, 2:], boxes[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (objects, boxes)]
    union = area[0][:, None] + area[1][None] - common
    iou = common / np.where(union > 0, union, 1)
    return iou.argmax(axis=1), iou.max(axis=1)


def _share(covered: np.ndarray) -> float:
    return float(covered.mean()) if covered.size else float("nan")
