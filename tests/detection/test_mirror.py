"""Tests of both views of an image: the mean of their outputs by hand, symmetry, and equal results on every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import Config, EvalConfig, InputConfig
from frcnn_jax.config.checks import SettingError
from frcnn_jax.detection.detect import detect, detect_batch, trim
from frcnn_jax.detection.inputs import make_batch, single_pyramid
from frcnn_jax.detection.mirror import mean_of_views, mirror_boxes, mirror_images
from frcnn_jax.types import BoxStatistics
from tests.detection.test_pyramid import LONGEST, SCALES, SETTINGS, crowd, large_image_and_boxes
from tests.weights.detectors import assert_same_detections, image_and_boxes, small_detector

BOTH = SETTINGS | {"flip": True}


def run(image, boxes, **settings):
    detector = small_detector()
    return detect(detector.model, detector.params, image, boxes, statistics=detector.statistics, **settings)


def batched(image, boxes, **settings):
    detector, batch = small_detector(), make_batch(image, boxes, scale=48, max_size=96)
    found = detect_batch(detector.params, detector.statistics, batch, model=detector.model, **settings)
    return trim(jax.tree.map(lambda x: x[0], found))


def test_the_valid_part_of_an_image_is_mirrored():
    images = jnp.arange(2 * 2 * 4 * 3, dtype=jnp.uint8).reshape(2, 2, 4, 3)
    found = mirror_images(images, jnp.array([[2, 3], [1, 4]]))
    np.testing.assert_array_equal(found[0], np.asarray(images[0])[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(found[1], np.asarray(images[1])[:, [3, 2, 1, 0]])


def test_boxes_are_mirrored_in_the_original_image():
    boxes = jnp.array([[[1, 2, 5, 6]], [[0, 0, 10, 4]]])
    found = mirror_boxes(boxes, jnp.array([[9, 20], [9, 10]]))
    np.testing.assert_array_equal(found, [[[15, 2, 19, 6]], [[0, 0, 10, 4]]])
    np.testing.assert_array_equal(mirror_boxes(found, jnp.array([[9, 20], [9, 10]])), boxes)


def test_means_by_hand():
    """Probabilities 0.5 and 0.9; a centre moved by 0.25 RoIs to the right, and by 0.15 to the left in the mirror."""
    statistics = BoxStatistics(mean=jnp.array([[0.0] * 4, [0.05, 0, 0, 0]]), std=jnp.array([[1.0] * 4, [0.1, 1, 1, 1]]))
    plain = jnp.log(jnp.array([[[0.5, 0.5]]])), jnp.array([[[[0.0] * 4, [2.0, 1, 0, 0.5]]]])
    mirrored = jnp.log(jnp.array([[[0.1, 0.9]]])) + 3, jnp.array([[[[0.0] * 4, [-2.0, 3, 1, 0.5]]]])
    logits, deltas = mean_of_views(plain, mirrored, statistics)
    np.testing.assert_allclose(jnp.exp(logits), [[[0.3, 0.7]]], rtol=1e-6)
    # 0.25 = 2 * 0.1 + 0.05 and -(-2 * 0.1 + 0.05) = 0.15 have the mean 0.2 = 1.5 * 0.1 + 0.05.
    np.testing.assert_allclose(deltas[0, 0, 1], [1.5, 2, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"second_pass": 8}, {"box_regression": False}])
def test_a_mirrored_image_has_mirrored_detections(settings):
    """Without resizing, which samples a mirrored image at other places."""
    image, boxes = image_and_boxes()
    whole = {"scale": min(image.shape[:2]), "max_size": 1000} | BOTH | settings
    found = run(image, boxes, **whole)
    frame = np.array([image.shape[:2]])
    turned = np.asarray(mirror_boxes(boxes[None], frame)[0])
    other = run(np.ascontiguousarray(image[:, ::-1]), turned, **whole)
    assert len(found.scores) > 3
    back = np.asarray(mirror_boxes(other.boxes[None], frame)[0])
    order, other_order = (np.lexsort((*boxes.round(1).T, labels)) for boxes, labels in
                          ((found.boxes, found.labels), (back, other.labels)))  # fmt: skip
    np.testing.assert_array_equal(found.labels[order], other.labels[other_order])
    np.testing.assert_allclose(found.scores[order], other.scores[other_order], atol=1e-5)
    np.testing.assert_allclose(found.boxes[order], back[other_order], atol=1e-3)
    alone = run(image, boxes, **whole | {"flip": False})
    assert len(alone.scores) != len(found.scores) or np.abs(alone.scores - found.scores).max() > 1e-3


@pytest.mark.parametrize("box_regression", [True, False])
def test_near_duplicates_are_detected_as_if_each_were_pooled(box_regression):
    """Boxes on the same cells of one view need not be on the same cells of the other."""
    image, boxes = image_and_boxes()[0], crowd()
    settings = BOTH | {"box_regression": box_regression}
    counts = [
        single_pyramid(image, boxes, scales=(48,), max_size=96, spatial_scale=1 / 16, flip=flip).num_rois
        for flip in (False, True)
    ]
    assert counts[0] <= counts[1] < 256
    found = run(image, boxes, scale=48, max_size=96, **settings)
    assert_same_detections(found, batched(image, boxes, **settings), 1e-5)


def test_a_pyramid_has_both_views_of_each_level():
    image, boxes = large_image_and_boxes(24)
    found = run(image, boxes, scales=SCALES, max_size=LONGEST, **BOTH)
    alone = run(image, boxes, scales=SCALES, max_size=LONGEST, **SETTINGS)
    mirrored = run(
        np.ascontiguousarray(image[:, ::-1]),
        np.asarray(mirror_boxes(boxes[None], np.array([image.shape[:2]]))[0]),
        scales=SCALES, max_size=LONGEST, **SETTINGS,
    )  # fmt: skip
    best = [x.scores.max() for x in (alone, mirrored)]
    assert min(best) - 0.05 < found.scores.max() < max(best) + 0.05
    assert np.abs(found.scores.max() - alone.scores.max()) > 1e-6


def test_no_proposals_and_no_images():
    detector = small_detector()
    batch = make_batch(image_and_boxes()[0], np.zeros((0, 4), np.float32))
    nothing = batch.replace(proposals=batch.proposals[:, :0], proposal_mask=batch.proposal_mask[:, :0])
    for empty, second_pass in ((batch, 8), (nothing, 0), (jax.tree.map(lambda x: x[:0], batch), 8)):
        settings = {"second_pass": second_pass, "flip": True}
        found = detect_batch(detector.params, detector.statistics, empty, model=detector.model, **settings)
        assert not found.mask.any()


def test_wrong_settings_are_refused():
    image, boxes = image_and_boxes()
    with pytest.raises(ValueError, match="flip must be True or False, not 1"):
        run(image, boxes, flip=1)
    with pytest.raises(SettingError, match=r"^evaluate\.flip tests mirrored images, .*: give --evaluate\.no-flip too$"):
        Config(evaluate=EvalConfig(flip=True), input=InputConfig(flip=False))
