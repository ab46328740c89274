"""COCO's measures: the input of pycocotools, checked by hand-worked figures."""

import importlib.util

import numpy as np
import pytest

from frcnn_jax.evaluation.coco import check_pycocotools, evaluate_coco, format_coco
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.types import GroundTruth
from tests.evaluation.records import detections, truth

needs_pycocotools = pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools")
SMALL, MEDIUM, LARGE = [0, 0, 20, 20], [0, 0, 50, 50], [0, 0, 100, 100]  # areas 400, 2500 and 10000


def measure(rows, objects, names=("cat", "dog")):
    """Measures of one image."""
    return evaluate_coco({"a": detections(*rows)}, {"a": objects}, class_names=names)


@needs_pycocotools
def test_a_perfect_detection_of_each_size(capsys):
    found = measure([(SMALL, 0.5, 1), (MEDIUM, 0.5, 2)], truth((SMALL, 1), (MEDIUM, 2)))
    assert [found[name] for name in ("AP", "AP50", "AP75", "AR_1", "AR_100")] == pytest.approx([1, 1, 1, 1, 1])
    assert (found["AP_small"], found["AP_medium"]) == pytest.approx((1, 1))
    assert (found["AP_large"], found["AR_large"]) == (None, None)
    assert found["ap"] == pytest.approx({"cat": 1, "dog": 1})
    large = measure([(LARGE, 0.5, 1)], truth((LARGE, 1)))
    assert (large["AP_small"], large["AP_large"]) == (None, pytest.approx(1))
    assert large["ap"] == {"cat": pytest.approx(1), "dog": None}
    assert capsys.readouterr().out == ""  # pycocotools prints


@needs_pycocotools
def test_images_by_id_or_in_order():
    images = [([(SMALL, 0.5, 1)], truth((SMALL, 1))), ([(LARGE, 0.9, 2), (SMALL, 0.8, 1)], truth((LARGE, 2)))]
    found, truths = zip(*((detections(*rows), objects) for rows, objects in images), strict=True)
    in_order = evaluate_coco(found, truths, class_names=["cat", "dog"])
    by_id = evaluate_coco(
        dict(zip("ab", found, strict=True)), dict(zip("ab", truths, strict=True)), class_names=["cat", "dog"]
    )
    assert in_order == by_id
    assert in_order["AP"] is not None


@needs_pycocotools
@pytest.mark.parametrize(("width", "passed"), [(9.9, 0), (10, 1), (15, 6), (17, 8), (19.1, 10)])
def test_corners_become_width_and_height(width, passed):
    """A part of a box 20 wide, at the place (5, 7): wrong corners, or a width of x2 - x1 + 1, pass other thresholds."""
    box, part = [5, 7, 25, 17], [5, 7, 5 + width, 17]
    found = measure([(part, 0.5, 1)], truth((box, 1)))
    assert found["AP"] == pytest.approx(passed / 10)
    assert found["AP50"] == pytest.approx(float(passed > 0))
    assert found["AP75"] == pytest.approx(float(passed > 5))


@needs_pycocotools
def test_recall_by_the_number_of_detections():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)]
    found = measure([(box, 0.9 - 0.1 * i, 1) for i, box in enumerate(boxes)], truth(*((box, 1) for box in boxes)))
    assert (found["AR_1"], found["AR_10"]) == pytest.approx((0.25, 1))
    wrong = measure([([500, 0, 510, 10], 0.9, 1), (boxes[0], 0.8, 1)], truth((boxes[0], 1)))
    assert (wrong["AP"], wrong["AR_1"], wrong["AR_10"]) == pytest.approx((0.5, 0, 1))


