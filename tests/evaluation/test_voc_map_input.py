"""Records that `evaluate_voc` takes, of any numeric type, and those that it refuses by name."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.evaluation.drawing import draw_detections
from frcnn_jax.evaluation.outputs.libraries import detections_table
from frcnn_jax.evaluation.valid_records import valid_detections
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.types import Detections, GroundTruth
from tests.evaluation.records import A, B, detections, truth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, jnp.bfloat16])
def test_integers_and_half_precision_are_measured_as_float64(dtype):
    """Areas wrap in 8 and 16 bits and are infinite in float16; all coordinates are exact in each type."""
    side = 200 if dtype == np.uint8 else 320
    object_, near, far = [0, 0, side, side], [0, side // 4, side, side], [0, side // 2 + 8, side, side]
    found = detections((near, 0.5), (far, 0.25), (object_, 0.125))
    found = found.replace(boxes=found.boxes.astype(dtype))
    if np.dtype(dtype).kind not in "iu":
        found = found.replace(scores=found.scores.astype(dtype))
    gt = truth((object_,), (far,))
    result = evaluate_voc([found], [dataclasses.replace(gt, boxes=gt.boxes.astype(dtype))], use_07_metric=False)
    assert result["ap"] == {"1": 1.0}  # the first finds the first object, the second the second
    boxes, scores, _ = valid_detections(found, "image")
    assert boxes.dtype == scores.dtype == np.float64
    np.testing.assert_array_equal(boxes, [near, far, object_])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.array([0.5, np.nan])}, r"image 'x': detections.scores: nan is not finite"),
        ({"scores": np.zeros(3)}, r"detections.scores: shape \(3,\), expected \(2,\)"),
        ({"boxes": np.zeros((2, 5))}, r"detections.boxes: shape \(2, 5\), expected \(2, 4\)"),
        ({"boxes": np.array([A, [5, 0, 4, 9]], float)}, r"boxes: \[5.0, 0.0, 4.0, 9.0\] is reversed"),
        ({"boxes": np.array([A, [5, 0, np.inf, 9]])}, r"boxes: \[5.0, 0.0, inf, 9.0\] is .* not finite"),
        ({"labels": np.array([1, 0])}, r"detections.labels: 0 is outside 1 ... 2"),
        ({"labels": np.array([1, 3])}, r"detections.labels: 3 is outside 1 ... 2"),
        ({"labels": np.array([1.0, 2.0])}, r"detections.labels: wrong dtype float64, expected integers$"),
        ({"mask": np.array([1, 0])}, r"detections.mask: wrong dtype int64, expected bools$"),
        ({"mask": np.array(True)}, r"detections.mask: shape \(\)"),
        ({"labels": []}, r"detections.labels: shape \(0,\), expected \(2,\)"),
    ],
)
def test_malformed_detections_are_named(changes, message):
    good = detections((A, 0.9), (B, 0.8))
    gts = {"x": truth((A,))}
    evaluate_voc({"x": good}, gts, class_names=["a", "b"])
    with pytest.raises(ValueError, match=message):
        evaluate_voc({"x": good.replace(**changes)}, gts, class_names=["a", "b"])


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))], ids=["list", "array"])
def test_empty_fields_may_be_lists_and_of_any_dtype(boxes):
    """NumPy makes float64 of them."""
    for entries in ([], np.array([])):
        nothing = Detections(boxes=boxes, scores=entries, labels=entries, mask=entries)
        no_objects = GroundTruth(boxes=boxes, labels=entries, difficult=entries)
        found, shapes = valid_detections(nothing, "image"), [(0, 4), (0,), (0,)]
        assert [(a.shape, a.dtype) for a in found] == list(zip(shapes, [float, float, int], strict=True))
        assert evaluate_voc([nothing], [truth((A,))])["map"] == 0
        assert evaluate_voc([nothing, detections((A, 0.9))], [no_objects, truth((A,))])["ap"] == {"1": 1.0}
        assert len(detections_table(nothing, ["a"])["score"]) == 0
        assert (draw_detections(np.zeros((9, 9, 3), np.uint8), nothing, ["a"], ground_truth=no_objects) == 0).all()


@pytest.mark.parametrize(
    ("gt", "message"),
    [
        (truth((A, 3)), "image 0: ground truth.labels: 3 is outside 1 ... 2"),
        (truth((A, -1)), "image 0: ground truth.labels: -1 is outside"),
        (truth(([5, 0, 4, 9], 1)), "image 0: ground truth.boxes: .* is reversed"),
        (
            GroundTruth(boxes=np.zeros((1, 4)), labels=np.ones(2, int), difficult=np.zeros(2, bool)),
            "truth.boxes: shape",
        ),
    ],
)
def test_malformed_ground_truth_is_named(gt, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc([detections()], [gt], class_names=["a", "b"])


def test_images_must_be_the_same_on_both_sides():
    with pytest.raises(ValueError, match="ground_truth: no entry for 1 image with detections, as 'y'"):
        evaluate_voc({"x": detections(), "y": detections()}, {"x": truth()})
    with pytest.raises(ValueError, match="detections: no entry, not even an empty one, for 1 image, as 'y'"):
        evaluate_voc({"x": detections()}, {"x": truth(), "y": truth()})
    with pytest.raises(ValueError, match="detections of 1 image, ground truth of 2"):
        evaluate_voc([detections()], [truth(), truth()])
    with pytest.raises(ValueError, match="both be mappings"):
        evaluate_voc({"x": detections()}, [truth()])


@pytest.mark.parametrize("options", [{"iou_threshold": 0.0}, {"iou_threshold": 1.5}, {"class_names": ["a", "a"]}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        evaluate_voc([], [], **options)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", r"class_names: 'cat' is one text, expected a sequence of names such as \['cat'\]"),
        (["a", "b", "a"], r"class_names: 'a' occurs twice in \['a', 'b', 'a'\]"),
    ],
)
def test_class_names_that_are_none(names, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc([detections((A, 0.5))], [truth((A,))], class_names=names)
