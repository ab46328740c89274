"""Crowds in RoI sampling: neither foreground nor background, and nothing changes without them."""

from functools import partial

import jax
import numpy as np
import pytest

from frcnn_jax.ops.sampling import CROWD_COVER, sample_rois
from tests.ops import reference

OBJECT, CROWD = [0, 0, 100, 100], [200, 0, 300, 100]
draw = jax.jit(partial(sample_rois, rois_per_image=16, background_iou=(0.0, 0.5)))


def sample(proposals, objects, crowd):
    """Rows (box, label) drawn from all of the proposals."""
    proposals = np.array(proposals, np.float32).reshape(-1, 4)
    boxes, labels = np.array(objects, np.float32).reshape(-1, 4), np.arange(1, len(objects) + 1)
    masks = np.ones(len(proposals), bool), np.ones(len(objects), bool)
    drawn = draw(jax.random.key(0), proposals, masks[0], boxes, labels, masks[1], np.array(crowd, bool))
    rows = zip(np.asarray(drawn.rois).tolist(), drawn.labels.tolist(), drawn.mask.tolist(), strict=True)
    return sorted((box, label) for box, label, real in rows if real)


def test_what_lies_on_a_crowd_is_not_drawn():
    inside, half, less = [210, 10, 250, 50], [150, 0, 250, 100], [149, 0, 249, 100]
    elsewhere = [400, 0, 450, 50]
    rows = sample([inside, CROWD, half, less, elsewhere], [OBJECT, CROWD], [False, True])
    assert rows == [(OBJECT, 1), (less, 0), (elsewhere, 0)], "nor is the crowd's own box"
    around = [100, 0, 400, 100]  # a third of it is the crowd
    assert sample([around], [CROWD], [True]) == [(around, 0)]


def test_an_object_in_a_crowd_has_foreground():
    inner = [210, 0, 290, 100]
    assert sample([inner, CROWD], [CROWD, inner], [True, False]) == [(CROWD, 2), (inner, 2), (inner, 2)]


def test_without_proposals_or_objects_beside_it_nothing_is_drawn():
    assert sample([], [CROWD], [True]) == []
    assert sample([[210, 10, 250, 50]], [CROWD], [True]) == []
    assert sample([[5, 5, 5, 9]], [CROWD], [True]) == [([5, 5, 5, 9], 0)], "an empty box lies on nothing"


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_plain_loop(seed):
    random = np.random.default_rng(seed)

    def boxes(count):
        corners = random.integers(0, 30, (count, 2))
        return np.concatenate([corners, corners + random.integers(1, 25, (count, 2))], axis=1).astype(np.float32)

    proposals, objects, crowd = boxes(60), boxes(5), np.array([False, True, False, True, True])
    objects[crowd, 2:] += 15
    gt_mask, labels = np.array([True, True, True, True, False]), np.arange(1, 6)
    expected = {"foreground": set(), "background": set()}
    for box in [*proposals, *objects[:1], objects[2]]:
        overlaps = [reference.iou(box, objects[0]), np.float32(0), reference.iou(box, objects[2])]
        cover = 0
        for region in objects[[1, 3]]:
            low, high = np.maximum(box[:2], region[:2]), np.minimum(box[2:], region[2:])
            cover = max(cover, np.maximum(high - low, 0).prod() / reference.area(box))
        if max(overlaps) >= 0.5:
            expected["foreground"].add((*box.tolist(), int(np.argmax(overlaps)) + 1))
        elif cover < CROWD_COVER:
            expected["background"].add((*box.tolist(), 0))
    # With room for all of them.
    everything = partial(sample_rois, rois_per_image=200, foreground_fraction=0.5, background_iou=(0.0, 0.5))
    drawn = jax.jit(everything)(jax.random.key(seed), proposals, np.ones(60, bool), objects, labels, gt_mask, crowd)
    rows = zip(np.asarray(drawn.rois).tolist(), drawn.labels.tolist(), drawn.mask.tolist(), strict=True)
    assert {(*box, label) for box, label, real in rows if real} == expected["foreground"] | expected["background"]
    assert len(expected["background"]) < 60


def test_without_crowds_the_draw_is_the_same_to_the_last_bit():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 80, (300, 2))
    proposals = np.concatenate([corners, corners + random.uniform(5, 40, (300, 2))], axis=1).astype(np.float32)
    arguments = proposals, np.ones(300, bool), proposals[:4] + 1, np.arange(1, 5), np.array([True, True, True, False])
    for seed in range(5):
        want = draw(jax.random.key(seed), *arguments)
        jax.tree.map(np.testing.assert_array_equal, draw(jax.random.key(seed), *arguments, np.zeros(4, bool)), want)
    # A masked crowd, as in padding, is none.
    got = draw(jax.random.key(4), *arguments, np.array([False, False, False, True]))
    jax.tree.map(np.testing.assert_array_equal, got, want)
