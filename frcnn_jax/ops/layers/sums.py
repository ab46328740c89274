"""Sums of many products that XLA computes in one vectorised loop on a CPU."""

import operator
from collections.abc import Sequence
from functools import reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def add_up(terms: Sequence[Array]) -> Array:
    """The sum of arrays of one shape, in order."""
    return reduce(operator.add, terms)


def sums_together(lists: Sequence[Sequence[Array]]) -> list[Array]:
    """The sum of each list of arrays, all of one shape, in one loop that reads shared terms once.

    XLA uses one loop for several results only for a single reduction. So each sum is split into two halves, and the
    reduction is over these two. It is not differentiable.
    """
    halves = []
    for terms in lists:
        middle = (len(terms) + 1) // 2
        second = add_up(terms[middle:]) if len(terms) > 1 else jnp.zeros_like(terms[0])
        halves.append(jnp.stack([add_up(terms[:middle]), second]))
    return reduce_together(halves, 0)


def reduce_together(arrays: Sequence[Array], axis: int) -> list[Array]:
    """The sum of each array over an axis, in one loop. It is not differentiable."""
    zeros = [jnp.zeros((), array.dtype) for array in arrays]
    return lax.reduce(arrays, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (axis,))
