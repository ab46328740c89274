"""Spatial pyramid pooling: against a loop, its cells by hand, padding and gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.roi_pool.bins import nested
from frcnn_jax.ops.roi_pool.pool import roi_max_pool
from frcnn_jax.ops.spatial_pyramid import PYRAMID, pyramid_cells, spatial_pyramid_pool
from tests.ops.reference import roi_max_pool as reference_pool
from tests.ops.reference import roi_max_pool_gradient

pool = jax.jit(spatial_pyramid_pool, static_argnames="levels")


def features(seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (9, 12, 3)).astype(np.float32)


def boxes(seed=0, count=12):
    corners = np.random.default_rng(seed).integers(0, [12, 9, 12, 9], (count, 4))
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)


def test_the_papers_pyramid_has_50_bins():
    assert pool(features(), boxes().astype(np.float32)).shape == (12, 50, 3)
    assert sum(n * n for n in PYRAMID) == 50
    assert pool(features(), np.zeros((0, 4), np.float32)).shape == (0, 50, 3)


def test_equals_a_loop():
    cells = boxes()
    pooled = np.asarray(pool(features(), cells.astype(np.float32)))
    for box, bins in zip(cells, pooled, strict=True):
        x1, y1, x2, y2 = box
        part, place = features()[y1 : y2 + 1, x1 : x2 + 1], 0
        height, width = part.shape[:2]
        for n in (6, 3, 2, 1):
            for i in range(n):
                for j in range(n):
                    rows = slice(i * height // n, -(-(i + 1) * height // n))
                    columns = slice(j * width // n, -(-(j + 1) * width // n))
                    np.testing.assert_array_equal(bins[place], part[rows, columns].max(axis=(0, 1)))
                    place += 1
        assert place == 50


def test_the_gradient_goes_to_the_maxima():
    cells = boxes(1, 4).astype(np.float32)
    weights = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(pool(x, cells, levels=(2, 1)) * weights))(features())
    expected = 0
    for n, part in ((2, weights[:, :4]), (1, weights[:, 4:])):
        argmax = reference_pool(features(), cells, (n, n), 1.0)[1]
        expected += roi_max_pool_gradient(argmax, part.reshape(4, n, n, 3), (9, 12, 3))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing():
    padded = np.full((13, 20, 3), 100, np.float32)
    padded[:9, :12] = features()
    cells = boxes().astype(np.float32)
    alone = pool(features(), cells, levels=(2, 1))
    np.testing.assert_array_equal(pool(padded, cells, levels=(2, 1), valid_size=jnp.array([9, 12])), alone)


@pytest.mark.parametrize("levels", [PYRAMID, (1, 4, 2, 2), (7, 1)])
def test_values_are_those_of_roi_pooling_of_each_level(levels):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 57, 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.01] = np.nan
    values[rng.random(values.shape) < 0.01] = -np.inf
    # Also outside the map and the valid part, where bins are empty, and of 57 cells, uneven in 7 bins.
    corners = rng.integers(-30, 70, (60, 4)).astype(np.float32)
    corners[:2] = [[-9, -9, 47, 47], [200, 200, 210, 210]]
    valid = jnp.array([33, 50])
    pooled = pool(values, corners, levels=levels, valid_size=valid)
    each = [
        jax.jit(lambda n=n: roi_max_pool(jnp.asarray(values), jnp.asarray(corners), (n, n), 1.0, valid))()
        for n in levels
    ]
    np.testing.assert_array_equal(pooled, np.concatenate([x.reshape(60, -1, 2) for x in each], axis=1))
    several = jax.vmap(lambda x: pool(x, corners, levels=levels, valid_size=valid))(np.stack([values, -values]))
    np.testing.assert_array_equal(several[0], pooled)


def test_a_valid_part_beyond_the_map_is_the_map():
    values, cells = -jnp.ones((4, 6, 1)), jnp.array([[0.0, 0, 11, 3]])
    np.testing.assert_array_equal(
        pool(values, cells, levels=(2, 1), valid_size=jnp.array([4, 12]))[0, :, 0], [-1, 0, -1, 0, -1]
    )


def test_bins_nest_in_float32():
    """57 cells in 7 bins extend one cell further than in exact arithmetic, so their union is larger than the RoI."""
    assert all(nested(n, 6, (128, 128)) for n in (3, 2, 1, 6))
    assert not nested(1, 7, (128, 128))
    assert not nested(4, 6, (128, 128))


@pytest.mark.parametrize(
    ("box", "scale", "options", "expected"),
    [
        # Centres at 0, 16, 32 ...: those strictly between the inclusive corners 16 and 48, and 15 and 49.
        ([16, 15, 49, 50], 1.0, {}, [2, 1, 2, 3]),
        ([8, 7.5, 25, 25.5], 2.0, {}, [2, 1, 2, 3]),
        # Centres at 7.5, 23.5 ...
        ([16, 15, 49, 50], 1.0, {"origin": 7.5}, [1, 1, 2, 2]),
        # None between 17 and 31: first 2, last 1, and so their middle.
        ([17, 17, 32, 32], 1.0, {}, [1.5, 1.5, 1.5, 1.5]),
        # floor((x + 1 + 6) / 16 + 1/2) and ceil((x + 1 - 6) / 16 - 1/2), of 16 and 48, of 33 and 100.
        ([16, 33, 49, 101], 1.0, {"rule": "code"}, [1, 3, 3, 6]),
        # The code for ZF: floor((x + 1 - 21 + 6.5) / 16 + 1/2) and ceil((x + 1 - 21 - 6.5) / 16 - 1/2).
        ([16, 33, 49, 101], 1.0, {"rule": "code", "origin": 21, "margin": 6.5}, [0, 1, 1, 5]),
        # Corners 1 and 14 are the code's 2 and 15: floor(8 / 16 + 1/2) and ceil(9 / 16 - 1/2).
        ([1, 1, 15, 15], 1.0, {"rule": "code"}, [1, 1, 1, 1]),
        # A pixel: 41 and 41 give 3 and 2.
        ([41, 41, 42, 42], 1.0, {"rule": "code"}, [2.5, 2.5, 2.5, 2.5]),
        # Beyond a map of 7 rows and 9 columns.
        ([-40, -40, 400, 400], 1.0, {}, [0, 0, 8, 6]),
        ([300, 300, 400, 400], 1.0, {"rule": "code"}, [8, 6, 8, 6]),
    ],
)
def test_cells_by_hand(box, scale, options, expected):
    cells = partial(pyramid_cells, **options)(jnp.array([box], jnp.float32), scale, jnp.array([7, 9]))
    np.testing.assert_array_equal(cells[0], expected)


def test_the_middle_is_rounded_to_one_cell():
    pooled = pool(features(), np.array([[1.5, 2.5, 1.5, 2.5]], np.float32))
    np.testing.assert_array_equal(pooled[0], np.tile(features()[3, 2], (50, 1)))


def test_an_unknown_rule_is_refused(unchecked_types):
    with pytest.raises(ValueError, match="pyramid_cells has the rules paper and code, not 'Paper'"):
        pyramid_cells(jnp.zeros((1, 4)), 1.0, jnp.array([7, 9]), rule="Paper")
