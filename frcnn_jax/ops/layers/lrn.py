"""Local response normalisation across channels (Krizhevsky et al., NIPS 2012), with alpha defined as in Caffe."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.ops.precision import widen


def local_response_norm(
    x: Float[Array, "*cells C"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Float[Array, "*cells C"]:
    """`x / (k + alpha / size * sum of x^2)^beta`, summed over the `size` channels around each channel.

    Channels beyond the first and the last count as 0. Caffe divides alpha by the window's size; the paper and some
    other libraries do not. Sums and powers are taken in float32 at least.

    Raises:
        ValueError: `size` is even or not positive, or `k` is not positive.
    """
    if size < 1 or size % 2 == 0 or k <= 0:
        raise ValueError(f"local_response_norm needs an odd size and k > 0, not size {size}, k {k}")
    return _normalize(x, size, alpha, beta, k)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _normalize(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    wide = widen(x)
    return (wide * _power(_base(wide, size, alpha, k), -beta)).astype(x.dtype)


def _forward(x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
    # Only the input is kept: recomputing the sums is cheaper than storing them in float32.
    return _normalize(x, size, alpha, beta, k), x


def _backward(size: int, alpha: float, beta: float, k: float, x: Array, cotangent: Array) -> tuple[Array]:
    wide, cotangent = widen(x), widen(cotangent)
    base = _base(wide, size, alpha, k)
    direct = cotangent * _power(base, -beta)
    # Windows are symmetric: a channel is in the windows of the channels in its own window.
    shared = _window_sum(direct * wide / base, size)
    return ((direct - (2 * alpha * beta / size) * wide * shared).astype(x.dtype),)


_normalize.defvjp(_forward, _backward)


def _base(x: Array, size: int, alpha: float, k: float) -> Array:
    return k + (alpha / size) * _window_sum(jnp.square(x), size)


def _window_sum(x: Array, size: int) -> Array:
    """Sum over the `size` channels around each channel, with zeros beyond the ends."""
    channels, reach = x.shape[-1], size // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)])
    return sum(padded[..., i : i + channels] for i in range(size))


def _power(base: Array, exponent: float) -> Array:
    """`base ** exponent` of positive numbers."""
    if exponent == -0.75:  # of the published networks; two square roots are much faster than a power
        root = jnp.sqrt(base)
        return 1 / (root * jnp.sqrt(root))
    return jnp.exp(exponent * jnp.log(base))
