"""VOC mean average precision: by hand, against a plain loop in exact fractions, invariances."""

import json
from fractions import Fraction

import numpy as np
import pytest

from frcnn_jax.evaluation.voc_map import average_precision, evaluate_voc, precision_recall
from frcnn_jax.types import Detections, GroundTruth
from tests.evaluation.records import A, B, C, detections, truth

NOWHERE = [100, 100, 110, 110]


def ap(dets, gts, **options):
    return evaluate_voc(dets, gts, **options)["ap"]["1"]


def test_hand_worked_curve_and_both_measures():
    # Right, wrong, right; 3 objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    dets = [detections((A, 0.9), (NOWHERE, 0.8), (B, 0.7))]
    gts = [truth((A,), (B,), (C,))]
    curve = precision_recall(dets, gts)["1"]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7], rtol=1e-6)
    # Recalls 0 ... 0.3 have precision 1, 0.4 ... 0.6 have 2/3, the rest 0.
    assert ap(dets, gts) == pytest.approx((4 + 3 * 2 / 3) / 11, abs=1e-12)
    assert ap(dets, gts, use_07_metric=False) == pytest.approx(1 / 3 + 2 / 9, abs=1e-12)


def test_result_is_plain_json_with_names():
    dets = {"x": detections((A, 0.9, 1), (NOWHERE, 0.9, 3)), "y": detections()}
    gts = {"y": truth((B, 2)), "x": truth((A, 1), (A, 1, True))}
    result = evaluate_voc(dets, gts, class_names=["cat", "dog", "emu"], use_07_metric=False, iou_threshold=0.4)
    assert json.loads(json.dumps(result, allow_nan=False)) == {
        "map": 0.5,
        "ap": {"cat": 1.0, "dog": 0.0, "emu": None},
        "objects": {"cat": 1, "dog": 1, "emu": 0},
        "detections": {"cat": 1, "dog": 0, "emu": 1},
        "images": 2,
        "metric": "voc10",
        "iou_threshold": 0.4,
    }
    assert evaluate_voc(dets, gts)["metric"] == "voc07"
    assert set(evaluate_voc(dets, gts)["ap"]) == {"1", "2", "3"}


def test_iou_at_the_threshold_counts_and_just_below_does_not():
    gts = [truth(([0, 0, 10, 10],))]
    assert ap([detections(([0, 0, 10, 5], 0.9))], gts) == 1.0
    assert ap([detections(([0, 0, 10, 4.999], 0.9))], gts) == 0.0
    assert ap([detections(([0, 0, 10, 7], 0.9))], gts, iou_threshold=0.7) == 1.0


def test_duplicate_is_false_even_if_another_object_would_do():
    near = [0, 0, 10, 8]  # overlaps both objects above 0.5 but the first one more
    gts = [truth((A,), ([0, 0, 10, 5],))]
    curve = precision_recall([detections((A, 0.9), (near, 0.8))], gts)["1"]
    assert curve.true_positives.tolist() == [1, 1]


def test_difficult_objects_are_neither_right_nor_wrong():
    gts = [truth((A, 1, True), (B, 1))]
    curve = precision_recall([detections((A, 0.9), (A, 0.8), (B, 0.7))], gts)["1"]
    assert (curve.true_positives.tolist(), curve.objects, curve.detections) == ([1], 1, 3)
    # A difficult object takes the detection also when an ordinary one overlaps it enough, as in the kit.
    gts = [truth((A, 1, True), ([0, 0, 10, 8], 1))]
    assert precision_recall([detections((A, 0.9))], gts)["1"].true_positives.tolist() == []
    # Of two equal overlaps the first object is chosen.
    assert precision_recall([detections((A, 0.9))], [truth((A, 1), (A, 1, True))])["1"].true_positives.tolist() == [1]
    assert precision_recall([detections((A, 0.9))], [truth((A, 1, True), (A, 1))])["1"].true_positives.tolist() == []


@pytest.mark.parametrize(
    ("tenths", "reached"), [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6), (7, 7), (8, 9), (9, 10), (10, 11)]
)
def test_recall_thresholds_are_those_of_the_public_evaluators(tenths, reached):
    # 3 / 10 < 3 * 0.1 in floating point, and so with 6 and 7.
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    dets = [detections(*[(box, 0.9) for box in boxes[:tenths]])]
    assert ap(dets, [truth(*[(box,) for box in boxes])]) == pytest.approx(reached / 11, abs=1e-12)