@needs_pycocotools
def test_the_first_object_found_counts():
    """pycocotools ignores an annotation with number 0."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(3)]
    dets = {f"{i}": detections((box, 0.5, 1)) for i, box in enumerate(boxes)}
    objects = {f"{i}": truth((box, 1)) for i, box in enumerate(boxes)}
    assert evaluate_coco(dets, objects, class_names=["cat"])["AP"] == pytest.approx(1)


@needs_pycocotools
def test_a_duplicate_is_wrong_of_the_first_detection_too():
    """Detections count from 1: pycocotools takes number 0 for no detection, so its object could be found again."""
    a, b = [0, 0, 10, 10], [40, 0, 50, 10]
    found = measure([(a, 0.9, 1), (a, 0.8, 1), (b, 0.7, 1)], truth((a, 1), (b, 1)))
    assert found["AP"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)  # of 101 recalls, those up to a half


@needs_pycocotools
@pytest.mark.parametrize("mark", ["difficult", "crowd"])
def test_what_is_difficult_or_a_crowd_is_neither_right_nor_wrong(mark):
    marked = GroundTruth(
        boxes=np.float32([LARGE, [200, 0, 220, 20]]),
        labels=np.array([1, 1]),
        difficult=np.array([mark == "difficult", False]),
        crowd=np.array([mark == "crowd", False]),
    )
    inside = [(LARGE, 0.9, 1), ([0, 0, 90, 90], 0.8, 1), ([10, 10, 40, 40], 0.7, 1)]
    found = measure([*inside, ([200, 0, 220, 20], 0.6, 1)], marked)
    assert (found["AP"], found["AR_100"], found["AP_large"]) == (pytest.approx(1), pytest.approx(1), None)
    # Of another class they are wrong, and half of it must be inside.
    other = measure([(LARGE, 0.9, 1), ([0, 0, 201, 100], 0.8, 1), ([200, 0, 220, 20], 0.6, 1)], marked)
    assert other["AP50"] == pytest.approx(0.5)


@needs_pycocotools
def test_without_detections_and_without_objects():
    nothing = {"a": detections(), "b": detections()}
    found = evaluate_coco(nothing, {"a": truth((SMALL, 1)), "b": truth()}, class_names=["cat", "dog"])
    assert (found["AP"], found["AR_100"]) == (0, 0)
    assert found["ap"] == {"cat": 0, "dog": None}
    empty = evaluate_coco(nothing, {"a": truth(), "b": truth()}, class_names=["cat"])
    assert all(value is None for name, value in empty.items() if name not in ("ap", "ap50"))
    assert format_coco(empty)[1] == "  AP -  AP50 -  AP75 -"


@needs_pycocotools
def test_as_voc_measures_without_marks():
    """AP at IoU .50 beside VOC's area under the curve, which takes all recalls and not 101 of them."""
    random = np.random.default_rng(0)
    dets, gts = {}, {}
    for i in range(60):
        low = random.uniform(0, 400, (5, 2))
        boxes = np.concatenate([low, low + random.uniform(20, 90, (5, 2))], axis=1).astype(np.float32)
        gts[f"{i}x"] = GroundTruth(boxes=boxes, labels=random.integers(1, 3, 5), difficult=np.zeros(5, bool))
        around = np.tile(boxes, (4, 1)) + random.uniform(-12, 12, (20, 4))
        dets[f"{i}x"] = detections(*zip(around, random.random(20), random.integers(1, 3, 20), strict=True))
    ours = evaluate_voc(dets, gts, use_07_metric=False, class_names=["a", "b"])
    found = evaluate_coco(dets, gts, class_names=["a", "b"])
    assert found["ap50"] == pytest.approx(ours["ap"], abs=0.01)
    assert 0.05 < found["AP"] < found["AP50"] < 0.9
    assert found["AP"] == pytest.approx(np.mean(list(found["ap"].values())))
    lines = format_coco(found)
    assert lines[0] == "COCO's measures"
    assert f"AP50 {found['AP50']:.4f}" in lines[1]
    assert len(lines) == 5


def test_without_pycocotools_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"evaluate\.coco\) need pycocotools: pip install pycocotools$"):
        check_pycocotools()


@needs_pycocotools
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="detections: no entry, not even an empty one, for 1 image, as 'b'"):
        evaluate_coco({"a": detections()}, {"a": truth(), "b": truth()}, class_names=["cat"])
    with pytest.raises(ValueError, match=r"'a': ground truth\.labels: 2 is outside 1 \.\.\. 1"):
        evaluate_coco({"a": detections()}, {"a": truth((SMALL, 2))}, class_names=["cat"])
    with pytest.raises(ValueError, match=r"labels: 2 is outside 1 \.\.\. 1"):
        evaluate_coco({"a": detections((SMALL, 0.5, 2))}, {"a": truth()}, class_names=["cat"])
    with pytest.raises(ValueError, match=r"class_names: 'a' occurs twice in \['a', 'b', 'a'\]"):
        evaluate_coco([detections((SMALL, 0.5))], [truth((SMALL,))], class_names=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"class_names: 'cat' is one text, expected a sequence of names such as"):
        evaluate_coco([detections((SMALL, 0.5))], [truth((SMALL,))], class_names="cat")


@needs_pycocotools
def test_images_with_numbers_too_large_for_pycocotools():
    ids = ["9007199254740993", "9223372036854775809"]
    found, objects = (dict.fromkeys(ids, record) for record in (detections((SMALL, 0.5)), truth((SMALL,))))
    assert evaluate_coco(found, objects, class_names=["cat"])["AP"] == pytest.approx(1)
