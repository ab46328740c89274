"""Kinds of errors: each by a hand-worked case, and their sum against a test set that is repaired."""

import dataclasses
import itertools

import numpy as np
import pytest

from frcnn_jax.evaluation.analysis.error_kinds import error_kinds
from frcnn_jax.evaluation.analysis.matches import HIT, IGNORED, KINDS, match_dataset
from frcnn_jax.evaluation.voc_map import average_precision, evaluate_voc, precision_recall
from frcnn_jax.types import GroundTruth
from tests.evaluation.records import A, B, C, detections, truth

NEAR_A = [0, 0, 10, 6]  # IoU 0.6 with A
BESIDE_A = [0, 0, 10, 2]  # IoU 0.2
CORNER_A = [0, 0, 2, 2]  # IoU 0.04
NAMES = ("one", "two")


def kinds(found, objects, **settings):
    """Names of the kinds of an image's detections."""
    matches = match_dataset([detections(*found)], [truth(*objects)], **settings)
    return [{HIT: "hit", IGNORED: "ignored"}.get(kind) or KINDS[kind] for kind in matches.kinds.tolist()]


@pytest.mark.parametrize(
    ("found", "objects", "expected"),
    [
        ([(A, 0.9)], [(A,)], ["hit"]),
        ([(A, 0.8), (NEAR_A, 0.9)], [(A,)], ["duplicate", "hit"]),
        ([(NEAR_A, 0.9), (A, 0.9)], [(A,)], ["hit", "duplicate"]),  # equal scores keep their order
        ([(A, 0.9, 2)], [(A,)], ["class"]),
        ([(BESIDE_A, 0.9)], [(A,)], ["localization"]),
        ([(BESIDE_A, 0.9, 2)], [(A,)], ["both"]),
        ([(CORNER_A, 0.9), (CORNER_A, 0.9, 2), (B, 0.9)], [(A,)], ["background"] * 3),
        ([(A, 0.9)], [], ["background"]),
        ([(A, 0.9)], [(A, 1, True)], ["ignored"]),
        ([(A, 0.9, 2)], [(A, 1, True)], ["class"]),
        ([(BESIDE_A, 0.9)], [(A, 1, True)], ["localization"]),
        # Several kinds fit: the first in the order of the module.
        ([(A, 0.9), (A, 0.8)], [(A,), (A, 2)], ["hit", "duplicate"]),
        ([(NEAR_A, 0.9)], [(BESIDE_A,), (A, 2)], ["localization"]),
    ],
)
def test_kind_of_a_detection(found, objects, expected):
    assert kinds(found, objects) == expected


def test_the_bounds_of_the_kinds():
    at = [0, 0, 10, 1]  # IoU 0.1
    assert kinds([(at, 0.9), (at, 0.9, 2)], [(A,)]) == ["localization", "both"]
    assert kinds([([0, 0, 10, 5], 0.9), ([0, 0, 10, 5], 0.9, 2)], [(A,)]) == ["hit", "class"]
    assert kinds([([0, 0, 10, 5], 0.9)], [(A,)], iou_threshold=0.6) == ["localization"]


def test_crowds_are_matched_by_no_kind():
    crowd = GroundTruth(
        boxes=np.array([A, B], np.float32),
        labels=np.array([1, 2]),
        difficult=np.zeros(2, bool),
        crowd=np.ones(2, bool),
    )
    matches = match_dataset([detections((A, 0.9), (B, 0.8), (BESIDE_A, 0.7))], [crowd])
    assert matches.kinds.tolist() == [IGNORED, KINDS.index("background"), IGNORED]
    assert not matches.missed.any()


def test_masked_detections_are_no_errors():
    matches = match_dataset([detections((A, 0.9), (C, 0.8), mask=[True, False])], [truth((A,))])
    assert matches.kinds.tolist() == [HIT]


def measured(found, objects, **settings):
    """The errors of a single image of the classes one and two, as VOC 2010 measures."""
    matches = match_dataset([detections(*found)], [truth(*objects)])
    result = error_kinds(matches, NAMES, use_07_metric=False, **settings)
    return {name: its for name, its in result["kinds"].items() if its["count"]}, result["classes"]


