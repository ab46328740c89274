"""Hierarchical grouping of a segmentation's regions, in rounds that merge all mutual nearest neighbours at once.

Similarities are those of Selective Search (Uijlings et al., IJCV 2013, section 3.2), each in 0 ... 1: intersection of
the colour histograms, of the texture histograms, a preference for small regions, and one for pairs that fill their
common box. Greedy grouping repeatedly merges the most similar pair of the image. A round merges every pair of regions
that are each other's most similar neighbours. The hierarchy is nearly the same, and a few tens of rounds in NumPy
replace hundreds of steps. With many small objects on a plain background, only one object per round can join the
background: grouping then ends with the objects, their clusters and the background.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import ndimage

__all__ = ["Regions", "describe_regions", "gradient_planes", "group_regions"]

_COLOUR_BINS, _TEXTURE_BINS = 25, 10
_MOST_ROUNDS = 100  # photographs need a few tens


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """Regions of one segmentation of an image."""

    sizes: Float[np.ndarray, " N"]
    """Pixels."""
    boxes: Float[np.ndarray, "N 4"]
    """`x1 y1 x2 y2`, half-open, in pixels."""
    colours: Float[np.ndarray, "N C"]
    """Histograms of all channels, concatenated; each row sums to 1."""
    textures: Float[np.ndarray, "N T"]
    """Histograms of all gradients, likewise."""
    pairs: Int[np.ndarray, "E 2"]
    """Pairs of regions that share a border, lower index first, each pair once."""


def describe_regions(
    labels: Int[np.ndarray, "h w"], colours: UInt8[np.ndarray, "h w c"], gradients: UInt8[np.ndarray, "g h w"]
) -> Regions:
    """Sizes, boxes, histograms and neighbours of the regions of a segmentation.

    Args:
        labels: region of each pixel, 0 ... N - 1; every region has pixels.
        colours: the image in the colour space of the similarity.
        gradients: output of `gradient_planes`.
    """
    count = int(labels.max()) + 1
    places = ndimage.find_objects(labels + 1)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in places]
    return Regions(
        sizes=np.bincount(labels.ravel(), minlength=count).astype(np.float32),
        boxes=np.array(boxes, np.float32),
        colours=_histograms(labels, count, np.moveaxis(colours, 2, 0), _COLOUR_BINS),
        textures=_histograms(labels, count, gradients, _TEXTURE_BINS),
        pairs=_neighbours(labels, count),
    )


def gradient_planes(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "8 h w"]:
    """Gradients along four directions, separately by sign, each scaled to a maximum of 255."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    planes = []
    for gradient in (across, down, across + down, across - down):
        for signed in (gradient, -gradient):
            top = max(float(signed.max()), 1.0)
            planes.append((np.maximum(signed, 0) * np.float32(255 / top)).astype(np.uint8))
    return np.stack(planes)


def group_regions(
    segmentations: Sequence[Regions], weights: Sequence[tuple[float, float, float, float]], area: int
) -> Float[np.ndarray, "B 4"]:
    """Boxes of the regions and of all merged regions, with duplicates.

    Grouping ends when no neighbours remain, or after 100 rounds.

    Args:
        segmentations: segmentations of one image, grouped separately.
        weights: weights of colour, texture, size and fill in the similarity; each segmentation is grouped once per
            weights.
        area: pixels of the image.
    """
    grouping = _Grouping(segmentations, weights, area)
    found = [grouping.boxes.copy()]
    while len(grouping.pairs) and len(found) <= _MOST_ROUNDS:
        found.append(grouping.boxes[grouping.merge_round()])
    return np.concatenate(found)


