"""From scores and offsets to detections, against a plain loop, and from an image to detections by both programs."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.detect import detect, detect_batch, select_detections, trim
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.types import BoxStatistics
from tests.weights.detectors import (
    CONFIG,
    assert_same_detections,
    image_and_boxes,
    random_params,
    small_detector,
    small_model,
)

SIZE = (60, 80)
STATISTICS = BoxStatistics(
    mean=jnp.array([[0, 0, 0, 0], [0.1, -0.1, 0.2, 0], [0, 0.2, 0, -0.1]]),
    std=jnp.array([[1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.3, 0.1, 0.2, 0.35]]),
)


def outputs(rois=150, seed=0):
    """Logits, deltas, RoIs, mask of two classes; RoIs are crowded, so that suppression has work."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 40, (rois, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 35, (rois, 2))], axis=1)
    logits = 2 * random.standard_normal((rois, 3))
    return logits, 0.5 * random.standard_normal((rois, 3, 4)), boxes, random.random(rois) < 0.9


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height) if width * height else 0


def plain_detections(logits, deltas, rois, mask, statistics, nms_iou, threshold, per_class):
    """(label, score, box) of each detection."""
    found = []
    for k in range(1, logits.shape[1]):
        candidates = []
        for logit, delta, roi, real in zip(logits, deltas, rois, mask, strict=True):
            if not real:
                continue
            score = np.exp(logit[k]) / np.exp(logit).sum()
            tx, ty, tw, th = delta[k] * np.asarray(statistics.std)[k] + np.asarray(statistics.mean)[k]
            width, height = roi[2] - roi[0], roi[3] - roi[1]
            x, y = (roi[0] + roi[2]) / 2 + tx * width, (roi[1] + roi[3]) / 2 + ty * height
            width, height = width * np.exp(tw), height * np.exp(th)
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            candidates.append((score, np.clip(box, 0, [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])))
        candidates = sorted(candidates, key=lambda c: -c[0])[:per_class]
        kept = []
        for score, box in candidates:
            if score > threshold and all(iou(box, other) <= nms_iou for _, other in kept):
                kept.append((score, box))
        found += [(k, score, box) for score, box in kept]
    return found


def select(logits, deltas, rois, mask, statistics=STATISTICS, **settings):
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, deltas, rois))
    found = jax.jit(functools.partial(select_detections, **settings))(
        *arrays, jnp.asarray(mask), jnp.array(SIZE), statistics
    )
    return found, trim(found)


@pytest.mark.parametrize(("nms_iou", "threshold", "per_class"), [(0.3, 0.05, 100), (0.7, 0.3, 100), (0.5, 0.0, 7)])
def test_equals_a_plain_loop(nms_iou, threshold, per_class):
    case = outputs()
    expected = plain_detections(*case, STATISTICS, nms_iou, threshold, per_class)
    padded, found = select(*case, nms_iou=nms_iou, score_threshold=threshold, per_class=per_class)
    assert len(padded.scores) == 2 * per_class
    assert len(found.scores) == len(expected)
    assert len(expected) > 5
    assert (np.diff(found.scores) <= 0).all()
    assert found.mask.all()
    for (label, score, box), i in zip(sorted(expected, key=lambda e: -e[1]), range(len(expected)), strict=True):
        assert found.labels[i] == label
        np.testing.assert_allclose(found.scores[i], score, rtol=1e-4)
        np.testing.assert_allclose(found.boxes[i], box, rtol=1e-4, atol=1e-3)