@pytest.mark.parametrize(
    ("found", "objects", "kind"),
    [
        # Precision 1/2 at the only hit.
        ([(B, 0.9), (A, 0.8)], [(A,)], "background"),
        ([(BESIDE_A, 0.9, 1), (B, 0.8)], [(B,), (A, 1, True)], "localization"),
        ([(A, 0.9, 1), (B, 0.8)], [(B,), (A, 2, True)], "class"),
        ([(BESIDE_A, 0.9, 1), (B, 0.8)], [(B,), (A, 2, True)], "both"),
    ],
)
def test_one_error_before_the_hit_loses_half(found, objects, kind):
    kinds, classes = measured(found, objects)
    assert kinds == {kind: {"count": 1, "lost": pytest.approx(0.5), "alone": pytest.approx(0.5)}}
    assert classes["one"][kind] == pytest.approx(0.5)


def test_a_duplicate():
    """Hits A (1/1), a duplicate, hits B (2/3): AP (1 + 2/3) / 2 = 5/6."""
    kinds, _ = measured([(A, 0.9), (NEAR_A, 0.8), (B, 0.7)], [(A,), (B,)])
    assert kinds == {"duplicate": {"count": 1, "lost": pytest.approx(1 / 6), "alone": pytest.approx(1 / 6)}}


def test_a_missed_object():
    """One of four is missed: AP 3/4."""
    kinds, _ = measured([(A, 0.9), (B, 0.8), (C, 0.7)], [(A,), (B,), (C,), ([60, 0, 70, 10],)])
    assert kinds == {"missed": {"count": 1, "lost": pytest.approx(0.25), "alone": pytest.approx(0.25)}}


def test_all_objects_missed():
    assert measured([], [(A,)])[0] == {"missed": {"count": 1, "lost": pytest.approx(1), "alone": pytest.approx(1)}}


@pytest.mark.parametrize(("box", "label", "kind"), [(BESIDE_A, 1, "localization"), (A, 2, "class")])
def test_an_error_about_an_object_that_nothing_finds(box, label, kind):
    """Repaired it is the hit; the object is not missed, so that one error is counted once. Class two has an object at
    C, found at the lowest score: the class error before it halves its AP."""
    kinds, classes = measured([(box, 0.9, label), (C, 0.5, 2)], [(A,), (C, 2)])
    assert list(kinds) == [kind]
    assert classes["one"][kind] == pytest.approx(1)
    assert classes["two"][kind] == pytest.approx(0.5 if label == 2 else 0)


def test_two_kinds_share_what_only_both_repair():
    """Background, then a duplicate, then the second hit: precisions 1 and 2/4, AP 3/4. Without either one 2/3, AP 5/6,
    without both 1: each gains 1/12 first and 1/6 second, 1/8 in the mean."""
    kinds, _ = measured([(A, 0.9), (C, 0.8), (NEAR_A, 0.7), (B, 0.6)], [(A,), (B,)])
    expected = {"count": 1, "lost": pytest.approx(1 / 8), "alone": pytest.approx(1 / 12)}
    assert kinds == {"duplicate": expected, "background": expected}


def test_of_two_repaired_to_one_object_the_better_stays():
    """Class and localization are about A; the rest of what they cost is shared. AP of class one is 0; either repair
    makes it 1 where the other error is dropped with it, else the wrong box at 0.9 halves it."""
    kinds, classes = measured([(BESIDE_A, 0.9, 1), (A, 0.8, 2)], [(A,)])
    # Localization first: the hit at 0.9, AP 1; then the class gains 0. Class first: hit at 0.8 behind the wrong box,
    # AP 1/2; then localization gains 1/2.
    assert classes["one"]["localization"] == pytest.approx((1 + 0.5) / 2)
    assert classes["one"]["class"] == pytest.approx((0 + 0.5) / 2)
    assert kinds["class"]["alone"] == pytest.approx(0.5)
    assert kinds["localization"]["alone"] == pytest.approx(1)


def random_case(seed):
    random = np.random.default_rng(seed)
    found, objects = [], []
    for _ in range(4):
        corners = random.integers(0, 40, (6, 2))
        rows = np.concatenate([corners, corners + random.integers(5, 20, (6, 2))], axis=1).tolist()
        objects.append(truth(*((row, int(random.integers(1, 4)), bool(random.random() < 0.2)) for row in rows)))
        objects[-1] = truth(
            *zip(objects[-1].boxes, objects[-1].labels, objects[-1].difficult, strict=True), ([200, 0, 210, 10], 3)
        )
        moved = [np.sort(np.reshape(row, (2, 2)) + random.integers(-3, 4, (2, 2)), axis=0).ravel() for row in rows * 3]
        moved.append([300, 0, 310, 10])
        scores = random.integers(1, 8, len(moved)) / 8  # with ties
        found.append(detections(*((b, s, int(random.integers(1, 4))) for b, s in zip(moved, scores, strict=True))))
    return found, objects


