"""SPPnet's spatial pyramid pooling of boxes (He et al., ECCV 2014), by RoI pooling."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Real

from frcnn_jax.ops.arguments import is_whole, valid_part
from frcnn_jax.ops.precision import as_array
from frcnn_jax.ops.roi_pool.bins import nested, roi_bins
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool

PYRAMID = (6, 3, 2, 1)


def spatial_pyramid_pool(
    features: Float[Array, "H W C"],
    cells: Real[Array, "R 4"],
    levels: tuple[int, ...] = PYRAMID,
    valid_size: Int[Array, "2"] | None = None,
) -> Float[Array, "R B C"]:
    """Max-pools each box to grids of n x n for every n of `levels`, 50 bins for the paper's.

    Bin k of n covers cells floor(k w / n) ... ceil((k + 1) w / n) - 1 of w, as in RoI pooling, with its values and its
    gradient. A level whose bins are unions of those of a finer one, as 3, 2 and 1 of 6, takes the maxima of these: RoI
    pooling takes the longer, the larger the bins. Where a gradient is computed, each level is pooled by itself.

    Args:
        features: feature map of any floating dtype.
        cells: inclusive corners x1 y1 x2 y2 in feature cells (`pyramid_cells`).
        valid_size: rows and columns of the map's valid top-left part, the rest being padding; the whole map if None.

    Returns:
        The bins of all levels, concatenated, each level in row-major order.

    Raises:
        ValueError: a shape or dtype is wrong, or a level is not a whole number of at least 1.
    """
    features, cells = as_array(features), as_array(cells)
    levels = tuple(levels)
    if not levels or not all(is_whole(n) and n >= 1 for n in levels):
        raise ValueError(f"spatial_pyramid_pool takes levels as whole numbers of at least 1, not {levels}")
    valid_size = valid_part("spatial_pyramid_pool", "valid_size", valid_size, features.shape[:2])
    return _pyramid(features, cells, valid_size, levels)


def _each_level(features: Array, cells: Array, valid_size: Array, levels: tuple[int, ...]) -> Array:
    return _concatenate([roi_max_pool(features, cells, (n, n), 1.0, valid_size) for n in levels])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pyramid(features: Array, cells: Array, valid_size: Array, levels: tuple[int, ...]) -> Array:
    lowest = jnp.array(-jnp.inf, features.dtype)  # the maximum of an empty bin
    pooled: dict[int, tuple[Array, Array]] = {}  # by level: maxima, and which bins have a cell
    for n in sorted(set(levels), reverse=True):
        finer = next((m for m in sorted(pooled) if nested(n, m, features.shape[:2])), None)
        if finer is None:
            filled = roi_bins(cells, (n, n), 1.0, features.shape[:2], valid_size).filled
            values = roi_max_pool(features, cells, (n, n), 1.0, valid_size)
            pooled[n] = jnp.where(filled[..., None], values, lowest), filled
        else:
            maxima, filled = pooled[finer]
            unite = partial(_unite, count=finer // n)
            pooled[n] = unite(unite(maxima, 1), 2), unite(unite(filled, 1), 2)
    return _concatenate([jnp.where(pooled[n][1][..., None], pooled[n][0], 0) for n in levels])


def _pyramid_forward(features: Array, cells: Array, valid_size: Array, levels: tuple[int, ...]):
    return jax.vjp(lambda features: _each_level(features, cells, valid_size, levels), features)


def _pyramid_backward(levels: tuple[int, ...], pullback: Callable[[Array], tuple[Array]], cotangent: Array):
    return *pullback(cotangent), None, None


_pyramid.defvjp(_pyramid_forward, _pyramid_backward)


def _unite(bins: Array, axis: int, *, count: int) -> Array:
    """The largest of each `count` bins along an axis."""
    # Not `jnp.max`, which compiled for a CPU loses NaN.
    return reduce(jnp.maximum, [lax.slice_in_dim(bins, k, None, count, axis) for k in range(count)])


def _concatenate(levels: list[Array]) -> Array:
    bins = [level.reshape(level.shape[0], level.shape[1] * level.shape[2], level.shape[3]) for level in levels]
    return jnp.concatenate(bins, axis=1)


def pyramid_cells(
    boxes: Real[Array, "R 4"],
    scale: Real[Array, ""] | float,
    map_size: Int[Array, "2"],
    *,
    stride: int = 16,
    rule: Literal["paper", "code"] = "paper",
    origin: float | int = 0,
    margin: float | int = 6,
) -> Float[Array, "R 4"]:
    """The feature cells of boxes, inclusive corners inside the map.

    With the rule `paper` these are the cells with their centre inside the box (appendix A); with `code`, those with it
    inside the box enlarged on each side by half a cell less `margin` pixels. If no cell is left, the middle one is
    used.

    Args:
        boxes: half-open x1 y1 x2 y2 in pixels of the image before resizing.
        scale: resized size / original size.
        map_size: rows and columns of the feature map.
        stride: pixels of the resized image from one cell to the next.
        origin: pixel at the centre of the first cell.

    Raises:
        ValueError: there is no such rule.
    """
    if rule not in ("paper", "code"):
        raise ValueError(f"pyramid_cells has the rules paper and code, not {rule!r}")
    corners = project_rois(boxes, scale) - origin
    low, high = corners[:, :2], corners[:, 2:]
    if rule == "paper":
        first, last = jnp.floor(low / stride) + 1, jnp.ceil(high / stride) - 1
    else:
        # The code counts pixels from 1.
        first = jnp.floor((low + 1 + margin) / stride + 0.5)
        last = jnp.ceil((high + 1 - margin) / stride - 0.5)
    middle = (first + last) / 2
    first, last = (jnp.where(first > last, middle, edge) for edge in (first, last))
    limit = as_array(map_size)[::-1].astype(first.dtype)[None] - 1
    return jnp.concatenate([jnp.clip(first, 0, limit), jnp.clip(last, 0, limit)], axis=1)