def test_decoded_and_clipped_by_hand():
    """An RoI of 20 x 10 at (10, 40) whose first class moves right and doubles, and whose second moves up."""
    deltas = np.zeros((1, 3, 4))
    deltas[0, 1] = [2.0, 0, np.log(2) / 0.5, 0]  # times 0.5, plus a mean of 0.25: 1.25 widths to the right
    deltas[0, 2] = [0, -10, 0, 0]  # times 0.5: 5 heights up, 4 of which fit
    statistics = BoxStatistics(
        mean=jnp.array([[9, 9, 9, 9], [0.25, 0, 0, 0], [0, 0, 0, 0.0]]),
        std=jnp.array([[9.0] * 4, [0.5] * 4, [0.5] * 4]),
    )
    arguments = (np.zeros((1, 3)), deltas, [[10, 40, 30, 50]], [True], statistics)
    # Centre 20 + 1.25 * 20 = 45, width 40; and centre 45 - 50 = -5, which leaves nothing of 0 ... 60.
    padded, found = select(*arguments)
    np.testing.assert_allclose(padded.boxes, [[25, 40, 65, 50], [10, 0, 30, 0]], atol=1e-4)
    assert found.labels.tolist() == [1]
    deltas[0, 2, 1] = -9  # 4.5 heights up: one pixel is left
    np.testing.assert_allclose(select(*arguments)[1].boxes, [[25, 40, 65, 50], [10, 0, 30, 5]], atol=1e-4)
    deltas[0, 1, 0] = 4.0  # 2.25 widths to the right, beyond the image's 80 pixels
    np.testing.assert_allclose(select(*arguments)[1].boxes[0], [45, 40, 80, 50], atol=1e-4)
    _, proposals = select(*arguments, box_regression=False)
    np.testing.assert_array_equal(proposals.boxes, [[10, 40, 30, 50]] * 2)


def test_only_the_best_of_a_class_enter_suppression():
    """The paper's 100 a class: with ever more boxes that do not overlap, 100 are left."""
    corners = np.stack(np.meshgrid(np.arange(0, 80, 4), np.arange(0, 60, 4)), axis=-1).reshape(-1, 2)
    rois = np.concatenate([corners, corners + 3.0], axis=1)
    logits = np.zeros((300, 2))
    logits[:, 1] = np.linspace(1, 3, 300)
    plain = BoxStatistics(mean=jnp.zeros((2, 4)), std=jnp.ones((2, 4)))
    _, found = select(logits, np.zeros((300, 2, 4)), rois, np.ones(300, bool), plain)
    assert len(found.scores) == 100
    np.testing.assert_allclose(found.boxes, rois[:199:-1], atol=1e-4)


def test_a_score_at_the_threshold_is_no_detection():
    zeros = np.zeros((1, 3))
    arguments = (zeros, np.zeros((1, 3, 4)), [[1, 1, 5, 5]], [True])
    third = float(jax.nn.softmax(jnp.zeros(3))[0])
    assert len(select(*arguments, score_threshold=third)[1].scores) == 0
    assert sorted(select(*arguments, score_threshold=third - 1e-6)[1].labels) == [1, 2]


def test_masked_proposals_are_never_detected():
    logits, deltas, rois, mask = outputs()
    logits[~mask] = [-9, 9, 9]  # they would be the best
    _, ours = select(logits, deltas, rois, mask)
    _, without = select(logits[mask], deltas[mask], rois[mask], mask[mask])
    np.testing.assert_allclose(ours.boxes, without.boxes, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.labels, without.labels)
    assert len(select(logits, deltas, rois, np.zeros_like(mask), score_threshold=0.0)[1].scores) == 0


def test_detect_equals_the_batch_path():
    detector = small_detector()
    image, boxes = image_and_boxes()
    settings = {"nms_iou": 0.4, "score_threshold": 0.1, "per_class": 20}
    found = detector.detect(image, boxes)
    assert len(found.scores) > 3
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))
    assert set(found.labels) <= {1, 2, 3}
    batch = make_batch(image, boxes, scale=48, max_size=96)
    # Two images, of which the second only fills the batch.
    both = jax.tree.map(lambda x: np.concatenate([x, x]), batch).replace(image_mask=np.array([True, False]))
    together = detect_batch(detector.params, detector.statistics, both, model=detector.model, **settings)
    first, second = (trim(jax.tree.map(lambda x, i=i: x[i], together)) for i in range(2))
    assert len(second.scores) == 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(first), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    assert CONFIG.evaluate.nms_iou == 0.4  # the config's thresholds are the ones above


