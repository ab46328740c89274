"""RoI max pooling, backward: the first maximum takes all, sums in float32, nothing of size R H W C."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.roi_pool import pool as roi_pool
from frcnn_jax.ops.roi_pool import xla as roi_pool_xla
from frcnn_jax.ops.roi_pool.pool import roi_max_pool
from tests.ops import reference
from tests.ops.roi_pool.test_pool import CHANNELS, HEIGHT, ROIS, WIDTH, maps, nasty_rois, rois_inside


def _gradient(features, rois, cotangent, valid_size, output_size, spatial_scale):
    pooled, pull = jax.vjp(
        lambda f, r: roi_max_pool(f, r, output_size, spatial_scale, valid_size), features, jnp.asarray(rois)
    )
    return pooled, *pull(cotangent)


gradient = jax.jit(_gradient, static_argnums=(4, 5))
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads the program for a CPU")
WHOLE = np.array([HEIGHT, WIDTH])


def test_hand_worked_cell_that_wins_in_several_outputs():
    # Three cells in two bins: the middle one is in both and the largest, so it collects both cotangents.
    features = jnp.array([1.0, 9.0, 2.0]).reshape(1, 3, 1)
    roi = np.array([[0, 0, 2, 0]], np.float32)
    pooled, to_features, to_rois = gradient(features, roi, jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1), None, (1, 2), 1.0)
    np.testing.assert_array_equal(pooled.ravel(), [9, 9])
    np.testing.assert_array_equal(to_features.ravel(), [0, 7, 0])
    np.testing.assert_array_equal(to_rois, np.zeros((1, 4)))


def test_ties_go_to_the_first_cell_in_row_major_order():
    # Whichever shape the bin has, 6 x 6 constant cells give all to the bin's top-left one.
    rois = np.array(
        [[x, y, x + w, y + h] for x in (0, 1) for y in (0, 2) for w in range(4) for h in range(4)], np.float32
    )
    features = jnp.zeros((6, 6, 1))
    pull = jax.jit(jax.vmap(lambda r: jax.grad(lambda f: roi_max_pool(f, r[None], (1, 1), 1.0).sum())(features)))
    for roi, got in zip(rois.astype(int), pull(rois), strict=True):
        want = np.zeros((6, 6))
        want[roi[1], roi[0]] = 1
        np.testing.assert_array_equal(got[..., 0], want)


def test_a_tie_between_an_upper_right_and_a_lower_left_cell_goes_to_the_upper():
    features = np.zeros((3, 3, 1), np.float32)
    features[0, 2] = features[2, 0] = features[1, 1] = 1
    whole, ones = np.array([[0, 0, 2, 2]], np.float32), np.ones((1, 1, 1, 1), np.float32)
    _, got, _ = gradient(features, whole, ones, np.array([3, 3]), (1, 1), 1.0)
    np.testing.assert_array_equal(got[..., 0], [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("valid_size", "some_rois"), [((9, 13), nasty_rois), ((6, 11), nasty_rois), ((9, 13), rois_inside)]
)
@pytest.mark.parametrize("output_size", [(7, 7), (3, 5)])
def test_equals_a_plain_loop_on_random_and_nasty_input(valid_size, some_rois, output_size):
    generator = np.random.default_rng(0)
    for features in maps(generator):
        rois = some_rois(generator)
        # Small whole numbers add up exactly in any order.
        cotangent = generator.integers(-4, 5, (ROIS, *output_size, CHANNELS)).astype(np.float32)
        values, argmax = reference.roi_max_pool(features, rois, output_size, 1 / 16, valid_size)
        want = reference.roi_max_pool_gradient(argmax, cotangent, features.shape)
        pooled, to_features, to_rois = gradient(features, rois, cotangent, np.array(valid_size), output_size, 1 / 16)
        np.testing.assert_array_equal(pooled, values)
        np.testing.assert_array_equal(to_features, want)
        np.testing.assert_array_equal(to_rois, np.zeros((ROIS, 4)))


def test_finite_differences(x64):
    # All cells differ by more than the step, so the maximum stays where it is.
    generator = np.random.default_rng(1)
    features = jnp.array(generator.permutation(5 * 6 * 2).reshape(5, 6, 2) / 10.0)
    rois = jnp.array([[0, 0, 5, 4], [-2, -1, 3, 2], [2, 1, 2, 1], [4, 3, 1, 0], [9, 9, 12, 12]], jnp.float32)
    pool = jax.jit(lambda f: jnp.sin(roi_max_pool(f, rois, (2, 3), 1.0)))
    assert pool(features).dtype == jnp.float64
    check_grads(pool, (features,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_adds_up_in_float32(dtype):
    # 2000 RoIs on one cell: bfloat16 stops counting at 256, float16 at 2048.
    count = 3000 if dtype == jnp.float16 else 600
    rois = jnp.zeros((count, 4))
    ones = jnp.ones((count, 1, 1, 1), dtype)
    _, got, _ = gradient(jnp.ones((2, 2, 1), dtype), rois, ones, None, (1, 1), 1.0)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got, np.float32)[..., 0], [[count, 0], [0, 0]])


def test_a_nan_cell_keeps_its_gradient_to_itself():
    generator = np.random.default_rng(2)
    features, rois = maps(generator)[0], nasty_rois(generator)
    features[4, 6, 0] = np.nan
    values, argmax = reference.roi_max_pool(features, rois, (7, 7), 1 / 16)
    cotangent = generator.integers(-4, 5, values.shape).astype(np.float32)
    pooled, to_features, _ = gradient(features, rois, cotangent, WHOLE, (7, 7), 1 / 16)
    np.testing.assert_array_equal(pooled, values)
    np.testing.assert_array_equal(to_features, reference.roi_max_pool_gradient(argmax, cotangent, features.shape))


def test_gradient_is_finite_where_every_cell_is_minus_infinity():
    features = np.full((HEIGHT, WIDTH, CHANNELS), -np.inf, np.float32)
    rois = nasty_rois(np.random.default_rng(3))
    _, argmax = reference.roi_max_pool(features, rois, (7, 7), 1 / 16)
    ones = np.ones(argmax.shape, np.float32)
    _, got, _ = gradient(features, rois, ones, WHOLE, (7, 7), 1 / 16)
    np.testing.assert_array_equal(got, reference.roi_max_pool_gradient(argmax, ones, features.shape))


def test_vmap_of_grad_equals_a_loop():
    generator = np.random.default_rng(4)
    features = np.stack(maps(generator)[:3])
    rois = np.stack([nasty_rois(generator) for _ in range(3)])
    cotangent = generator.integers(-4, 5, (3, ROIS, 7, 7, CHANNELS)).astype(np.float32)
    sizes = np.array([[9, 13], [6, 13], [0, 5]])
    batched = jax.jit(jax.vmap(lambda f, r, c, s: _gradient(f, r, c, s, (7, 7), 1 / 16)))
    for got, *one in zip(batched(features, rois, cotangent, sizes)[1], features, rois, cotangent, sizes, strict=True):
        np.testing.assert_array_equal(got, gradient(*one, (7, 7), 1 / 16)[1])


def test_vmap_in_vmap_and_over_rois_alone_are_as_one_image_after_the_other():
    generator = np.random.default_rng(8)
    features = generator.integers(-3, 4, (2, 2, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    rois = np.stack([[nasty_rois(generator), rois_inside(generator)] for _ in range(2)])
    cotangent = generator.integers(-4, 5, (2, 2, ROIS, 2, 3, CHANNELS)).astype(np.float32)

    @jax.jit
    def both(features, rois, cotangent):
        return _gradient(features, rois, cotangent, None, (2, 3), 1 / 16)[:2]

    features, rois, cotangent = map(jnp.asarray, (features, rois, cotangent))
    nested = jax.jit(jax.vmap(jax.vmap(both)))(features, rois, cotangent)
    one_map = jax.jit(jax.vmap(both, in_axes=(None, 0, 0)))(features[0, 0], rois[0], cotangent[0])
    groups = jax.jit(jax.vmap(jax.vmap(both), in_axes=(None, 0, 0)))(features[0], rois, cotangent)
    for i, j in np.ndindex(2, 2):
        for found, image in ((nested, features[i, j]), (groups, features[0, j])):
            for got, want in zip(found, both(image, rois[i, j], cotangent[i, j]), strict=True):
                np.testing.assert_array_equal(got[i, j], want)
    for j in range(2):
        for got, want in zip(one_map, both(features[0, 0], rois[0, j], cotangent[0, j]), strict=True):
            np.testing.assert_array_equal(got[j], want)


@on_cpu
def test_images_share_one_lookup_and_one_scatter():
    # With an axis of images of their own, a CPU takes several times as long for them.
    shapes = [(2, HEIGHT, WIDTH, CHANNELS), (2, ROIS, 4), (2, ROIS, 2, 3, CHANNELS)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    batched = jax.vmap(lambda f, r, c: _gradient(f, r, c, None, (2, 3), 1 / 16)[:2])
    text = jax.jit(batched).lower(*arguments).as_text()
    assert "stablehlo.scatter" in text
    assert "batching_dims" not in text.replace("batching_dims = []", "")


def sizes_in(jaxpr):
    """Elements of every array that a program makes, those of its inner programs too."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield int(np.prod(variable.aval.shape))
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from sizes_in(inner)


