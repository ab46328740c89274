"""The kernels for RoI pooling, interpreted: equal to XLA's operations and to a plain loop, and lowered for a GPU."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.roi_pool import pallas as roi_pool_pallas
from frcnn_jax.ops.roi_pool import pool as roi_pool
from frcnn_jax.ops.roi_pool import xla as roi_pool_xla
from frcnn_jax.ops.roi_pool.bins import roi_bins
from frcnn_jax.ops.roi_pool.pool import roi_max_pool
from tests.ops import reference
from tests.ops.roi_pool.test_pool import HEIGHT, ROIS, WIDTH, maps, nasty_rois, rois_inside

CHANNELS = 6  # two programs for a place: each takes four channels, and two of them are the same
GRID, SCALE = (3, 4), 1 / 16


@jax.jit
def pallas(features, rois, cotangent, valid_size):
    size = features.shape[:2]
    bins = roi_bins(rois, GRID, SCALE, size, valid_size)
    pooled, argmax = roi_pool_pallas.bin_maxima(features, bins, jnp.uint16, interpret=True)
    return pooled, roi_pool_pallas.features_gradient(argmax, cotangent, bins, size, interpret=True)


@jax.jit
def xla_of_images(features, rois, cotangent, valid_sizes):
    size = features.shape[1:3]
    bins = jax.vmap(lambda rois, valid_size: roi_bins(rois, GRID, SCALE, size, valid_size))(rois, valid_sizes)
    pooled, argmax = roi_pool_xla.bin_maxima(features, bins, jnp.uint16)
    return pooled, roi_pool_xla.features_gradient(argmax, cotangent, bins, size)


def xla(*arrays):
    return [result[0] for result in xla_of_images(*(jnp.asarray(array)[None] for array in arrays))]


@pytest.mark.parametrize("some_rois", [nasty_rois, rois_inside])
def test_values_and_gradient_are_those_of_a_plain_loop(some_rois):
    generator = np.random.default_rng(0)
    rois, cotangent = some_rois(generator), generator.integers(-4, 5, (ROIS, *GRID, CHANNELS)).astype(np.float32)
    for features in maps(generator, (HEIGHT, WIDTH, CHANNELS)):
        for valid_size in (np.array([HEIGHT, WIDTH]), np.array([5, 11])):
            pooled, gradient = pallas(features, rois, cotangent, valid_size)
            values, argmax = reference.roi_max_pool(features, rois, GRID, SCALE, valid_size)
            np.testing.assert_array_equal(pooled, values)
            np.testing.assert_array_equal(gradient, reference.roi_max_pool_gradient(argmax, cotangent, features.shape))
    # Where the cells are not asked for, they are not sought.
    bins = roi_bins(jnp.asarray(rois), GRID, SCALE, (HEIGHT, WIDTH), jnp.asarray(valid_size))
    (alone,) = roi_pool_pallas.bin_maxima(jnp.asarray(features), bins, None, interpret=True)
    np.testing.assert_array_equal(alone, pooled)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_are_in_float32(dtype):
    # 64 RoIs over one cell: in bfloat16 a sum of ones would stop at 256, and 64 x 12 bins give 768.
    features = jnp.zeros((2, 2, 4), dtype).at[0, 1].set(1)
    rois = jnp.tile(jnp.array([[16.0, 0.0, 16.0, 0.0]]), (64, 1))
    ones = jnp.ones((64, *GRID, 4), dtype)
    pooled, gradient = pallas(features, rois, ones, jnp.array([2, 2]))
    assert pooled.dtype == dtype
    assert gradient.dtype == jnp.float32
    assert gradient[..., 0].tolist() == [[0, 768], [0, 0]]


def test_nan_and_minus_infinity_are_as_in_xla():
    generator = np.random.default_rng(1)
    features = generator.choice([np.nan, -np.inf, np.inf, 0, 1], (HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    arguments = (features, nasty_rois(generator), np.ones((ROIS, *GRID, CHANNELS), np.float32))
    for got, want in zip(*(f(*arguments, np.array([HEIGHT, WIDTH])) for f in (pallas, xla)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_images_are_batched_by_vmap():
    generator = np.random.default_rng(2)
    features = generator.normal(size=(2, HEIGHT, WIDTH, 8)).astype(np.float32)
    rois = np.stack([nasty_rois(generator), rois_inside(generator)])
    cotangent = generator.integers(-4, 5, (2, ROIS, *GRID, 8)).astype(np.float32)
    sizes = np.array([[9, 13], [6, 2]])
    expected = xla_of_images(features, rois, cotangent, sizes)
    for got, want in zip(jax.vmap(pallas)(features, rois, cotangent, sizes), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_without_rois_there_is_nothing_to_start():
    arguments = (jnp.ones((3, 4, 2)), jnp.zeros((0, 4)), jnp.zeros((0, *GRID, 2)), jnp.array([3, 4]))
    pooled, gradient = pallas(*arguments)
    assert pooled.shape == (0, *GRID, 2)
    np.testing.assert_array_equal(gradient, np.zeros((3, 4, 2)))
    assert "pallas_call" not in str(jax.make_jaxpr(pallas)(*arguments))


def test_gpus_get_the_kernels_and_others_xla():
    def step(features, rois, cotangent):
        pool = partial(roi_max_pool, output_size=GRID, implementation="pallas")
        pooled, pull = jax.vjp(lambda f: jax.vmap(pool)(f, rois), features)
        return pooled, pull(cotangent)

    shapes = [(2, 9, 13, 64), (2, 5, 4), (2, 5, *GRID, 64)]
    traced = jax.jit(step).trace(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    for platform in ("cpu", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "triton" not in text
        assert "scatter" in text
    if jax.version.__version_info__ >= (0, 11):
        pytest.skip("newer releases lower for a GPU only where they know which")
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 2
    assert "scatter" not in text


@pytest.mark.parametrize(("channels", "parts"), [(CHANNELS, 2), (64, 1), (672, 2), (1024, 2)])
def test_the_programs_of_a_place_take_its_channels_and_no_others(channels, parts, monkeypatch):
    """The interpreter moves a slice that passes the end, and a GPU would write there."""
    taken = [[], []]

    def one_after_the_other(at_place, results, grid, **settings):
        def call(*arrays):
            for number in range(grid[1]):
                monkeypatch.setattr(roi_pool_pallas.pl, "program_id", lambda axis, number=number: (0, number)[axis])
                at_place(*arrays)
            return [jnp.zeros(result.shape, result.dtype) for result in results]

        return call

    def note(at, _):
        taken[at.column].append(range(int(at.channels.start), int(at.channels.start) + at.channels.size))

    monkeypatch.setattr(roi_pool_pallas.pl, "pallas_call", one_after_the_other)
    roi_pool_pallas._call(note, (1, 2, channels), [jnp.float32], True, jnp.zeros(3))
    for column in taken:
        assert len(column) == parts
        assert set().union(*column) == set(range(channels))


@pytest.mark.parametrize("split", [(True, True), (True, False), (False, True), (False, False)])
def test_strict_shard_map(split):
    """The kernels say over which axes of a mesh their results vary; so do gradients of a map that devices share."""
    generator = np.random.default_rng(3)
    features = generator.normal(size=(2, HEIGHT, WIDTH, 64)).astype(np.float32)
    rois = np.stack([nasty_rois(generator), rois_inside(generator)])
    mesh, data = jax.sharding.Mesh(jax.devices()[:1], ("data",)), jax.sharding.PartitionSpec("data")
    specs = tuple(data if over_devices else jax.sharding.PartitionSpec() for over_devices in split)

    def gradient(features, rois):
        pool = jax.vmap(partial(roi_max_pool, output_size=GRID, implementation="pallas"))
        return jax.grad(lambda f: jnp.sum(pool(f, rois) ** 2))(features)

    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=True))
    text = str(mapped.trace(features, rois).jaxpr)
    assert text.count("pallas_call") == 2
    np.testing.assert_array_equal(mapped(features, rois), jax.jit(gradient)(features, rois))


def test_an_unknown_number_of_images_is_pooled_by_xla():
    """A kernel needs to know it. Lowered for a GPU, so that it also shows on this machine."""
    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.ShapeDtypeStruct((n, 9, 11, 8), jnp.float32), jax.ShapeDtypeStruct((n, 8, 4), jnp.float32)
    pool = jax.jit(jax.vmap(partial(roi_max_pool, implementation="pallas")))
    module = jax.export.export(pool, platforms=("cuda",))(*shapes).mlir_module()
    assert "triton" not in module
    assert "stablehlo" in module


@pytest.mark.parametrize(("images", "rois"), [(2, 0), (0, 3), (0, 0)])
def test_without_rois_or_images_no_kernel_is_started(images, rois):
    pool = jax.vmap(partial(roi_max_pool, implementation="pallas"))
    jaxpr = jax.make_jaxpr(pool)(jnp.ones((images, HEIGHT, WIDTH, 8)), jnp.ones((images, rois, 4)))
    assert "pallas_call" not in str(jaxpr)


def test_auto_takes_the_kernels_on_a_gpu_that_has_them(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert roi_pool._gpu_kernels("auto") is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert roi_pool._gpu_kernels("auto") is roi_pool_pallas
    assert roi_pool._gpu_kernels("xla") is None
    # A release of JAX without Pallas' side for GPUs.
    monkeypatch.delattr("frcnn_jax.ops.roi_pool.pallas")
    monkeypatch.setitem(sys.modules, "frcnn_jax.ops.roi_pool.pallas", None)
    assert roi_pool._gpu_kernels("auto") is None
    with pytest.raises(ImportError):
        roi_pool._gpu_kernels("pallas")


def test_unknown_implementation():
    with pytest.raises(ValueError, match="no implementation 'cuda', but auto, xla, pallas"):
        roi_max_pool(jnp.zeros((4, 4, 1)), jnp.zeros((1, 4)), implementation="cuda")
