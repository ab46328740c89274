"""Box voting: each detection's box becomes a mean of the boxes around it (Gidaris and Komodakis, ICCV 2015)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from frcnn_jax.ops.arguments import check_share
from frcnn_jax.ops.boxes import pairwise_iou
from frcnn_jax.ops.precision import as_mask, widen
from frcnn_jax.ops.shapes import check_shapes

# Most overlaps computed at once, over several classes.
_MOST_OVERLAPS = 2**22


def vote_boxes(
    boxes: Real[Array, "B 4"],
    scores: Real[Array, " B"],
    mask: Bool[Array, " B"],
    iou_threshold: Real[Array, ""] | float = 0.5,
) -> Float[Array, "B 4"]:
    """The mean of the boxes that overlap each box, weighted by their scores.

    Args:
        boxes: half-open x1 y1 x2 y2 of any real dtype.
        scores: weights of the boxes' votes; a negative one, or one that is infinite or NaN, counts as 0.
        mask: boxes that vote; those with a coordinate that is infinite or NaN do not.
        iou_threshold: boxes vote for a box if their IoU with it is at least this, 0 ... 1.

    Returns:
        Boxes in float32 at least. A box without votes stays as it is.

    Raises:
        ValueError: a shape does not fit, or the threshold is not in 0 ... 1.
    """
    boxes, scores, mask = widen(boxes), widen(scores), as_mask(mask)
    check_share("vote_boxes", "iou_threshold", iou_threshold)
    check_shapes("vote_boxes", "boxes [B, 4], scores [B], mask [B]", boxes, scores, mask)
    # A box with a corner that is infinite or NaN would spoil the mean of every other, even at a weight of 0.
    finite = jnp.isfinite(boxes).all(axis=-1) & jnp.isfinite(scores)
    votes = jnp.where(mask & finite, jnp.maximum(scores, 0), 0)
    weights = jnp.where(pairwise_iou(boxes, boxes) >= iou_threshold, votes[None], 0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    # Zeros, as a weight of 0 times a NaN in a box that does not vote would be NaN.
    voters = jnp.where(votes[:, None] > 0, boxes, 0)
    # Accelerators may round the factors of a product to fewer digits than coordinates have.
    mean = jnp.matmul(weights, voters, precision="highest") / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mean, boxes)


def vote_boxes_by_class(
    boxes: Real[Array, "K B 4"], scores: Real[Array, "K B"], mask: Bool[Array, "K B"], iou_threshold: float = 0.5
) -> Float[Array, "K B 4"]:
    """`vote_boxes` for each class separately; raises ValueError as it does."""
    boxes, scores, mask = widen(boxes), widen(scores), as_mask(mask)
    check_share("vote_boxes_by_class", "iou_threshold", iou_threshold)
    check_shapes("vote_boxes_by_class", "boxes [K, B, 4], scores [K, B], mask [K, B]", boxes, scores, mask)
    classes, count = boxes.shape[:2]
    if not classes or not count:
        return boxes
    return _by_class(boxes, scores, mask, iou_threshold, min(max(_MOST_OVERLAPS // count**2, 1), classes))


# Compiled once per shape also outside `jit`, where the loop's function is a new one in every call.
@partial(jax.jit, static_argnames="at_once", inline=True)
def _by_class(boxes: Array, scores: Array, mask: Array, iou_threshold: Any, at_once: int) -> Array:
    """Votes of so many classes at once, the others one after the other."""
    return jax.lax.map(lambda of_class: vote_boxes(*of_class, iou_threshold), (boxes, scores, mask), batch_size=at_once)