def test_nothing_of_the_size_of_rois_times_the_map_is_made():
    images, rois, height, width, channels = 2, 256, 38, 63, 8
    cells, outputs = images * height * width * channels, images * rois * 49 * channels

    def step(features, boxes, cotangent):
        pooled, pull = jax.vjp(jax.vmap(roi_max_pool), features, boxes)
        return pooled, pull(cotangent)

    shapes = [(images, height, width, channels), (images, rois, 4), (images, rois, 7, 7, channels)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    levels = 16  # room for windows of 1 ... 8 cells each way
    assert max(sizes_in(jax.make_jaxpr(step)(*arguments).jaxpr)) <= max(levels * cells, outputs)
    # Nor does the compiler add any: two tables and a handful of arrays like the output, below half of R H W C.
    used = jax.jit(step).lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert 0 < used < 4 * (2 * levels * cells + 16 * outputs) < 4 * rois * images * height * width * channels / 2


def test_groups_of_rois_of_one_map_share_its_table():
    def largest(pool):
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((38, 63, 8), (4, 2, 16, 4))]
        return max(sizes_in(jax.make_jaxpr(pool)(*shapes).jaxpr))

    together = largest(lambda features, rois: roi_max_pool(features, rois.reshape(-1, 4)))
    by_group = jax.vmap(roi_max_pool, in_axes=(None, 0))
    assert largest(jax.vmap(by_group, in_axes=(None, 0))) == together
    assert largest(lambda f, rois: jax.vmap(by_group)(jnp.stack([f, f]), rois.swapaxes(0, 1))) == 2 * together


