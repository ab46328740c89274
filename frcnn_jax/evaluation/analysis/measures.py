"""Recall by object size, the ceiling given by the proposals, and the score with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from frcnn_jax.data.proposals.recall import best_overlaps
from frcnn_jax.evaluation.analysis.matches import Matches
from frcnn_jax.evaluation.voc_map import PrecisionRecall
from frcnn_jax.types import GroundTruth

__all__ = ["SIZES", "best_f1", "f1_scores", "object_overlaps", "proposal_ceiling", "recall_by_size", "size_names"]

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""COCO's ranges of area in square pixels of the original image, the lower bound included."""


def size_names(boxes: Float[np.ndarray, "B 4"]) -> np.ndarray:
    """The name in `SIZES` of each box."""
    area = (np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2]).prod(axis=1)
    bounds = [high for _, high in SIZES.values()][:-1]
    return np.array(list(SIZES))[np.searchsorted(bounds, area, side="right")]


def recall_by_size(matches: Matches, overlaps: Float[np.ndarray, " G"] | None = None) -> dict[str, dict[str, Any]]:
    """For each of `SIZES`, the number of `objects`, the `recall` of all detections and, given `overlaps` from
    `object_overlaps`, the `ceiling` of the recall with these proposals, both at the IoU of the matches. None without
    objects of that size.
    """
    names = size_names(matches.object_boxes)
    found = {}
    for name in SIZES:
        of_size = (names == name) & matches.counted
        found[name] = {"objects": int(of_size.sum()), "recall": _share(matches.found_by[of_size] >= 0)}
        if overlaps is not None:
            found[name]["ceiling"] = _share(overlaps[of_size] >= matches.iou_threshold)
    return found


def object_overlaps(
    proposals: Sequence[Float[np.ndarray, "P 4"]], annotations: Sequence[GroundTruth]
) -> Float[np.ndarray, " G"]:
    """The largest IoU of a proposal with each object, in the order of the images."""
    pairs = zip(annotations, proposals, strict=True)
    return np.concatenate([np.zeros(0), *(best_overlaps(np.asarray(truth.boxes), boxes)[1] for truth, boxes in pairs)])


def proposal_ceiling(
    matches: Matches,
    overlaps: Float[np.ndarray, " G"],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """The share of the counted objects that some proposal overlaps by the IoU of the matches: `recall` of all and
    `recall_by_class`, None without objects. Box regression may find a few objects more."""
    covered = overlaps >= matches.iou_threshold
    by_class = {
        name: _share(covered[matches.counted & (matches.object_labels == label)])
        for label, name in enumerate(class_names, start=1)
    }
    return {"recall": _share(covered[matches.counted]), "recall_by_class": by_class}


def f1_scores(curve: PrecisionRecall) -> Float[np.ndarray, " D"]:
    """Harmonic mean of precision and recall at each entry of the curve."""
    return 2 * curve.true_positives / np.maximum(np.arange(1, len(curve.scores) + 1) + curve.objects, 1)


def best_f1(curve: PrecisionRecall) -> dict[str, float] | None:
    """The score threshold with the highest F1, the highest one of equals, and `f1`, `precision` and `recall` there.

    Returns:
        None without objects or without a hit.
    """
    # Detections with equal scores count together, whatever their order.
    last = np.flatnonzero(np.append(np.diff(curve.scores) != 0, True)[: len(curve.scores)])
    values = f1_scores(curve)[last]
    if curve.objects == 0 or not len(values) or values.max() == 0:
        return None
    place = last[values.argmax()]
    return {
        "score": float(curve.scores[place]),
        "f1": float(values.max()),
        "precision": float(curve.precision[place]),
        "recall": float(curve.recall[place]),
    }


def _share(found: np.ndarray) -> float | None:
    return float(found.mean()) if found.size else None
