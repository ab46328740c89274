"""RoI max pooling with Caffe's rules, its gradient scattered to the argmax (section 2.1 and equation 4).

Taking the maximum over every cell of every bin one by one would touch R * H * W * C numbers. Instead, a table holds
the maxima over all windows of 2^i x 2^j cells, and each bin is the maximum of four such windows that overlap, which
is a lookup of four rows of C numbers. The table of a 38 x 63 map has 12 levels, whatever R is. RoIs that reach far
outside the map can have bins wider than two of the largest windows; a loop, skipped otherwise, adds what is missing.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

# A value and, where the gradient is wanted, the row-major index of the cell that it came from.
Maxima = tuple[Array, ...]


def project_rois(boxes: Float[Array, "*B 4"], scale: Float[Array, ""] | float) -> Float[Array, "*B 4"]:
    """Boxes as RoI pooling takes them: inclusive corners in pixels of an image resized by `scale`.

    Args:
        boxes: half-open x1 y1 x2 y2 in pixels of the image before resizing.
        scale: resized size / original size.

    Returns:
        (x1, y1, x2 - 1, y2 - 1) * scale, as the original release computes them.
    """
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - 1], axis=-1) * scale


def roi_max_pool(
    features: Float[Array, "H W C"],
    rois: Float[Array, "R 4"],
    output_size: tuple[int, int] = (7, 7),
    spatial_scale: float = 1 / 16,
    valid_size: Int[Array, "2"] | None = None,
) -> Float[Array, "R PH PW C"]:
    """Max-pools each RoI of one image to a fixed grid (section 2.1), as Caffe's ROIPooling layer does.

    Corners times `spatial_scale` are rounded half away from zero, the RoI has at least one cell, bin p of P covers
    cells floor(p w / P) ... ceil((p + 1) w / P) - 1, computed in float32, and bins are clipped to the map. A bin with
    no cell gives 0. NaN in a bin gives NaN. The gradient of an output goes to the first of its maxima in row-major
    order and is summed in at least float32; an empty bin passes none, and the RoIs' corners have gradient 0.

    Args:
        features: feature map of any floating dtype.
        rois: inclusive corners x1 y1 x2 y2 in image pixels (see `project_rois`), anywhere, also outside the image.
        output_size: rows and columns of the grid.
        spatial_scale: feature cells per image pixel.
        valid_size: rows and columns of the map's real top-left part where the rest is padding; the whole map if None.

    Raises:
        ValueError: a shape is wrong, or the grid or the map is empty.
    """
    if features.ndim != 3 or rois.ndim != 2 or rois.shape[-1] != 4:
        raise ValueError(f"roi_max_pool takes features [H, W, C] and rois [R, 4], not {features.shape}, {rois.shape}")
    if min(output_size) < 1 or 0 in features.shape:
        raise ValueError(f"roi_max_pool needs a grid and a map that are not empty: {output_size}, {features.shape}")
    whole = jnp.array(features.shape[:2], jnp.int32)
    valid_size = whole if valid_size is None else jnp.minimum(valid_size, whole)
    return _pool(features, rois, valid_size, tuple(output_size), float(spatial_scale))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _pool(features, rois, valid_size, output_size, spatial_scale):
    (values,) = _pool_maxima((features,), rois, valid_size, output_size, spatial_scale)
    return values


def _pool_forward(features, rois, valid_size, output_size, spatial_scale):
    height, width, _ = features.shape
    cells = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width, 1)
    indexed = (features, jnp.broadcast_to(cells, features.shape))
    values, argmax = _pool_maxima(indexed, rois, valid_size, output_size, spatial_scale)
    # The features enter the residuals for their shape and dtype alone; nothing reads them.
    return values, (argmax, features, rois)


def _pool_backward(output_size, spatial_scale, residuals, cotangent):
    argmax, features, rois = residuals
    height, width, channels = features.shape
    accumulator = jnp.promote_types(features.dtype, jnp.float32)
    # Empty bins point at one cell past the map, which is cut off.
    gradient = jnp.zeros((height * width + 1) * channels, accumulator)
    targets = argmax * channels + lax.broadcasted_iota(jnp.int32, argmax.shape, 3)
    gradient = gradient.at[targets.ravel()].add(cotangent.astype(accumulator).ravel(), mode="promise_in_bounds")
    gradient = gradient[: height * width * channels].reshape(features.shape)
    return gradient.astype(features.dtype), jnp.zeros_like(rois), None


_pool.defvjp(_pool_forward, _pool_backward)


def _pool_maxima(
    cells: Maxima, rois: Array, valid_size: Array, output_size: tuple[int, int], spatial_scale: float
) -> Maxima:
    """Maximum of each bin, [R, PH, PW, C], from the map's values or from (values, indices)."""
    height, width, _ = cells[0].shape
    # lax.round is half away from zero, as C's round; jnp.round is half to even.
    corners = lax.round(rois.astype(jnp.float32) * spatial_scale, lax.RoundingMethod.AWAY_FROM_ZERO)
    # Far beyond any map, and small enough that sums of such corners stay integers.
    corners = jnp.clip(corners, -(2.0**20), 2.0**20).astype(jnp.int32)
    top, bottom = _bin_edges(corners[:, 1], corners[:, 3], output_size[0], valid_size[0], height)
    left, right = _bin_edges(corners[:, 0], corners[:, 2], output_size[1], valid_size[1], width)
    # Every bin of an RoI inside the map is covered by two windows a side of at most these sizes.
    levels_y = _levels(height, output_size[0])
    levels_x = _levels(width, output_size[1])
    table = _window_maxima(cells, levels_y, levels_x)

    size_y, size_x = _window_level(bottom - top, levels_y), _window_level(right - left, levels_x)

    def lookup(step_y: Array | int, step_x: Array | int) -> Maxima:
        """Maxima of the windows that start `step` windows after the bins' corners, or end with the bins."""
        y = jnp.clip(jnp.minimum(top + (step_y << size_y), bottom - (1 << size_y)), 0, height - 1)
        x = jnp.clip(jnp.minimum(left + (step_x << size_x), right - (1 << size_x)), 0, width - 1)
        row = (size_y * levels_x * height + y)[:, :, None] * width + (size_x * height * width + x)[:, None, :]
        return tuple(part.at[row].get(mode="promise_in_bounds") for part in table)

    maxima = lookup(0, 0)
    for step_y, step_x in ((0, 1), (1, 0), (1, 1)):
        maxima = _first_max(maxima, lookup(step_y, step_x))

    # Only RoIs that reach beyond the map can have bins wider than two windows. The count, not a `cond`, skips the
    # loop: `vmap` would turn a `cond` into both of its branches.
    windows_y = jnp.max((bottom - top + (1 << size_y) - 1) >> size_y, initial=0)
    windows_x = jnp.max((right - left + (1 << size_x) - 1) >> size_x, initial=0)
    extra = jnp.where((windows_y > 2) | (windows_x > 2), windows_y * windows_x, 0)
    maxima = lax.fori_loop(0, extra, lambda i, m: _first_max(m, lookup(i // windows_x, i % windows_x)), maxima)

    filled = ((bottom > top)[:, :, None] & (right > left)[:, None, :])[..., None]
    nothing = (jnp.zeros((), maxima[0].dtype), jnp.int32(height * width))
    return tuple(jnp.where(filled, part, empty) for part, empty in zip(maxima, nothing, strict=False))


def _bin_edges(start: Array, end: Array, bins: int, limit: Array, axis_cells: int) -> tuple[Array, Array]:
    """First cell and one past the last of each bin along one axis, [R, bins], clipped to the map."""
    cells = jnp.maximum(end - start + 1, 1)
    # Caffe divides in float32, where 57 cells in 7 bins, say, reach one cell further than in exact arithmetic. How a
    # device divides is its own affair (XLA multiplies by the reciprocal), so the host makes a table. Only RoIs four
    # times as long as the map, and longer than any image, are beyond it.
    table = _bin_offsets(max(4 * axis_cells, 1024), bins)
    tabled = cells <= len(table)
    first, last = jnp.moveaxis(jnp.asarray(table)[jnp.where(tabled, cells, 1) - 1], 1, 0)
    steps = jnp.arange(bins, dtype=jnp.int32)[None, :] * cells[:, None]
    first = jnp.where(tabled[:, None], first, steps // bins) + start[:, None]
    last = jnp.where(tabled[:, None], last, -(-(steps + cells[:, None]) // bins)) + start[:, None]
    return jnp.clip(first, 0, limit), jnp.clip(last, 0, limit)


def _bin_offsets(longest: int, bins: int) -> np.ndarray:
    """Caffe's first and past-the-last cell of each bin for RoIs of 1 ... longest cells: int32 [longest, 2, bins]."""
    size = np.arange(1, longest + 1, dtype=np.float32)[:, None] / np.float32(bins)
    steps = np.arange(bins, dtype=np.float32)
    return np.stack([np.floor(steps * size), np.ceil((steps + 1) * size)], axis=1).astype(np.int32)


def _levels(cells: int, bins: int) -> int:
    """How many window sizes 1, 2, 4 ... an axis needs so that two windows cover any bin of an RoI inside the map."""
    first, last = np.moveaxis(_bin_offsets(cells + 1, bins), 1, 0)  # rounding both corners can add a cell
    return min(int(np.max(last - first)), cells).bit_length()


def _window_level(extent: Array, levels: int) -> Array:
    """Exponent of the largest window that fits into each extent, at most levels - 1."""
    return sum(((extent >> level) > 0).astype(jnp.int32) for level in range(1, levels)) + jnp.zeros_like(extent)


def _window_maxima(cells: Maxima, levels_y: int, levels_x: int) -> Maxima:
    """Maxima over windows of 2^i x 2^j cells: rows [levels_y, levels_x, H, W] flattened, of C numbers each.

    Rows are widened before they are stacked, so that "the left and the upper one wins a tie" is the first cell of the
    window in row-major order. Windows that would leave the map hold padding; no bin looks there.
    """
    by_width = [cells]
    for level in range(1, levels_x):
        by_width.append(_widen(by_width[-1], 1 << (level - 1), axis=-2))
    rows = tuple(jnp.stack(parts) for parts in zip(*by_width, strict=True))
    by_height = [rows]
    for level in range(1, levels_y):
        by_height.append(_widen(by_height[-1], 1 << (level - 1), axis=-3))
    channels = cells[0].shape[-1]
    return tuple(jnp.stack(parts).reshape(-1, channels) for parts in zip(*by_height, strict=True))


def _widen(windows: Maxima, shift: int, axis: int) -> Maxima:
    """Windows of twice the size along `axis`: each one joined with the one `shift` cells on."""
    padding: list[Any] = [(0, 0, 0)] * windows[0].ndim
    padding[axis] = (-shift, shift, 0)
    lowest = -jnp.inf
    later = tuple(
        lax.pad(part, jnp.array(lowest if i == 0 else 0, part.dtype), padding) for i, part in enumerate(windows)
    )
    if len(windows) == 1:
        return (jnp.maximum(windows[0], later[0]),)
    wins = (later[0] > windows[0]) | jnp.isnan(later[0])
    return tuple(jnp.where(wins, b, a) for a, b in zip(windows, later, strict=True))


def _first_max(a: Maxima, b: Maxima) -> Maxima:
    """The larger of two maxima; of two equal ones that of the cell which comes first in row-major order."""
    if len(a) == 1:
        return (jnp.maximum(a[0], b[0]),)
    wins = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1])) | jnp.isnan(b[0])
    return tuple(jnp.where(wins, y, x) for x, y in zip(a, b, strict=True))