@on_cpu
@pytest.mark.parametrize("some_rois", [nasty_rois, rois_inside])
def test_channels_in_blocks_equal_all_at_once(some_rois, monkeypatch):
    # Blocks of 16 of 40 channels: the last one overlaps. `shard_map` is strict about loops.
    generator = np.random.default_rng(5)
    features = generator.integers(-3, 4, (2, HEIGHT, WIDTH, 40)).astype(np.float32)
    rois = np.stack([some_rois(generator) for _ in range(2)])
    cotangent = generator.integers(-4, 5, (2, ROIS, 2, 3, 40)).astype(np.float32)

    def both(features, rois, cotangent):
        return jax.vmap(lambda f, r, c: _gradient(f, r, c, None, (2, 3), 1 / 16)[:2])(features, rois, cotangent)

    whole = jax.jit(both)(features, rois, cotangent)
    monkeypatch.setattr(roi_pool_xla, "_CPU_TABLE_BYTES", 1)
    roi_pool._of_image.clear_cache()
    mesh, split = jax.sharding.Mesh(jax.devices()[:1], ("data",)), jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(both, mesh=mesh, in_specs=split, out_specs=split)
    for blocked in (jax.jit(lambda *arrays: both(*arrays)), jax.jit(mapped)):
        assert "16]" in str(jax.make_jaxpr(blocked)(features, rois, cotangent))
        for got, want in zip(blocked(features, rois, cotangent), whole, strict=True):
            np.testing.assert_array_equal(got, want)


