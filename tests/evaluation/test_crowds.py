"""Crowds in evaluation, by COCO's rule: by hand, then against the plain loop."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from frcnn_jax.evaluation.voc_map import evaluate_voc, precision_recall
from tests.evaluation.records import A, B, detections, truth
from tests.evaluation.test_voc_map import plain_ap, random_case

CROWD = [20, 0, 60, 40]


def crowded(*rows):
    """From rows (box, label, crowd)."""
    plain = truth(*[row[:2] for row in rows])
    return dataclasses.replace(plain, crowd=np.array([row[2] for row in rows], bool))


def measure(dets, gts, **options):
    result = evaluate_voc([dets], [gts], **options)
    curve = precision_recall([dets], [gts])["1"]
    return result["ap"]["1"], result["objects"]["1"], len(curve.scores)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong():
    gts = crowded((A, 1, False), (CROWD, 1, True))
    assert measure(detections((A, 0.5)), gts) == (1, 1, 1), "a crowd is no object to find"
    inside, half, less = [30, 10, 40, 20], [15, 0, 25, 10], [14, 0, 24, 10]  # all, half and 0.4 of them on the crowd
    assert measure(detections((inside, 0.9), (inside, 0.8), (half, 0.7), (A, 0.5)), gts) == (1, 1, 1), "any number"
    assert measure(detections((less, 0.9), (A, 0.5)), gts) == (0.5, 1, 2)
    assert measure(detections((CROWD, 0.9), (A, 0.5)), gts) == (1, 1, 1), "its own box does not find it either"
    large = [0, 0, 60, 80]  # holds the crowd, which is a third of it
    assert measure(detections((large, 0.9), (A, 0.5)), gts) == (0.5, 1, 2)


def test_an_object_comes_before_a_crowd_around_it():
    gts = crowded((CROWD, 1, True), (B, 1, False))
    assert measure(detections((B, 0.5)), gts) == (1, 1, 1)
    assert measure(detections((B, 0.9), (B, 0.8)), gts) == (1, 1, 1), "a duplicate is one more detection in the crowd"


def test_a_crowd_is_of_one_class():
    gts = crowded((A, 1, False), (CROWD, 2, True))
    assert measure(detections(([30, 10, 40, 20], 0.9), (A, 0.5)), gts) == (0.5, 1, 2)
    result = evaluate_voc([detections()], [gts])
    assert (result["objects"], result["ap"]) == ({"1": 1, "2": 0}, {"1": 0, "2": None})


def test_a_crowd_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"image 0: ground truth.crowd: shape \(2,\), expected \(1,\)"):
        evaluate_voc([detections()], [dataclasses.replace(truth((A,)), crowd=np.zeros(2, bool))])


@pytest.mark.parametrize("use_07", [True, False])
@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(1, 4)])
def test_equals_a_plain_loop(threshold, use_07):
    changed = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        dets, gts = random_case(rng)
        without = gts
        gts = [dataclasses.replace(gt, crowd=rng.random(len(gt.labels)) < 0.3) for gt in gts]
        result = evaluate_voc(dets, gts, use_07_metric=use_07, iou_threshold=float(threshold), class_names=list("abcd"))
        expected = [plain_ap(dets, gts, label, threshold, use_07) for label in (1, 2, 3, 4)]
        assert list(result["ap"].values()) == pytest.approx([e if e is None else float(e) for e in expected], abs=1e-9)
        changed += expected != [plain_ap(dets, without, label, threshold, use_07) for label in (1, 2, 3, 4)]
    assert changed > 10
