"""Recall of proposals, and the best one of each object."""

import numpy as np
import pytest

from frcnn_jax.data.proposals.recall import best_overlaps, proposal_recall
from frcnn_jax.data.proposals.source import Proposals
from frcnn_jax.types import GroundTruth


def truth(boxes, labels, difficult=None):
    count = len(labels)
    difficult = np.zeros(count, bool) if difficult is None else np.array(difficult)
    boxes = np.array(boxes, np.float32).reshape(count, 4)
    return GroundTruth(boxes=boxes, labels=np.array(labels, np.int32), difficult=difficult)


def test_recall_by_hand():
    # IoU of (0 0 10 10) with (0 0 10 6) is 60 / 100, with (0 0 10 5) 50 / 100, with (5 0 15 10) 50 / 150.
    box = [0, 0, 10, 10]
    proposals = Proposals.from_arrays(
        [np.array(rows, np.float32).reshape(-1, 4) for rows in ([[0, 0, 10, 6], [5, 0, 15, 10]], [[0, 0, 10, 5]], [])]
    )
    annotations = [
        truth([box, [20, 20, 30, 30]], [1, 2]),
        truth([box, [50, 50, 60, 60]], [1, 1], [False, True]),
        truth([box], [1]),
    ]
    recall = proposal_recall(proposals, annotations, ("cell", "dot", "none"), (0.5, 0.55, 0.7))
    assert recall[0.5]["overall"] == pytest.approx(2 / 4)
    assert recall[0.5]["per_class"]["cell"] == pytest.approx(2 / 3), "exactly 0.5 counts, the difficult one does not"
    assert recall[0.5]["per_class"]["dot"] == 0
    assert np.isnan(recall[0.5]["per_class"]["none"])
    assert recall[0.55]["overall"] == pytest.approx(1 / 4)
    assert recall[0.7]["overall"] == 0


def test_recall_without_objects():
    empty = truth(np.zeros((0, 4)), np.zeros(0, np.int64))
    recall = proposal_recall([np.zeros((0, 4), np.float32)], [empty], ("cell",))
    assert np.isnan(recall[0.5]["overall"])
    assert set(recall) == {0.5, 0.7}


def test_best_overlaps_by_hand():
    """Of (0 0 10 10): a quarter, then 60 / 100 twice, of which the first counts."""
    boxes = np.float32([[0, 0, 5, 5], [0, 0, 10, 6], [0, 4, 10, 10], [50, 50, 60, 60]])
    index, iou = best_overlaps(np.float32([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]]), boxes)
    np.testing.assert_array_equal(index[:2], [1, 3])
    np.testing.assert_allclose(iou, [0.6, 1, 0], rtol=1e-6)


def test_empty_boxes_overlap_nothing():
    empty = np.float32([[3, 3, 3, 5]])
    index, iou = best_overlaps(empty, np.concatenate([empty, [[0, 0, 9, 9]]], dtype=np.float32))
    assert (index.tolist(), iou.tolist()) == ([0], [0])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float16, np.float64])
def test_best_overlaps_of_other_types(dtype):
    """Areas of 90,000 wrap in uint16 and overflow in half precision; boxes apart have a negative overlap."""
    boxes = np.array([[300, 300, 400, 400], [0, 0, 300, 200]], dtype)
    for objects in (np.array([[0, 0, 300, 300]], dtype), np.float32([[0, 0, 300, 300]])):
        index, iou = best_overlaps(objects, boxes)
        assert index.tolist() == [1]
        np.testing.assert_allclose(iou, [2 / 3], rtol=1e-6)


def test_best_overlaps_equal_a_loop():
    random = np.random.default_rng(0)
    objects, boxes = (np.sort(random.integers(0, 40, (count, 2, 2)), axis=1).reshape(-1, 4) for count in (7, 30))
    objects, boxes = (np.float32(rows + np.array([0, 0, 1, 1])) for rows in (objects, boxes))
    index, iou = best_overlaps(objects, boxes)
    for g, one in enumerate(objects):
        expected = []
        for box in boxes:
            cells = [
                {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (one, box)
            ]
            expected.append(len(cells[0] & cells[1]) / len(cells[0] | cells[1]))
        assert iou[g] == pytest.approx(max(expected))
        assert index[g] == int(np.argmax(expected))


def test_best_overlaps_of_nothing():
    index, iou = best_overlaps(np.ones((2, 4)), np.zeros((0, 4)))
    assert (index.tolist(), iou.tolist()) == ([-1, -1], [0, 0])
    index, iou = best_overlaps(np.zeros((0, 4)), np.ones((3, 4)))
    assert index.shape == iou.shape == (0,)
