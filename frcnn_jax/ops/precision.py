"""Precision of arithmetic: integers and half precision are computed in float32, float32 and float64 as they are."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def wide_dtype(dtype: Any) -> jnp.dtype:
    """float64 for float64, float32 for every other real dtype (integers, bool, half precision).

    Unlike `jnp.promote_types` it also works where JAX refuses implicit promotion.
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def widen(x: ArrayLike) -> Array:
    """`x` in `wide_dtype` of its dtype. Gradients of half precision come back in half precision."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))
