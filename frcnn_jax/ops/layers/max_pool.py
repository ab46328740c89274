"""Caffe's max pooling: the output's size is rounded up, and the gradient of ties goes to the first cell.

XLA differentiates its own max pooling by select-and-scatter, which is slow on a CPU and refused on a GPU under
`xla_gpu_deterministic_ops`. Here the forward pass records the winning member of each window. The backward pass sums,
for every cell in a fixed order, the gradients of the windows that it won, without a scatter.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.ops.precision import as_int32


def pooled_length(length: int | Array, size: int, stride: int, padding: int = 0) -> int | Array:
    """Windows along an axis of `length` cells: rounded up, without a last one that would start beyond the cells.

    Takes integers and integer arrays alike. No cells have no window.
    """
    if not isinstance(length, int):
        length = as_int32(length)
    reach_end = -(-(length + 2 * padding - size) // stride) + 1
    start_inside = -(-(length + padding) // stride)
    if isinstance(length, int):
        return max(min(reach_end, start_inside), 0) if length > 0 else 0
    return jnp.where(length > 0, jnp.maximum(jnp.minimum(reach_end, start_inside), 0), 0)


def max_pool(x: Float[Array, "N H W C"], size: int, stride: int, padding: int = 0) -> Float[Array, "N h w C"]:
    """Maximum of each window of `size` x `size` cells, `stride` apart, starting at `-padding`.

    Windows are clipped to the map; padding never wins. The result has `pooled_length` rows and columns. The
    gradient of a maximum goes to the first of equal cells in row-major order.

    Raises:
        ValueError: windows would leave gaps or consist only of padding, or the map is too small for a window.
    """
    if not (0 <= padding < size and 1 <= stride <= size):
        raise ValueError(f"max_pool needs 0 <= padding {padding} < size {size} and 1 <= stride {stride} <= size")
    if 0 in (pooled_length(length, size, stride, padding) for length in x.shape[1:3]):
        raise ValueError(f"max_pool: no window of size {size} fits a map of {x.shape[1]} x {x.shape[2]} cells")
    return _pool(x, size, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _pool(x: Array, size: int, stride: int, padding: int) -> Array:
    return reduce(jnp.maximum, _members(x, size, stride, padding))


def _forward(x: Array, size: int, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
    maximum, *others = _members(x, size, stride, padding)
    winner = jnp.zeros(maximum.shape, jnp.int8 if size**2 < 128 else jnp.int32)
    for number, member in enumerate(others, start=1):
        winner = jnp.where(member > maximum, jnp.array(number, winner.dtype), winner)
        maximum = jnp.maximum(maximum, member)
    # Only the shape of the map is needed.
    return maximum, (winner, x[:0])


def _backward(size: int, stride: int, padding: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    winner, like = residuals
    _, height, width, channels = like.shape
    n = cotangent.shape[0]
    # Cells by their position modulo the stride: a window's member (i, j) is the cell (i % stride, j % stride) of the
    # block of stride x stride cells that is (i // stride, j // stride) further on than the window.
    reach = -(-size // stride) - 1  # number of further blocks in a window
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    winner, cotangent = jnp.pad(winner, around, constant_values=-1), jnp.pad(cotangent, around)
    rows, columns = (length - reach for length in cotangent.shape[1:3])

    def share(i: int, j: int) -> Array:
        """The gradient that each block's cell gets as the member (i, j) of a window."""
        top, left = reach - i // stride, reach - j // stride
        window = (slice(None), slice(top, top + rows), slice(left, left + columns))
        return jnp.where(winner[window] == i * size + j, cotangent[window], 0)

    def cells(a: int, b: int) -> Array:
        return sum(share(i, j) for i in range(a, size, stride) for j in range(b, size, stride))

    lines = [jnp.stack([cells(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    whole = jnp.stack(lines, axis=2).reshape(n, stride * rows, stride * columns, channels)
    # Cells outside all windows are after the last one.
    missing = [max(padding + length - stride * blocks, 0) for length, blocks in ((height, rows), (width, columns))]
    whole = jnp.pad(whole, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return (whole[:, padding : padding + height, padding : padding + width],)


_pool.defvjp(_forward, _backward)


def _members(x: Array, size: int, stride: int, padding: int) -> list[Array]:
    """The members of all windows, one map per member, in row-major order."""
    lengths = x.shape[1:3]
    rows, columns = (pooled_length(length, size, stride, padding) for length in lengths)
    ends = [
        max((count - 1) * stride + size - padding - length, 0)
        for count, length in zip((rows, columns), lengths, strict=True)
    ]
    if padding or any(ends):
        x = jnp.pad(x, ((0, 0), (padding, ends[0]), (padding, ends[1]), (0, 0)), constant_values=-jnp.inf)
    last_row, last_column = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    return [x[:, i : i + last_row : stride, j : j + last_column : stride] for i in range(size) for j in range(size)]
