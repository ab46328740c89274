"""Image pyramids and RoIs that serve several proposals: padding by hand, detections against the plain computation."""

import dataclasses
import functools
import inspect

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection import stages
from frcnn_jax.detection.detect import detect, detect_batch, trim
from frcnn_jax.detection.inputs import make_batch, single_pyramid
from frcnn_jax.detection.pyramid import ROIS_AT_A_TIME, image_pyramid, join, padded_proposals, pyramid_shape
from frcnn_jax.detection.roi_plan import RoiPlan, choose_levels
from frcnn_jax.detection.selection import select_detections
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.detection.stages import detect_pyramid
from tests.weights.detectors import assert_same_detections, image_and_boxes, random_params, small_detector, small_model

SETTINGS = {"nms_iou": 0.4, "score_threshold": 0.1, "per_class": 20}
# Of an image of 200 x 260: boxes above 176 x 176 belong to the first level, those below 117 x 117 to the last.
LARGE, SCALES, LONGEST = (200, 260), (200, 300, 448), 600


def crowd(count=240, seed=0):
    """Boxes of a 60 x 80 image, a few pixels apart in eights."""
    random = np.random.default_rng(seed)
    _, boxes = image_and_boxes(count=count // 8)
    boxes = np.repeat(boxes, 8, axis=0) + random.uniform(-2, 2, (count, 4))
    return np.clip(boxes, 0, [80, 60, 80, 60]).astype(np.float32)


def large_image_and_boxes(count):
    """A third of the boxes for each level."""
    random = np.random.default_rng(0)
    image = cv2.resize(random.integers(0, 256, (20, 26, 3), np.uint8), LARGE[::-1])
    sides = random.permutation(np.repeat([40, 145, 185], -(-count // 3)))[:count, None] + random.uniform(
        -9, 9, (count, 2)
    )
    low = random.uniform(0, np.array(LARGE[::-1]) - sides)
    return image, np.concatenate([low, low + sides], axis=1).astype(np.float32)


def plain(detector, image, boxes, **settings):
    batch = make_batch(image, boxes, scale=48, max_size=96)
    found = detect_batch(detector.params, detector.statistics, batch, model=detector.model, **settings)
    return trim(jax.tree.map(lambda x: x[0], found))


@pytest.mark.parametrize("box_regression", [True, False])
def test_near_duplicates_are_detected_as_if_each_were_pooled(box_regression):
    detector, (image, _) = small_detector(), image_and_boxes()
    boxes = crowd()
    pyramid = single_pyramid(image, boxes, scales=(48,), max_size=96, spatial_scale=1 / 16)
    assert pyramid.num_rois <= 128 < pyramid.proposals.shape[1] == 256
    settings = SETTINGS | {"box_regression": box_regression}
    found = detect(
        detector.model, detector.params, image, boxes,
        statistics=detector.statistics, scale=48, max_size=96, **settings,
    )  # fmt: skip
    assert_same_detections(found, plain(detector, image, boxes, **settings), 1e-5)


def test_proposals_on_the_same_cells_have_the_same_score_and_boxes_of_their_own():
    detector, (image, _) = small_detector(), image_and_boxes()
    # In cells, 20 pixels each: 0.525 0.425 2.575 2.475 and 0.575 0.475 2.6 2.495.
    boxes = np.float32([[10.5, 8.5, 52.5, 50.5], [11.5, 9.5, 53, 50.9], [0, 0, 79, 59]])
    found = detect(
        detector.model, detector.params, image, boxes,
        statistics=detector.statistics, scale=48, max_size=96, nms_iou=1.0, score_threshold=0.0,
    )  # fmt: skip
    for label in (1, 2, 3):
        scores, own = found.scores[found.labels == label], found.boxes[found.labels == label]
        assert len(scores) == 3
        same = [i for i in range(3) if np.sum(scores == scores[i]) == 2]  # bit for bit
        assert len(same) == 2
        assert not np.array_equal(*own[same])


def test_no_duplicates_and_no_boxes():
    detector, (image, boxes) = small_detector(), image_and_boxes(count=12)
    assert_same_detections(detector.detect(image, boxes), plain(detector, image, boxes, **SETTINGS), 1e-5)
    for scales in ((48,), SCALES):
        none = detect(detector.model, detector.params, image, [], scales=scales, max_size=LONGEST, score_threshold=0.0)
        assert none.boxes.shape == (0, 4)


def alone_at_its_level(detector, image, boxes):
    """Logits and deltas of each box from an image resized to its level, nothing else in the batch."""
    run = jax.jit(lambda batch: detector.model.apply(
        {"params": detector.params}, batch.images, batch.proposals, scales=batch.scales, image_sizes=batch.image_sizes
    ))  # fmt: skip
    factors = np.array([shorter / 200 for shorter in SCALES])
    levels = choose_levels(boxes, factors)
    outputs = [run(make_batch(image, [box], scale=SCALES[level], max_size=LONGEST)) for box, level in
               zip(boxes, levels, strict=True)]  # fmt: skip
    return levels, *(np.stack([np.asarray(output[i])[0, 0] for output in outputs]) for i in range(2))


def test_a_pyramid_equals_each_proposal_alone_at_its_level():
    detector, (image, boxes) = small_detector(), large_image_and_boxes(48)
    levels, logits, deltas = alone_at_its_level(detector, image, boxes)
    assert set(levels) == {0, 1, 2}
    expected = trim(
        select_detections(
            jnp.asarray(logits), jnp.asarray(deltas), jnp.asarray(boxes), jnp.ones(48, bool), jnp.array(LARGE),
            detector.statistics, **SETTINGS,
        )
    )  # fmt: skip
    run = functools.partial(
        detect, detector.model, detector.params, image, boxes, statistics=detector.statistics, **SETTINGS
    )
    assert_same_detections(run(scales=SCALES, max_size=LONGEST), expected)
    at_one = run(scale=SCALES[0], max_size=LONGEST)
    assert len(at_one.scores) != len(expected.scores) or not np.allclose(at_one.scores, expected.scores, atol=1e-3)
    config = dataclasses.replace(
        detector.config,
        input=dataclasses.replace(detector.config.input, test_scales=SCALES, test_max_size=LONGEST),
    )
    assert_same_detections(dataclasses.replace(detector, config=config).detect(image, boxes), expected)


def test_a_level_without_proposals_is_not_computed(monkeypatch):
    detector, (image, boxes) = small_detector(), large_image_and_boxes(48)
    features, seen = stages._features, []
    monkeypatch.setattr(stages, "_features", lambda p, images, *a, **k: seen.append(images.shape) or features(
        p, images, *a, **k))  # fmt: skip
    run = functools.partial(detect, detector.model, detector.params, image, scales=(48, 200, 448), max_size=LONGEST)
    run(boxes)
    assert seen == [(1, 208, 272, 3), (1, 448, 608, 3)]
    seen.clear()
    run(np.float32([[0, 0, 260, 200]]))
    assert seen == [(1, 208, 272, 3)]


def test_padding_by_hand():
    image, boxes = np.full((60, 80, 3), 9, np.uint8), np.arange(24, dtype=np.float32).reshape(6, 4)
    plan = RoiPlan(chosen=np.array([3, 5, 0]), index=np.array([2, 0, 0, 0, 1, 1]), counts=np.array([2, 0, 1]))
    shape = pyramid_shape([(32, 48), (64, 64), (96, 96)], [plan.counts], num_proposals=8, multiple=4)
    assert shape.level_rois == (4, 0, 4)
    assert shape.num_rois == 4
    assert pyramid_shape([(32, 48)] * 3, [plan.counts], num_proposals=8, multiple=6).level_rois == (6, 0, 6)
    assert pyramid_shape([(32, 48)] * 3, [plan.counts], num_proposals=4, multiple=6).num_rois == 4
    none = RoiPlan(np.zeros(0, int), np.zeros(0, int), np.zeros(3, int))
    assert pyramid_shape([(32, 48)] * 3, [none.counts] * 2, num_proposals=8, multiple=4).level_rois == (4, 0, 0)
    assert pyramid_shape([(32, 48)] * 3, [none.counts, plan.counts], num_proposals=8, multiple=4) == pyramid_shape(
        [(32, 48)] * 3, [plan.counts], num_proposals=8, multiple=4
    )
    pyramid = image_pyramid(image, boxes, plan, [0.5, 0.7, 1.0], shape, image_index=11)
    first, last = pyramid.levels
    assert first.images.shape == (1, 32, 48, 3)
    assert first.images.sum() == 9 * 3 * 30 * 40
    assert (first.image_sizes.tolist(), last.image_sizes.tolist()) == ([[30, 40]], [[60, 80]])
    assert (first.scales.tolist(), last.scales.tolist()) == ([0.5], [1.0])
    np.testing.assert_array_equal(first.rois[0], np.stack([boxes[3], boxes[5], 0 * boxes[0], 0 * boxes[0]]))
    np.testing.assert_array_equal(last.rois[0, 0], boxes[0])
    assert (first.slots.tolist(), last.slots.tolist()) == ([[0, 1, 6, 7]], [[2, 5, 6, 7]])  # 4 and more are nowhere
    assert pyramid.roi_index.tolist() == [[2, 0, 0, 0, 1, 1, 0, 0]]
    assert pyramid.proposal_mask.tolist() == [[True] * 6 + [False] * 2]
    np.testing.assert_array_equal(pyramid.proposals[0, :6], boxes)
    assert (pyramid.original_sizes.tolist(), pyramid.image_index.tolist()) == ([[60, 80]], [11])
    both = join([pyramid], 2)
    assert both.levels[1].images.shape == (2, 96, 96, 3)
    assert both.image_mask.tolist() == [True, False]
    assert join([pyramid], 1) is pyramid


def test_rois_of_each_level_go_to_their_slots_and_padding_nowhere():
    pooled = jnp.zeros((1, 4, 1))
    for values, slots in (([1, 2, 8, 9], [0, 2, 4, 5]), ([3, 4, 8, 9], [1, 3, 6, 7])):
        part = jnp.array(values, jnp.float32).reshape(1, 4, 1)
        pooled = inspect.unwrap(stages._place)(pooled, part, jnp.array([slots]))
    assert pooled.ravel().tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize("second_pass", [0, ROIS_AT_A_TIME])
def test_other_numbers_of_boxes_seldom_compile_again(second_pass):
    detector, (image, _) = small_detector(), image_and_boxes()
    run = functools.partial(detect, detector.model, detector.params, image, scale=48, max_size=96, nms_iou=0.99)
    run = functools.partial(run, second_pass=second_pass)
    of_rois = (stages._features, stages._pool, stages._outputs)
    of_proposals = (stages._select, stages._second_boxes, stages._select_both)
    run(crowd(count=136))
    before = [stage._cache_size() for stage in (*of_rois, *of_proposals)]
    for count in (144, 200, 256):
        run(crowd(count=count, seed=count))
    assert [stage._cache_size() for stage in (*of_rois, *of_proposals)] == before
    run(crowd(count=480))  # the trunk and the head, which are slow to compile, stay
    assert [stage._cache_size() for stage in of_rois] == before[: len(of_rois)]


def test_few_padded_numbers_of_proposals():
    counts = range(4097)
    padded = [padded_proposals(count) for count in counts]
    assert all(count <= size for count, size in zip(counts, padded, strict=True))
    assert all(size <= max(count * 1.25, count + 127, 64) for count, size in zip(counts, padded, strict=True))
    assert sorted(set(padded)) == [
        64, 128, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"second_pass": 8, "flip": True}], ids=["plain", "second pass and views"])
def test_rois_a_part_at_a_time_are_detected_as_all_together(settings):
    detector, (image, _) = small_detector(), image_and_boxes()
    settings = DetectionSettings(**SETTINGS | settings)
    boxes = crowd(count=480)
    pyramid = single_pyramid(image, boxes, scales=(48,), max_size=96, spatial_scale=1 / 16, flip=settings.flip)
    assert pyramid.num_rois == 128
    run = functools.partial(detect_pyramid, detector.params, detector.statistics, pyramid, model=detector.model)
    seen = []

    def watch(stage, function, *arguments, **static):
        seen.append(stage)
        return function(*arguments, **static)

    expected = trim(jax.tree.map(lambda x: x[0], run(settings=settings)))
    assert len(expected.scores)
    for size, calls in ((32, 4), (64, 2), (100, 1)):
        seen.clear()
        found = run(settings=settings, rois_at_a_time=size, watch=watch)
        assert seen.count("pooling") == (calls + settings.has_second_pass) * len(settings.views)
        assert_same_detections(trim(jax.tree.map(lambda x: x[0], found)), expected, 1e-5)


def test_more_padding_changes_nothing():
    detector, (image, boxes) = small_detector(), large_image_and_boxes(24)
    boxes = np.concatenate([boxes, boxes + 0.25])
    run = functools.partial(
        detect_pyramid,
        detector.params,
        detector.statistics,
        model=detector.model,
        settings=DetectionSettings(**SETTINGS),
    )
    pyramid = single_pyramid(image, boxes, scales=SCALES, max_size=LONGEST, spatial_scale=1 / 16)
    wider = pyramid.replace(
        num_rois=256,
        levels=tuple(
            dataclasses.replace(
                level,
                images=np.pad(level.images, ((0, 0), (0, 16), (0, 32), (0, 0))),
                rois=np.pad(level.rois, ((0, 0), (0, 64), (0, 0))),
                slots=np.concatenate([np.where(level.slots < 64, level.slots, 999), [np.arange(128, 192)]], axis=1),
            )
            for level in pyramid.levels
        ),
    )
    assert (pyramid.num_rois, len(pyramid.levels)) == (64, 3)
    first, second = (trim(jax.tree.map(lambda x: x[0], run(p))) for p in (pyramid, wider))
    assert_same_detections(first, second, 1e-5)


def test_scales_must_be_lengths():
    image, boxes = image_and_boxes()
    model = small_model()
    with pytest.raises(ValueError, match=r"scales \(48, 0\) and max_size 96 must be at least 1"):
        detect(model, random_params(model), image, boxes, scales=(48, 0), max_size=96)
