"""From scores and offsets to detections, against a plain loop and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.detect import trim
from frcnn_jax.detection.second_pass import moved_boxes
from frcnn_jax.detection.selection import select_detections
from frcnn_jax.types import BoxStatistics

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


def plain_detections(logits, deltas, rois, mask, statistics, nms_iou, threshold, per_class, voting):
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
        for score, box in kept:
            votes = [c for c in candidates if voting is not None and iou(box, c[1]) >= voting]
            mean = sum(weight * other for weight, other in votes) / sum(weight for weight, _ in votes) if votes else box
            found.append((k, score, mean))
    return found


def select(logits, deltas, rois, mask, statistics=STATISTICS, **settings):
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, deltas, rois))
    found = jax.jit(functools.partial(select_detections, **settings))(
        *arrays, jnp.asarray(mask), jnp.array(SIZE), statistics
    )
    return found, trim(found)


@pytest.mark.parametrize(
    ("nms_iou", "threshold", "per_class", "voting"),
    [(0.3, 0.05, 100, None), (0.7, 0.3, 100, None), (0.5, 0.0, 7, None), (0.3, 0.3, 100, 0.5), (0.7, 0.05, 60, 0.2)],
)
def test_equals_a_plain_loop(nms_iou, threshold, per_class, voting):
    case = outputs()
    expected = plain_detections(*case, STATISTICS, nms_iou, threshold, per_class, voting)
    settings = {"nms_iou": nms_iou, "score_threshold": threshold, "per_class": per_class, "box_voting": voting}
    padded, found = select(*case, **settings)
    assert len(padded.scores) == 2 * per_class
    assert len(found.scores) == len(expected)
    assert len(expected) > 5
    assert (np.diff(found.scores) <= 0).all()
    assert found.mask.all()
    for (label, score, box), i in zip(sorted(expected, key=lambda e: -e[1]), range(len(expected)), strict=True):
        assert found.labels[i] == label
        np.testing.assert_allclose(found.scores[i], score, rtol=1e-4)
        np.testing.assert_allclose(found.boxes[i], box, rtol=1e-4, atol=1e-3)


def test_voting_stays_inside_the_image_and_apart_from_what_is_not_a_number():
    logits, deltas, rois, mask = outputs()
    limits = np.float32([1237, 943])
    rois[:, 2:] = limits  # all end at the border, where a mean in float32 can come out larger
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, deltas, rois))
    size = jnp.asarray(limits[::-1], jnp.int32)
    settings = {"nms_iou": 1.0, "box_voting": 0.3, "box_regression": False}
    found = trim(select_detections(*arrays, jnp.asarray(mask), size, STATISTICS, **settings))
    assert (found.boxes[:, 2:] <= limits).all()
    np.testing.assert_allclose(found.boxes[:, 2:], [limits] * len(found.boxes), rtol=1e-6)
    logits, deltas, rois, mask = outputs()
    _, before = select(logits, deltas, rois, mask & (np.arange(len(mask)) != 7), box_voting=0.5, per_class=150)
    deltas[7], mask[7] = np.nan, True
    _, after = select(logits, deltas, rois, mask, box_voting=0.5, per_class=150)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_rois_that_are_nan_take_no_places():
    logits, deltas, rois, mask = outputs()
    _, without = select(logits, deltas, rois, mask & (np.arange(len(mask)) > 19), per_class=10)
    logits[:20] = np.nan
    _, found = select(logits, deltas, rois, mask, per_class=10)
    assert len(found.boxes) > 2
    jax.tree.map(np.testing.assert_array_equal, found, without)


def test_numpy_arrays_that_a_jitted_function_encloses():
    logits, deltas, rois, mask = (np.asarray(x, np.float32) for x in outputs())
    statistics = jax.tree.map(np.asarray, STATISTICS)
    size = jnp.array(SIZE)
    given = select_detections(logits, deltas, rois, mask, size, statistics, box_voting=0.5)
    enclosed = jax.jit(lambda x: select_detections(x, deltas, rois, mask, size, statistics, box_voting=0.5))(logits)
    assert given.mask.sum() == enclosed.mask.sum() > 2
    jax.jit(lambda x: moved_boxes(x, deltas, rois, mask, size, statistics, count=8))(logits)


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
