"""RoI max pooling in XLA operations, for any device: a lookup in a table of maxima, and a scatter backward.

Taking the maximum over every cell of every bin one by one would touch R * H * W * C numbers. Instead, each bin is the
maximum of four overlapping windows from a table (see `window_maxima.py`), a lookup of four rows of C numbers.

Both take the maps of several images at once, those over which `vmap` maps `roi_max_pool`. Channels never mix, so a CPU
looks up a block of them at a time, whose table stays in its caches; large arrays are slow there, also because the
system allocates their memory page by page. Other devices take all channels at once.
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

# Bytes of values in the table of one block of channels; half and twice as many were slower.
_CPU_TABLE_BYTES = 2**23


def bin_maxima(features: Float[Array, "N H W C"], bins: Bins, index_dtype: Any | None) -> Maxima:
    """Maximum of each bin [N, R, PH, PW, C], 0 if empty, and if requested its first cell y W + x, H * W if empty.

    Args:
        features: maps of N images.
        bins: [N, R, PH] and [N, R, PW].
        index_dtype: dtype of the cells' numbers, which are not computed if None.
    """
    images, height, width, _ = features.shape
    cells = height * width
    heights, widths = _window_sizes(bins, (height, width))
    _check_countable(images * len(heights) * len(widths) * cells)
    # One table holds the windows of all images, as a lookup with an axis of images takes longer on a CPU.
    first_row = _first_of_image(images, len(heights) * len(widths) * cells)

    def table_rows(pair_y: Array | int, pair_x: Array | int) -> list[Array]:
        """Rows of four windows of each bin, [N, R, PH, PW] each; `pair_y` and `pair_x` count pairs of windows down and
        across.
        """
        rows = _axis_rows(bins.top, bins.bottom, heights, pair_y, (len(widths) * cells, width), height)
        columns = _axis_rows(bins.left, bins.right, widths, pair_x, (cells, 1), width)
        return [first_row + row[..., None] + column[:, :, None] for row in rows for column in columns]

    # Only RoIs that reach far beyond the map have bins wider than two windows. The count, not a `cond`, skips the
    # loop below: `vmap` would turn a `cond` into both of its branches.
    pairs_y, pairs_x = _pair_count(bins.bottom - bins.top, heights), _pair_count(bins.right - bins.left, widths)
    filled = bins.filled[..., None]
    # The barrier keeps these from being computed once more for every channel.
    rows, filled = lax.optimization_barrier((table_rows(0, 0), filled))
    empty_bin = (jnp.zeros((), features.dtype), jnp.array(cells, index_dtype))

    def pool(features: Array) -> Maxima:
        tables = jax.vmap(lambda one: window_maxima(one, heights, widths, index_dtype))(features)
        table = lax.optimization_barrier(tuple(part.reshape(-1, part.shape[-1]) for part in tables))

        def look_up(rows: list[Array]) -> Maxima:
            windows = [tuple(part.at[row].get(mode="promise_in_bounds") for part in table) for row in rows]
            found = first_maxima(windows)
            return tuple(jnp.where(filled, part, empty) for part, empty in zip(found, empty_bin, strict=False))

        def add_pair(i: Array, maxima: Maxima) -> Maxima:
            return first_maxima([maxima, look_up(table_rows(i // pairs_x, i % pairs_x))])

        return lax.fori_loop(1, pairs_y * pairs_x, add_pair, look_up(rows))

    return _by_channels(pool, _channel_block(bins, (height, width), features.dtype), features)


def features_gradient(
    argmax: Integer[Array, "N R PH PW C"], cotangent: Float[Array, "N R PH PW C"], bins: Bins, map_size: tuple[int, int]
) -> Float[Array, "N H W C"]:
    """For each cell the sum of the cotangents of the outputs that it won, in float32 at least.

    Args:
        argmax: cells from `bin_maxima`.
        bins: not used; the kernels need them.
        map_size: rows and columns of the map.
    """
    (images, *_, channels), cells = argmax.shape, map_size[0] * map_size[1]
    _check_countable(images * (cells + 1) * channels)
    accumulator = wide_dtype(cotangent.dtype)
    # Into one vector, of all images and channels: a scatter with an axis of images takes three times as long on a CPU,
    # and channels in blocks, whose parts are copied, two to four times as long. Empty bins point to one cell past the
    # map, which is dropped.
    places = argmax.astype(jnp.int32) + _first_of_image(images, cells + 1)[..., None]
    targets = places * channels + lax.broadcasted_iota(jnp.int32, argmax.shape, 4)
    gradient = jnp.zeros(images * (cells + 1) * channels, accumulator)
    gradient = gradient.at[targets.ravel()].add(cotangent.astype(accumulator).ravel(), mode="promise_in_bounds")
    return gradient.reshape(images, cells + 1, channels)[:, :cells].reshape(images, *map_size, channels)


def _check_countable(count: Any) -> None:
    """Raises ValueError if 32 bits cannot count that many places: indices would wrap around."""
    if isinstance(count, int) and count > jnp.iinfo(jnp.int32).max:
        raise ValueError(f"roi_max_pool counts places in 32 bits, not {count}: pool fewer images, or a smaller map")


def _first_of_image(images: Any, count: int) -> Array:
    """Number of the first of each image's `count` rows or cells, [N, 1, 1, 1]."""
    return count * lax.broadcasted_iota(jnp.int32, (images, 1, 1, 1), 0)


def _window_sizes(bins: Bins, map_size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Heights and widths of windows that cover the bins of every RoI inside the map."""
    counts = bins.top.shape[-1], bins.left.shape[-1]
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
    images, rows = bins.top.shape[0], len(heights) * len(widths) * map_size[0] * map_size[1]
    outputs = bins.top.shape[1] * bins.top.shape[2] * bins.left.shape[2]
    # Where the output is larger than the table, saving the table's memory gains nothing.
    if not 0 < outputs <= rows:
        return None
    # An exported program may leave the number of images open; it counts as one.
    rows *= max(images, 1) if isinstance(images, int) else 1
    fitting = _CPU_TABLE_BYTES // (rows * jnp.dtype(dtype).itemsize)
    return max(1 << fitting.bit_length() >> 1, 16)


def _by_channels(function: Callable[[Array], Maxima], block: int | None, features: Array) -> Maxima:
    """`function` of a map with channels as last axis, which it does not mix; on a CPU by blocks of channels."""
    if block is None or block >= features.shape[-1]:
        return function(features)
    return lax.platform_dependent(features, cpu=partial(_in_blocks, function, block), default=function)


def _in_blocks(function: Callable[[Array], Maxima], block: int, features: Array) -> Maxima:
    channels = features.shape[-1]

    def step(k: Array, results: Maxima) -> Maxima:
        first = jnp.minimum(k * block, channels - block)  # the last block may overlap the one before
        parts = function(lax.dynamic_slice_in_dim(features, first, block, axis=-1))
        return tuple(
            lax.dynamic_update_slice_in_dim(result, part, first, axis=-1)
            for result, part in zip(results, parts, strict=True)
        )

    parts = jax.eval_shape(function, features[..., :block])
    # Values to overwrite. Under `shard_map`, a loop whose result differs between devices must start from such values.
    some_value = features.ravel()[0]
    start = tuple(jnp.broadcast_to(some_value.astype(part.dtype), (*part.shape[:-1], channels)) for part in parts)
    return lax.fori_loop(0, -(-channels // block), step, start)
