"""The cells of the feature map that each bin of an RoI covers, by Caffe's rules (section 2.1)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Real


class Bins(NamedTuple):
    """Bin (p, q) of RoI r covers rows top[r, p] ... bottom[r, p] - 1 and columns left[r, q] ... right[r, q] - 1."""

    top: Int[Array, "R PH"]
    bottom: Int[Array, "R PH"]
    left: Int[Array, "R PW"]
    right: Int[Array, "R PW"]

    @property
    def filled(self) -> Bool[Array, "*N R PH PW"]:
        """Bins with a cell."""
        return (self.bottom > self.top)[..., None] & (self.right > self.left)[..., None, :]


def roi_bins(
    rois: Real[Array, "R 4"],
    output_size: tuple[int, int],
    spatial_scale: float,
    map_size: tuple[int, int],
    valid_size: Int[Array, "2"],
) -> Bins:
    """The bins of each RoI, clipped to the valid part of the map; a bin outside it is empty.

    Args:
        rois: inclusive corners x1 y1 x2 y2 in image pixels.
        spatial_scale: feature cells per image pixel.
        map_size: rows and columns of the feature map.
        valid_size: rows and columns of its valid part.
    """
    # lax.round is half away from zero, as C's round; jnp.round is half to even.
    corners = lax.round(rois.astype(jnp.float32) * spatial_scale, lax.RoundingMethod.AWAY_FROM_ZERO)
    # Far beyond any map, but small enough for exact integer sums.
    x1, y1, x2, y2 = jnp.clip(corners, -(2.0**20), 2.0**20).astype(jnp.int32).T
    rows = _edges(y1, y2, output_size[0], map_size[0], valid_size[0])
    columns = _edges(x1, x2, output_size[1], map_size[1], valid_size[1])
    return Bins(*rows, *columns)


def largest_bin(cells: int, bins: int) -> int:
    """Cells along one axis of the largest bin that an RoI inside a map of `cells` cells can have."""
    first, last = np.moveaxis(_offsets(cells + 1, bins), 1, 0)  # rounding both corners can add a cell
    return min(int(np.max(last - first)), cells)


def nested(coarse: int, fine: int, map_size: tuple[int, int]) -> bool:
    """True if each of `coarse` bins along an axis is the union of `fine / coarse` of `fine` bins, for every RoI.

    In exact arithmetic it is where `fine` is a multiple; float32 could round a bin's edges another way.
    """
    if fine % coarse:
        return False
    longest, groups = _table_length(max(map_size)), np.arange(0, fine, fine // coarse)
    first, last = np.moveaxis(_offsets(longest, fine), 1, 0)
    united = np.stack([first[:, groups], last[:, groups + fine // coarse - 1]], axis=1)
    return bool((united == _offsets(longest, coarse)).all())


def _table_length(axis_cells: int) -> int:
    """Cells of the longest tabled RoI; longer ones are four times as long as the map, and longer than any image."""
    return max(4 * axis_cells, 1024)


def _edges(start: Array, end: Array, bins: int, axis_cells: int, limit: Array) -> tuple[Array, Array]:
    """First cell and end of each bin along one axis, [R, bins], clipped to `limit` cells."""
    cells = jnp.maximum(end - start + 1, 1)
    # Caffe divides in float32: for example, 57 cells in 7 bins extend one cell further than in exact arithmetic.
    # Devices divide in different ways (XLA multiplies by the reciprocal), so the host makes a table.
    table = _offsets(_table_length(axis_cells), bins)
    tabled = cells <= len(table)
    first, last = jnp.moveaxis(jnp.asarray(table)[jnp.where(tabled, cells, 1) - 1], 1, 0)
    steps = jnp.arange(bins, dtype=jnp.int32)[None, :] * cells[:, None]
    first = jnp.where(tabled[:, None], first, steps // bins) + start[:, None]
    last = jnp.where(tabled[:, None], last, -(-(steps + cells[:, None]) // bins)) + start[:, None]
    return jnp.clip(first, 0, limit), jnp.clip(last, 0, limit)


def _offsets(longest: int, bins: int) -> np.ndarray:
    """Caffe's first cell and end of each bin for RoIs of 1 ... longest cells: int32 [longest, 2, bins]."""
    size = np.arange(1, longest + 1, dtype=np.float32)[:, None] / np.float32(bins)
    steps = np.arange(bins, dtype=np.float32)
    return np.stack([np.floor(steps * size), np.ceil((steps + 1) * size)], axis=1).astype(np.int32)
