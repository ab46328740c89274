"""A table of maxima over windows of a map; the maximum of any rectangle is a lookup of four rows.

Two windows of s cells can cover any s ... 2 s cells of an axis. So windows with sides of 1, 3, 7, 15 ... cells are
enough for rectangles of every size: four of them, which may overlap, one in each corner. Building the table costs a few
operations per cell and window size, for any number of rectangles.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# The maxima of windows and, if requested, the first cell in row-major order with each.
Maxima = tuple[Array, ...]


def window_sizes(longest: int) -> tuple[int, ...]:
    """Sizes 1, 3, 7 ... so that two windows of one size cover any extent of 1 ... `longest` cells."""
    return tuple((2 << k) - 1 for k in range((longest + 1).bit_length() - 1))


def window_maxima(features: Array, heights: Sequence[int], widths: Sequence[int], index_dtype: Any | None) -> Maxima:
    """Maxima over the windows of every size at every cell of a map [H, W, C].

    Args:
        heights: sizes of the windows along the first axis, from `window_sizes`.
        widths: the same along the second axis.
        index_dtype: dtype of the cell indices, y W + x; if None, the cells of the maxima are not searched.

    Returns:
        Rows [len(heights) * len(widths) * H * W, C], by height, width and first cell of the window. Rows of windows
        that extend beyond the map are meaningless.
    """
    height, width, channels = features.shape
    cells = height * width
    # In the flattened map the cell below is `width` further on. A window that leaves the map on the right goes on in
    # the next row of cells, one that leaves it at the bottom in padding.
    below, right = (heights[-1] - 1) * width, widths[-1] - 1
    table: Maxima = (jnp.pad(features.reshape(cells, channels), ((0, below + right), (0, 0))),)
    if index_dtype is not None:
        table += (lax.broadcasted_iota(index_dtype, table[0].shape, 0),)
    by_width = _windows_of_sizes(table, widths, 1, cells + below)
    table = tuple(jnp.stack(parts) for parts in zip(*by_width, strict=True))
    by_height = _windows_of_sizes(table, heights, width, cells)
    return tuple(
        jnp.concatenate([part.reshape(-1, channels) for part in parts]) for parts in zip(*by_height, strict=True)
    )


def first_maxima(windows: Sequence[Maxima]) -> Maxima:
    """Maxima over the union of several windows; NaN counts as the largest value."""
    largest = reduce(jnp.maximum, [values for values, *_ in windows])
    if len(windows[0]) == 1:
        return (largest,)
    no_cell = jnp.array(jnp.iinfo(windows[0][1].dtype).max, windows[0][1].dtype)
    holding = [jnp.where((values == largest) | jnp.isnan(values), cell, no_cell) for values, cell in windows]
    return largest, reduce(jnp.minimum, holding)


def _windows_of_sizes(windows: Maxima, sizes: Sequence[int], step: int, count: int) -> list[Maxima]:
    """`count` windows of each size along one axis, with cells `step` apart in the arrays' second-to-last axis.

    Args:
        windows: windows of one cell along the axis: `count`, and as many more as the largest size needs.
    """
    by_size = [windows]
    for size in sizes[:-1]:
        # The next size is 2 size + 1 cells: the first `size`, the last `size` and the cell between them.
        length = by_size[-1][0].shape[-2] - (size + 1) * step
        members = [
            tuple(lax.slice_in_dim(part, start * step, start * step + length, axis=-2) for part in by_size[-1])
            for start in (0, size, size + 1)
        ]
        by_size.append(first_maxima(members))
    return [tuple(part[..., :count, :] for part in parts) for parts in by_size]