def repaired(found, objects, matches, fixed):
    """The test set with the kinds `fixed` repaired, built record by record."""
    kind = [KINDS[k] if k >= 0 else None for k in matches.kinds]
    best = {}
    for i in np.argsort(-matches.scores, kind="stable"):
        if kind[i] in fixed and kind[i] in ("class", "localization"):
            aim = matches.aims[i]
            if matches.counted[aim] and matches.found_by[aim] < 0:
                best.setdefault(aim, i)
    rows, left, at = [[] for _ in found], [], 0
    for i in range(len(kind)):
        keep = (matches.boxes[i], matches.scores[i], matches.labels[i])
        if kind[i] in fixed:
            aim = matches.aims[i]
            if best.get(aim) != i:
                continue
            keep = (matches.object_boxes[aim], matches.scores[i], matches.object_labels[aim])
        rows[matches.image[i]].append(keep)
    for one in objects:
        drop = matches.missed[at : at + len(one.labels)] & ("missed" in fixed)
        at += len(one.labels)
        left.append(dataclasses.replace(one, difficult=one.difficult | drop))
    return [detections(*row) for row in rows], left


@pytest.mark.parametrize("use_07_metric", [True, False])
def test_the_sum_is_what_repairing_all_gives(use_07_metric):
    names = ("a", "b", "c")
    for seed in range(3):
        found, objects = random_case(seed)
        matches = match_dataset(found, objects)
        measures = error_kinds(matches, names, use_07_metric=use_07_metric)
        settings = {"use_07_metric": use_07_metric, "class_names": names}
        before = evaluate_voc(found, objects, **settings)
        after = evaluate_voc(*repaired(found, objects, matches, set(KINDS)), **settings)
        assert all(its["count"] for its in measures["kinds"].values())
        lost = sum(its["lost"] for its in measures["kinds"].values())
        assert after["map"] == 1
        assert lost == pytest.approx(after["map"] - before["map"], abs=1e-12)
        for name, its in measures["classes"].items():
            assert sum(its.values()) == pytest.approx(1 - before["ap"][name], abs=1e-12)
            assert min(its.values()) >= -1e-12


def test_each_repair_against_a_test_set_that_is_repaired():
    """`alone` and `lost` from evaluations of 64 test sets, where no found object is taken by another detection."""
    names = ("a", "b", "c")
    found, objects = random_case(5)
    matches = match_dataset(found, objects)
    measures = error_kinds(matches, names, use_07_metric=False)
    ap = {}
    for count in range(len(KINDS) + 1):
        for fixed in itertools.combinations(KINDS, count):
            curves = precision_recall(*repaired(found, objects, matches, set(fixed)), class_names=names)
            values = [average_precision(curve, use_07_metric=False) for curve in curves.values()]
            ap[frozenset(fixed)] = np.mean([1.0 if value is None else value for value in values])
    orders = list(itertools.permutations(KINDS))
    for kind in KINDS:
        gains = [ap[frozenset(o[: o.index(kind) + 1])] - ap[frozenset(o[: o.index(kind)])] for o in orders]
        assert measures["kinds"][kind]["lost"] == pytest.approx(np.mean(gains), abs=1e-9)
        alone = ap[frozenset((kind,))] - ap[frozenset()]
        assert measures["kinds"][kind]["alone"] == pytest.approx(alone, abs=1e-9)


def test_hits_and_ignored_are_those_of_the_curve():
    for seed in range(3):
        found, objects = random_case(seed)
        matches = match_dataset(found, objects)
        for label, curve in enumerate(precision_recall(found, objects, class_names=("a", "b", "c")).values(), start=1):
            its = matches.kinds[matches.labels == label]
            assert np.count_nonzero(its == HIT) == curve.true_positives[-1]
            assert np.count_nonzero(its != IGNORED) == len(curve.scores)


def test_without_objects_nothing_is_measured():
    result = error_kinds(match_dataset([detections((A, 0.9))], [truth()]), ("one",))
    assert result["kinds"]["background"] == {"count": 1, "lost": None, "alone": None}
    assert result["classes"] == {}
    assert error_kinds(match_dataset([], []), ("one",))["kinds"]["missed"]["count"] == 0