def test_the_gradient_has_a_gradient():
    # Of sum(pool(f)^3) the gradient is 3 n f^2 at a cell that won n outputs, and that of its square 36 n^2 f^3.
    generator = np.random.default_rng(6)
    features = generator.normal(size=(HEIGHT, WIDTH, 40)).astype(np.float32)
    rois = jnp.asarray(rois_inside(generator))

    def penalty(features):
        slopes = jax.grad(lambda f: jnp.sum(roi_max_pool(f, rois, (2, 3), 1 / 16) ** 3))(features)
        return jnp.sum(slopes**2)

    _, argmax = reference.roi_max_pool(features, np.asarray(rois), (2, 3), 1 / 16)
    won = reference.roi_max_pool_gradient(argmax, np.ones(argmax.shape), features.shape)
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(features), 36 * won**2 * features**3, rtol=1e-4, atol=1e-4)


def test_the_first_of_two_nan_cells_takes_the_gradient():
    features = np.zeros((3, 4, 1), np.float32)
    features[1, 2] = features[2, 0] = np.nan
    _, got, _ = gradient(features, np.array([[0, 0, 3, 2]], np.float32), np.ones((1, 1, 1, 1), np.float32),
                         np.array([3, 4]), (1, 1), 1.0)  # fmt: skip
    assert np.argwhere(got).tolist() == [[1, 2, 0]]


def test_maps_of_more_cells_than_16_bits_count():
    features = np.zeros((2, 40000, 1), np.float32)
    features[1, 39999] = 1
    roi = np.array([[39990, 0, 39999, 1]], np.float32)
    _, got, _ = gradient(features, roi, np.ones((1, 1, 7, 1), np.float32), np.array([2, 40000]), (1, 7), 1.0)
    # Seven bins of ten columns start at 0, 1, 2, 4, 5, 7 and 8; only the last one reaches the largest cell.
    assert np.argwhere(got).tolist() == [[0, 39990 + x, 0] for x in (0, 1, 2, 4, 5, 7)] + [[1, 39999, 0]]


@pytest.mark.parametrize(("images", "rois"), [(2, 0), (0, 3), (0, 0)])
def test_without_rois_or_images_under_vmap(images, rois):
    features, boxes = jnp.ones((images, HEIGHT, WIDTH, 3)), jnp.ones((images, rois, 4))

    def total(features):
        return jnp.sum(jax.vmap(jax.vmap(roi_max_pool))(features[None], boxes[None]))

    @jax.jit
    def everything(features, one):
        each, of_one = jax.vmap(roi_max_pool), jax.vmap(roi_max_pool, in_axes=(None, 0))
        return each(features, boxes), of_one(one, boxes), jax.grad(total)(features)

    pooled, of_one, slopes = everything(features, jnp.ones((HEIGHT, WIDTH, 3)))
    assert pooled.shape == (images, rois, 7, 7, 3)
    assert of_one.shape[:2] == (images, rois)
    np.testing.assert_array_equal(slopes, jnp.zeros_like(features))


def test_any_number_of_images_in_an_exported_program():
    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.ShapeDtypeStruct((n, 9, 11, 5), jnp.float32), jax.ShapeDtypeStruct((n, 8, 4), jnp.float32)
    exported = jax.export.export(jax.jit(jax.vmap(roi_max_pool)))(*shapes)
    generator = np.random.default_rng(9)
    features = generator.normal(size=(3, 9, 11, 5)).astype(np.float32)
    corners = generator.uniform(0, 90, (3, 8, 2))
    boxes = np.concatenate([corners, corners + 60], -1).astype(np.float32)
    np.testing.assert_array_equal(exported.call(features, boxes), jax.jit(jax.vmap(roi_max_pool))(features, boxes))
