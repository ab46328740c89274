"""Box voting: each detection's box becomes a mean of the boxes around it (Gidaris and Komodakis, ICCV 2015)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from frcnn_jax.ops.boxes import pairwise_iou
from frcnn_jax.ops.precision import as_mask, widen

# Most overlaps computed at once, over several classes.
_MOST_OVERLAPS = 2**22


def vote_boxes(
    boxes: Real[Array, "B 4"], scores: Real[Array, " B"], mask: Bool[Array, " B"], iou_threshold: float = 0.5
) -> Float[Array, "B 4"]:
    """The mean of the boxes that overlap each box, weighted by their scores.

    Args:
        boxes: half-open x1 y1 x2 y2 of any real dtype.
        scores: weights of the boxes' votes; a negative one counts as 0.
        mask: boxes that vote.
        iou_threshold: boxes vote for a box if their IoU with it is at least this, 0 ... 1.

    Returns:
        Boxes in float32 at least. A box without votes stays as it is.
    """
    boxes, scores = widen(boxes), widen(scores)
    votes = jnp.where(as_mask(mask), jnp.maximum(scores, 0), 0)
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
    """`vote_boxes` for each class separately."""
    classes, count = boxes.shape[:2]
    if not classes or not count:
        return widen(boxes)
    return jax.lax.map(
        lambda of_class: vote_boxes(*of_class, iou_threshold),
        (widen(boxes), widen(scores), as_mask(mask)),
        batch_size=min(max(_MOST_OVERLAPS // count**2, 1), classes),
    )
