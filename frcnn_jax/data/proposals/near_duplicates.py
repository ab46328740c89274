"""Removal of near duplicates, which cost time and add no recall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

__all__ = ["without_near_duplicates"]

_PAIRS_AT_ONCE = 1 << 20


def without_near_duplicates(boxes: Float[np.ndarray, "P 4"], iou: float, count: int) -> Float[np.ndarray, "D 4"]:
    """The first `count` boxes, in order, without those that overlap an earlier kept box by more than `iou`."""
    looked_at = 2 * count  # large images have a hundred thousand boxes
    while True:
        kept = _kept(boxes[:looked_at], iou)
        if len(kept) >= count or looked_at >= len(boxes):
            return kept[:count]
        looked_at *= 2


def _kept(boxes: Float[np.ndarray, "P 4"], iou: float) -> Float[np.ndarray, "D 4"]:
    overlapping = np.concatenate([np.zeros((0, 2), np.int64), *_overlapping_pairs(boxes, iou)])
    keep = np.ones(len(boxes), bool)
    for first, second in overlapping[np.argsort(overlapping[:, 0], kind="stable")].tolist():
        if keep[first]:
            keep[second] = False
    return boxes[keep]


def _overlapping_pairs(boxes: Float[np.ndarray, "P 4"], iou: float) -> Iterator[Int[np.ndarray, "Q 2"]]:
    """Indices of all pairs that overlap by more than `iou`, the lower first.

    The areas of such a pair differ by less than the factor 1 / iou, so only boxes of similar area are compared.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.argsort(areas, kind="stable")
    boxes, areas = boxes[order], areas[order]
    # Number of larger boxes to compare with, for each.
    others = np.searchsorted(areas, areas / iou, side="right") - np.arange(len(boxes)) - 1
    total = np.cumsum(others)
    start = 0
    while start < len(boxes):
        done = total[start] - others[start]
        stop = max(int(np.searchsorted(total, done + _PAIRS_AT_ONCE, side="right")), start + 1)
        counts = others[start:stop]
        one = np.repeat(np.arange(start, stop), counts)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        low = np.maximum(boxes[one, :2], boxes[other, :2])
        high = np.minimum(boxes[one, 2:], boxes[other, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        same = common > iou * (areas[one] + areas[other] - common)
        yield np.sort(np.stack([order[one[same]], order[other[same]]], axis=1), axis=1)
        start = stop
