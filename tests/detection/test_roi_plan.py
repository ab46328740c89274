"""Boxes that are pooled, and where: levels and cells by hand, the device's rounding, groups against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from frcnn_jax.detection.roi_plan import choose_levels, feature_corners, plan_rois
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool


def square(*sides):
    """A box of each side length."""
    return np.array([[7, 5, 7 + side, 5 + side] for side in sides], np.float32)


def near_duplicates(seed, count=300):
    """Boxes of a 500 x 375 image in crowds of a few pixels, half of them on whole pixels as proposals are."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, [400, 275], (count // 6, 2))
    boxes = np.concatenate([low, low + random.uniform(16, 100, low.shape)], axis=1)
    boxes = np.repeat(boxes, 6, axis=0) + random.uniform(-4, 4, (count // 6 * 6, 4))
    boxes[::2] = boxes[::2].round()
    return boxes.astype(np.float32)


def test_levels_by_hand():
    levels = choose_levels(square(224, 448, 112, 1, 4000), np.array([0.5, 1, 2]))
    assert levels.tolist() == [1, 0, 2, 2, 0]
    # 150 x 150 is 27676 away at scale 1 and 39824 at scale 2; by logarithms the second would be closer.
    assert choose_levels(square(150), np.array([1, 2])).tolist() == [0]
    # The areas are as far away at a side of 141.67: at 141.6 the second level is closer, at 141.8 the first.
    assert choose_levels(square(141.6, 141.8), np.array([1, 2])).tolist() == [1, 0]


def test_of_equal_levels_the_first_counts():
    assert choose_levels(square(30, 300), np.array([2, 1, 1, 2])).tolist() == [0, 1]


def test_levels_of_the_papers_pyramid_by_hand():
    # A 500 x 375 image at 480 ... 1200: factors 1.28, 1.536, 1.835, 2.304, 3.2. A box of 100 x 100 has 16384, 23593,
    # 33660, 53084 and 102400 pixels there, and 224 x 224 is 50176. An empty box has none at any level.
    scales = np.array([480, 576, 688, 864, 1200]) / 375
    boxes = np.array([[0, 0, 100, 100], [0, 0, 300, 200], [0, 0, 50, 50], [10, 0, 10, 90], [0, 0, 160, 130]])
    assert choose_levels(boxes, scales).tolist() == [3, 0, 4, 0, 1]


def test_corners_by_hand():
    # Inclusive corners in cells: 0.5, 1.5, 2.5, 3.5, all of which go up; then those left of the image go down.
    assert feature_corners(np.float32([[8, 24, 41, 57]]), np.ones(1), 1 / 16).tolist() == [[1, 2, 3, 4]]
    assert feature_corners(np.float32([[-8, -24, 1, 9]]), np.ones(1), 1 / 16).tolist() == [[-1, -2, 0, 1]]
    assert feature_corners(np.float32([[4, 12, 21, 29]]), np.full(1, 2.0), 1 / 16).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("shorter", [600, 480, 333])
def test_corners_are_the_devices(shorter):
    boxes = np.concatenate([near_duplicates(seed) for seed in range(100)])
    scale = np.float32(shorter / 375)

    @jax.jit
    def on_the_device(boxes, scale):
        return lax.round(project_rois(boxes, scale) * (1 / 16), lax.RoundingMethod.AWAY_FROM_ZERO)

    np.testing.assert_array_equal(
        feature_corners(boxes, np.full(len(boxes), scale), 1 / 16), on_the_device(boxes, scale)
    )


def test_plan_by_hand():
    boxes = np.float32([
        [0, 0, 200, 200],  # at scale 1, cells 0 0 12 12
        [32, 32, 132, 132],  # at scale 2, cells 4 4 16 16
        [3, 3, 205, 205],  # cells 0 0 13 13
        [7, 7, 199, 197],  # cells 0 0 12 12 again
        [32, 33, 131, 132],  # cells 4 4 16 16 again
        [31, 32, 133, 132],  # cells 4 4 17 16
    ])  # fmt: skip
    plan = plan_rois(boxes, np.array([1.0, 2.0]), 1 / 16)
    assert plan.counts.tolist() == [2, 2]
    assert plan.starts.tolist() == [0, 2]
    assert plan.chosen.tolist() == [0, 2, 1, 5]
    assert plan.index.tolist() == [0, 2, 1, 0, 2, 3]
    alone = plan_rois(boxes, np.array([1.0, 2.0]), 1 / 16, shared=False)
    assert alone.counts.tolist() == [3, 3]
    assert alone.chosen[alone.index].tolist() == [0, 1, 2, 3, 4, 5]


def test_cells_of_different_levels_are_different():
    # 100 x 100 at scale 2 and 200 x 200 at scale 1 round to the same corners.
    boxes = np.float32([[0, 0, 100, 100], [0, 0, 200, 200]])
    assert len(plan_rois(boxes, np.array([1.0, 2.0]), 1 / 16).chosen) == 2


@pytest.mark.parametrize("scales", [(1.6,), (1.28, 1.536, 1.8347, 2.304, 3.2)])
def test_plan_equals_a_plain_loop(scales):
    for seed in range(3):
        boxes = near_duplicates(seed)
        plan = plan_rois(boxes, np.array(scales), 1 / 16)
        groups = {}
        for i, box in enumerate(boxes):
            level = choose_levels(box[None], np.array(scales))[0]
            cells = feature_corners(box[None], np.array(scales)[[level]], 1 / 16)[0]
            groups.setdefault((level, *cells), []).append(i)
        assert len(plan.chosen) == len(groups) < len(boxes)
        assert [int(sum(key[0] == level for key in groups)) for level in range(len(scales))] == plan.counts.tolist()
        for (level, *_), members in groups.items():
            (roi,) = set(plan.index[members])
            assert plan.chosen[roi] == members[0]
            assert plan.starts[level] <= roi < plan.starts[level] + plan.counts[level]


def test_what_is_pooled_is_the_same_bit_for_bit():
    features = jax.random.normal(jax.random.key(0), (38, 50, 3))
    boxes, scale = near_duplicates(5), jnp.float32(1.6)
    plan = plan_rois(boxes, np.array([1.6]), 1 / 16)
    assert len(plan.chosen) < 0.8 * len(boxes)
    pooled, distinct = (
        roi_max_pool(features, project_rois(jnp.asarray(b), scale)) for b in (boxes, boxes[plan.chosen])
    )
    np.testing.assert_array_equal(pooled, distinct[plan.index])


def test_none_and_one_and_far_away():
    plan = plan_rois(np.zeros((0, 4), np.float32), np.array([1.0, 2.0]), 1 / 16)
    assert (len(plan.chosen), len(plan.index), plan.counts.tolist()) == (0, 0, [0, 0])
    assert plan_rois(square(9), np.array([1.0]), 1 / 16).index.tolist() == [0]
    # Beyond what pooling tells apart; and the order of corners that are very different stays right.
    far = np.float32([[1e30, 0, 2e30, 9], [3e38, 0, 3.3e38, 9], [0, 0, 9, 9], [-3e38, 0, 9, 9], [-1e30, 0, 9, 9]])
    assert plan_rois(far, np.array([3.0]), 1 / 16).index.tolist() == [2, 2, 1, 0, 0]
