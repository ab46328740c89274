"""The numbers that the devices of a step add up: the gradient, and a few more."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from frcnn_jax.training.step import map_train_step
from tests.training.cases import small_batch
from tests.training.test_step import KEY, state_and_step


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_the_gradient_and_seven_numbers_are_added_up():
    state, step = state_and_step("data")
    mesh = AbstractMesh((2,), ("data",))
    by_image = NamedSharding(mesh, PartitionSpec("data"))  # which later versions of JAX ask for
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_image), small_batch())
    program = map_train_step(step, mesh).trace(state, batch, KEY).jaxpr.jaxpr
    found = {}
    for equation in equations(program):
        for output in equation.outvars:
            kind = equation.primitive.name
            found[kind] = found.get(kind, 0) + output.aval.size
    # Six metrics, and the number of RoIs; each device's loss is looked at by itself.
    assert found["psum"] == sum(leaf.size for leaf in jax.tree.leaves(state.trainable)) + 7
    assert found["all_gather"] == 2
    assert not {"reduce_scatter", "psum_scatter", "all_to_all", "ppermute"} & found.keys()
