"""2 x 2 max pooling with stride 2, as Caffe does it: the size is rounded up and a tie's gradient goes to the first.

XLA differentiates its own max pooling by select-and-scatter, which is slow on a CPU and refused on a GPU under
`xla_gpu_deterministic_ops`. Here windows do not overlap, so the gradient is a comparison and nothing is scattered.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def max_pool_2x2(x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 C"]:
    """Maximum of each 2 x 2 window; the last row and column of an odd map make windows of their own."""
    return _maximum(_corners(x))


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = max_pool_2x2(x)
    return y, (x, y)


def _backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    x, y = residuals
    n, height, width, channels = x.shape
    free = jnp.ones(y.shape, bool)
    shares = []
    for corner in _corners(x):
        wins = free & (corner == y)
        free = free & ~wins
        shares.append(jnp.where(wins, cotangent, 0))
    rows = [jnp.stack(shares[i : i + 2], axis=3) for i in (0, 2)]
    padded = jnp.stack(rows, axis=2).reshape(n, 2 * y.shape[1], 2 * y.shape[2], channels)
    return (padded[:, :height, :width],)


max_pool_2x2.defvjp(_forward, _backward)


def _corners(x: Array) -> tuple[Array, Array, Array, Array]:
    """The four members of every window, in row-major order."""
    _, height, width, _ = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    return x[:, 0::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2], x[:, 1::2, 1::2]


def _maximum(corners: tuple[Array, ...]) -> Array:
    a, b, c, d = corners
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