def test_ties_keep_the_order_given():
    gts = [truth((A,)), truth((A,))]
    right, wrong = detections((A, 0.5)), detections((NOWHERE, 0.5))
    assert precision_recall([right, wrong], gts)["1"].true_positives.tolist() == [1, 1]
    assert precision_recall([wrong, right], gts)["1"].true_positives.tolist() == [0, 1]
    by_id = {"b": wrong, "a": right}
    assert precision_recall(by_id, {"a": gts[0], "b": gts[1]})["1"].true_positives.tolist() == [0, 1]


def test_boxes_match_only_in_their_own_image_and_class():
    gts = {"a": truth((A, 1)), "b": truth((B, 2))}
    dets = {"a": detections((B, 0.9, 2), (A, 0.9, 2)), "b": detections((A, 0.9, 1), (B, 0.9, 1))}
    assert evaluate_voc(dets, gts)["map"] == 0.0


def inclusive_iou(a, b):
    """IoU as the kit writes it, of half-open boxes turned into 1-based inclusive corners."""
    a, b = ([int(box[0]) + 1, int(box[1]) + 1, int(box[2]), int(box[3])] for box in (a, b))
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    area_a, area_b = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return Fraction(width * height, area_a + area_b - width * height)


def in_a_crowd(box, gt, label, threshold):
    x1, y1, x2, y2 = map(int, box)
    for j in np.flatnonzero(gt.crowd & (gt.labels == label)):
        a, b, c, d = map(int, gt.boxes[j])
        common = max(min(x2, c) - max(x1, a), 0) * max(min(y2, d) - max(y1, b), 0)
        if Fraction(common, (x2 - x1) * (y2 - y1)) >= threshold:
            return True
    return False


def plain_ap(dets, gts, label, threshold, use_07):
    """One class, one detection after the other, in exact arithmetic but for the recalls that VOC 2007 asks for."""
    queue = []
    for image, one in enumerate(dets):
        for box, score, found_label, real in zip(one.boxes, one.scores, one.labels, one.mask, strict=True):
            if real and found_label == label:
                queue.append((float(score), len(queue), image, box))
    queue.sort(key=lambda entry: (-entry[0], entry[1]))
    total = sum(int(((gt.labels == label) & ~gt.difficult & ~gt.crowd).sum()) for gt in gts)
    if total == 0:
        return None
    used, right, wrong, points = set(), 0, 0, []
    for _, _, image, box in queue:
        gt, best, best_iou = gts[image], None, Fraction(0)
        for j in range(len(gt.labels)):
            iou = inclusive_iou(box, gt.boxes[j]) if gt.labels[j] == label and not gt.crowd[j] else Fraction(0)
            if iou > best_iou:
                best, best_iou = j, iou
        if best_iou < threshold or best is None or (image, best) in used:
            if in_a_crowd(box, gt, label, threshold):
                continue
            wrong += 1
        elif gt.difficult[best]:
            continue
        else:
            used.add((image, best))
            right += 1
        points.append((Fraction(right, total), Fraction(right, right + wrong)))
    if use_07:
        best_at = [max([p for r, p in points if float(r) >= k * 0.1], default=Fraction(0)) for k in range(11)]
        return sum(best_at) / 11
    area, previous = Fraction(0), Fraction(0)
    for i, (recall, _) in enumerate(points):
        area += (recall - previous) * max(p for _, p in points[i:])
        previous = recall
    return area


def random_boxes(rng, count):
    corner = rng.integers(0, 4, (count, 2)) * 2
    return np.concatenate([corner, corner + rng.integers(1, 5, (count, 2))], axis=1)


def random_case(rng, images=12, classes=4):
    """Coarse coordinates and scores, half of the detections near objects: ties, duplicates, difficult objects found
    and IoU at the threshold are common."""
    dets, gts = [], []
    for _ in range(images):
        objects, found = rng.integers(0, 6), rng.integers(0, 25)
        boxes, labels = random_boxes(rng, objects), rng.integers(1, classes, objects)  # the last class has none
        gts.append(GroundTruth(boxes=boxes.astype(np.float32), labels=labels, difficult=rng.random(objects) < 0.25))
        guesses, guessed = random_boxes(rng, found), rng.integers(1, classes + 1, found)
        if objects:
            aimed, at = rng.random(found) < 0.5, rng.integers(0, objects, found)
            moved = boxes[at] + rng.choice([0, 0, 0, 1], (found, 4)) * [-1, -1, 1, 1]
            guesses, guessed = np.where(aimed[:, None], moved, guesses), np.where(aimed, labels[at], guessed)
        dets.append(
            Detections(
                boxes=guesses.astype(np.float32),
                scores=(rng.integers(0, 8, found) / 8).astype(np.float32),
                labels=guessed,
                mask=rng.random(found) < 0.8,
            )
        )
    return dets, gts


