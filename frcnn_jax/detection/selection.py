"""From the network's outputs to detections: softmax, decoding, clipping and suppression by class (section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from frcnn_jax.ops.arguments import check_share, is_whole
from frcnn_jax.ops.boxes import clip_boxes, decode_boxes
from frcnn_jax.ops.nms import nms_by_class
from frcnn_jax.ops.precision import as_mask, widen
from frcnn_jax.ops.shapes import check_shapes
from frcnn_jax.ops.voting import vote_boxes_by_class
from frcnn_jax.types import BoxStatistics, Detections


def check_settings(nms_iou: float, score_threshold: float, per_class: int, box_voting: float | None = None) -> None:
    """Refuses invalid settings of `select_detections`; traced ones are not checked.

    Raises:
        ValueError: a threshold is not one number in 0 ... 1, or `per_class` is not a whole number of at least 1.
    """
    for name, value in {"nms_iou": nms_iou, "score_threshold": score_threshold, "box_voting": box_voting}.items():
        if value is not None or name != "box_voting":
            check_share("detection", name, value)
    if not is_whole(per_class) or per_class < 1:
        raise ValueError(f"per_class must be a whole number of at least 1, not {per_class}")


def check_statistics(statistics: BoxStatistics, num_classes: int) -> None:
    """Raises ValueError if box statistics are for another number of classes, background included."""
    for name, array in (("mean", statistics.mean), ("std", statistics.std)):
        if np.shape(array) != (num_classes, 4):
            raise ValueError(
                f"statistics.{name} must be [{num_classes}, 4], as the model has num_classes = {num_classes}, not "
                f"{list(np.shape(array))}: give the statistics that its weights were trained with"
            )


def select_detections(
    logits: Float[Array, "R K1"],
    deltas: Float[Array, "R K1 4"],
    rois: Real[Array, "R 4"],
    mask: Bool[Array, " R"],
    original_size: Int[Array, "2"],
    statistics: BoxStatistics,
    *,
    nms_iou: float = 0.3,
    score_threshold: float = 0.0,
    per_class: int = 100,
    box_regression: bool = True,
    box_voting: float | None = None,
) -> Detections:
    """Detections of one image from the network's outputs: the best `per_class` boxes of each class, suppressed.

    Args:
        logits, deltas: the model's outputs for each RoI.
        rois: half-open x1 y1 x2 y2 in pixels of the original image.
        mask: RoIs that are real.
        original_size: height and width that boxes are clipped to.
        statistics: box-target statistics of the deltas.
        nms_iou: a box is suppressed if its IoU with a better one of its class is greater, 0 ... 1.
        score_threshold: boxes at or below this score are not detections, 0 ... 1; 0 is the paper's.
        per_class: boxes of each class that enter suppression, at least 1.
        box_regression: False ignores the deltas: an RoI is itself the box of every class (section 5.1).
        box_voting: a kept box becomes the mean of the `per_class` boxes of its class whose IoU with it is at least
            this, weighted by their scores (`ops.voting`), 0 ... 1; None keeps it, as the paper does.

    Returns:
        K * min(per_class, R) entries; only those in `mask` are detections. Boxes that are empty after clipping, or NaN,
        are not, nor are RoIs with logits that are NaN.

    Raises:
        ValueError: a setting is out of range, a shape does not fit, or the statistics and the logits differ in the
            number of classes.
    """
    check_settings(nms_iou, score_threshold, per_class, box_voting)
    check_statistics(statistics, np.shape(logits)[-1])
    logits, deltas, rois = widen(logits), widen(deltas), widen(rois)
    mask = as_mask(mask)
    check_shapes(
        "select_detections",
        "logits [R, K1], deltas [R, K1, 4], rois [R, 4], mask [R], original_size [2]",
        *(logits, deltas, rois, mask, original_size),
    )
    scores = class_scores(logits, mask).T
    # Only boxes that can be detections are decoded, a few of R * K.
    scores, chosen = jax.lax.top_k(scores, min(per_class, len(rois)))
    labels = jnp.arange(1, logits.shape[1])[:, None]
    boxes = class_boxes(rois, deltas, chosen, labels, statistics) if box_regression else rois[chosen]
    boxes = clip_boxes(boxes, original_size)
    real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])  # False for NaN
    kept = nms_by_class(boxes, scores, (scores > score_threshold) & real, nms_iou)
    if box_voting is not None:
        voted = vote_boxes_by_class(boxes, scores, real & (scores > -jnp.inf), box_voting)
        boxes = clip_boxes(voted, original_size)  # a mean can leave the image by rounding
    return Detections(
        boxes=boxes.reshape(-1, 4),
        scores=scores.reshape(-1),
        labels=jnp.broadcast_to(labels, scores.shape).reshape(-1),
        mask=kept.reshape(-1),
    )


def class_scores(logits: Float[Array, "R K1"], mask: Bool[Array, " R"]) -> Float[Array, "R K"]:
    """Probabilities of the classes without background; -inf for masked RoIs, and for NaN, which `top_k` ranks first."""
    scores = jax.nn.softmax(logits)[:, 1:]
    return jnp.where(mask[:, None] & ~jnp.isnan(scores), scores, -jnp.inf)


def class_boxes(
    rois: Float[Array, "R 4"],
    deltas: Float[Array, "R K1 4"],
    rows: Int[Array, "*S"],
    labels: Int[Array, "*L"],
    statistics: BoxStatistics,
) -> Float[Array, "*S 4"]:
    """The boxes of chosen pairs of an RoI and a class, moved by the offsets of the class; not clipped.

    Args:
        rows: positions of the RoIs.
        labels: classes 1 ... K, of a shape that broadcasts to that of `rows`.
    """
    # Arrays of JAX, as NumPy cannot index by traced positions.
    mean, std = jnp.asarray(statistics.mean), jnp.asarray(statistics.std)
    return decode_boxes(rois[rows], deltas[rows, labels] * std[labels] + mean[labels])
