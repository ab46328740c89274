"""Precision of arithmetic: integers and half precision are computed in float32; float32 and float64 are kept."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int


def wide_dtype(dtype: Any) -> jnp.dtype:
    """float64 for float64, float32 for every other real dtype (integers, bool, half precision).

    Unlike `jnp.promote_types` it also works where JAX refuses implicit promotion.
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def as_array(x: ArrayLike | Sequence[Any]) -> Any:
    """`x` itself if it is an array of JAX or NumPy, else `x` as an array."""
    return x if hasattr(x, "shape") else jnp.asarray(x)


def as_int32(x: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """Integers of any dtype in 32 bits: narrow and unsigned ones would wrap around in sums, products and differences.

    Larger ones become the largest, not negative.
    """
    x = x if isinstance(x, jax.Array) else np.asarray(x)  # `jnp.asarray` cuts 64 bits to 32
    if x.dtype != np.int32:
        largest = min(np.iinfo(x.dtype).max, np.iinfo(np.int32).max)
        smaller = jnp.minimum if isinstance(x, jax.Array) else np.minimum
        x = smaller(x, np.array(largest, x.dtype)).astype(np.int32)
    return jnp.asarray(x)


def as_mask(x: ArrayLike | Sequence[Any]) -> Any:
    """`x` as an array of bools: numbers are True unless 0, as `&` and `~` would take integers bit by bit."""
    x = as_array(x)
    return x if x.dtype == bool else x != 0


def widen(x: ArrayLike) -> Array:
    """`x` in the `wide_dtype` of its dtype. Gradients for half precision are in half precision.

    Raises:
        TypeError: it is complex: the imaginary part would be lost.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"real numbers are needed, not {x.dtype}: give .real of them")
    return x.astype(wide_dtype(x.dtype))