def test_the_random_cases_hold_what_makes_the_measure_hard():
    ties = duplicates = ignored = at_threshold = 0
    for seed in range(15):
        dets, gts = random_case(np.random.default_rng(seed))
        assert not any((gt.labels == 4).any() for gt in gts)
        assert any((d.labels[d.mask] == 4).any() for d in dets)
        for d, gt in zip(dets, gts, strict=True):
            boxes, scores, labels = d.boxes[d.mask], d.scores[d.mask], d.labels[d.mask]
            ties += len(scores) - len({*zip(labels, scores, strict=True)})
            for j, box in enumerate(gt.boxes):
                overlaps = [inclusive_iou(b, box) for b, k in zip(boxes, labels, strict=True) if k == gt.labels[j]]
                enough = sum(iou >= Fraction(1, 2) for iou in overlaps)
                duplicates += max(enough - 1, 0)
                ignored += enough * bool(gt.difficult[j])
                at_threshold += overlaps.count(Fraction(1, 2))
    assert min(ties, duplicates, ignored, at_threshold) > 20


@pytest.mark.parametrize("use_07", [True, False])
@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(1, 4), Fraction(1)])
def test_equals_a_plain_loop(threshold, use_07):
    for seed in range(15):
        dets, gts = random_case(np.random.default_rng(seed))
        result = evaluate_voc(
            dets, gts, use_07_metric=use_07, iou_threshold=float(threshold), class_names=["a", "b", "c", "d"]
        )
        expected = [plain_ap(dets, gts, label, threshold, use_07) for label in (1, 2, 3, 4)]
        assert list(result["ap"].values()) == pytest.approx([e if e is None else float(e) for e in expected], abs=1e-9)
        assert expected[3] is None
        measured = [float(e) for e in expected if e is not None]
        assert result["map"] == pytest.approx(sum(measured) / len(measured), abs=1e-9)


def test_invariances():
    rng = np.random.default_rng(7)
    dets, gts = random_case(rng)
    dets = [d.replace(scores=rng.permutation(len(d.scores)) / 64 + i / 1024) for i, d in enumerate(dets)]  # no ties
    expected = evaluate_voc(dets, gts)
    order = rng.permutation(len(dets))
    assert evaluate_voc([dets[i] for i in order], [gts[i] for i in order]) == expected
    ids = [f"im{i}" for i in range(len(dets))]
    by_id = dict(reversed(list(zip(ids, gts, strict=True))))
    assert evaluate_voc(dict(zip(ids, dets, strict=True)), by_id) == expected
    assert evaluate_voc([d.replace(scores=d.scores**3 / 2) for d in dets], gts) == expected
    moved = [GroundTruth(boxes=g.boxes * 4 + 32, labels=g.labels, difficult=g.difficult) for g in gts]
    assert evaluate_voc([d.replace(boxes=d.boxes * 4 + 32) for d in dets], moved) == expected
    for d in dets:
        d.boxes[~d.mask] = np.nan  # padding is never read
        d.scores[~d.mask] = np.nan
        d.labels[~d.mask] = -1
    assert evaluate_voc(dets, gts) == expected
    assert evaluate_voc([*dets, detections()], [*gts, truth()]) == {**expected, "images": len(dets) + 1}


def test_empty_cases():
    assert evaluate_voc([], [])["map"] is None
    assert evaluate_voc([], [], class_names=["a"])["ap"] == {"a": None}
    assert ap([detections()], [truth((A,))]) == 0.0
    assert ap([detections()], [truth((A,))], use_07_metric=False) == 0.0
    only_difficult = evaluate_voc([detections((A, 0.9))], [truth((A, 1, True))])
    assert (only_difficult["map"], only_difficult["ap"], only_difficult["detections"]) == (None, {"1": None}, {"1": 1})
    flat = [3, 3, 3, 9]
    assert ap([detections((flat, 0.9))], [truth((flat,))]) == 0.0
    unmeasured = precision_recall([detections((A, 0.9))], [truth()])["1"]
    assert average_precision(unmeasured) is None
    assert unmeasured.recall.tolist() == [0.0]
