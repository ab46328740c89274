"""Depthwise convolution of large maps on a CPU: the padded map, shifted to each tap of the kernel, times the tap."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops.layers.sums import add_up, reduce_together, sums_together

# Rows and columns of outputs that the loop of the kernel's gradient sums before it writes.
_BLOCK = (4, 2)


@partial(jax.jit, static_argnums=(2, 3))
def convolve(x: Float[Array, "N H W C"], kernel: Float[Array, "K K C"], stride: int, before: int) -> Array:
    """`depthwise_conv2d`."""
    size = len(kernel)
    counts = tuple(-(-length // stride) for length in x.shape[1:3])
    padded = _padded(x, [stride * (count - 1) + size for count in counts], before)
    rows, columns = (stride * (count - 1) + 1 for count in counts)
    return add_up(
        [
            padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j][None, None, None]
            for i in range(size)
            for j in range(size)
        ]
    )


@partial(jax.jit, static_argnums=(2, 3, 4))
def input_gradient(
    cotangent: Float[Array, "N h w C"],
    kernel: Float[Array, "K K C"],
    lengths: tuple[int, int],
    stride: int,
    before: int,
) -> Array:
    """Gradient of `convolve` with respect to a map of these lengths."""
    size, (n, *_, channels) = len(kernel), cotangent.shape
    blocks = tuple(-(-length // stride) for length in lengths)
    # Cells by their position modulo the stride: tap i moves output o to the cell stride * o + i - before, so cell a of
    # block m gets it from output m + (a + before - i) / stride.
    low = max((size - 1 - before) // stride + 1, 0)
    high = (stride - 1 + before) // stride
    padded = _padded(cotangent, [low + block + high for block in blocks], low)

    def taps(position: int) -> list[tuple[int, int]]:
        """Taps that reach cells at that position of a block, and the offset of their outputs."""
        found = ((tap, position + before - tap) for tap in range(size))
        return [(tap, low + distance // stride) for tap, distance in found if distance % stride == 0]

    def cells(a: int, b: int) -> Array:
        terms = [
            padded[:, m : m + blocks[0], k : k + blocks[1]] * kernel[i, j][None, None, None]
            for i, m in taps(a)
            for j, k in taps(b)
        ]
        return add_up(terms)

    if stride == 1:
        return cells(0, 0)
    lines = [jnp.stack([cells(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    whole = jnp.stack(lines, axis=2).reshape(n, *(stride * block for block in blocks), channels)
    return whole[:, : lengths[0], : lengths[1]]


@partial(jax.jit, static_argnums=(2, 3, 4))
def kernel_gradient(
    x: Float[Array, "N H W C"], cotangent: Float[Array, "N h w C"], size: int, stride: int, before: int
) -> Float[Array, "K K C"]:
    """Gradient of `convolve` with respect to the kernel."""
    if size > 3:
        return _gradient_by_row(x, cotangent, size, stride, before)
    counts = [-(-count // block) for count, block in zip(cotangent.shape[1:3], _BLOCK, strict=True)]
    whole = [count * block for count, block in zip(counts, _BLOCK, strict=True)]
    padded = _padded(x, [stride * (length - 1) + size for length in whole], before)
    cotangent = _padded(cotangent, whole, 0)

    def every(array: Array, row: int, column: int, stride: int) -> Array:
        """One cell of each block."""
        steps = [stride * block for block in _BLOCK]
        ends = [first + step * (n - 1) + 1 for first, step, n in zip((row, column), steps, counts, strict=True)]
        return array[:, row : ends[0] : steps[0], column : ends[1] : steps[1]]

    def products(i: int, j: int) -> list[Array]:
        block = ((row, column) for row in range(_BLOCK[0]) for column in range(_BLOCK[1]))
        return [
            every(padded, stride * row + i, stride * column + j, stride) * every(cotangent, row, column, 1)
            for row, column in block
        ]

    # Without the barrier XLA would fuse the sum over blocks, whose loop is not vectorised.
    sums = lax.optimization_barrier(sums_together([products(i, j) for i in range(size) for j in range(size)]))
    return jnp.stack([part.sum((0, 1, 2)) for part in sums]).reshape(size, size, -1)


def _gradient_by_row(x: Array, cotangent: Array, size: int, stride: int, before: int) -> Array:
    """The gradient for kernels with many taps: sums each row of outputs, for all taps in one loop, then the rows. A
    loop over blocks would write as much as it reads.
    """
    counts = cotangent.shape[1:3]
    padded = _padded(x, [stride * (count - 1) + size for count in counts], before)
    rows, columns = (stride * (count - 1) + 1 for count in counts)
    products = [
        padded[:, i : i + rows : stride, j : j + columns : stride] * cotangent for i in range(size) for j in range(size)
    ]
    # Without the barrier XLA would sum over all axes at once, in one thread.
    sums = lax.optimization_barrier(reduce_together(products, 2))
    return jnp.stack([part.sum((0, 1)) for part in sums]).reshape(size, size, -1)


def _padded(x: Array, lengths: list[int], before: int) -> Array:
    """`x` padded with zeros, or cropped, to these lengths; the first cell is `-before`."""
    if before == 0 and list(x.shape[1:3]) == lengths:
        return x
    after = [length - before - size for length, size in zip(lengths, x.shape[1:3], strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((before, end, 0) for end in after), (0, 0, 0)))
    # Without the barrier XLA would pad again for each tap.
    return lax.optimization_barrier(padded)
