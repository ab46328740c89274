"""The axis over which a step averages, and the axes of the mesh that it is mapped over."""

from functools import wraps

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from frcnn_jax.training.step import make_train_step, map_train_step
from tests.training.cases import least_model


def step_over(axis_name):
    """A step that only gathers a number of each device, with the attributes of a real one."""
    real = make_train_step(least_model(), optax.sgd(0.1), axis_name=axis_name)

    @wraps(real)
    def step(state, batch, key):
        total = batch.sum()
        return state, total if axis_name is None else jax.lax.all_gather(total, axis_name)

    return step


def mapped_shape(step, mesh_axis, devices):
    mapped = map_train_step(step, AbstractMesh((devices,), (mesh_axis,), axis_types=(AxisType.Auto,)))
    return jax.eval_shape(mapped, jnp.zeros(3), jnp.zeros((4, 2)), jax.random.key(0))[1].shape


def test_a_step_is_mapped_along_its_own_axis():
    assert mapped_shape(step_over("data"), "data", 2) == (2,)
    assert mapped_shape(step_over("image"), "image", 2) == (2,)
    assert mapped_shape(step_over(None), "image", 1) == ()
    assert mapped_shape(lambda state, batch, key: (state, jax.lax.psum(batch.sum(), "data")), "data", 2) == ()


@pytest.mark.parametrize(
    ("axis_name", "message"),
    [
        (None, "does not average over the 2 devices of the mesh, as its axis_name is None"),
        ("data", "averages over the axis 'data', and the mesh has 'image'"),
    ],
)
def test_a_step_that_does_not_average_over_the_devices_is_refused(axis_name, message):
    with pytest.raises(ValueError, match=f"^the step {message}: give make_train_step axis_name='image'"):
        map_train_step(step_over(axis_name), AbstractMesh((2,), ("image",)))
