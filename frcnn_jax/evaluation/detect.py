"""From images and boxes to detections: softmax, decoding, clipping and suppression by class (section 3.1)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from frcnn_jax.data.buckets import choose_bucket, default_buckets, resize_scale
from frcnn_jax.data.pipeline import padded_count, resize_image
from frcnn_jax.models.detector import FastRCNN
from frcnn_jax.ops.boxes import clip_boxes, decode_boxes
from frcnn_jax.ops.nms import nms_by_class
from frcnn_jax.training.step import identity_statistics
from frcnn_jax.types import Batch, BoxStatistics, Detections


def select_detections(
    logits: Float[Array, "R K1"],
    deltas: Float[Array, "R K1 4"],
    rois: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    original_size: Int[Array, "2"],
    statistics: BoxStatistics,
    *,
    nms_iou: float = 0.3,
    score_threshold: float = 0.05,
    per_class: int = 100,
) -> Detections:
    """Detections of one image from the network's outputs: the best `per_class` boxes of each class, suppressed.

    Args:
        mask: RoIs that are real.
        original_size: height and width that boxes are clipped to.
        statistics: what the deltas are in.
        nms_iou: a box goes if it overlaps a better one of its class by more.
        score_threshold: boxes at or below this score are no detections.

    Returns:
        K * min(per_class, R) entries of which those in `mask` count.
    """
    scores = jnp.where(mask[:, None], jax.nn.softmax(logits), -1.0)[:, 1:].T
    # Only the boxes that can be detections are decoded, a few of R * K.
    scores, chosen = jax.lax.top_k(scores, min(per_class, len(rois)))
    labels = jnp.arange(1, logits.shape[1])[:, None]
    normalised = deltas[chosen, labels]
    own_rois = rois[chosen]
    boxes = decode_boxes(own_rois, normalised * statistics.std[1:, None] + statistics.mean[1:, None])
    boxes = clip_boxes(boxes, original_size)
    kept = nms_by_class(boxes, scores, scores > score_threshold, nms_iou)
    return Detections(
        boxes=boxes.reshape(-1, 4),
        scores=scores.reshape(-1),
        labels=jnp.broadcast_to(labels, scores.shape).reshape(-1),
        mask=kept.reshape(-1),
    )


@partial(jax.jit, static_argnames=("model", "nms_iou", "score_threshold", "per_class"))
def detect_batch(
    params: Any,
    statistics: BoxStatistics,
    batch: Batch,
    *,
    model: FastRCNN,
    nms_iou: float = 0.3,
    score_threshold: float = 0.05,
    per_class: int = 100,
) -> Detections:
    """`select_detections` for each image of a batch, from its pixels and proposals; fields gain a leading N."""
    logits, deltas = model.apply(
        {"params": params}, batch.images, batch.proposals, scales=batch.scales, image_sizes=batch.image_sizes
    )
    select = partial(select_detections, nms_iou=nms_iou, score_threshold=score_threshold, per_class=per_class)
    mask = batch.proposal_mask & batch.image_mask[:, None]
    return jax.vmap(select, in_axes=(0, 0, 0, 0, 0, None))(
        logits, deltas, batch.proposals, mask, batch.original_sizes, statistics
    )


def trim(detections: Detections) -> Detections:
    """One image's detections on the host: NumPy arrays without padding, best first."""
    boxes, scores, labels, mask = (np.asarray(x) for x in jax.tree.leaves(detections))
    kept = np.flatnonzero(mask)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Detections(boxes=boxes[kept], scores=scores[kept], labels=labels[kept], mask=mask[kept])


def detect(
    model: FastRCNN,
    params: Any,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "P 4"],
    *,
    statistics: BoxStatistics | None = None,
    scale: int = 600,
    max_size: int = 1000,
    nms_iou: float = 0.3,
    score_threshold: float = 0.05,
    per_class: int = 100,
) -> Detections:
    """Detections in one image, given boxes that may hold objects.

    Args:
        image: 8-bit RGB of any size.
        boxes: half-open x1 y1 x2 y2 in the image's pixels; none at all gives no detections.
        statistics: box-target statistics the weights were trained with; None for weights that stand alone, as
            `load_weights` returns them.
        scale, max_size: the image is resized so that its shorter side is `scale`, its longer one at most `max_size`.

    Returns:
        NumPy arrays sorted by score; labels are 1 ... K.

    Raises:
        ValueError: the image is not uint8 [H, W, 3], or the boxes are not [P, 4] or not finite.
    """
    batch = single_batch(image, boxes, scale=scale, max_size=max_size)
    if statistics is None:
        statistics = identity_statistics(model.head.num_classes)
    found = detect_batch(
        params,
        statistics,
        batch,
        model=model,
        nms_iou=nms_iou,
        score_threshold=score_threshold,
        per_class=per_class,
    )
    return trim(jax.tree.map(lambda x: x[0], found))


def single_batch(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], *, scale: int, max_size: int
) -> Batch:
    """One image with its boxes as a batch without ground truth, padded so that few distinct shapes occur."""
    image, boxes = np.asarray(image), np.asarray(boxes, np.float32)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"the image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [P, 4], not {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite; box {np.argwhere(~np.isfinite(boxes))[0][0]} is not")
    factor = resize_scale(image.shape[:2], scale, max_size)
    resized = resize_image(image, factor)
    buckets = default_buckets((scale,), max_size)
    height, width = buckets[choose_bucket(resized.shape[:2], buckets)]
    room = padded_count([boxes])
    return Batch(
        images=np.pad(resized, ((0, height - resized.shape[0]), (0, width - resized.shape[1]), (0, 0)))[None],
        image_sizes=np.array([resized.shape[:2]], np.int32),
        original_sizes=np.array([image.shape[:2]], np.int32),
        scales=np.array([factor], np.float32),
        image_mask=np.ones(1, bool),
        image_index=np.zeros(1, np.int32),
        proposals=np.pad(boxes, ((0, room - len(boxes)), (0, 0)))[None],
        proposal_mask=(np.arange(room) < len(boxes))[None],
        gt_boxes=np.zeros((1, 1, 4), np.float32),
        gt_labels=np.zeros((1, 1), np.int32),
        gt_difficult=np.zeros((1, 1), bool),
        gt_mask=np.zeros((1, 1), bool),
    )
