"""RoI max pooling with Caffe's rules, its gradient scattered to the argmax (section 2.1 and equation 4).

Taking the maximum over every cell of every bin one by one would touch R * H * W * C numbers. Instead, each bin is the
maximum of four overlapping windows from a table (see `window_maxima.py`), a lookup of four rows of C numbers.

Channels never mix, so a CPU takes a block of them at a time, whose table stays in its caches; large arrays are slow
there also because the system has to hand out their memory page by page. Other devices take all channels at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from frcnn_jax.ops.roi_bins import largest_bin, roi_bins
from frcnn_jax.ops.window_maxima import Maxima, first_maxima, window_maxima, window_sizes

# Bytes of values in the table of one block of channels; half and twice as many were slower, forward and backward.
_CPU_TABLE_BYTES = 2**23


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
    (values,) = _bin_maxima(features, rois, valid_size, output_size, spatial_scale, index_dtype=None)
    return values


def _pool_forward(features, rois, valid_size, output_size, spatial_scale):
    cells = features.shape[0] * features.shape[1]
    index_dtype = jnp.uint16 if cells <= jnp.iinfo(jnp.uint16).max else jnp.int32
    values, argmax = _bin_maxima(features, rois, valid_size, output_size, spatial_scale, index_dtype)
    # Of the map, shape and dtype are all that is needed. The barrier keeps the argmax from being found once more.
    return values, (lax.optimization_barrier(argmax), features[..., :0], rois)


def _pool_backward(output_size, spatial_scale, residuals, cotangent):
    argmax, like, rois = residuals
    height, width, _ = like.shape
    cells, accumulator = height * width, jnp.promote_types(like.dtype, jnp.float32)

    def scatter(argmax: Array, cotangent: Array) -> tuple[Array]:
        channels = argmax.shape[-1]
        targets = argmax.astype(jnp.int32) * channels + lax.broadcasted_iota(jnp.int32, argmax.shape, 3)
        # Empty bins point at one cell past the map, which is cut off.
        gradient = jnp.zeros((cells + 1) * channels, accumulator)
        gradient = gradient.at[targets.ravel()].add(cotangent.astype(accumulator).ravel(), mode="promise_in_bounds")
        return (gradient[: cells * channels].reshape(height, width, channels).astype(like.dtype),)

    (gradient,) = _by_channels(scatter, _channel_block(like, output_size, len(rois)), argmax, cotangent)
    return gradient, jnp.zeros_like(rois), None


_pool.defvjp(_pool_forward, _pool_backward)


def _bin_maxima(
    features: Array,
    rois: Array,
    valid_size: Array,
    output_size: tuple[int, int],
    spatial_scale: float,
    index_dtype: Any | None,
) -> Maxima:
    """Maximum of each bin [R, PH, PW, C], 0 if empty, and where asked for its first cell, H * W if empty."""
    height, width, _ = features.shape
    cells = height * width
    bins = roi_bins(rois, output_size, spatial_scale, (height, width), valid_size)
    heights, widths = _window_sizes(features, output_size)

    def table_rows(turn_y: Array | int, turn_x: Array | int) -> list[Array]:
        """Rows of four windows of each bin, [R, PH, PW] each; the next ones are `turn_y` down or `turn_x` across."""
        rows = _axis_rows(bins.top, bins.bottom, heights, turn_y, (len(widths) * cells, width), height)
        columns = _axis_rows(bins.left, bins.right, widths, turn_x, (cells, 1), width)
        return [row[:, :, None] + column[:, None, :] for row in rows for column in columns]

    # Only RoIs that reach far beyond the map have bins wider than two windows. The count, not a `cond`, skips the
    # loop below: `vmap` would turn a `cond` into both of its branches.
    turns_y, turns_x = _turns(bins.bottom - bins.top, heights), _turns(bins.right - bins.left, widths)
    filled = ((bins.bottom > bins.top)[:, :, None] & (bins.right > bins.left)[:, None, :])[..., None]
    # The barrier keeps these from being computed once more for every channel.
    rows, filled = lax.optimization_barrier((table_rows(0, 0), filled))
    nothing = (jnp.zeros((), features.dtype), jnp.array(cells, index_dtype))

    def pool(features: Array) -> Maxima:
        table = lax.optimization_barrier(window_maxima(features, heights, widths, index_dtype))

        def look_up(rows: list[Array]) -> Maxima:
            windows = [tuple(part.at[row].get(mode="promise_in_bounds") for part in table) for row in rows]
            found = first_maxima(windows)
            return tuple(jnp.where(filled, part, empty) for part, empty in zip(found, nothing, strict=False))

        def turn(i: Array, maxima: Maxima) -> Maxima:
            return first_maxima([maxima, look_up(table_rows(i // turns_x, i % turns_x))])

        return lax.fori_loop(1, turns_y * turns_x, turn, look_up(rows))

    return _by_channels(pool, _channel_block(features, output_size, len(rois)), features)


def _window_sizes(features: Array, output_size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Heights and widths of the windows that cover the bins of every RoI inside the map."""
    height, width, _ = features.shape
    return window_sizes(largest_bin(height, output_size[0])), window_sizes(largest_bin(width, output_size[1]))


