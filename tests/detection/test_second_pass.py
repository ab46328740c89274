"""The second pass: its boxes against a plain loop, and detections as if its boxes were given as proposals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import Config, EvalConfig, InputConfig
from frcnn_jax.config.checks import SettingError
from frcnn_jax.detection.detect import detect, detect_batch, trim
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.detection.second_pass import moved_boxes
from tests.detection.test_selection import SIZE, STATISTICS, iou, outputs, plain_detections
from tests.weights.detectors import assert_same_detections, image_and_boxes, random_params, small_detector

NOTHING_SUPPRESSED = {"nms_iou": 1.0, "threshold": -1.0, "per_class": 10**6, "voting": None}


def move(logits, deltas, rois, mask, count):
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, deltas, rois))
    return jax.jit(functools.partial(moved_boxes, count=count))(*arrays, jnp.asarray(mask), jnp.array(SIZE), STATISTICS)


@pytest.mark.parametrize("count", [5, 40, 400])
def test_boxes_equal_a_plain_loop(count):
    logits, deltas, rois, mask = outputs()
    deltas[:, :, 2:] -= 0.5
    rois[60:90], deltas[60:90], logits[60:90] = rois[60], deltas[60], logits[60]  # near duplicates
    rois[60:90] += np.linspace(0, 2, 30)[:, None]
    logits[60:72, 1] += 9  # more of them than boxes wanted are the best
    boxes, found = move(logits, deltas, rois, mask, count)
    everything = plain_detections(logits, deltas, rois, mask, STATISTICS, **NOTHING_SUPPRESSED)
    expected = []
    for _, _, box in sorted(everything, key=lambda item: -item[1])[: 4 * count]:
        if (box[2:] > box[:2]).all() and all(iou(box, other) <= 0.9 for other in expected):
            expected.append(box)
    expected = expected[:count]
    assert len(expected) < len(everything) - 20
    assert found.tolist() == [True] * len(expected) + [False] * (count - len(expected))
    np.testing.assert_allclose(boxes[: len(expected)], expected, rtol=1e-5, atol=1e-4)
    assert not np.any(boxes[len(expected) :])


@pytest.mark.parametrize("rois", [0, 1, 3])
def test_few_rois(rois):
    logits, deltas, boxes, _ = outputs(rois)
    moved, found = move(logits, deltas, boxes, np.ones(rois, bool), 16)
    assert moved.shape == (16, 4)
    assert int(found.sum()) <= 2 * rois
    assert bool(found.any()) == (rois > 0)


def test_what_is_not_a_number_is_not_moved():
    logits, deltas, rois, mask = outputs(20)
    mask[:3] = True
    logits[0], deltas[1] = np.nan, np.nan
    for count in (1, 64):  # four times as many are compared, of which a box that is NaN takes a place
        boxes, found = move(logits, deltas, rois, mask, count)
        without = move(logits, deltas, rois, mask & (np.arange(20) > 1), count)
        assert found.any()
        np.testing.assert_array_equal(boxes[found], without[0][without[1]])


@functools.partial(jax.jit, static_argnames="model")
def moved_and_found(params, statistics, batch, *, model):
    logits, deltas = model.apply(
        {"params": params}, batch.images, batch.proposals, scales=batch.scales, image_sizes=batch.image_sizes
    )
    boxes, mask, size = batch.proposals[0], batch.proposal_mask[0], batch.original_sizes[0]
    return moved_boxes(logits[0], deltas[0], boxes, mask, size, statistics, count=8)


def moved_of(detector, batch):
    """The boxes of a second pass of 8, from the outputs of the whole model."""
    moved, found = moved_and_found(detector.params, detector.statistics, batch, model=detector.model)
    assert found.all()
    return np.asarray(moved)


def far_from_rounding(detector, batch, boxes):
    """True if no rounding error can move a corner of these boxes to another feature cell."""
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - 1]) * float(batch.scales[0]) * detector.model.spatial_scale
    return np.abs(corners - np.floor(corners) - 0.5).min() > 2e-3


def assert_same_in_any_order(found, expected):
    assert len(found.scores) == len(expected.scores)
    numbers = [np.column_stack([1000 * x.labels, 100 * x.scores, x.boxes]) for x in (found, expected)]
    distances = np.abs(numbers[0][:, None] - numbers[1][None]).max(axis=2)
    assert distances.min(axis=0).max() < 0.01
    assert distances.min(axis=1).max() < 0.01


@pytest.mark.parametrize("voting", [None, 0.5])
def test_detections_are_those_of_proposals_and_moved_boxes(voting):
    image, boxes = image_and_boxes()
    # Boxes on the same cells have the same score but for rounding errors, which would decide what is suppressed.
    settings = {"nms_iou": 1.0, "score_threshold": 0.1, "per_class": 100, "box_voting": voting}
    batch = jax.tree.map(jnp.asarray, make_batch(image, boxes, scale=48, max_size=96))
    model = small_detector().model
    detectors = (dataclasses.replace(small_detector(), params=random_params(model, seed)) for seed in range(9))
    detector = next(d for d in detectors if far_from_rounding(d, batch, moved_of(d, batch)))
    moved = moved_of(detector, batch)
    run = functools.partial(detect, detector.model, detector.params, image, statistics=detector.statistics, scale=48,
                            max_size=96, **settings)  # fmt: skip
    expected = run(np.concatenate([boxes, moved]))
    twice = run(boxes, second_pass=8)
    assert len(twice.scores) > len(run(boxes).scores) + 5
    assert_same_in_any_order(twice, expected)
    both = jax.tree.map(lambda x: np.concatenate([x, x]), batch).replace(image_mask=np.array([True, False]))
    together = detect_batch(detector.params, detector.statistics, both, model=detector.model, second_pass=8, **settings)
    assert together.mask.shape == (2, 3 * (64 + 8))
    assert not together.mask[1].any()
    assert_same_in_any_order(trim(jax.tree.map(lambda x: x[0], together)), expected)


def test_no_proposals_and_no_images():
    detector = small_detector()
    batch = make_batch(image_and_boxes()[0], np.zeros((0, 4), np.float32))
    nothing = batch.replace(proposals=batch.proposals[:, :0], proposal_mask=batch.proposal_mask[:, :0])
    for empty in (nothing, jax.tree.map(lambda x: x[:0], batch)):
        found = detect_batch(detector.params, detector.statistics, empty, model=detector.model, second_pass=8)
        assert not found.mask.any()


def test_none_without_box_regression_and_by_default():
    detector = small_detector()
    image, boxes = image_and_boxes()
    run = functools.partial(detect, detector.model, detector.params, image, boxes, scale=48, max_size=96)
    assert_same_detections(run(box_regression=False, second_pass=8), run(box_regression=False), 0)
    assert_same_detections(run(second_pass=0), run(), 0)
    assert EvalConfig().second_pass == 0


def test_what_is_refused():
    detector = small_detector()
    image, boxes = image_and_boxes()
    run = functools.partial(detect, detector.model, detector.params, image, boxes)
    for wrong in (-1, 2.5, True):
        with pytest.raises(ValueError, match=f"second_pass must be a whole number of at least 0, not {wrong}"):
            run(second_pass=wrong)
    with pytest.raises(ValueError, match="box_regression must be True or False, not 1"):
        run(box_regression=1)
    with pytest.raises(ValueError, match="second_pass needs one scale, not 2: give scale, or second_pass=0"):
        run(scales=(48, 96), second_pass=8)
    with pytest.raises(
        SettingError, match=r"evaluate\.second_pass = 8 needs one test scale, and .* has 2: give evaluate\.second_pass"
    ):
        Config(evaluate=EvalConfig(second_pass=8), input=InputConfig(test_scales=(480, 600)))
    with pytest.raises(SettingError, match=r"evaluate\.second_pass"):
        EvalConfig(second_pass=-1)