def test_statistics_change_boxes_and_stand_for_none():
    detector = small_detector()
    image, boxes = image_and_boxes()
    run = functools.partial(detect, detector.model, detector.params, image, boxes, scale=48, max_size=96)
    none = BoxStatistics(mean=jnp.zeros((4, 4)), std=jnp.ones((4, 4)))
    np.testing.assert_array_equal(run().boxes, run(statistics=none).boxes)
    assert not np.array_equal(run().boxes[:3], run(statistics=detector.statistics).boxes[:3])


def test_no_boxes_give_no_detections():
    model = small_model()
    image, _ = image_and_boxes()
    for boxes in (np.zeros((0, 4), np.float32), []):
        found = detect(model, random_params(model), image, boxes, scale=48, max_size=96, score_threshold=0.0)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == (0,)


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), [[0, 0, 1, 1]], r"the image must be uint8 \[H, W, 3\], not float32"),
        (np.zeros((8, 8), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[0, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 1]], r"boxes must be \[P, 4\], not \[1, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), [0, 0, 1, 1], r"boxes must be \[P, 4\], not \[4\]"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 1, 1], [0, 0, 1, np.nan]], "boxes must be finite; box 1 is not"),
    ],
)
def test_bad_input_is_named(image, boxes, message):
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, image, boxes)


@pytest.mark.parametrize("seed", range(3))
def test_both_programs_agree_on_random_models(seed):
    """Stage by stage as `detect` and evaluation run, and as the one program that is exported and timed."""
    model = small_model()
    params, statistics = random_params(model, seed), small_detector().statistics
    image, boxes = image_and_boxes((64, 96), count=40)
    settings = {"score_threshold": 0.02, "nms_iou": 0.5}
    found = detect(model, params, image, boxes, statistics=statistics, scale=64, max_size=96, **settings)
    batch = make_batch(image, boxes)
    together = detect_batch(params, statistics, batch, model=model, **settings)
    together = trim(jax.tree.map(lambda x: x[0], together))
    assert len(found.scores) > 20
    np.testing.assert_array_equal(found.labels, together.labels)
    np.testing.assert_allclose(found.scores, together.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.boxes, together.boxes, rtol=1e-5, atol=1e-5 * 96)


def test_the_one_program_in_jit_and_vmap():
    detector = small_detector()
    pictures = [image_and_boxes((48, 64), count=count) for count in (20, 30)]
    batches = [make_batch(*picture) for picture in pictures]
    run = functools.partial(detect_batch, model=detector.model, score_threshold=0.1)
    jitted = [jax.jit(run)(detector.params, detector.statistics, batch) for batch in batches]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
    mapped = jax.vmap(run, in_axes=(None, None, 0))(detector.params, detector.statistics, stacked)
    assert mapped.boxes.shape == (2, 1, 3 * 64, 4)
    for i, one in enumerate(jitted):
        first, second = (
            trim(jax.tree.map(lambda x: x[0], d)) for d in (one, jax.tree.map(lambda x, i=i: x[i], mapped))
        )
        assert_same_detections(first, second, 1e-5)
    # Without statistics, the weights stand alone.
    alone = detect_batch(detector.params, None, batches[0], model=detector.model)
    assert not np.array_equal(alone.boxes, run(detector.params, detector.statistics, batches[0]).boxes)


def test_what_cannot_be_traced_says_what_can():
    detector, (image, boxes) = small_detector(), image_and_boxes()
    run = functools.partial(detect, detector.model)
    for trace in (
        lambda: jax.jit(run)(detector.params, image, boxes),
        lambda: jax.jit(lambda b: run(detector.params, image, b))(boxes),
        lambda: jax.vmap(lambda i: run(detector.params, i, boxes))(image[None]),
        lambda: jax.jit(lambda p: run(p, image, boxes))(detector.params),
        lambda: jax.jit(detector.detect)(image, boxes),
    ):
        with pytest.raises(TypeError, match=r"cannot be traced .* trace frcnn\.detect_batch"):
            trace()