class _Grouping:
    """All groupings of an image as one graph of unconnected parts; the arrays change every round."""

    def __init__(
        self, segmentations: Sequence[Regions], weights: Sequence[tuple[float, float, float, float]], area: int
    ):
        runs = [(regions, row) for row in weights for regions in segmentations]
        counts = [len(regions.sizes) for regions, _ in runs]
        offsets = np.cumsum([0, *counts[:-1]])
        self.area = np.float32(area)
        self.weights = np.repeat(np.array([row for _, row in runs], np.float32), counts, axis=0)
        self.sizes = np.concatenate([regions.sizes for regions, _ in runs])
        self.boxes = np.concatenate([regions.boxes for regions, _ in runs])
        self.colours = np.concatenate([regions.colours for regions, _ in runs])
        self.textures = np.concatenate([regions.textures for regions, _ in runs])
        self.pairs = np.concatenate([regions.pairs + start for (regions, _), start in zip(runs, offsets, strict=True)])
        self.similarities = self._similarities(self.pairs)

    def merge_round(self) -> Int[np.ndarray, " M"]:
        """Merges all mutual nearest neighbours; returns the merged regions.

        The most similar pair is always mutual, so every round merges some. A merged region keeps the lower index.
        """
        count = len(self.sizes)
        order = np.argsort(self.similarities, kind="stable")
        nearest = np.empty(count, np.int64)
        nearest[self.pairs[order].ravel()] = np.repeat(order, 2)  # the last pair of a region wins: the most similar
        mutual = (nearest[self.pairs] == np.arange(len(self.pairs))[:, None]).all(axis=1)
        kept, absorbed = self.pairs[mutual].T
        self._absorb(kept, absorbed)

        target = np.arange(count)
        target[absorbed] = kept
        pairs = np.sort(target[self.pairs], axis=1)
        distinct = pairs[:, 0] != pairs[:, 1]
        pairs, similarities = pairs[distinct], self.similarities[distinct]
        _, first = np.unique(pairs[:, 0] * count + pairs[:, 1], return_index=True)
        self.pairs, self.similarities = pairs[first], similarities[first]
        is_new = np.zeros(count, bool)
        is_new[kept] = True
        changed = is_new[self.pairs].any(axis=1)
        self.similarities[changed] = self._similarities(self.pairs[changed])
        return kept

    def _absorb(self, kept: Int[np.ndarray, " M"], absorbed: Int[np.ndarray, " M"]) -> None:
        total = self.sizes[kept] + self.sizes[absorbed]
        share = (self.sizes[absorbed] / total)[:, None]
        for rows in (self.colours, self.textures):
            rows[kept] += (rows[absorbed] - rows[kept]) * share
        low = np.minimum(self.boxes[kept, :2], self.boxes[absorbed, :2])
        self.boxes[kept, 2:] = np.maximum(self.boxes[kept, 2:], self.boxes[absorbed, 2:])
        self.boxes[kept, :2] = low
        self.sizes[kept] = total

    def _similarities(self, pairs: Int[np.ndarray, "E 2"]) -> Float[np.ndarray, " E"]:
        one, other = pairs.T
        weights = self.weights[one]
        total = self.sizes[one] + self.sizes[other]
        low = np.minimum(self.boxes[one, :2], self.boxes[other, :2])
        high = np.maximum(self.boxes[one, 2:], self.boxes[other, 2:])
        empty = np.maximum((high - low).prod(axis=1) - total, 0)
        result = weights[:, 2] * (1 - total / self.area) + weights[:, 3] * (1 - empty / self.area)
        for column, rows in enumerate((self.colours, self.textures)):
            counts = np.flatnonzero(weights[:, column])
            common = np.minimum(rows[one[counts]], rows[other[counts]]).sum(axis=1)
            result[counts] += weights[counts, column] * common
        return result


def _histograms(
    labels: Int[np.ndarray, "h w"], count: int, planes: UInt8[np.ndarray, "p h w"], bins: int
) -> Float[np.ndarray, "N D"]:
    """Histograms of each region in all planes, concatenated; each row sums to 1."""
    rows = labels.ravel().astype(np.int64) * bins
    parts = []
    for plane in planes:
        values = (plane.ravel().astype(np.uint16) * np.uint16(bins)) >> np.uint16(8)
        parts.append(np.bincount(rows + values, minlength=count * bins).reshape(count, bins))
    histograms = np.concatenate(parts, axis=1).astype(np.float32)
    return histograms / histograms.sum(axis=1, keepdims=True)


def _neighbours(labels: Int[np.ndarray, "h w"], count: int) -> Int[np.ndarray, "E 2"]:
    keys = []
    for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        border = one != other
        a, b = one[border].astype(np.int64), other[border].astype(np.int64)
        keys.append(np.minimum(a, b) * count + np.maximum(a, b))
    return np.stack(np.divmod(np.unique(np.concatenate(keys)), count), axis=1)
