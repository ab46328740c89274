"""The step over the devices of a mesh: one program for each shape of a batch, wherever the state is at first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.training.step import map_train_step
from tests.training.cases import small_batch
from tests.training.test_step import KEY, least_state_and_step


@pytest.fixture
def mesh():
    """Of one device; its axes are explicit."""
    return jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])


def test_step_compiles_once_for_each_padded_shape(mesh):
    """From the state that `create_state` makes, on one device and not on the mesh."""
    state, step = least_state_and_step()
    mapped = map_train_step(step, mesh)
    wide = small_batch()
    tall = wide.replace(images=np.swapaxes(wide.images, 1, 2), image_sizes=wide.image_sizes[:, ::-1])
    for rate, batch in enumerate((wide, tall, wide, tall, small_batch(seed=1))):
        before = jax.tree.map(np.asarray, state.trainable)
        state, _ = mapped(state, batch, KEY, learning_rate=np.float32(rate))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, state.trainable)
        assert all(jax.tree.leaves(same)) == (rate == 0)  # the schedule has 0.01
    assert mapped._cache_size() == 2


@pytest.mark.parametrize("place", ["host", "device", "mesh", "explicit mesh"])
def test_a_state_from_any_place_is_moved_once_and_donated(mesh, place):
    def step(state, batch, key):
        return jax.tree.map(lambda x: x + jax.lax.pmean(batch.sum(), "data"), state), {}

    mapped = map_train_step(step, mesh)
    state = {"kernel": np.zeros((3, 2), np.float32), "bias": np.ones(2, np.float32)}
    meshes = {"mesh": Mesh(mesh.devices, ("data",)), "explicit mesh": mesh}
    if place in meshes:
        state = jax.device_put(state, NamedSharding(meshes[place], PartitionSpec()))
    elif place == "device":
        state = jax.tree.map(jnp.asarray, state)
    after = state
    for _ in range(3):
        after, _ = mapped(after, np.ones(4, np.float32), KEY)
    assert after["bias"].tolist() == [13, 13]
    assert mapped._cache_size() == 1
    assert place == "host" or all(array.is_deleted() for array in jax.tree.leaves(state))


def test_a_mapped_step_can_be_traced_lowered_and_be_the_body_of_a_loop(mesh):
    total = map_train_step(lambda state, batch, key: (state + jax.lax.pmean(batch.sum(), "data"), {}), mesh)
    start, batches = jnp.zeros(2), np.ones((5, 4), np.float32)
    assert jax.eval_shape(total, start, batches[0], KEY)[0].shape == (2,)
    assert total.lower(start, batches[0], KEY).compile()(start, batches[0], KEY)[0].tolist() == [4, 4]
    assert total.trace(jnp.zeros(2), batches[0], KEY).jaxpr.out_avals[0].shape == (2,)
    looped = jax.jit(lambda state: jax.lax.scan(lambda s, batch: total(s, batch, KEY), state, batches)[0])
    assert looped(jnp.zeros(2)).tolist() == [20, 20]
