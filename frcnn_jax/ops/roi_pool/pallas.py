"""RoI max pooling as two kernels for GPUs, in Pallas: one program for each bin, and for its gradient one for each cell.

Nothing is scattered: each cell looks for the bins that it won, in the order of the RoIs, so the same inputs give the
same bits. Channels lie side by side in memory and are taken together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Integer

from frcnn_jax.ops.precision import wide_dtype
from frcnn_jax.ops.roi_pool.bins import Bins
from frcnn_jax.ops.roi_pool.window_maxima import Maxima

_MOST_CHANNELS = 512  # of a program


class Place(NamedTuple):
    """The part of a result [A, B, C] that a program fills in."""

    row: Array
    column: Array
    channels: pl.Slice


def bin_maxima(features: Float[Array, "H W C"], bins: Bins, index_dtype: Any | None, interpret: bool = False) -> Maxima:
    """Maximum of each bin [R, PH, PW, C], 0 if empty, and if requested its first cell y W + x, H * W if empty.

    With `interpret` it runs on any device, slowly.
    """
    rois, rows = bins.top.shape
    columns, channels = bins.left.shape[1], features.shape[-1]
    dtypes = [features.dtype] if index_dtype is None else [features.dtype, index_dtype]
    found = _call(_bin_maxima, (rois, rows * columns, channels), dtypes, interpret, features, *bins)
    return tuple(part.reshape(rois, rows, columns, channels) for part in found)


def features_gradient(
    argmax: Integer[Array, "R PH PW C"],
    cotangent: Float[Array, "R PH PW C"],
    bins: Bins,
    map_size: tuple[int, int],
    interpret: bool = False,
) -> Float[Array, "H W C"]:
    """For each cell the sum of the cotangents of the outputs that it won, in float32 at least.

    Args:
        argmax: cells as `bin_maxima` gives them for these bins.
        map_size: rows and columns of the map.
        interpret: run on any device, slowly.
    """
    (height, width), accumulator = map_size, wide_dtype(cotangent.dtype)
    rows, columns = _bins_over(bins.top, bins.bottom, height), _bins_over(bins.left, bins.right, width)
    shape = (height, width, argmax.shape[-1])
    return _call(_cell_gradient, shape, [accumulator], interpret, argmax, cotangent, *rows, *columns)[0]


def _bin_maxima(at: Place, features, top, bottom, left, right, *results) -> None:
    (height, width, _), columns = features.shape, left.shape[1]
    r, p, q = at.row, at.column // columns, at.column % columns
    first_row, end_row, first_column, end_column = top[r, p], bottom[r, p], left[r, q], right[r, q]

    def take_cell(y: Array, x: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        value, (largest, cell) = features[y, x, at.channels], best
        larger = (value > largest) | ((value != value) & (largest == largest)) | (cell == height * width)
        return jnp.where(larger, value, largest), jnp.where(larger, y * width + x, cell)

    def take_row(y: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.fori_loop(first_column, end_column, partial(take_cell, y), best)

    size = at.channels.size
    start = jnp.zeros(size, features.dtype), jnp.full(size, height * width, jnp.int32)
    best = lax.fori_loop(first_row, end_row, take_row, start)
    for result, found in zip(results, best, strict=False):
        result[at.row, at.column, at.channels] = found.astype(result.dtype)


def _cell_gradient(at: Place, argmax, cotangent, first_row, end_row, first_column, end_column, gradient) -> None:
    y, x, width = at.row, at.column, first_column.shape[1]

    def add_bin(r: Array, p: Array, q: Array, total: Array) -> Array:
        won = argmax[r, p, q, at.channels].astype(jnp.int32) == y * width + x
        return total + jnp.where(won, cotangent[r, p, q, at.channels].astype(total.dtype), 0)

    def add_row(r: Array, p: Array, total: Array) -> Array:
        return lax.fori_loop(first_column[r, x], end_column[r, x], partial(add_bin, r, p), total)

    def add_roi(r: Array, total: Array) -> Array:
        return lax.fori_loop(first_row[r, y], end_row[r, y], partial(add_row, r), total)

    zero = jnp.zeros(at.channels.size, gradient.dtype)
    gradient[y, x, at.channels] = lax.fori_loop(0, argmax.shape[0], add_roi, zero)


def _bins_over(first: Array, end: Array, cells: int) -> tuple[Array, Array]:
    """The bins that cover each cell along an axis, a range for each RoI: first and past the last, [R, cells]."""
    cell = jnp.arange(cells)[None, :, None]
    before, begun = (jnp.sum(edge[:, None] <= cell, axis=2, dtype=jnp.int32) for edge in (end, first))
    return before, jnp.maximum(before, begun)


def _call(
    kernel: Callable[..., None], shape: tuple[int, int, int], dtypes: Sequence[Any], interpret: bool, *arrays: Array
) -> Maxima:
    """Results [A, B, C] of a kernel; each program of it gets whole arrays and fills in one `Place` of each result."""
    rows, columns, channels = shape
    if any(array.size == 0 for array in arrays):  # without RoIs no program is started, and no cell is won
        return tuple(jnp.zeros(shape, dtype) for dtype in dtypes)
    # Triton needs a power of two. Where it does not divide the channels, the last part overlaps the one before it, and
    # both write the same.
    block = min(1 << (channels.bit_length() - 1), _MOST_CHANNELS)
    parts = -(-channels // block)

    def at_place(*arrays: Any) -> None:
        number = pl.program_id(1)
        first = number % parts * block
        if channels % block:
            first = jnp.minimum(first, channels - block)
        kernel(Place(pl.program_id(0), number // parts, pl.ds(first, block)), *arrays)

    like = jax.typeof(arrays[0]).manual_axis_type  # `jax.shard_map` asks for it
    call = pl.pallas_call(
        at_place,
        [jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=like) for dtype in dtypes],
        # `vmap` adds an axis before these two. Of the three axes of a GPU's grid, only the first may exceed 65535.
        grid=(rows, columns * parts),
        compiler_params=None if interpret else triton.CompilerParams(),
        interpret=interpret,
    )
    return tuple(call(*arrays))
