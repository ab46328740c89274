"""Boxes that nearly repeat others."""

import numpy as np
import pytest

from frcnn_jax.data.proposals import near_duplicates as module
from frcnn_jax.data.proposals.near_duplicates import without_near_duplicates


def plain(boxes, iou):
    kept = []
    for box in boxes.astype(np.float64):
        if all(overlap(box, other) <= iou for other in kept):
            kept.append(box)
    return np.array(kept).reshape(-1, 4)


def overlap(a, b):
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = width * height
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def test_the_first_of_two_that_overlap_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [20, 0, 30, 10]], np.float32)
    np.testing.assert_array_equal(without_near_duplicates(boxes, 0.85, 9), boxes[[0, 2, 3]])  # IoU 0.9, 0.8, 0
    np.testing.assert_array_equal(without_near_duplicates(boxes[::-1], 0.85, 9), boxes[[3, 2, 0]])


def test_one_that_overlaps_only_what_was_left_out_is_kept():
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 92], [0, 0, 100, 84]], np.float32)
    np.testing.assert_array_equal(without_near_duplicates(boxes, 0.9, 9), boxes[[0, 2]])  # 0.92, 0.84; 0.913 of the two


def test_an_overlap_of_just_the_bound_is_kept():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], np.float32)
    assert len(without_near_duplicates(boxes, 0.5, 9)) == 2
    assert len(without_near_duplicates(boxes, 0.49, 9)) == 1


@pytest.mark.parametrize("iou", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
def test_it_equals_a_plain_loop(iou, at_once, monkeypatch):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 12, (300, 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 14, (300, 2))], axis=1).astype(np.float32)
    expected = plain(boxes, iou)
    assert 20 < len(expected) < 290
    np.testing.assert_array_equal(without_near_duplicates(boxes, iou, 300), expected)
    for count in (0, 1, 7, len(expected) - 1):
        np.testing.assert_array_equal(without_near_duplicates(boxes, iou, count), expected[:count])


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    boxes = np.array([[1, 2, 3, 5]], np.float32)[:count]
    np.testing.assert_array_equal(without_near_duplicates(boxes, 0.9, 9), boxes)
