"""Recall by size, ceiling and best F1 by hand-worked numbers."""

import numpy as np
import pytest

from frcnn_jax.evaluation.analysis.matches import match_dataset
from frcnn_jax.evaluation.analysis.measures import (
    best_f1,
    f1_scores,
    object_overlaps,
    proposal_ceiling,
    recall_by_size,
    size_names,
)
from frcnn_jax.evaluation.voc_map import precision_recall
from tests.evaluation.records import A, B, C, detections, truth

MEDIUM, LARGE = [0, 0, 32, 32], [100, 0, 196, 96]


def test_bounds_of_the_sizes_belong_to_the_larger():
    boxes = [[0, 0, 32, 31.9], MEDIUM, [0, 0, 96, 95.9], LARGE]
    assert size_names(np.array(boxes)).tolist() == ["small", "medium", "medium", "large"]
    assert size_names(np.zeros((0, 4))).tolist() == []
    assert size_names(np.array([[0, 0, 300, 300]], np.uint16)).tolist() == ["large"]


def test_recall_and_ceiling_by_size():
    objects = [truth((A,), (B,), (MEDIUM,), (C, 1, True)), truth((B,))]
    matches = match_dataset([detections((A, 0.1), (MEDIUM, 0.9, 2)), detections((A, 0.9))], objects)
    overlaps = object_overlaps([np.array([A, MEDIUM]), np.array([[20, 0, 30, 5]])], objects)
    np.testing.assert_allclose(overlaps, [1, 100 / 1024, 1, 0, 0.5])
    assert recall_by_size(matches, overlaps) == {
        "small": {"objects": 3, "recall": pytest.approx(1 / 3), "ceiling": pytest.approx(2 / 3)},
        "medium": {"objects": 1, "recall": 0, "ceiling": 1},
        "large": {"objects": 0, "recall": None, "ceiling": None},
    }
    assert "ceiling" not in recall_by_size(matches)["small"]
    assert proposal_ceiling(matches, overlaps, ("one", "two")) == {
        "recall": 0.75,
        "recall_by_class": {"one": 0.75, "two": None},
    }


def test_recall_and_ceiling_are_of_the_iou_of_the_matches():
    """IoU 0.6 of detections and 0.6 of proposals, with one object each."""
    objects, near = [truth((A,))], [0, 0, 10, 6]
    overlaps = object_overlaps([np.array([near])], objects)
    for threshold, share in ((0.55, 1), (0.65, 0)):
        matches = match_dataset([detections((near, 0.9))], objects, iou_threshold=threshold)
        by_size = recall_by_size(matches, overlaps)
        assert by_size["small"] == {"objects": 1, "recall": share, "ceiling": share}
        assert proposal_ceiling(matches, overlaps, ("one",))["recall"] == share


@pytest.mark.parametrize("threshold", [0, -0.5, 7, float("nan")])
def test_thresholds_that_are_no_iou_are_refused_by_both(threshold):
    for measure in (match_dataset, precision_recall):
        with pytest.raises(ValueError, match=rf"^iou_threshold: {threshold} is not above 0 and at most 1"):
            measure([detections((A, 0.9))], [truth((A,))], iou_threshold=threshold)


def test_without_proposals_nothing_is_covered():
    assert object_overlaps([np.zeros((0, 4), np.float32)], [truth((A,))]).tolist() == [0]
    assert object_overlaps([], []).shape == (0,)


def test_best_f1():
    """Two of three objects: hit, hit, error. F1 2/4, 4/5, 4/6."""
    curve = precision_recall([detections((A, 0.9), (B, 0.8), (C, 0.7))], [truth((A,), (B,), ([60, 0, 70, 10],))])["1"]
    np.testing.assert_allclose(f1_scores(curve), [2 / 4, 4 / 5, 4 / 6])
    assert best_f1(curve) == {
        "score": pytest.approx(0.8),
        "f1": pytest.approx(0.8),
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
    }


def test_detections_of_one_score_are_kept_together():
    curve = precision_recall([detections((A, 0.5), (C, 0.5))], [truth((A,))])["1"]
    assert best_f1(curve) == {"score": 0.5, "f1": pytest.approx(2 / 3), "precision": 0.5, "recall": 1.0}


def test_no_best_f1_without_hit_or_object():
    names = ("one", "two")
    curves = precision_recall([detections((B, 0.5), (B, 0.5, 2))], [truth((A,))], class_names=names)
    assert [best_f1(curves[name]) for name in names] == [None, None]
    assert best_f1(precision_recall([detections()], [truth((A,))], class_names=("one",))["one"]) is None
