"""From SVM scores to detections: by hand, against a plain loop, the adaptive threshold, padding, the degenerate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.comparison.scoring import CandidatePool, Candidates, select_candidates, suppress_candidates
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.ops.boxes import encode_boxes
from frcnn_jax.types import GroundTruth
from tests.ops import reference

SIZE = jnp.array([20, 30])
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [20, 10, 30, 20]], np.float32)


def detect(scores, targets=None, mask=None, pool=None, **options):
    """Detections of one image, each box moved to its target."""
    scores = np.array(scores, np.float32)
    boxes, mask = BOXES[: len(scores)], np.ones(len(scores), bool) if mask is None else mask
    deltas = None
    if targets is not None:
        deltas = jnp.stack([encode_boxes(jnp.array(boxes), jnp.array(targets, jnp.float32))] * scores.shape[1], axis=1)
    pool = CandidatePool(1, scores.shape[1]) if pool is None else pool
    pool.add("a", select_candidates(scores, boxes, mask, SIZE, deltas, **options))
    return pool.detections()["a"]


def test_boxes_are_suppressed_before_and_after_regression():
    scores = [[0.5], [0.9], [-0.2], [-2.0]]
    # Without regression the first goes for the second, with an IoU of 0.8; margins below 0 are detections too.
    found = detect(scores)
    np.testing.assert_array_equal(found.boxes, BOXES[[1, 2, 3]])
    np.testing.assert_allclose(found.scores, [0.9, -0.2, -2.0])
    np.testing.assert_array_equal(found.labels, [1, 1, 1])
    # The first would be moved away, but it is gone before; the fourth is moved onto the third and goes after it, which
    # itself is clipped; the second is clipped to nothing.
    found = detect(scores, [[0, 12, 10, 20], [-20, 0, -10, 8], [20, 0, 40, 10], [20, 1, 30, 11]])
    np.testing.assert_allclose(found.boxes, [[20, 0, 30, 10]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [-0.2])


def test_classes_do_not_suppress_each_other_and_have_offsets_of_their_own():
    scores, deltas = np.array([[1.0, 2.0]], np.float32), np.zeros((1, 2, 4), np.float32)
    deltas[0, 1, 0] = 0.5
    pool = CandidatePool(1, 2)
    pool.add(7, select_candidates(scores, BOXES[:1], np.ones(1, bool), SIZE, deltas))
    found = pool.detections()[7]
    np.testing.assert_array_equal(found.labels, [2, 1])
    np.testing.assert_allclose(found.boxes, [[5, 0, 15, 10], [0, 0, 10, 10]])


def test_padding_and_what_is_beyond_per_class_is_left_out():
    mask = np.array([True, False, True, True])
    np.testing.assert_array_equal(detect([[0.5], [0.9], [0.3], [0.4]], mask=mask).scores, np.float32([0.5, 0.4, 0.3]))
    found = detect([[0.5], [0.9], [0.3], [0.4]], mask=mask, per_class=2)
    np.testing.assert_array_equal(found.scores, np.float32([0.5, 0.4]))
    assert not len(detect([[0.5], [0.9]], mask=np.zeros(2, bool)).scores)
    assert not len(detect(np.zeros((0, 3))).scores)


def test_equals_a_plain_loop():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 15, (60, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + generator.uniform(1, 9, (60, 2)).astype(np.float32)], axis=1)
    scores = generator.normal(size=(60, 3)).astype(np.float32)
    deltas = generator.normal(size=(60, 3, 4)).astype(np.float32) * np.float32(0.2)
    pool = CandidatePool(1, 3)
    pool.add(0, select_candidates(scores, boxes, np.ones(60, bool), SIZE, deltas, per_class=30))
    found = pool.detections(0.4)[0]
    candidates = select_candidates(scores, boxes, np.ones(60, bool), SIZE, deltas, per_class=60)
    expected = []
    for k in range(3):
        order = np.argsort(-scores[:, k])[:30]
        moved = np.asarray(candidates.regressed)[k, :30]
        first = reference.nms(boxes[order], scores[order, k], np.ones(30, bool), 0.4)
        kept = reference.nms(moved, scores[order, k], first, 0.4)
        expected += [(float(scores[order[i], k]), k + 1, *moved[i].tolist()) for i in np.flatnonzero(kept)]
    values = [
        (s, k, *b) for s, k, b in zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    ]
    assert sorted(values) == sorted(expected)


def scored(scores):
    """Candidates of one image whose boxes do not meet."""
    scores = -np.sort(-np.array(scores, np.float32), axis=-1)
    x = np.arange(scores.shape[1], dtype=np.float32) * 10
    boxes = np.broadcast_to(np.stack([x, 0 * x, x + 9, 0 * x + 9], axis=1), (*scores.shape, 4))
    return Candidates(boxes=boxes, regressed=boxes, scores=scores)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_best_of_the_whole_set_are_kept(order):
    # Two on average of three images: the six best of class 1 are 9 ... 4, of class 2 there are no more than six.
    images = [[[9, 8, 7, 1], [1, 1, -np.inf, -np.inf]], [[2, 0, -1, -2], [3, 2, 1, 0]], [[6, 5, 4, 3], [-np.inf] * 4]]
    pool = CandidatePool(3, 2, average=2)
    for index in order:
        pool.add(index, scored(images[index]))
    found = pool.detections()
    assert list(found) == order
    by_class = {
        index: [np.sort(found[index].scores[found[index].labels == label]).tolist() for label in (1, 2)]
        for index in range(3)
    }
    assert by_class == {0: [[7, 8, 9], [1, 1]], 1: [[], [0, 1, 2, 3]], 2: [[4, 5, 6], []]}


def test_the_rising_threshold_changes_nothing():
    generator = np.random.default_rng(1)
    images = generator.normal(size=(30, 2, 25)).astype(np.float32)
    pool = CandidatePool(30, 2, average=5)
    for index, scores in enumerate(images):
        pool.add(index, scored(scores))
    found = pool.detections()
    for k in range(2):
        scores = np.concatenate([found[i].scores[found[i].labels == k + 1] for i in range(30)])
        np.testing.assert_array_equal(np.sort(scores), np.sort(images[:, k].reshape(-1))[-150:])


def test_detections_can_be_measured():
    truth = GroundTruth(boxes=BOXES[:1], labels=np.array([1]), difficult=np.array([False]))
    assert evaluate_voc([detect([[-0.5], [-0.9]])], [truth], class_names=["thing"])["map"] == pytest.approx(1)


def test_thresholds_are_inclusive():
    found = suppress_candidates(scored([[3, 2, 1]]), jnp.array([2.0]))
    np.testing.assert_array_equal(found.mask, [True, True, False])
    assert jax.tree.map(jnp.shape, found).boxes == (3, 4)
