"""Greedy non-maximum suppression on fixed shapes (section 3, test time), right at any threshold."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from frcnn_jax.ops.boxes import pairwise_iou


def nms(
    boxes: Float[Array, "B 4"], scores: Float[Array, " B"], mask: Bool[Array, " B"], iou_threshold: float = 0.3
) -> Bool[Array, " B"]:
    """Keeps boxes greedily by score; one goes if its IoU with a kept one is greater than `iou_threshold`.

    Args:
        scores: higher is better; of equal scores the earlier box goes first.
        mask: boxes that take part.

    Returns:
        Which boxes are kept, in the order given; never a masked one.
    """
    if boxes.shape[0] == 0:
        return mask
    order = jnp.lexsort((-scores, ~mask))
    sorted_boxes, candidates = boxes[order], mask[order]
    overlapping = pairwise_iou(sorted_boxes, sorted_boxes) > iou_threshold
    later = jnp.arange(len(order))

    def visit(i: Array, kept: Array) -> Array:
        return kept & ~(overlapping[i] & kept[i] & (later > i))

    # Boxes past the last candidate suppress nothing.
    kept = lax.fori_loop(0, jnp.sum(candidates), visit, candidates)
    return jnp.zeros_like(mask).at[order].set(kept)


def nms_by_class(
    boxes: Float[Array, "K B 4"], scores: Float[Array, "K B"], mask: Bool[Array, "K B"], iou_threshold: float = 0.3
) -> Bool[Array, "K B"]:
    """`nms` for each class on its own."""
    return jax.vmap(nms, in_axes=(0, 0, 0, None))(boxes, scores, mask, iou_threshold)
