"""Overlaps by class and pairs for box regression, by hand."""

import numpy as np

from frcnn_jax.comparison.overlaps import box_pairs, class_overlaps, overlaps
from frcnn_jax.types import GroundTruth

# Two objects of class 2, the second one difficult, one of class 1, and a crowd of class 3.
TRUTH = GroundTruth(
    boxes=np.array([[0, 0, 10, 10], [0, 0, 10, 20], [30, 0, 40, 10], [60, 0, 80, 10]], np.float32),
    labels=np.array([2, 2, 1, 3], np.int32),
    difficult=np.array([False, True, False, False]),
    crowd=np.array([False, False, False, True]),
)
BOXES = np.array([[0, 0, 10, 15], [30, 0, 35, 10], [60, 0, 70, 10], [90, 0, 99, 9]], np.float32)


def test_overlaps():
    expected = [[2 / 3, 3 / 4, 0, 0], [0, 0, 1 / 2, 0], [0, 0, 0, 1 / 2], [0, 0, 0, 0]]
    np.testing.assert_allclose(overlaps(BOXES, TRUTH.boxes), expected, rtol=1e-6)
    assert overlaps(BOXES[:0], TRUTH.boxes).shape == (0, 4)
    assert overlaps(BOXES, TRUTH.boxes[:0]).shape == (4, 0)


def test_the_best_object_of_each_class():
    # The third box lies on the crowd as a whole, a fifth one with two fifths of its area.
    boxes = np.concatenate([BOXES, [[48, 0, 68, 5]]]).astype(np.float32)
    expected = [[0, 3 / 4, 0], [1 / 2, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(class_overlaps(boxes, TRUTH, 3), expected, rtol=1e-6)


def test_pairs_of_a_box_and_its_best_object():
    rows, labels, offsets = box_pairs(BOXES, TRUTH, 0.4)
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_array_equal(labels, [2, 1])
    # Centres (5, 7.5) to (5, 10) and (32.5, 5) to (35, 5); heights 15 to 20, widths 5 to 10.
    expected = [[0, 2.5 / 15, 0, np.log(20 / 15)], [0.5, 0, np.log(2), 0]]
    np.testing.assert_allclose(offsets, expected, rtol=1e-6, atol=1e-7)
    assert box_pairs(BOXES, TRUTH, 0.5)[0].tolist() == [0]
    assert box_pairs(BOXES, TRUTH, 0.5, inclusive=True)[0].tolist() == [0, 1]
    assert [len(part) for part in box_pairs(BOXES[3:], TRUTH, 0.5)] == [0, 0, 0]
    nothing = GroundTruth(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32), difficult=np.zeros(0, bool))
    assert [part.shape for part in box_pairs(BOXES, nothing, 0.5)] == [(0,), (0,), (0, 4)]