REVERSED = r"boxes must be x1 y1 x2 y2 \(half-open, in pixels\): box 1 is "


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[1, 1, 5, 5], [50, 10, 20, 40]],
            REVERSED + r"\[50.0, 10.0, 20.0, 40.0\], where x2 is less than x1; .* x y w h: ",
        ),
        ([[1, 1, 5, 5], [10, 50, 70, 49.5]], REVERSED + r"\[10.0, 50.0, 70.0, 49.5\], where y2 is less than y1$"),
        ([[1, 1, 5, 5], [50, 40, 0, 0]], REVERSED + r".* where x2 is less than x1$"),  # no width
        (np.array([[1, 1, 5, 5], [30, 10, 20, 40]], np.uint16), REVERSED + ".* x y w h: give x, y, x [+] w, y [+] h"),
    ],
)
def test_reversed_boxes_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, np.zeros((60, 80, 3), np.uint8), boxes)


def test_boxes_outside_the_image_are_dropped():
    detector, (image, boxes) = small_detector(), image_and_boxes()
    outside = np.float32([[80, 0, 90, 10], [-9, 4, 0, 9], [100, 100, 120, 130], [5, 60, 9, 70], [20, 20, 20, 40]])
    mixed = np.concatenate([boxes[:10], outside, boxes[10:]])
    for a, b in zip(*(jax.tree.leaves(detector.detect(image, b)) for b in (boxes, mixed)), strict=True):
        np.testing.assert_array_equal(a, b)
    run = functools.partial(detect, detector.model, detector.params, image, scale=48, max_size=96, score_threshold=0.0)
    assert len(run(outside).scores) == 0
    assert len(run(outside - [1, 0, 1, 0]).scores) > 0  # one of them reaches into the image by a pixel


def test_no_detection_is_empty():
    """Offsets that lead far out of the image: what is left there by clipping is a line."""
    logits, deltas, boxes, mask = outputs()
    deltas[::2, :, 0] += 60
    padded, found = select(logits, deltas, boxes, mask, score_threshold=0.0, per_class=150)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert (sides > 0).all()
    assert (padded.boxes[:, 2] == padded.boxes[:, 0]).sum() > 20
    deltas[::2, :, 0] = 0
    logits[::2] = [60, -60, -60]  # the others are what they would be alone
    _, alone = select(logits, deltas, boxes, mask, score_threshold=1e-30, per_class=150)
    np.testing.assert_array_equal(found.boxes, alone.boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 0}, "per_class must be a whole number of at least 1, not 0"),
        ({"per_class": -1}, "per_class must be a whole number of at least 1, not -1"),
        ({"per_class": 2.5}, "per_class must be a whole number of at least 1, not 2.5"),
        ({"score_threshold": float("nan")}, r"score_threshold must be in 0 \.\.\. 1, not nan"),
        ({"score_threshold": 1.5}, r"score_threshold must be in 0 \.\.\. 1, not 1.5"),
        ({"nms_iou": float("nan")}, r"nms_iou must be in 0 \.\.\. 1, not nan"),
        ({"nms_iou": -0.1}, r"nms_iou must be in 0 \.\.\. 1, not -0.1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    image, boxes = image_and_boxes()
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, image, boxes, **settings)
    with pytest.raises(ValueError, match=message):
        select(*outputs(), **settings)
    with pytest.raises(ValueError, match=message):
        detect_batch({}, None, make_batch(image, boxes), model=small_model(), **settings)


def test_defaults_are_the_papers_and_those_of_detect():
    default = lambda function: inspect.signature(function).parameters["score_threshold"].default  # noqa: E731
    assert (default(select_detections), default(detect), default(detect_batch)) == (0.0, 0.05, 0.05)
