"""3 x 3 convolution with fewer multiplications, for CPUs: F(2 x 2, 3 x 3) of Lavin and Gray (CVPR 2016).

Along a line, two neighbouring outputs y read four inputs d through three taps k. `y = A ((G k) * (B d))`, with the
matrices below, needs four products instead of six. Along rows and columns, a tile of 2 x 2 outputs needs 16 products
instead of 36. Each of the 16, summed over channels, is a matrix product with a row for each tile.

The factors are 1 and 1/2, and rounding errors are like those of the direct sum. Larger tiles need even fewer products,
but their errors are ten times as large.
"""

import operator
from collections.abc import Callable
from functools import reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops.precision import widen

Matrix = tuple[tuple[float | int, ...], ...]
Grid = list[list[Array]]  # arrays of one shape in rows and columns

_B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 1, 1, 0), (0, 1, -1, 1))

_LEAST_CHANNELS = 128


def suits_winograd(x: Array, kernel: Array, stride: int, padding: int) -> bool:
    """True if the functions below can compute this convolution, probably faster than XLA on a CPU."""
    output_exists = min(x.shape[1:3]) + 2 * padding >= 3
    three_by_three = kernel.shape[:2] == (3, 3) and stride == 1 and 0 <= padding <= 2 and output_exists
    # With few channels, summing inputs and outputs costs as much as the products save.
    return three_by_three and min(kernel.shape[2:]) >= _LEAST_CHANNELS


def winograd_convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"], padding: int
) -> Float[Array, "N h w D"]:
    """Convolution of stride 1 with zero padding on all sides. Sums are taken in float32 at least."""
    n, lengths = x.shape[0], [length + 2 * padding - 2 for length in x.shape[1:3]]
    rows, columns = (-(-length // 2) for length in lengths)
    inputs = _transform(_B, _tiles(widen(x), 4, (rows, columns), padding))
    weights = _transform(_G, [list(line) for line in widen(kernel)])
    outputs = _transform(_A, _pairwise(operator.matmul, inputs, weights))
    y = jnp.stack([jnp.stack(line, axis=3) for line in outputs], axis=2)
    y = y.reshape(n, 2 * rows, 2 * columns, kernel.shape[3])
    return y[:, : lengths[0], : lengths[1]].astype(x.dtype)


def winograd_kernel_gradient(
    x: Float[Array, "N H W C"], cotangent: Float[Array, "N h w D"], padding: int
) -> Float[Array, "3 3 C D"]:
    """Gradient of `winograd_convolve` with respect to its kernel, in float32 at least: each of its steps transposed."""
    counts = tuple(-(-length // 2) for length in cotangent.shape[1:3])
    inputs = _transform(_B, _tiles(widen(x), 4, counts, padding))
    outputs = _transform(_transposed(_A), _tiles(widen(cotangent), 2, counts, 0))
    taps = _transform(_transposed(_G), _pairwise(_sum_of_outer_products, inputs, outputs))
    return jnp.stack([jnp.stack(line) for line in taps])


def _tiles(x: Float[Array, "N H W C"], size: int, counts: tuple[int, int], padding: int) -> Grid:
    """The cells (i, j) of all tiles. Tiles have size x size cells and start 2 apart, the first one at `-padding`."""
    ends = [2 * (count - 1) + size - padding - length for count, length in zip(counts, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), (padding, ends[0]), (padding, ends[1]), (0, 0)))
    rows, columns = (2 * count - 1 for count in counts)
    return [[x[:, i : i + rows : 2, j : j + columns : 2] for j in range(size)] for i in range(size)]


def _sum_of_outer_products(a: Float[Array, "N h w C"], b: Float[Array, "N h w D"]) -> Float[Array, "C D"]:
    # Flattened first: on a CPU, XLA is three times slower at summing over several axes in one product.
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """`matrix grid matrix^T`."""
    lines = [[_weighted_sum(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_weighted_sum(row, line) for row in matrix] for line in lines]


def _weighted_sum(factors: tuple[float | int, ...], arrays: list[Array] | tuple[Array, ...]) -> Array:
    pairs = zip(factors, arrays, strict=True)
    return reduce(operator.add, (array if factor == 1 else factor * array for factor, array in pairs if factor))


def _pairwise(function: Callable[[Array, Array], Array], a: Grid, b: Grid) -> Grid:
    return [[function(*pair) for pair in zip(*lines, strict=True)] for lines in zip(a, b, strict=True)]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
