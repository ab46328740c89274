"""Arrays that processes give each other, to the bit, and sums in a fixed order; evaluation that is shared out."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from frcnn_jax.distributed import arrays
from frcnn_jax.evaluation.sharing import Share, of_all_processes
from frcnn_jax.training.metrics import _of_devices
from frcnn_jax.types import Detections


def test_the_order_of_the_devices_is_that_of_the_sum():
    values = jnp.asarray([1.0, 1e8, -1e8, 3.0], jnp.float32)

    def mean(x, **options):
        return jax.vmap(lambda x: arrays.mean_over_devices(x, "data", **options), axis_name="data")(x)

    # ((1 + 1e8) - 1e8) + 3
    np.testing.assert_array_equal(mean(values, fixed_order=True), np.full(4, 0.75, np.float32))
    integers = jnp.arange(12.0).reshape(4, 3)
    for fixed_order in (False, True):
        found = mean({"a": integers}, fixed_order=fixed_order)["a"]
        np.testing.assert_array_equal(found, np.tile([4.5, 5.5, 6.5], (4, 1)))
    np.testing.assert_array_equal(arrays.mean_over_devices(values, None), values)


def test_a_function_runs_when_all_have_compiled_it(in_processes):
    compiled, ran = [], []

    class Jitted:
        def __init__(self, index):
            self.index = index

        def lower(self, x):
            self.shape = x.shape
            return self

        def compile(self):
            time.sleep(0.2 * self.index)  # one takes longer than the other
            compiled.append(self.shape)
            return lambda x: ran.append(len(compiled)) or x

    def call(index):
        function = arrays.compiled_together(Jitted(index))
        return [function(np.zeros(shape)).shape for shape in (3, 3, 4, 3)]

    assert in_processes(2, call) == [[(3,), (3,), (4,), (3,)]] * 2
    assert compiled == [(3,), (3,), (4,), (4,)]  # once for each shape
    assert min(ran) == 2
    jitted = Jitted(0)
    assert arrays.compiled_together(jitted) is jitted  # one process alone


@pytest.fixture
def collectives(in_processes, monkeypatch):
    """Broadcasts and gathers between threads, by JSON, of at most four numbers at a time."""
    monkeypatch.setattr(arrays, "_CHUNK", 4)

    def broadcast(words):
        assert words.size <= 4
        return np.array(arrays.gather(words.tolist())[0], words.dtype)

    def allgather(words):
        assert words.size <= 4
        return np.array(arrays.gather(words.tolist()), words.dtype)

    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    return in_processes


TREE = {
    "a": np.array([[-0.0, np.nan, 1e-45], [np.inf, 2, 3]], np.float32),
    "b": np.array([1, 2, 3], np.uint8),
    "c": np.array(7, np.int32),
    "d": np.zeros((0, 4), np.float32),
    "e": np.array([True, False]),
}


@pytest.mark.parametrize("names", ["abcde", "b", "c", "d", "ab"])
def test_all_have_the_arrays_of_process_0_to_the_bit(names, collectives):
    tree = {name: TREE[name] for name in names}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    for found in collectives(3, lambda index: arrays.from_first_process(tree if index == 0 else shapes)):
        for name, array in tree.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("lengths", [(0, 0), (3, 0), (5, 16), (17, 70)])
def test_all_have_the_bytes_of_all(lengths, collectives):
    contents = [bytes(range(1, length + 1)) for length in lengths]
    assert collectives(2, lambda index: arrays.gather_bytes(contents[index])) == [contents] * 2


def detections(count):
    random = np.random.default_rng(count)
    return Detections(
        boxes=random.random((count, 4)).astype(np.float32),
        scores=random.random(count).astype(np.float32),
        labels=random.integers(1, 3, count).astype(np.int32),
        mask=np.ones(count, bool),
    )


def test_an_evaluation_is_shared_out_and_put_together(collectives):
    class Source(list):
        def image_count(self, step):
            return len(self[step])

    source = Source([(0, 1), (2,), (3, 4), (5,), (6,)])  # images of each batch
    counts = [3, 0, 1, 2, 0, 5, 1]  # detections of each image

    def evaluate(index):
        share = Share(source)
        batches = [share[step] for step in range(len(share))]
        assert share.images == sum(map(len, batches))
        return batches, of_all_processes({image: detections(counts[image]) for batch in batches for image in batch})

    results = collectives(3, evaluate)
    assert [batches for batches, _ in results] == [[(0, 1), (5,)], [(2,), (6,)], [(3, 4)]]
    for _, found in results:
        assert sorted(found) == list(range(7))
        for image, count in enumerate(counts):
            for name in ("boxes", "scores", "labels", "mask"):
                np.testing.assert_array_equal(getattr(found[image], name), getattr(detections(count), name))


def test_a_loss_that_is_not_finite_is_that_of_its_devices_images():
    images = ["a", "b", "c", "d", "e", "f"]
    assert _of_devices(images, np.array([False, True, False])) == ["c", "d"]
    assert _of_devices(images, np.array([True, False])) == ["a", "b", "c"]
    assert _of_devices(images, np.array([False])) == []