def _largest_fit(extent: Array, sizes: tuple[int, ...]) -> Array:
    """Position in `sizes` of the largest one within each extent, 0 for an empty extent."""
    return sum(((extent >= size).astype(jnp.int32) for size in sizes[1:]), jnp.zeros_like(extent))


def _axis_rows(
    first: Array, end: Array, sizes: tuple[int, ...], turn: Array | int, strides: tuple[int, int], axis_cells: int
) -> list[Array]:
    """What an axis adds to the table's row of two windows of each bin, the last one ending with the bin.

    Args:
        strides: table rows from one window size to the next, and from one cell to the next.
    """
    fit = _largest_fit(end - first, sizes)
    size = (2 << fit) - 1
    starts = [jnp.minimum(first + (2 * turn + k) * size, end - size) for k in (0, 1)]
    return [fit * strides[0] + jnp.clip(start, 0, axis_cells - 1) * strides[1] for start in starts]


def _turns(extent: Array, sizes: tuple[int, ...]) -> Array:
    """How many times two windows the largest bin along an axis takes, at least 1."""
    two = 2 * ((2 << _largest_fit(extent, sizes)) - 1)
    return jnp.max((extent + two - 1) // two, initial=1)


def _channel_block(features: Array, output_size: tuple[int, int], rois: int) -> int | None:
    """Channels that a CPU takes at a time; None for all."""
    heights, widths = _window_sizes(features, output_size)
    rows = len(heights) * len(widths) * features.shape[0] * features.shape[1]
    # Where the output is larger than the table, saving the table's memory gains nothing.
    if not 0 < rois * output_size[0] * output_size[1] <= rows:
        return None
    fitting = _CPU_TABLE_BYTES // (rows * features.dtype.itemsize)
    return max(1 << fitting.bit_length() >> 1, 16)


def _by_channels(function: Callable[..., Maxima], block: int | None, *arrays: Array) -> Maxima:
    """`function` of arrays whose last axis is channels, which it does not mix; on a CPU by blocks of channels."""
    if block is None or block >= arrays[0].shape[-1]:
        return function(*arrays)
    return lax.platform_dependent(*arrays, cpu=partial(_in_blocks, function, block), default=function)


def _in_blocks(function: Callable[..., Maxima], block: int, *arrays: Array) -> Maxima:
    channels = arrays[0].shape[-1]

    def step(k: Array, results: Maxima) -> Maxima:
        first = jnp.minimum(k * block, channels - block)  # the last block may overlap the one before
        parts = function(*(lax.dynamic_slice_in_dim(array, first, block, axis=-1) for array in arrays))
        return tuple(
            lax.dynamic_update_slice_in_dim(result, part, first, axis=-1)
            for result, part in zip(results, parts, strict=True)
        )

    parts = jax.eval_shape(function, *(array[..., :block] for array in arrays))
    # To be overwritten. Under `shard_map` a loop must start from what differs between devices if it ends so.
    anything = arrays[0].ravel()[0]
    start = tuple(jnp.broadcast_to(anything.astype(part.dtype), (*part.shape[:-1], channels)) for part in parts)
    return lax.fori_loop(0, -(-channels // block), step, start)
