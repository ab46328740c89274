"""Transfers to the device in a run, and memory held there: one batch of uint8 pixels a step, one state."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.training import loop
from frcnn_jax.training.step import map_train_step
from frcnn_jax.types import Batch
from tests.training.cases import small_batch
from tests.training.runs import run_config
from tests.training.test_step import KEY, least_state_and_step

STEPS = 3


def size(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_the_state_is_donated():
    state, step = least_state_and_step()
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    compiled = map_train_step(step, mesh).lower(state, small_batch(), KEY).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == size(state)
    new_state, metrics = compiled(state, small_batch(), KEY)
    # Of what the step gives, only the metrics are not written over what it took; each result has a pointer of 8 bytes.
    results = len(jax.tree.leaves((new_state, metrics)))
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes <= size(metrics) + 8 * results
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new_state))


@pytest.fixture
def watched(monkeypatch):
    """Trains with a record of each transfer of a batch, of each step's arguments, and of the bytes held after it."""
    transfers, arguments, held = [], [], []
    put, mapping = jax.device_put, loop.map_train_step

    def watched_put(x, *where, **options):
        moved = put(x, *where, **options)
        if isinstance(x, Batch):
            transfers.append((x, moved))
        return moved

    def watched_mapping(step, mesh):
        mapped = mapping(step, mesh)

        def run(state, batch, key, rate):
            arguments.append((state.step.sharding, batch, key.sharding, rate.sharding))
            # What is not put on the device by name may not go there.
            with jax.transfer_guard("disallow"):
                state, metrics = mapped(state, batch, key, rate)
            held.append((sum(x.nbytes for x in jax.live_arrays()), size(state)))
            return state, metrics

        return run

    monkeypatch.setattr(jax, "device_put", watched_put)
    monkeypatch.setattr(loop, "map_train_step", watched_mapping)
    return transfers, arguments, held


def test_a_step_takes_one_batch_of_bytes_and_one_state_is_held(small, data, tmp_path, watched):
    transfers, arguments, held = watched
    before = sum(x.nbytes for x in jax.live_arrays())
    state = loop.train(run_config(data, steps=STEPS), tmp_path)
    assert len(transfers) == len(arguments) == STEPS
    for (host, moved), (_, given, _, _) in zip(transfers, arguments, strict=True):
        assert given is moved
        assert host.images.dtype == moved.images.dtype == np.uint8
        assert isinstance(host.images, np.ndarray)
    batches = sum(size(moved) for _, moved in transfers)
    for total, of_state in held:
        assert of_state == size(state)
        assert total - before < batches + 1.25 * of_state, "the parameters or the optimizer's state are there twice"


def test_a_run_goes_on_with_key_and_state_on_the_same_devices(small, data, tmp_path, watched):
    _, arguments, _ = watched
    loop.train(run_config(data, steps=1), tmp_path)
    loop.train(run_config(data, steps=2), tmp_path)
    assert len(arguments) == 2
    for of_state, _, of_key, of_rate in arguments:
        assert of_state == of_key == of_rate
