"""R-CNN's windows of proposals (Girshick et al., CVPR 2014, appendix A, "warp").

The box is enlarged about its centre until the window has `context` pixels around it, clipped at the image's border, and
stretched to a square by bilinear interpolation without antialiasing. Outside the border the window is zero, the mean of
normalised pixels.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from frcnn_jax.ops.arguments import valid_part
from frcnn_jax.ops.precision import widen

# Bound on corners: beyond any image, but small enough for exact integer products with a window's size.
_FARTHEST = 2**20
_SNAP = 1024.0


class _Axis(NamedTuple):
    """Sampling points of a window along one axis of the image."""

    low: Int[Array, " S"]  # cell before each point
    high: Int[Array, " S"]  # cell after it
    fraction: Float[Array, " S"]  # weight of the cell after, 0 ... 1
    inside: Bool[Array, " S"]  # False beyond the image's border


def warp_window(
    image: Real[Array, "H W C"],
    box: Real[Array, "4"],
    image_size: Int[Array, "2"] | None = None,
    *,
    size: int = 224,
    context: int = 16,
) -> Float[Array, "S S C"]:
    """The window of one box, `size` pixels wide and high: for `jax.vmap` over the boxes of an image.

    The box is enlarged by a pixel at its right and bottom, like the original, which reads half-open corners as
    inclusive. Corners are rounded half away from zero, to whole pixels of the image. The window is differentiable in
    the pixels; the box has gradient 0.

    Args:
        image: pixels of any real dtype, normalised, so that zero is their mean.
        box: half-open x1 y1 x2 y2 in pixels of the image, also outside it.
        image_size: rows and columns of the image's valid top-left part, the rest being padding; all of it if None.
        size: S, rows and columns of the window.
        context: pixels of the window on each side of the box.

    Returns:
        float32, or float64 for a float64 image; zero outside the image.

    Raises:
        ValueError: a shape is wrong, or the context fills the whole window.
    """
    image, box = widen(image), widen(box)
    if image.ndim != 3 or 0 in image.shape or box.shape != (4,):
        raise ValueError(f"warp_window takes an image [H, W, C] and a box [4], not {image.shape} and {box.shape}")
    if context < 0 or size <= 2 * context:
        raise ValueError(f"warp_window: a context of {context} pixels leaves nothing of a window of {size}")
    valid = valid_part("warp_window", "image_size", image_size, image.shape[:2])
    x1, y1, x2, y2 = lax.stop_gradient(box)
    rows, columns = (
        _sampling_axis(start, end, cells, size, context)
        for start, end, cells in ((y1, y2, valid[0]), (x1, x2, valid[1]))
    )
    # Rows first, as they are contiguous in memory.
    window = _interpolate(image, rows, 0)
    window = _interpolate(window, columns, 1)
    return jnp.where((rows.inside[:, None] & columns.inside[None, :])[:, :, None], window, 0)


def _interpolate(image: Array, axis: _Axis, number: int) -> Array:
    before = (slice(None),) * number
    low, high = (image.at[(*before, index)].get(mode="promise_in_bounds") for index in (axis.low, axis.high))
    weight = jnp.expand_dims(axis.fraction.astype(image.dtype), tuple(i for i in range(3) if i != number))
    return low * (1 - weight) + high * weight


def _sampling_axis(start: Array, end: Array, cells: Array, size: int, context: int) -> _Axis:
    """Points between `start` and `end` with their context, on an axis of `cells` cells."""
    reach = (end - start) / 2 * size / (size - 2 * context)
    centre = (start + end) / 2
    first, last = _round(centre - reach), _round(centre + reach)  # inclusive
    extent = jnp.maximum(last - first + 1, 1)
    begin, stop = jnp.clip(first, 0, cells), jnp.clip(last + 1, 0, cells)
    shown = jnp.maximum(stop - begin, 0)
    before = _divide((begin - first) * size, extent)
    length = jnp.clip(_divide(shown * size, extent), 0, size - before)
    # Exact, in integers: the centre of point i is at (i + 1/2) shown / length - 1/2 of the shown part.
    point = jnp.arange(size, dtype=jnp.int32) - before
    numerator, denominator = (2 * point + 1) * shown - length, jnp.maximum(2 * length, 1)
    low = numerator // denominator
    fraction = (numerator - low * denominator).astype(start.dtype) / denominator.astype(start.dtype)
    last_cell = jnp.maximum(shown - 1, 0)
    fraction = jnp.where((low < 0) | (low >= last_cell), 0, fraction)
    low = jnp.clip(low, 0, last_cell)
    limit = jnp.maximum(cells - 1, 0)
    return _Axis(
        low=jnp.clip(begin + low, 0, limit),
        high=jnp.clip(begin + jnp.minimum(low + 1, last_cell), 0, limit),
        fraction=fraction,
        inside=(point >= 0) & (point < length),
    )


def _round(x: Array) -> Array:
    """C's round, half away from zero; values within a rounding error of a half count as a half."""
    x = jnp.round(jnp.clip(x, -_FARTHEST, _FARTHEST) * _SNAP) / _SNAP
    return lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)


def _divide(a: Array, b: Array) -> Array:
    """The quotient of two non-negative integers, rounded half up."""
    return (2 * a + b) // (2 * b)
