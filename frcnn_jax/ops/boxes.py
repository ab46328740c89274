"""Arithmetic of boxes: area, overlap, offsets to and from RoIs, clipping.

Boxes are `x1 y1 x2 y2`, half-open, in pixels. Every function takes integers and any floating dtype. Integers (unsigned
ones would wrap) and half precision (float16 ends at 65504, an area of 256 x 256) are computed and returned in float32;
float32 and float64 keep their precision.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from frcnn_jax.ops.precision import widen
from frcnn_jax.ops.shapes import check_shapes

# Bounds coordinates where areas are computed, as an infinite one has no IoU; float32's largest number is 2^128.
_FARTHEST = 2.0**60
# Bounds the growth of a box by exp(): a factor of 62.5, the ratio of the paper's longest side (1000) to 16 pixels.
LARGEST_LOG_RATIO = 4.135166556742356


def box_area(boxes: Real[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Area in square pixels; 0 if a box is empty or reversed, NaN if a coordinate is infinite or NaN."""
    x1, y1, x2, y2 = jnp.moveaxis(_bounded(boxes), -1, 0)
    return jnp.maximum(x2 - x1, 0) * jnp.maximum(y2 - y1, 0)


def paired_intersection(a: Real[Array, "*#B 4"], b: Real[Array, "*#B 4"]) -> Float[Array, "*#B"]:
    """Intersection area of each box of `a` with the box of `b` at the same place: 0 if they are disjoint, NaN if a
    coordinate is infinite or NaN.
    """
    a, b = _bounded(a), _bounded(b)
    top_left = jnp.maximum(a[..., :2], b[..., :2])
    bottom_right = jnp.minimum(a[..., 2:], b[..., 2:])
    width, height = jnp.moveaxis(jnp.maximum(bottom_right - top_left, 0), -1, 0)
    return width * height


def _bounded(boxes: Real[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """The boxes with coordinates whose areas are finite; infinite ones become NaN."""
    boxes = widen(boxes)
    return jnp.where(jnp.isinf(boxes), jnp.nan, jnp.clip(boxes, -_FARTHEST, _FARTHEST))


def pairwise_iou(a: Real[Array, "A 4"], b: Real[Array, "B 4"]) -> Float[Array, "A B"]:
    """Intersection over union, 0 ... 1; 0 if either box is empty, or has a coordinate that is infinite or NaN.

    Raises:
        ValueError: a shape is not [A, 4] or [B, 4].

    >>> a, b = jnp.array([[0, 0, 4, 2]]), jnp.array([[2, 0, 4, 2], [4, 0, 8, 2]])
    >>> pairwise_iou(a, b).tolist()
    [[0.5, 0.0]]
    """
    a, b = widen(a), widen(b)
    check_shapes("pairwise_iou", "a [A, 4], b [B, 4]", a, b)
    common = paired_intersection(a[:, None, :], b[None, :, :])
    union = box_area(a)[:, None] + box_area(b)[None, :] - common
    return jnp.where(common > 0, common / jnp.where(union > 0, union, 1), 0)


def paired_giou(a: Real[Array, "*B 4"], b: Real[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Generalised IoU of boxes at the same place, -1 ... 1 (Rezatofighi et al., CVPR 2019): 0 if both are empty, NaN if
    a coordinate is infinite or NaN.
    """
    a, b = widen(a), widen(b)
    common = paired_intersection(a, b)
    union = box_area(a) + box_area(b) - common
    hull = box_area(
        jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    )
    # Each division is guarded on the inside too, so that its gradient stays finite.
    overlap = common / jnp.where(union > 0, union, 1)
    gap = (hull - union) / jnp.where(hull > 0, hull, 1)
    return jnp.where(union == 0, 0, overlap - gap)  # NaN stays, as in a diverged loss


def encode_boxes(rois: Real[Array, "*B 4"], boxes: Real[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """Offsets from `rois` to `boxes` (section 2.3).

    Returns:
        tx, ty: distance of the centres over the RoI's size; tw, th: log of the ratio of the sizes.
        Sizes count as at least one thousandth of a pixel, so that empty boxes give finite numbers.

    Raises:
        ValueError: the shapes differ.

    >>> encode_boxes(jnp.array([0, 0, 8, 8]), jnp.array([2, 0, 10, 8])).tolist()
    [0.25, 0.0, 0.0, 0.0]
    """
    rois, boxes = widen(rois), widen(boxes)
    check_shapes("encode_boxes", "rois [..., 4], boxes [..., 4]", rois, boxes)
    rx, ry, rw, rh = _centre_and_size(rois)
    bx, by, bw, bh = _centre_and_size(boxes)
    return jnp.stack([(bx - rx) / rw, (by - ry) / rh, jnp.log(bw / rw), jnp.log(bh / rh)], axis=-1)


def decode_boxes(rois: Real[Array, "*B 4"], deltas: Real[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """The boxes at offsets `deltas` from `rois`: the inverse of `encode_boxes`. Sizes change by a factor of at most
    62.5.

    Raises:
        ValueError: the shapes differ.
    """
    rois, deltas = widen(rois), widen(deltas)
    check_shapes("decode_boxes", "rois [..., 4], deltas [..., 4]", rois, deltas)
    rx, ry, rw, rh = _centre_and_size(rois)
    tx, ty, tw, th = jnp.moveaxis(deltas, -1, 0)
    x, y = rx + tx * rw, ry + ty * rh
    half_width = 0.5 * rw * jnp.exp(jnp.clip(tw, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
    half_height = 0.5 * rh * jnp.exp(jnp.clip(th, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def clip_boxes(boxes: Real[Array, "*B 4"], size: Int[Array, "2"]) -> Float[Array, "*B 4"]:
    """Boxes with corners clipped to an image of `size` (height, width)."""
    boxes = widen(boxes)
    height, width = size[0], size[1]
    limit = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, jnp.broadcast_to(limit, boxes.shape))


def _centre_and_size(boxes: Real[Array, "*B 4"]) -> tuple[Array, Array, Array, Array]:
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    return (x1 + x2) / 2, (y1 + y2) / 2, jnp.maximum(x2 - x1, 1e-3), jnp.maximum(y2 - y1, 1e-3)
