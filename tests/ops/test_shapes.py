"""Arrays that do not fit are refused by name, where they would broadcast or be indexed beyond their end."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.selection import select_detections
from frcnn_jax.ops.boxes import decode_boxes, encode_boxes, pairwise_iou
from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.roi_pool.pool import project_rois
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.ops.shapes import check_shapes
from frcnn_jax.types import BoxStatistics

BOXES, REAL = jnp.tile(jnp.array([0.0, 0, 8, 6]), (3, 1)), jnp.ones(3, bool)


def sample(proposals=BOXES, mask=REAL, gt_boxes=BOXES[:2], gt_labels=(1, 2), gt_mask=REAL[:2], **options):
    key = jax.random.key(0)
    return sample_rois(key, proposals, mask, gt_boxes, jnp.array(gt_labels), gt_mask, **options)


def select(logits=(3, 2), deltas=(3, 2, 4), rois=(3, 4), mask=(3,), size=(2,)):
    arrays = *map(jnp.zeros, (logits, deltas, rois)), jnp.ones(mask, bool), jnp.ones(size, jnp.int32)
    return select_detections(*arrays, BoxStatistics(mean=jnp.zeros((2, 4)), std=jnp.ones((2, 4))))


# Without the check all of these but the first gave a result.
WRONG = {
    "pairwise_iou takes a [A, 4], not [4]": lambda: pairwise_iou(BOXES[0], BOXES),
    "encode_boxes takes boxes [..., 4] = [3, 4], not [1, 4]": lambda: encode_boxes(BOXES, BOXES[:1]),
    # A column of RoIs for each class would be read as a row.
    "decode_boxes takes deltas [..., 4] = [3, 4], not [3, 3, 4]": lambda: decode_boxes(BOXES, jnp.zeros((3, 3, 4))),
    "nms takes scores [B] = [3], not [1]": lambda: nms(BOXES, jnp.zeros(1), REAL),
    "sample_rois takes gt_labels [G] = [2], not [1]": lambda: sample(gt_labels=(1,)),
    "sample_rois takes gt_labels [G] = [2], not [3]": lambda: sample(gt_labels=(1, 2, 1)),
    "sample_rois takes gt_labels [G] = [2], not [2, 1]": lambda: sample(gt_labels=((1,), (2,))),
    "sample_rois takes proposal_mask [P] = [3], not [2]": lambda: sample(mask=REAL[:2], gt_mask=REAL),
    "sample_rois takes gt_crowd [G] = [2], not [1]": lambda: sample(gt_crowd=REAL[:1]),
    # A scale for each box would be one for each coordinate.
    "project_rois takes one scale, not [4]: map it over images by jax.vmap": lambda: project_rois(
        jnp.ones((4, 4)), jnp.ones(4)
    ),
    "rois_per_image must be a whole number, not 4.0": lambda: sample(rois_per_image=4.0),
    "select_detections takes deltas [R, K1, 4] = [3, 2, 4], not [3, 5, 4]": lambda: select(deltas=(3, 5, 4)),
    "select_detections takes deltas [R, K1, 4] = [3, 2, 4], not [1, 2, 4]": lambda: select(deltas=(1, 2, 4)),
    "select_detections takes rois [R, 4] = [3, 4], not [9, 4]": lambda: select(rois=(9, 4)),
    "select_detections takes mask [R] = [3], not [1]": lambda: select(mask=(1,)),
    "select_detections takes original_size [2], not [3]": lambda: select(size=(3,)),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("message", WRONG)
def test_refused(message):
    # Ranks as users have them.
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WRONG[message]()


@pytest.mark.usefixtures("unchecked_types")
def test_what_fits_passes_also_traced():
    assert jax.eval_shape(lambda: sample(rois_per_image=np.int64(4))).rois.shape == (4, 4)
    assert jax.eval_shape(select).boxes.shape == (3, 4)
    assert jax.eval_shape(jax.vmap(lambda x: nms(x, x[:, 0], x[:, 0] > 0)), jnp.zeros((5, 3, 4))).shape == (5, 3)
    assert decode_boxes(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert decode_boxes([0, 0, 1, 1], [0, 0, 0, 0]).shape == (4,)


@pytest.mark.parametrize(
    ("shapes", "sizes", "message"),
    [
        ("a [N, 4], b [N, K]", [(2, 4), (2, 7)], None),
        ("a [..., N], b [...]", [(5, 6, 2), (5, 6)], None),
        ("a [..., N], b [...]", [(2,), ()], None),
        ("a [N, 4], b [M, N]", [(2, 4), (3, 5)], "f takes b [M, N] = [M, 2], not [3, 5]"),
        ("a [N, 4], b [M, N]", [(2, 4), (2,)], "f takes b [M, N] = [M, 2], not [2]"),
        ("a [..., N]", [()], "f takes a [..., N], not []"),
        ("a [..., 4], b [..., 4]", [(4,), (1, 4)], "f takes b [..., 4] = [4], not [1, 4]"),
        ("a [..., 4], b [..., 4]", [(5, 6, 4), (6, 5, 4)], "f takes b [..., 4] = [5, 6, 4], not [6, 5, 4]"),
    ],
)
def test_letters(shapes, sizes, message):
    arrays = list(map(np.zeros, sizes))
    if message is None:
        check_shapes("f", shapes, *arrays)
    else:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check_shapes("f", shapes, *arrays)


def test_sequences_of_traced_numbers_have_a_shape():
    traced = jax.jit(lambda x: check_shapes("f", "a [2], b [3, 2]", [x, x], ((x, 1), [1, 2.0], [x, x])) or x)
    traced(1.0)
    with pytest.raises(ValueError, match=r"f takes a \[2\], not \[3\]"):
        jax.jit(lambda x: check_shapes("f", "a [2]", [x, x, x]) or x)(1.0)


def test_none_is_skipped():
    check_shapes("f", "a [N], b [N]", None, np.zeros(3))
