"""Run in a process of its own: one device, two devices and `jax.pmap` make the same update."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.training.step import map_train_step
from tests.training.cases import small_batch
from tests.training.test_step import KEY, least_state_and_step

COMPARED = ("loss", "foreground", "background", "accuracy")


def main() -> None:
    assert jax.device_count() == 2
    batch = small_batch(images=4)
    # Unequal numbers of real RoIs on the two devices: the loss must be that of the batch, not a mean of means.
    mask = np.array(batch.proposal_mask)
    mask[0, 2:] = False
    batch = batch.replace(proposal_mask=mask)

    results = []
    for devices in (1, 2):
        state, step = least_state_and_step()
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))  # where the step leaves it
        compiled = map_train_step(step, mesh).lower(state, batch, KEY).compile()
        # One device has nothing to average, and must not copy its gradient for that.
        assert ("all-reduce" in compiled.as_text()) == (devices == 2)
        for _ in range(3):
            state, metrics = compiled(state, batch, KEY)
        results.append(jax.device_get((state, [metrics[k] for k in COMPARED])))

    state, step = least_state_and_step()
    stacked = jax.tree.map(lambda x: np.stack([x, x]), jax.device_get(state))
    shared = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    keys = jax.random.wrap_key_data(np.stack([jax.random.key_data(KEY)] * 2))
    mapped = jax.pmap(step, axis_name="data")
    for _ in range(3):
        stacked, metrics = mapped(stacked, shared, keys)
    results.append(jax.device_get(jax.tree.map(lambda x: x[0], (stacked, [metrics[k] for k in COMPARED]))))

    start, _ = least_state_and_step()
    moved = [
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(results[0][0].trainable), jax.tree.leaves(start.trainable), strict=True)
    ]
    assert min(moved) > 0
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    for a, b in zip(jax.tree.leaves(results[1]), jax.tree.leaves(results[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    print("2 devices agree")
