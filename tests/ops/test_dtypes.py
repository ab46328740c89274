"""Boxes of every real dtype: integers and half precision give float32's values, by hand and against float64."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import losses
from frcnn_jax.ops.nms import nms, nms_by_class
from frcnn_jax.ops.precision import wide_dtype, widen
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool
from frcnn_jax.ops.sampling import sample_rois

# Even numbers, which bfloat16 holds up to 512; areas above 65536, a corner of 0, an empty box, one beside the others.
A = np.array([[0, 0, 300, 300], [20, 10, 320, 310], [50, 60, 350, 300], [8, 8, 8, 40], [400, 4, 480, 80]])
B = np.array([[10, 0, 300, 320], [20, 10, 320, 310], [0, 60, 340, 300], [8, 8, 40, 8], [400, 4, 440, 80]])
LABELS = np.array([1, 2, 1, 0, 2], np.int32)
REAL = np.ones(5, bool)
SCORES = np.array([0.5, 0.75, 0.625, 0.25, 0.875])
OFFSETS = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [2, 1, 0, 1], [1, 1, 1, 1]])
DTYPES = ("uint16", "int32", "float16", "bfloat16", "float32")


def floats(values):
    return jnp.asarray(values, jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)


def statistics():
    return floats(np.full((5, 4), 0.125)), floats(np.full((5, 4), 0.5))


def sampled(a, b):
    """All boxes are drawn; in which order depends on the random numbers' dtype."""
    sample = sample_rois(
        jax.random.key(0), a, jnp.asarray(REAL), b, jnp.asarray(LABELS + 1), jnp.asarray(REAL), rois_per_image=10,
        foreground_fraction=1.0, background_iou=(0.0, 0.5),
    )  # fmt: skip
    return jnp.sort(sample.rois @ floats([1, 3, 7, 11]) + sample.gt_boxes @ floats([2, 5, 13, 17]))


def multi_task(a, b, localization):
    logits = floats(np.arange(15).reshape(5, 3) % 4)
    deltas = floats(np.tile(OFFSETS[:, None], (1, 3, 1)))
    mean, std = (x[:3] for x in statistics())
    arrays = (logits, deltas, a, jnp.asarray(LABELS), b, jnp.asarray(REAL), mean, std)
    return losses.multi_task_loss(*arrays, localization=localization)[0]


FUNCTIONS = {
    "box_area": lambda a, b: box_ops.box_area(a),
    "paired_intersection": box_ops.paired_intersection,
    "pairwise_iou": box_ops.pairwise_iou,
    "paired_giou": box_ops.paired_giou,
    "encode_boxes": box_ops.encode_boxes,
    "decode_boxes": lambda a, b: box_ops.decode_boxes(a, jnp.asarray(OFFSETS, a.dtype)),
    "clip_boxes": lambda a, b: box_ops.clip_boxes(a, jnp.array([290, 310])),
    "project_rois": lambda a, b: project_rois(a, 1.5),
    "project_rois by an array": lambda a, b: project_rois(a, floats(1.5)),
    "nms": lambda a, b: nms(a, floats(SCORES), jnp.asarray(REAL), 0.5),
    "nms_by_class": lambda a, b: nms_by_class(a[None], floats(SCORES)[None], jnp.asarray(REAL)[None], 0.5),
    "sample_rois": sampled,
    "smooth_l1_localization": lambda a, b: losses.smooth_l1_localization(
        jnp.asarray(OFFSETS, a.dtype), a, b, *statistics()
    ),
    "giou_localization": lambda a, b: losses.giou_localization(jnp.asarray(OFFSETS, a.dtype), a, b, *statistics()),
    "multi_task_loss": lambda a, b: multi_task(a, b, losses.smooth_l1_localization),
    "multi_task_loss of a plain difference": lambda a, b: multi_task(a, b, lambda d, r, g, m, s: (g - r).sum(1) / 4),
    "roi_max_pool": lambda a, b: roi_max_pool(floats(np.arange(24 * 32).reshape(24, 32, 1) % 37), a, (2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_dtype_gives_the_values_of_float64(name):
    function = jax.jit(FUNCTIONS[name])
    with jax.enable_x64(True):
        expected = np.asarray(function(jnp.asarray(A, jnp.float64), jnp.asarray(B, jnp.float64)))
    for dtype in DTYPES:
        found = function(jnp.asarray(A, dtype), jnp.asarray(B, dtype))
        assert found.dtype in (jnp.float32, jnp.bool_), dtype
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6, err_msg=dtype)


def test_float64_stays(x64):
    a, b = jnp.asarray(A, jnp.float64), jnp.asarray(B, jnp.float64)
    for name in FUNCTIONS.keys() - {"nms", "nms_by_class"}:
        assert jax.eval_shape(FUNCTIONS[name], a, b).dtype == jnp.float64, name


def test_areas_that_would_wrap_by_hand():
    # 300 x 300 is 90000, which as uint16 is 24464; float16 ends at 65504.
    for dtype in ("uint16", "float16"):
        square = jnp.array([[0, 0, 300, 300]], dtype)
        assert box_ops.box_area(square).tolist() == [90000]
        assert box_ops.pairwise_iou(square, jnp.array([[0, 0, 300, 150]], dtype)).tolist() == [[0.5]]
    # Boxes that do not meet: unsigned, 5 - 10 would be large.
    assert box_ops.pairwise_iou(jnp.array([[0, 0, 5, 5]], "uint16"), jnp.array([[10, 10, 20, 20]], "uint16")) == 0


def test_a_corner_of_unsigned_zero_becomes_minus_one():
    for dtype in ("uint8", "uint16", "uint32"):
        assert project_rois(jnp.zeros((1, 4), dtype), 1.0).tolist() == [[0, 0, -1, -1]]


def test_integer_boxes_beside_floating_ones():
    b = jnp.asarray(B, jnp.float32)
    np.testing.assert_array_equal(box_ops.pairwise_iou(jnp.asarray(A, jnp.uint16), b),
                                  box_ops.pairwise_iou(jnp.asarray(A, jnp.float32), b))  # fmt: skip
    assert inspect.unwrap(box_ops.pairwise_iou)(A.astype(np.uint16), B.astype(np.uint16)).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradients_come_back_in_the_dtype_of_the_boxes(dtype):
    a, b = jnp.asarray(A[:3], dtype), jnp.asarray(B[:3], dtype)
    for function in (box_ops.pairwise_iou, box_ops.paired_giou, box_ops.encode_boxes, box_ops.decode_boxes):
        gradient = jax.grad(lambda x, f=function: f(x, b / 512).sum())(a)
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
        assert function is box_ops.pairwise_iou or (np.asarray(gradient, np.float32) != 0).any()


def test_smooth_l1_of_errors_whose_square_is_infinite():
    errors = jnp.array([60000, 0.5, -300, 1, 0], jnp.float16)
    assert jax.grad(lambda x: losses.smooth_l1(x).sum())(errors).tolist() == [1, 0.5, -1, 1, 0]


def test_wide_dtype():
    narrow = ("bool", "int8", "uint16", "int64", "float16", "bfloat16", "float32", jnp.bfloat16)
    assert {wide_dtype(dtype) for dtype in narrow} == {jnp.dtype("float32")}
    assert wide_dtype("float64") == jnp.dtype("float64")
    x = jnp.ones(3)
    assert widen(x).dtype == jnp.float32
