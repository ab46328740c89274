"""Depthwise convolution of small maps on a CPU, such as pooled RoIs: cell by cell, without any padding.

Around a map of 4 x 4 cells, three quarters of a 5 x 5 kernel's inputs would be zeros. Here every result is the sum of
only the existing products, and a group of results is computed in one loop, which reads each cell once.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops.layers.sums import sums_together

Position = tuple[int, int]  # row and column

# Each product is unrolled in the program.
_MOST_PRODUCTS = 600
_TOGETHER = 8  # results per loop; more would exceed a CPU's registers


def suits_cells(lengths: tuple[int, int], size: int, stride: int, before: int) -> bool:
    """True if the map is small enough for the functions below."""
    rows, columns = (len(_products(length, size, stride, before)) for length in lengths)
    return rows * columns <= _MOST_PRODUCTS


@partial(jax.jit, static_argnums=(2, 3))
def convolve(x: Float[Array, "N H W C"], kernel: Float[Array, "K K C"], stride: int, before: int) -> Array:
    """`depthwise_conv2d`."""
    lengths = tuple(-(-length // stride) for length in x.shape[1:3])
    cells, taps = _cells(x), _taps(kernel)
    terms = defaultdict(list)
    for tap, cell, output in _pairs(x.shape[1:3], len(kernel), stride, before):
        terms[output].append(cells[cell] * taps[tap])
    return _map(terms, lengths, jnp.zeros_like(cells[0, 0]))


@partial(jax.jit, static_argnums=(2, 3, 4))
def input_gradient(
    cotangent: Float[Array, "N h w C"], kernel: Float[Array, "K K C"], lengths: Position, stride: int, before: int
) -> Array:
    """Gradient of `convolve` with respect to a map of these lengths."""
    cells, taps = _cells(cotangent), _taps(kernel)
    terms = defaultdict(list)
    for tap, cell, output in _pairs(lengths, len(kernel), stride, before):
        terms[cell].append(cells[output] * taps[tap])
    return _map(terms, lengths, jnp.zeros_like(cells[0, 0]))


@partial(jax.jit, static_argnums=(2, 3, 4))
def kernel_gradient(
    x: Float[Array, "N H W C"], cotangent: Float[Array, "N h w C"], size: int, stride: int, before: int
) -> Float[Array, "K K C"]:
    """Gradient of `convolve` with respect to the kernel."""
    pairs = _pairs(x.shape[1:3], size, stride, before)
    # The loop sums the products of some images before it writes.
    images = 2 if len(pairs) > 150 else 4
    missing = -len(x) % images
    inputs, outputs = ([_cells(part) for part in _by_images(a, images, missing)] for a in (x, cotangent))
    terms = defaultdict(list)
    for image in range(images):
        for tap, cell, output in pairs:
            terms[tap].append(inputs[image][cell] * outputs[image][output])
    zeros = jnp.zeros_like(inputs[0][0, 0])
    lines = []
    for row in range(size):
        sums = sums_together([terms[row, column] or [zeros] for column in range(size)])
        # Without the barrier XLA would fuse the sum over images, whose loop is not vectorised.
        lines.append(jnp.stack([part.sum(0) for part in lax.optimization_barrier(sums)]))
    return jnp.stack(lines)


def _cells(x: Float[Array, "N H W C"]) -> dict[Position, Array]:
    """The images' values of each cell, [N, C]."""
    # Without the barrier XLA would recompute the input in each loop.
    flat = lax.optimization_barrier(x).reshape(len(x), -1, x.shape[-1])
    positions = ((row, column) for row in range(x.shape[1]) for column in range(x.shape[2]))
    return {position: lax.index_in_dim(flat, i, 1, keepdims=False) for i, position in enumerate(positions)}


def _taps(kernel: Float[Array, "K K C"]) -> dict[Position, Array]:
    """Each tap of the kernel, [1, C]."""
    return {(i, j): kernel[i, j][None] for i in range(len(kernel)) for j in range(len(kernel))}


def _by_images(x: Array, images: int, missing: int) -> list[Array]:
    """Every n-th image, for each start."""
    x = jnp.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else x
    parts = x.reshape(-1, images, *x.shape[1:])
    return [lax.index_in_dim(parts, i, 1, keepdims=False) for i in range(images)]


def _map(terms: dict[Position, list[Array]], lengths: Position, zeros: Array) -> Array:
    """The map of these lengths with the sum of the terms of each cell."""
    rows, columns = lengths
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    group = columns * max(_TOGETHER // columns, 1)
    sums = []
    for first in range(0, len(cells), group):
        sums += sums_together([terms[cell] or [zeros] for cell in cells[first : first + group]])
    return jnp.stack(sums, axis=1).reshape(-1, rows, columns, zeros.shape[-1])


def _pairs(lengths: Sequence[int], size: int, stride: int, before: int) -> list[tuple[Position, Position, Position]]:
    """Tap, cell and output of all products, each with row and column."""
    rows, columns = (_products(length, size, stride, before) for length in lengths)
    return [tuple(zip(row, column, strict=True)) for row in rows for column in columns]


def _products(length: int, size: int, stride: int, before: int) -> list[tuple[int, int, int]]:
    """Tap, cell and output along an axis of `length` cells, for existing cells."""
    reached = (
        (tap, stride * output + tap - before, output) for output in range(-(-length // stride)) for tap in range(size)
    )
    return [(tap, cell, output) for tap, cell, output in reached if 0 <= cell < length]
