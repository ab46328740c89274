"""RoI max pooling in XLA operations, for any device: a lookup in a table of maxima, and a scatter backward.

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
from jaxtyping import Array, Float, Integer

from frcnn_jax.ops.precision import wide_dtype
from frcnn_jax.ops.roi_pool.bins import Bins, largest_bin
from frcnn_jax.ops.roi_pool.window_maxima import Maxima, first_maxima, window_maxima, window_sizes

# Bytes of values in the table of one block of channels; half and twice as many were slower, forward and backward.
_CPU_TABLE_BYTES = 2**23


def bin_maxima(features: Float[Array, "H W C"], bins: Bins, index_dtype: Any | None) -> Maxima:
    """Maximum of each bin [R, PH, PW, C], 0 if empty, and if requested its first cell y W + x, H * W if empty."""
    height, width, _ = features.shape
    cells = height * width
    heights, widths = _window_sizes(bins, (height, width))

    def table_rows(pair_y: Array | int, pair_x: Array | int) -> list[Array]:
        """Rows of four windows of each bin, [R, PH, PW] each; `pair_y` and `pair_x` count pairs of windows down and
        across.
        """
        rows = _axis_rows(bins.top, bins.bottom, heights, pair_y, (len(widths) * cells, width), height)
        columns = _axis_rows(bins.left, bins.right, widths, pair_x, (cells, 1), width)
        return [row[:, :, None] + column[:, None, :] for row in rows for column in columns]

    # Only RoIs that reach far beyond the map have bins wider than two windows. The count, not a `cond`, skips the
    # loop below: `vmap` would turn a `cond` into both of its branches.
    pairs_y, pairs_x = _pair_count(bins.bottom - bins.top, heights), _pair_count(bins.right - bins.left, widths)
    filled = ((bins.bottom > bins.top)[:, :, None] & (bins.right > bins.left)[:, None, :])[..., None]
    # The barrier keeps these from being computed once more for every channel.
    rows, filled = lax.optimization_barrier((table_rows(0, 0), filled))
    empty_bin = (jnp.zeros((), features.dtype), jnp.array(cells, index_dtype))

    def pool(features: Array) -> Maxima:
        table = lax.optimization_barrier(window_maxima(features, heights, widths, index_dtype))

        def look_up(rows: list[Array]) -> Maxima:
            windows = [tuple(part.at[row].get(mode="promise_in_bounds") for part in table) for row in rows]
            found = first_maxima(windows)
            return tuple(jnp.where(filled, part, empty) for part, empty in zip(found, empty_bin, strict=False))

        def add_pair(i: Array, maxima: Maxima) -> Maxima:
            return first_maxima([maxima, look_up(table_rows(i // pairs_x, i % pairs_x))])

        return lax.fori_loop(1, pairs_y * pairs_x, add_pair, look_up(rows))

    return _by_channels(pool, _channel_block(bins, (height, width), features.dtype), features)


def features_gradient(
    argmax: Integer[Array, "R PH PW C"], cotangent: Float[Array, "R PH PW C"], bins: Bins, map_size: tuple[int, int]
) -> Float[Array, "H W C"]:
    """Sum for each cell of the cotangents of the outputs that it won, in float32 at least.

    Args:
        argmax: cells from `bin_maxima` for these bins.
        map_size: rows and columns of the map.
    """
    cells, accumulator = map_size[0] * map_size[1], wide_dtype(cotangent.dtype)

    def scatter(argmax: Array, cotangent: Array) -> tuple[Array]:
        channels = argmax.shape[-1]
        targets = argmax.astype(jnp.int32) * channels + lax.broadcasted_iota(jnp.int32, argmax.shape, 3)
        # Empty bins point to one cell past the map, which is dropped.
        gradient = jnp.zeros((cells + 1) * channels, accumulator)
        gradient = gradient.at[targets.ravel()].add(cotangent.astype(accumulator).ravel(), mode="promise_in_bounds")
        return (gradient[: cells * channels].reshape(*map_size, channels),)

    block = _channel_block(bins, map_size, cotangent.dtype)
    return _by_channels(scatter, block, argmax, cotangent)[0]


def _window_sizes(bins: Bins, map_size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Heights and widths of windows that cover the bins of every RoI inside the map."""
    counts = bins.top.shape[1], bins.left.shape[1]
    heights, widths = (window_sizes(largest_bin(*axis)) for axis in zip(map_size, counts, strict=True))
    return heights, widths


def _largest_fit(extent: Array, sizes: tuple[int, ...]) -> Array:
    """Position in `sizes` of the largest one within each extent, 0 for an empty extent."""
    return sum(((extent >= size).astype(jnp.int32) for size in sizes[1:]), jnp.zeros_like(extent))


def _axis_rows(
    first: Array, end: Array, sizes: tuple[int, ...], pair: Array | int, strides: tuple[int, int], axis_cells: int
) -> list[Array]:
    """One axis's part of the table row of two windows of each bin; the last one ends with the bin.

    Args:
        strides: table rows from one window size to the next, and from one cell to the next.
    """
    fit = _largest_fit(end - first, sizes)
    size = (2 << fit) - 1
    starts = [jnp.minimum(first + (2 * pair + k) * size, end - size) for k in (0, 1)]
    return [fit * strides[0] + jnp.clip(start, 0, axis_cells - 1) * strides[1] for start in starts]


def _pair_count(extent: Array, sizes: tuple[int, ...]) -> Array:
    """Number of pairs of windows for the largest bin along an axis, at least 1."""
    two = 2 * ((2 << _largest_fit(extent, sizes)) - 1)
    return jnp.max((extent + two - 1) // two, initial=1)


def _channel_block(bins: Bins, map_size: tuple[int, int], dtype: Any) -> int | None:
    """Channels per block on a CPU; None for all."""
    heights, widths = _window_sizes(bins, map_size)
    rows = len(heights) * len(widths) * map_size[0] * map_size[1]
    # If the output is larger than the table, saving the table's memory gains nothing.
    if not 0 < bins.top.size * bins.left.shape[1] <= rows:
        return None
    fitting = _CPU_TABLE_BYTES // (rows * jnp.dtype(dtype).itemsize)
    return max(1 << fitting.bit_length() >> 1, 16)


def _by_channels(function: Callable[..., Maxima], block: int | None, *arrays: Array) -> Maxima:
    """`function` of arrays with channels as last axis, which it does not mix; on a CPU by blocks of channels."""
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
    # To be overwritten. Under `shard_map` a loop must start from values that differ between devices if it ends so.
    some_value = arrays[0].ravel()[0]
    start = tuple(jnp.broadcast_to(some_value.astype(part.dtype), (*part.shape[:-1], channels)) for part in parts)
    return lax.fori_loop(0, -(-channels // block), step, start)
