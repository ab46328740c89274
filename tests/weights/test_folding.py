"""Folding box statistics into the last layer and taking them out."""

import dataclasses

import jax
import numpy as np
import pytest

from frcnn_jax.detection.detect import detect
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.folding import fold_statistics, unfold_statistics
from tests.weights.detectors import CONFIG, assert_same_detections, image_and_boxes, small_detector


def test_hand_worked():
    params = {
        "head": {"bbox_pred": {"kernel": np.float32([[1, 1, 1, 1, 1, 2, 3, 4]]), "bias": np.ones(8, np.float32)}},
        "backbone": {"x": np.ones(2, np.float32)},
    }
    statistics = BoxStatistics(
        mean=np.float32([[0, 0, 0, 0], [1, 2, 3, 4]]), std=np.float32([[1, 1, 1, 1], [10, 20, 30, 40]])
    )
    folded = fold_statistics(params, statistics)
    np.testing.assert_array_equal(folded["head"]["bbox_pred"]["kernel"], [[1, 1, 1, 1, 10, 40, 90, 160]])
    np.testing.assert_array_equal(folded["head"]["bbox_pred"]["bias"], [1, 1, 1, 1, 11, 22, 33, 44])
    np.testing.assert_array_equal(folded["backbone"]["x"], [1, 1])
    np.testing.assert_array_equal(params["head"]["bbox_pred"]["bias"], np.ones(8))  # the input is as it was


def test_unfold_is_the_inverse():
    detector = small_detector()
    folded = fold_statistics(detector.params, detector.statistics)
    back = unfold_statistics(folded, detector.statistics)
    assert jax.tree.structure(back) == jax.tree.structure(detector.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), back, detector.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(folded)} == {np.dtype("float32")}


def test_detections_are_the_same():
    detector = small_detector()
    image, boxes = image_and_boxes()
    folded = fold_statistics(detector.params, detector.statistics)
    settings = {name: getattr(CONFIG.evaluate, name) for name in ("nms_iou", "score_threshold", "per_class")}
    alone = detect(detector.model, folded, image, boxes, scale=48, max_size=96, **settings)
    assert_same_detections(alone, detector.detect(image, boxes))


def test_statistics_matter_here():
    detector = small_detector()
    image, boxes = image_and_boxes()
    ones = BoxStatistics(mean=detector.statistics.mean * 0, std=detector.statistics.std * 0 + 1)
    without = dataclasses.replace(detector, statistics=ones).detect(image, boxes)
    with pytest.raises(AssertionError):
        assert_same_detections(without, detector.detect(image, boxes))


def test_other_number_of_classes():
    detector = small_detector()
    statistics = BoxStatistics(mean=np.zeros((3, 4), np.float32), std=np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"head/bbox_pred/kernel \[8, 16\] does not fit statistics of 3 classes"):
        fold_statistics(detector.params, statistics)
