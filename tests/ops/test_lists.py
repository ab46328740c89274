"""Lists in place of arrays give what the arrays give; complex numbers are refused where they would lose a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.selection import select_detections
from frcnn_jax.ops import boxes as box_functions
from frcnn_jax.ops import losses
from frcnn_jax.ops.nms import nms, nms_by_class
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.types import BoxStatistics

pytestmark = pytest.mark.usefixtures("unchecked_types")

A, B = [[0.0, 0, 8, 6], [1, 2, 9, 9]], [[1.0, 1, 8, 7], [4, 3, 6, 9]]
MASK, LABELS, SCORES = [True, True], [1, 0], [0.5, 0.9]
LOGITS, DELTAS = [[0.5, 1.0], [2.0, -1.0]], [[[0.1] * 4, [0.2] * 4], [[0.0] * 4, [-0.1] * 4]]
MEAN, STD = [[0.0] * 4, [0.1] * 4], [[1.0] * 4, [0.2] * 4]
FEATURES = np.arange(32.0).reshape(4, 4, 2).tolist()
CALLS = {
    "box_area": (box_functions.box_area, A),
    "pairwise_iou": (box_functions.pairwise_iou, A, B),
    "paired_intersection": (box_functions.paired_intersection, A, B),
    "paired_giou": (box_functions.paired_giou, A, B),
    "encode_boxes": (box_functions.encode_boxes, A, B),
    "decode_boxes": (box_functions.decode_boxes, A, MEAN),
    "clip_boxes": (box_functions.clip_boxes, A, [5, 7]),
    "project_rois": (project_rois, A, 0.5),
    "roi_max_pool": (lambda f, r, s: roi_max_pool(f, r, (2, 2), 0.5, s), FEATURES, A, [3, 4]),
    "nms": (nms, A, SCORES, MASK),
    "nms_by_class": (nms_by_class, [A, B], [SCORES] * 2, [MASK] * 2),
    "cross_entropy": (losses.cross_entropy, LOGITS, LABELS),
    "focal": (losses.focal, LOGITS, LABELS),
    "smooth_l1": (losses.smooth_l1, MEAN),
    "smooth_l1_localization": (losses.smooth_l1_localization, MEAN, A, B, MEAN, STD),
    "giou_localization": (losses.giou_localization, MEAN, A, B, MEAN, STD),
    "multi_task_loss": (losses.multi_task_loss, LOGITS, DELTAS, A, LABELS, B, MASK, MEAN, STD),
    "sample_rois": (
        lambda *arrays: sample_rois(jax.random.key(0), *arrays, rois_per_image=4), A, MASK, B, [1, 2], MASK,
    ),
    "select_detections": (
        lambda *arrays: select_detections(*arrays[:-2], BoxStatistics(mean=arrays[-2], std=arrays[-1])),
        LOGITS, DELTAS, A, MASK, [9, 9], MEAN, STD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_lists_are_arrays(name):
    function, *lists = CALLS[name]
    found, wanted = function(*lists), function(*map(jnp.asarray, lists))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))


COMPLEX = ("box_area", "pairwise_iou", "paired_intersection", "paired_giou", "encode_boxes", "decode_boxes",
           "clip_boxes", "project_rois", "nms")  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_boxes_are_refused(name):
    function, boxes, *others = CALLS[name]
    with pytest.raises(TypeError, match=r"real numbers are needed, not complex64: give \.real of them"):
        function(jnp.asarray(boxes) + 1j, *map(jnp.asarray, others))
