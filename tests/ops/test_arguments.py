"""Single arguments: masks of any dtype count by value, and wrong values are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import frcnn_jax as frcnn
from frcnn_jax.ops.nms import nms_by_class
from frcnn_jax.ops.voting import vote_boxes

pytestmark = pytest.mark.usefixtures("unchecked_types")

BOXES = np.array([[0, 0, 8, 8], [1, 0, 9, 8], [20, 20, 28, 30]], np.float32)
SCORES = np.array([0.5, 0.75, 0.25], np.float32)
FEATURES, ROIS = jnp.ones((5, 6, 2)), jnp.array([[0.0, 0, 40, 30]])
MASK = [True, True, False]
MASKS = [np.array(MASK), np.array([2, 1, 0]), np.array([0.5, 1.0, 0.0], np.float32), [2, 1, 0], jnp.array([3, 1, 0])]


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_counts_by_value(mask):
    kept = frcnn.nms(BOXES, SCORES, mask)
    assert kept.dtype == bool
    np.testing.assert_array_equal(kept, [False, True, False])
    np.testing.assert_array_equal(nms_by_class(BOXES[None], SCORES[None], np.array(mask)[None]), [kept])
    voted = vote_boxes(BOXES, SCORES, mask)
    np.testing.assert_array_equal(voted, vote_boxes(BOXES, SCORES, np.array(MASK)))
    rois, expected = (
        frcnn.sample_rois(jax.random.key(0), BOXES, m, BOXES[:2], np.array([1, 2]), m[:2], crowd, rois_per_image=6)
        for m, crowd in ((mask, np.array([0, 2])), (np.array(MASK), np.array([False, True])))
    )
    jax.tree.map(np.testing.assert_array_equal, rois, expected)
    assert int(rois.mask.sum()) > 1


def pool(features=FEATURES, rois=ROIS, **arguments):
    return frcnn.roi_max_pool(features, rois, **arguments)


def sample(labels=(1,), **arguments):
    masks = np.ones(3, bool), np.ones(1, bool)
    return frcnn.sample_rois(jax.random.key(0), BOXES, masks[0], BOXES[:1], np.array(labels), masks[1], **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool(output_size=7), "output_size as rows and columns of at least 1, not 7"),
        (lambda: pool(output_size=(2.5, 2)), r"output_size as rows and columns of at least 1, not \(2.5, 2\)"),
        (lambda: pool(output_size=(2, 2, 2)), r"output_size as .* not \(2, 2, 2\)"),
        (lambda: pool(output_size=(2, 0)), r"output_size as .* not \(2, 0\)"),
        (lambda: pool(output_size=(True, 2)), r"output_size as .* not \(True, 2\)"),
        (lambda: pool(spatial_scale=float("nan")), "spatial_scale as a finite number above 0, not nan"),
        (lambda: pool(spatial_scale=0), "spatial_scale as a finite number above 0, not 0"),
        (lambda: pool(spatial_scale=-0.5), r"spatial_scale as a finite number above 0, not -0\.5"),
        (lambda: pool(spatial_scale="1"), "spatial_scale as a finite number above 0, not '1'"),
        (lambda: jax.jit(lambda s: pool(spatial_scale=s))(0.5), "spatial_scale as a Python number, not a traced one"),
        (lambda: pool(valid_size=np.array([3.5, 3])), r"valid_size as two whole numbers, not float64, \(2,\)"),
        (lambda: pool(valid_size=[3, 3, 3]), r"valid_size as two whole numbers, not int\d+, \(3,\)"),
        (lambda: pool(valid_size=5), r"valid_size as two whole numbers, not int\d+, \(\)"),
        (lambda: pool(jnp.ones((5, 6, 2), int)), r"features of a floating dtype .*, not int\d+, \(5, 6, 2\)"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, float("nan")), r"iou_threshold in 0 \.\.\. 1, not nan"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, -1), r"iou_threshold in 0 \.\.\. 1, not -1"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, 1.5), r"iou_threshold in 0 \.\.\. 1, not 1\.5"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, None), r"iou_threshold in 0 \.\.\. 1, not None"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, "a"), r"iou_threshold in 0 \.\.\. 1, not 'a'"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, True), r"iou_threshold in 0 \.\.\. 1, not True"),
        (lambda: frcnn.nms(BOXES, SCORES, MASK, np.array([0.1, 0.2])), r"iou_threshold in 0 \.\.\. 1, not array"),
        (lambda: sample(background_iou=0.1), r"background_iou must be two numbers, not 0\.1"),
        (lambda: sample(background_iou=(0, 0.1, 0.2)), r"background_iou must be two numbers, not \(0, 0\.1, 0\.2\)"),
        (lambda: sample(rois_per_image=True), "rois_per_image must be a whole number, not True"),
        (lambda: sample(labels=(1.5,)), "gt_labels as integers, not float"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_traced_threshold_is_taken():
    kept = jax.jit(frcnn.nms)(BOXES, SCORES, np.array(MASK), 0.9)
    np.testing.assert_array_equal(kept, MASK)
    np.testing.assert_array_equal(frcnn.nms(BOXES, SCORES, MASK, np.float32(0.9)), MASK)
    np.testing.assert_array_equal(frcnn.nms(BOXES, SCORES, MASK, jnp.array(0.9)), MASK)


def test_overlaps_of_boxes_whose_area_is_infinite_in_float32():
    far = np.array([[0, 0, 1e20, 1e20], [-3e38, -3e38, 3e38, 3e38], [0, 0, 1, 1]], np.float32)
    overlaps = np.asarray(frcnn.pairwise_iou(far, far))
    np.testing.assert_array_equal(np.diag(overlaps), 1)
    assert np.isfinite(overlaps).all()
    assert (overlaps[2, :2] < 1e-30).all()
    gradient = jax.grad(lambda boxes: frcnn.pairwise_iou(boxes, BOXES).sum())(jnp.asarray(far))
    assert np.isfinite(gradient).all()
