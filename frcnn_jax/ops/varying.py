"""Types of arrays under `jax.shard_map` with `check_vma`: the axes of the mesh over which an array varies."""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def equally_varying(*trees: Any) -> Any:
    """The trees with each array varying over all axes of `jax.shard_map` over which any of them varies.

    The gradient of a `custom_vjp` must vary over the same axes as its array, and the state of a loop over the same axes
    before and after. The gradient of an array that several devices share is then summed over them.
    """
    varying = [jax.typeof(array).manual_axis_type.varying for array in jax.tree.leaves(trees)]
    axes = frozenset().union(*varying)

    def cast(array: Array) -> Array:
        missing = axes - jax.typeof(array).manual_axis_type.varying
        return lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array

    return jax.tree.map(cast, trees)
