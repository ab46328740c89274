"""Box voting against hand-worked numbers and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.boxes import pairwise_iou
from frcnn_jax.ops.voting import vote_boxes, vote_boxes_by_class


def test_votes_by_hand():
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 20, 20], [100, 0, 110, 10]], jnp.float32)
    scores = jnp.array([0.6, 0.3, 0.1, 0.2])
    # IoU of the first and second is 1/2, of the second and third 1/2, of the first and third 1/4.
    found = vote_boxes(boxes, scores, jnp.ones(4, bool), 0.5)
    expected = [[0, 0, 10, 10 * 2 / 3 + 20 / 3], [0, 0, 11, 14], [0, 0, 12.5, 20], [100, 0, 110, 10]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # The second box does not vote, and is moved by the others; a box whose only vote is its own of 0 stays.
    found = vote_boxes(boxes, scores.at[3].set(0), jnp.array([True, False, True, True]), 0.5)
    side = (0.6 * 10 + 0.1 * 20) / 0.7
    np.testing.assert_allclose(found, [boxes[0], [0, 0, side, side], boxes[2], boxes[3]], rtol=1e-6)
    np.testing.assert_array_equal(vote_boxes(boxes, scores, jnp.zeros(4, bool)), boxes)
    # A box that is not a number and does not vote changes no other.
    broken = vote_boxes(boxes.at[3].set(jnp.nan), scores, jnp.array([True, True, True, False]), 0.5)
    np.testing.assert_allclose(broken[:3], expected[:3], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16])
def test_equals_a_plain_loop(dtype):
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 60, (3, 40, 2))
    boxes = jnp.asarray(np.concatenate([corners, corners + generator.integers(0, 40, (3, 40, 2))], -1), dtype)
    scores, mask = generator.normal(size=(3, 40)).astype(np.float32), generator.random((3, 40)) < 0.8
    found = jax.jit(vote_boxes_by_class, static_argnums=3)(boxes, scores, mask, 0.4)
    assert found.dtype == jnp.float32
    for k in range(3):
        overlaps, values = np.asarray(pairwise_iou(boxes[k], boxes[k])), np.asarray(boxes[k], np.float64)
        for i in range(40):
            voters = [j for j in range(40) if mask[k, j] and scores[k, j] > 0 and overlaps[i, j] >= 0.4]
            total = sum(scores[k, j] for j in voters)
            mean = sum(scores[k, j] * values[j] for j in voters) / total if voters else values[i]
            np.testing.assert_allclose(found[k, i], mean, rtol=1e-5)


def test_classes_one_after_the_other_are_as_all_at_once(monkeypatch):
    generator = np.random.default_rng(1)
    corners = generator.uniform(0, 20, (5, 30, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 20], -1)
    arguments = jnp.asarray(boxes), jnp.asarray(generator.random((5, 30)), jnp.float32), jnp.ones((5, 30), bool)
    whole = vote_boxes_by_class(*arguments)
    monkeypatch.setattr("frcnn_jax.ops.voting._MOST_OVERLAPS", 2 * 30**2)
    np.testing.assert_allclose(vote_boxes_by_class(*arguments), whole, rtol=1e-6)
    assert vote_boxes_by_class(*(array[:, :0] for array in arguments)).shape == (5, 0, 4)


@pytest.mark.parametrize("corner", [jnp.nan, jnp.inf])
def test_a_box_or_score_that_is_no_number_changes_no_other(corner):
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [50, 0, 60, 10]], jnp.float32)
    scores, mask = jnp.array([0.6, 0.2, 0.3, 0.1]), jnp.ones(4, bool)
    expected = vote_boxes(boxes, scores, mask.at[2].set(False))
    broken = vote_boxes(boxes.at[2, 0].set(corner), scores, mask)
    np.testing.assert_array_equal(broken[np.array([0, 1, 3])], expected[np.array([0, 1, 3])])
    np.testing.assert_array_equal(broken[2], boxes[2].at[0].set(corner))
    np.testing.assert_array_equal(vote_boxes(boxes, scores.at[2].set(corner), mask), expected)


@pytest.mark.usefixtures("unchecked_types")
def test_votes_are_checked():
    boxes, scores, mask = jnp.ones((3, 4)), jnp.ones(3), jnp.ones(3, bool)
    with pytest.raises(ValueError, match=r"vote_boxes takes scores \[B\] = \[3\], not \[3, 1\]"):
        vote_boxes(boxes, scores[:, None], mask)
    with pytest.raises(ValueError, match=r"vote_boxes takes iou_threshold in 0 ... 1, not 5.0"):
        vote_boxes(boxes, scores, mask, 5.0)
    with pytest.raises(ValueError, match=r"vote_boxes_by_class takes iou_threshold in 0 ... 1, not 5.0"):
        vote_boxes_by_class(boxes[None], scores[None], mask[None], 5.0)
    with pytest.raises(ValueError, match=r"vote_boxes_by_class takes boxes \[K, B, 4\], not \[3, 4\]"):
        vote_boxes_by_class(boxes, scores, mask)
