"""Gradients and loops under strict `jax.shard_map`, each array split over two devices or shared by them.

Types are found while a function is traced, so nothing is computed.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from frcnn_jax.ops.layers.conv import conv2d
from frcnn_jax.ops.layers.depthwise import depthwise_conv2d
from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.roi_pool.pool import roi_max_pool
from frcnn_jax.ops.spatial_pyramid import spatial_pyramid_pool
from frcnn_jax.ops.varying import equally_varying

MESH = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
MAPS, SMALL_MAPS = (2, 20, 20, 128), (2, 4, 4, 128)
DIFFERENTIABLE = {
    "conv2d": (partial(conv2d, padding=1), MAPS, (3, 3, 128, 8)),
    "conv2d, groups": (partial(conv2d, padding=1, groups=2), MAPS, (3, 3, 64, 8)),
    "conv2d, Winograd": (partial(conv2d, padding=1), SMALL_MAPS, (3, 3, 128, 128)),
    "conv2d, 1 x 1": (conv2d, SMALL_MAPS, (1, 1, 128, 64)),
    "depthwise_conv2d, cells": (depthwise_conv2d, SMALL_MAPS, (3, 3, 128)),
    "depthwise_conv2d, taps": (partial(depthwise_conv2d, stride=2), MAPS, (5, 5, 128)),
    "depthwise_conv2d, XLA": (depthwise_conv2d, SMALL_MAPS, (1, 1, 128)),
    "roi_max_pool": (partial(roi_max_pool, output_size=(2, 3)), (9, 11, 8), (4, 4)),
    "roi_max_pool, no RoIs": (partial(roi_max_pool, output_size=(2, 3)), (9, 11, 8), (0, 4)),
    "spatial_pyramid_pool, no RoIs": (partial(spatial_pyramid_pool, levels=(2, 1)), (9, 11, 8), (0, 4)),
}


def strict(function, split, shapes, dtypes):
    """The shapes of the results, one for each array or one alone, of a function that two devices run."""
    whole = [(2, *shape) if halved else shape for halved, shape in zip(split, shapes, strict=True)]
    specs = tuple(PartitionSpec("data") if halved else PartitionSpec() for halved in split)

    def each(*arrays):
        arrays = [x[0] if halved else x for halved, x in zip(split, arrays, strict=True)]
        found = function(*arrays)
        if not isinstance(found, tuple):
            return found
        return tuple(x[None] if halved else x for halved, x in zip(split, found, strict=True))

    out = PartitionSpec("data") if function is nms else specs
    mapped = jax.shard_map(each, mesh=MESH, in_specs=specs, out_specs=out, check_vma=True)
    return jax.eval_shape(mapped, *map(jax.ShapeDtypeStruct, whole, dtypes)), whole


@pytest.mark.parametrize("split", [(True, False), (False, True)])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_and_their_gradients(name, split):
    function, *shapes = DIFFERENTIABLE[name]

    def slopes(*arrays):
        return jax.grad(lambda *x: jnp.sum(function(*x) ** 3), argnums=(0, 1))(*arrays)

    def penalty_slopes(*arrays):
        return jax.grad(lambda *x: sum(jnp.sum(slope**2) for slope in slopes(*x)), argnums=(0, 1))(*arrays)

    found, whole = strict(penalty_slopes, split, shapes, (jnp.float32, jnp.float32))
    assert [x.shape for x in found] == whole


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("split", list(product((True, False), repeat=3))[:-1])
def test_the_loops_of_nms(count, split):
    found, _ = strict(nms, split, [(count, 4), (count,), (count,)], (jnp.float32, jnp.float32, jnp.bool_))
    assert found.shape == (2 * count,)


def test_arrays_of_one_device_stay_themselves():
    arrays = [jnp.ones(3), {"a": jnp.zeros((), bool)}]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (equally_varying(*arrays), arrays)), strict=True))
