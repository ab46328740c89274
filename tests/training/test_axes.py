"""The axis over which a step averages, and the axes of the mesh that it is mapped over."""

from functools import wraps

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from frcnn_jax.training.losses.batch_loss import loss_fn, sample_batch
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


@pytest.mark.parametrize("axis_name", ["data", "image"])
def test_a_step_that_nothing_maps_names_what_to_do(axis_name):
    step = make_train_step(least_model(), optax.sgd(0.1), axis_name=axis_name)
    message = (
        f"averages over the axis '{axis_name}', along which nothing maps it: map it with .*map_train_step, or for one"
    )
    with pytest.raises(NameError, match=message):
        jax.eval_shape(jax.jit(step), None, None, jax.random.key(0))


@pytest.mark.parametrize("mesh", [None, 2, jax.devices()], ids=["none", "number", "devices"])
def test_a_mesh_that_is_none_is_refused(mesh):
    with pytest.raises(TypeError, match=rf"takes a mesh, as jax.make_mesh\(.*\), not {type(mesh).__name__}$"):
        map_train_step(step_over("data"), mesh)


def test_settings_of_sampling_of_another_kind_are_refused():
    with pytest.raises(TypeError, match=r"sampling must be a frcnn_jax\.SamplingConfig, as .*, not dict$"):
        make_train_step(least_model(), optax.sgd(0.1), sampling={"rois_per_image": 32})
    with pytest.raises(TypeError, match=r"sampling must be .*, not int$"):
        sample_batch(None, jax.random.key(0), config=32)
    with pytest.raises(TypeError, match=r"sampling must be .*, not function$"):
        loss_fn({}, None, jax.random.key(0), model=least_model(), sampling=sample_batch)
