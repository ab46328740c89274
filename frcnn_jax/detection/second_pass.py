"""The boxes of a second pass: where the first one moved the proposals (Gidaris and Komodakis, ICCV 2015)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from frcnn_jax.detection.selection import class_boxes, class_scores
from frcnn_jax.ops.boxes import clip_boxes
from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.precision import as_mask, widen
from frcnn_jax.types import BoxStatistics

# A box is a near duplicate if its IoU with a better one is greater.
_DUPLICATE_IOU = 0.9
# Boxes compared for each one wanted, the best by score: most of them are near duplicates.
_COMPARED = 4


def moved_boxes(
    logits: Float[Array, "R K1"],
    deltas: Float[Array, "R K1 4"],
    rois: Real[Array, "R 4"],
    mask: Bool[Array, " R"],
    original_size: Int[Array, "2"],
    statistics: BoxStatistics,
    *,
    count: int,
) -> tuple[Float[Array, "count 4"], Bool[Array, " count"]]:
    """The best boxes of one image after box regression, of all classes together, without near duplicates.

    Of the `4 * count` best pairs of an RoI and a class, those whose IoU with a better box is above 0.9 are left out.

    Args:
        logits, deltas: the model's outputs for each RoI.
        rois: half-open x1 y1 x2 y2 in pixels of the original image.
        mask: RoIs that are real.
        original_size: height and width that boxes are clipped to.
        statistics: box-target statistics of the deltas.
        count: boxes returned, at least 1.

    Returns:
        The boxes, best first, and True for those that exist.
    """
    logits, deltas, rois = widen(logits), widen(deltas), widen(rois)
    mask = as_mask(mask)
    if not len(rois):
        return jnp.zeros((count, 4), rois.dtype), jnp.zeros(count, bool)
    classes = logits.shape[1] - 1
    scores = class_scores(logits, mask).reshape(-1)
    missing = max(count - len(scores), 0)
    scores = jnp.pad(scores, (0, missing), constant_values=-jnp.inf)
    scores, chosen = lax.top_k(scores, min(_COMPARED * count, len(scores)))
    # Padding points past the last RoI, where a gather takes the last one.
    rows, labels = chosen // classes, chosen % classes + 1
    boxes = clip_boxes(class_boxes(rois, deltas, rows, labels, statistics), original_size)
    real = (scores > -jnp.inf) & jnp.all(boxes[:, 2:] > boxes[:, :2], axis=1) & jnp.all(jnp.isfinite(boxes), axis=1)
    kept = nms(boxes, scores, real, _DUPLICATE_IOU)
    best, order = lax.top_k(jnp.where(kept, scores, -jnp.inf), count)
    found = best > -jnp.inf
    return jnp.where(found[:, None], boxes[order], 0), found
