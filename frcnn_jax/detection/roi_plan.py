"""Choice of the boxes of an image to pool, and of the scale for each, on the host.

RoI pooling rounds corners to feature cells, so proposals that differ by a few pixels are often pooled from the same
cells. Such an RoI goes through the network once, and all its proposals share its scores and offsets, as in the original
release. In an image pyramid each proposal has one level (section 3).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.data.pipeline import flip_boxes

CANONICAL_AREA = 224.0**2  # of the networks' ImageNet training images (section 3)

# Bound on corners in cells, as in RoI pooling; pairs of corners are encoded as one number with base `_SPAN`.
_FARTHEST = 2**20
_SPAN = 2**22


@dataclasses.dataclass(frozen=True)
class RoiPlan:
    """The U distinct RoIs of one image's P boxes, sorted by level of a pyramid of L levels."""

    chosen: Int[np.ndarray, " U"]  # position of one box of each RoI among the boxes
    index: Int[np.ndarray, " P"]  # position in `chosen` of each box's RoI
    counts: Int[np.ndarray, " L"]  # number of RoIs of each level

    @property
    def starts(self) -> Int[np.ndarray, " L"]:
        """Position in `chosen` of each level's first RoI."""
        return np.cumsum(self.counts) - self.counts


def choose_levels(
    boxes: Float[np.ndarray, "P 4"], scales: Float[np.ndarray, " L"], area: float = CANONICAL_AREA
) -> Int[np.ndarray, " P"]:
    """The level at which each box, resized by that level's scale, has an area closest to 224 x 224 (section 3).

    The distance is between areas, not between their logarithms; of equal distances the first level counts.

    Args:
        boxes: half-open x1 y1 x2 y2 in pixels of the original image.
        scales: resized size / original size of each level.
        area: canonical area in square pixels of the resized image, instead of 224 x 224.
    """
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    areas = sides.prod(axis=1)[:, None] * np.square(np.asarray(scales, np.float64))
    return np.abs(areas - area).argmin(axis=1)


def feature_corners(
    boxes: Float[np.ndarray, "P 4"], scales: Float[np.ndarray, " P"], spatial_scale: float
) -> Int[np.ndarray, "P 4"]:
    """The cells that RoI pooling rounds the corners of each box to, with the device's float32 arithmetic.

    Args:
        scales: resized size / original size of each box's image.
        spatial_scale: feature cells per pixel of the resized image.
    """
    boxes, scales = np.asarray(boxes, np.float32), np.asarray(scales, np.float32)
    with np.errstate(over="ignore"):  # infinite values are clipped below
        inclusive = np.concatenate([boxes[:, :2], boxes[:, 2:] - np.float32(1)], axis=1)
        cells = (inclusive * scales[:, None] * np.float32(spatial_scale)).astype(np.float64)
    cells = np.clip(cells, -_FARTHEST, _FARTHEST)
    return np.copysign(np.floor(np.abs(cells) + 0.5), cells).astype(np.int64)  # half away from zero


def plan_rois(
    boxes: Float[np.ndarray, "P 4"],
    scales: Float[np.ndarray, " L"],
    spatial_scale: float,
    *,
    shared: bool = True,
    mirrored_width: int | None = None,
) -> RoiPlan:
    """One RoI for all boxes with corners on the same feature cells of the same level.

    Args:
        boxes: half-open x1 y1 x2 y2 in pixels of the original image, finite.
        scales: resized size / original size of each level.
        spatial_scale: feature cells per pixel of a resized image.
        shared: False gives each box an RoI of its own, for pooling that does not round corners to cells.
        mirrored_width: width of the original image if it is tested mirrored too: the corners of boxes that share an RoI
            are then on the same cells of both images.
    """
    levels = choose_levels(boxes, scales)
    scale = np.asarray(scales)[levels]
    x1, y1, x2, y2 = feature_corners(boxes, scale, spatial_scale).T
    keys = [x2 * _SPAN + y2, (levels * _SPAN + x1) * _SPAN + y1]
    if mirrored_width is not None:
        mirrored = flip_boxes(boxes, (0, mirrored_width), horizontal=True, vertical=False)
        x1, _, x2, _ = feature_corners(mirrored, scale, spatial_scale).T
        keys.insert(0, x1 * _SPAN + x2)
    order = np.lexsort(keys)
    new = np.ones(len(order), bool)
    if shared:
        ordered = [key[order] for key in keys]
        new[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    index = np.empty(len(order), np.int64)
    index[order] = np.cumsum(new) - 1
    chosen = order[new]
    return RoiPlan(chosen, index, np.bincount(levels[chosen], minlength=len(scales)))
