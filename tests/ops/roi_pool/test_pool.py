"""RoI max pooling, forward: by hand, against a plain loop of Caffe's rules, invariances, the degenerate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.roi_pool import xla as roi_pool_xla
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool
from tests.ops import reference

HEIGHT, WIDTH, CHANNELS, ROIS = 9, 13, 2, 32

pool = jax.jit(roi_max_pool, static_argnums=(2, 3))


def nasty_rois(generator):
    """RoIs for a map of 9 x 13 cells at scale 1/16: one of each awkward kind, then random ones of any size anywhere."""
    named = [
        [0, 0, 207, 143],  # the whole image
        [0, 0, 0, 0],
        [207, 143, 207, 143],
        [208, 144, 300, 300],  # wholly outside, on every side
        [-300, 10, -100, 90],
        [10, -300, 90, -100],
        [220, 10, 400, 90],
        [10, 200, 90, 400],
        [-100, -100, 60, 60],  # over each corner
        [150, 100, 400, 300],
        [-100, 100, 20, 300],
        [100, 100, 20, 20],  # reversed
        [100, 20, 20, 100],
        [8, 24, 40, 56],  # exact halves: 0.5, 1.5, 2.5, 3.5
        [-8, -24, 8, 24],
        [-40, -8, -8, 40],
        [-1000, -700, 1200, 900],  # bins wider than two of the largest windows
        [-1600, 3, 1700, 140],
        [3, -5000, 200, 5000],
        [-40, -40, 1000, 20],
    ]
    corners = generator.uniform(-150, 350, (ROIS - len(named), 4))
    corners[:, 2:] = corners[:, :2] + generator.exponential(100, (len(corners), 2))
    return np.concatenate([np.array(named), corners]).astype(np.float32)


def rois_inside(generator):
    """RoIs within the same map, large and small: none sends the others through the loop for bins wider than usual."""
    corners = np.sort(generator.uniform(0, 1, (ROIS, 2, 2)), axis=1) * np.array([WIDTH * 16 - 9, HEIGHT * 16 - 9])
    corners[0] = [[0, 0], [WIDTH * 16 - 9, HEIGHT * 16 - 9]]
    return corners.reshape(ROIS, 4).astype(np.float32)


def maps(generator, shape=(HEIGHT, WIDTH, CHANNELS)):
    """Feature maps: ordinary, all negative, full of ties, constant."""
    return [
        generator.normal(size=shape).astype(np.float32),
        -generator.uniform(1, 2, shape).astype(np.float32),
        generator.integers(-1, 2, shape).astype(np.float32),
        np.full(shape, -3, np.float32),
    ]


def test_hand_worked_grid():
    # Cells 0 ... 15 in reading order. The RoI covers columns 1 ... 3 and rows 0 ... 2; its three cells a side go to two
    # bins as floor(0) ... ceil(1.5) and floor(1.5) ... 3: the middle row and column are in both.
    features = jnp.arange(16, dtype=jnp.float32).reshape(4, 4, 1)
    pooled = pool(features, jnp.array([[1.0, 0.0, 3.0, 2.0]]), (2, 2), 1.0)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[6, 7], [10, 11]])


def test_hand_worked_empty_bins_are_zero_and_not_minus_infinity():
    # Columns -2 ... 1 in four bins of one cell: the first two lie left of the map.
    features = jnp.full((1, 4, 1), -5.0)
    pooled = pool(features, jnp.array([[-2.0, 0.0, 1.0, 0.0]]), (1, 4), 1.0)
    np.testing.assert_array_equal(pooled[0, 0, :, 0], [0, 0, -5, -5])


@pytest.mark.parametrize(
    ("corner", "cell"),
    [(0.5, 1), (1.5, 2), (2.5, 3), (0.49999997, 0), (-0.5, -1), (-0.49999997, 0), (-1.5, -2), (1.4999999, 1)],
)
def test_corners_round_half_away_from_zero(corner, cell):
    features = jnp.arange(1, 7, dtype=jnp.float32).reshape(1, 6, 1)
    pooled = pool(features, jnp.array([[corner, 0.0, corner, 0.0]]), (1, 1), 1.0)
    assert float(pooled[0, 0, 0, 0]) == (cell + 1 if cell >= 0 else 0)


def test_bins_reach_as_far_as_in_single_precision():
    # 7 * (57 / 7) is 57.000004 in float32, so the last bin takes one more cell than the RoI has.
    assert reference.roi_bins(0, 56, 7, 64)[-1] == (48, 58)
    features = jnp.arange(64, dtype=jnp.float32).reshape(1, 64, 1)
    pooled = pool(features, jnp.array([[0.0, 0.0, 56.0, 0.0]]), (1, 7), 1.0)
    np.testing.assert_array_equal(pooled[0, 0, :, 0], [8, 16, 24, 32, 40, 48, 57])


def test_every_length_has_caffes_bins():
    # One row with rising values shows the last cell of each bin, falling values the first.
    length = 10
    starts = [(w, start) for w in range(600) for start in (0, -w, 1 - w, 5 - w, -w // 2)]
    rois = np.array([[start, 0, start + w, 0] for w, start in starts], np.float32)
    ramp = np.arange(1, length + 1, dtype=np.float32)
    features = np.stack([ramp, -ramp], axis=-1)[None]
    for bins in (6, 7):
        want = np.zeros((len(rois), 1, bins, 2), np.float32)
        for r, roi in enumerate(rois):
            for p, (first, end) in enumerate(reference.roi_bins(int(roi[0]), int(roi[2]), bins, length)):
                want[r, 0, p] = (end, -(first + 1)) if end > first else 0
        np.testing.assert_array_equal(pool(features, jnp.array(rois), (1, bins), 1.0), want)


@pytest.mark.parametrize("some_rois", [nasty_rois, rois_inside])
@pytest.mark.parametrize(("output_size", "scale"), [((7, 7), 1 / 16), ((3, 5), 1 / 16), ((1, 1), 0.3)])
def test_equals_a_plain_loop_on_random_and_nasty_input(output_size, scale, some_rois):
    generator = np.random.default_rng(0)
    for features in maps(generator):
        rois = some_rois(generator) * np.float32(1 / 16 / scale)
        want, _ = reference.roi_max_pool(features, rois, output_size, scale)
        np.testing.assert_array_equal(pool(features, jnp.array(rois), output_size, scale), want)


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 17, 1), (16, 1, 1)])
def test_equals_a_plain_loop_on_thin_maps(shape):
    generator = np.random.default_rng(1)
    features, rois = maps(generator, shape)[0], nasty_rois(generator)
    want, _ = reference.roi_max_pool(features, rois, (7, 7), 1 / 16)
    np.testing.assert_array_equal(pool(features, jnp.array(rois), (7, 7), 1 / 16), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_exact_and_keeps_its_dtype(dtype):
    generator = np.random.default_rng(2)
    rois = nasty_rois(generator)
    for features in maps(generator):
        rounded = jnp.array(features, dtype)
        pooled = pool(rounded, jnp.array(rois), (7, 7), 1 / 16)
        assert pooled.dtype == dtype
        want, _ = reference.roi_max_pool(np.asarray(rounded, np.float32), rois, (7, 7), 1 / 16)
        np.testing.assert_array_equal(np.asarray(pooled, np.float32), want)


def test_infinities_are_ordinary_values_and_nan_marks_its_bins_only():
    generator = np.random.default_rng(3)
    features = generator.choice(np.array([-np.inf, -1, 0, np.inf, np.nan], np.float32), (HEIGHT, WIDTH, CHANNELS))
    features[:4] = np.where(np.isnan(features[:4]), -np.inf, features[:4])
    features[:2, :3] = -np.inf
    rois = nasty_rois(generator)
    want, _ = reference.roi_max_pool(features, rois, (7, 7), 1 / 16)
    assert np.isnan(want).any()
    assert np.isneginf(want).any()
    np.testing.assert_array_equal(pool(features, jnp.array(rois), (7, 7), 1 / 16), want)


@pytest.mark.parametrize("valid_size", [(9, 13), (5, 13), (9, 6), (1, 1), (0, 0)])
def test_padding_of_the_map_is_not_seen(valid_size):
    generator = np.random.default_rng(4)
    features, rois = maps(generator)[0], nasty_rois(generator)
    rows, columns = valid_size
    padded = np.full_like(features, np.nan)
    padded[:rows, :columns] = features[:rows, :columns]
    got = pool(padded, jnp.array(rois), (7, 7), 1 / 16, jnp.array(valid_size))
    want, _ = reference.roi_max_pool(features, rois, (7, 7), 1 / 16, valid_size)
    np.testing.assert_array_equal(got, want)


def test_a_valid_size_beyond_the_map_means_the_map():
    generator = np.random.default_rng(5)
    features, rois = maps(generator)[1], jnp.array(nasty_rois(generator))
    got = pool(features, rois, (7, 7), 1 / 16, jnp.array([HEIGHT + 3, WIDTH + 5]))
    np.testing.assert_array_equal(got, pool(features, rois, (7, 7), 1 / 16))


def test_result_depends_on_each_roi_alone():
    generator = np.random.default_rng(6)
    features, rois = maps(generator)[0], nasty_rois(generator)
    whole = np.asarray(pool(features, jnp.array(rois), (7, 7), 1 / 16))
    order = generator.permutation(ROIS)
    np.testing.assert_array_equal(pool(features, jnp.array(rois[order]), (7, 7), 1 / 16), whole[order])
    rois[1:] = np.array([np.nan, -np.inf, np.inf, 1e30])
    np.testing.assert_array_equal(pool(features, jnp.array(rois), (7, 7), 1 / 16)[0], whole[0])


def test_an_roi_beyond_all_measure_has_the_map_in_its_middle_bin():
    features = maps(np.random.default_rng(9))[1]
    for far in (1e7, 1e12, 1e30, np.inf):
        rois = np.tile(np.array([[-far, -far, far, far]], np.float32), (ROIS, 1))
        want = np.zeros((7, 7, CHANNELS))
        want[3, 3] = features.max(axis=(0, 1))
        np.testing.assert_array_equal(pool(features, jnp.array(rois), (7, 7), 1 / 16)[0], want)


def test_a_corner_that_is_nan_counts_as_0():
    features, rois = jnp.arange(12.0).reshape(3, 4, 1), jnp.array([[jnp.nan, 1, 2, 2], [0, 1, 2, 2]])
    unknown, zero = roi_max_pool(features, rois, (1, 1), 1.0)
    assert (unknown, zero) == (10, 10)


def test_mirrored_map_and_rois_give_the_mirrored_grid():
    # Halves would round to another side, so corners are whole cells; RoIs of k * 7 cells have bins without remainder.
    generator = np.random.default_rng(7)
    features = generator.normal(size=(14, 21, 2)).astype(np.float32)
    rois = np.array([[0, 0, 20, 13], [7, 0, 20, 6], [3, 5, 9, 11], [-4, 2, 2, 15]], np.float32)
    mirrored = np.stack([20 - rois[:, 2], rois[:, 1], 20 - rois[:, 0], rois[:, 3]], axis=1)
    a = pool(features, jnp.array(rois), (7, 7), 1.0)
    b = pool(features[:, ::-1], jnp.array(mirrored), (7, 7), 1.0)
    np.testing.assert_array_equal(a, b[:, :, ::-1])


def test_vmap_over_images_equals_a_loop_and_jit_equals_eager():
    generator = np.random.default_rng(8)
    features = np.stack(maps(generator)[:3])
    rois = np.stack([nasty_rois(generator) for _ in range(3)])
    rois[1] = rois_inside(generator)
    sizes = np.array([[9, 13], [6, 13], [0, 5]])
    single = partial(roi_max_pool, output_size=(7, 7), spatial_scale=1 / 16)
    batched = jax.jit(jax.vmap(lambda f, r, s: single(f, r, valid_size=s)))(features, rois, sizes)
    for n in range(3):
        one = pool(features[n], jnp.array(rois[n]), (7, 7), 1 / 16, jnp.array(sizes[n]))
        np.testing.assert_array_equal(batched[n], one)
    eager = single(jnp.array(features[0]), jnp.array(rois[0]))
    np.testing.assert_array_equal(eager, batched[0])


def test_no_rois():
    pooled, pull = jax.vjp(lambda f: pool(f, jnp.zeros((0, 4)), (7, 7), 1 / 16), jnp.ones((4, 5, 2)))
    assert pooled.shape == (0, 7, 7, 2)
    np.testing.assert_array_equal(pull(pooled)[0], np.zeros((4, 5, 2)))


def test_misshapen_input_is_refused():
    bare = roi_max_pool
    while hasattr(bare, "__wrapped__"):  # past the type checker of the tests
        bare = bare.__wrapped__
    with pytest.raises(ValueError, match=r"features \[H, W, C\] and rois \[R, 4\], not \(2, 4, 5, 2\)"):
        bare(jnp.ones((2, 4, 5, 2)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"rois \[R, 4\].*\(3, 5\)"):
        bare(jnp.ones((4, 5, 2)), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"output_size as rows and columns of at least 1, not \(0, 7\)"):
        roi_max_pool(jnp.ones((4, 5, 2)), jnp.ones((3, 4)), (0, 7))
    with pytest.raises(ValueError, match=r"not empty.*\(0, 5, 2\)"):
        roi_max_pool(jnp.ones((0, 5, 2)), jnp.ones((3, 4)))


def test_maps_beyond_32_bits_are_refused(unchecked_types):
    """Their indices would wrap around; nothing is computed."""
    rois = jnp.zeros((1, 4))
    with pytest.raises(ValueError, match=r"in 32 bits, not \d{10}: pool fewer images"):
        jax.eval_shape(roi_max_pool, jax.ShapeDtypeStruct((6000, 6000, 1), jnp.float32), rois)
    slopes = partial(roi_pool_xla.features_gradient, bins=None, map_size=(1000, 1000))
    argmax = [jax.ShapeDtypeStruct((1, 1, 1, 1, channels), jnp.int32) for channels in (2147, 2148)]
    assert jax.eval_shape(slopes, argmax[0], jnp.zeros(argmax[0].shape)).shape == (1, 1000, 1000, 2147)
    with pytest.raises(ValueError, match=r"in 32 bits, not 2148002148: pool fewer images"):
        jax.eval_shape(slopes, argmax[1], jnp.zeros(argmax[1].shape))


def test_project_rois_literals():
    # (2, 4, 10, 20) of the original covers pixels 2 ... 9 and 4 ... 19; doubled, the release takes 4, 8, 18, 38.
    boxes = jnp.array([[2.0, 4.0, 10.0, 20.0]])
    np.testing.assert_array_equal(project_rois(boxes, 2.0), [[4, 8, 18, 38]])
    np.testing.assert_array_equal(project_rois(boxes[0], jnp.float32(0.5)), [1, 2, 4.5, 9.5])
    np.testing.assert_array_equal(jax.vmap(project_rois)(boxes[None], jnp.array([2.0]))[0], [[4, 8, 18, 38]])
