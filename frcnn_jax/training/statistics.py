"""Mean and deviation of the training set's box targets, by class and coordinate (section 2.3)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from frcnn_jax.data.batch_plan import pad_rows, round_up
from frcnn_jax.ops.boxes import encode_boxes, pairwise_iou
from frcnn_jax.types import BoxStatistics, GroundTruth


def box_statistics(
    proposals: Iterable[Float[np.ndarray, "P 4"]],
    annotations: Iterable[GroundTruth],
    num_classes: int,
    *,
    foreground_iou: float = 0.5,
    use_difficult: bool = True,
    flip: bool = False,
    flip_vertical: bool = False,
) -> BoxStatistics:
    """Statistics of the box targets of all foreground RoIs that training can draw from whole images, ground-truth boxes
    included; random crops, which cut boxes off, are left out.

    Args:
        num_classes: background included; its row is mean 0 and deviation 1.
        foreground_iou: least IoU of a foreground RoI.
        flip, flip_vertical: whether training flips half of the images left to right, top to bottom.

    Returns:
        float32 [K1, 4] each. A coordinate that does not vary has deviation 1; a class without RoIs has mean 0 and
        deviation 1.
    """
    total = np.zeros((3, num_classes, 4))
    for boxes, annotation in zip(proposals, annotations, strict=True):
        keep = ~annotation.crowd if use_difficult else ~(annotation.difficult | annotation.crowd)
        if not keep.any():
            continue
        gt_boxes, gt_labels = annotation.boxes[keep], annotation.labels[keep]
        candidates = np.concatenate([boxes.reshape(-1, 4), gt_boxes]).astype(np.float32)
        # Rounded up, so that few distinct shapes are compiled.
        rows, objects = round_up(len(candidates), 512), round_up(len(gt_boxes), 32)
        sums = _sums(
            pad_rows(candidates, rows),
            np.arange(rows) < len(candidates),
            pad_rows(gt_boxes.astype(np.float32), objects),
            pad_rows(gt_labels.astype(np.int32), objects),
            np.arange(objects) < len(gt_boxes),
            foreground_iou,
            num_classes=num_classes,
        )
        total += np.asarray(sums)
    count, first, second = total
    # Flipping an image negates tx, or ty: the sum over both versions is zero, and the squares are the same.
    for axis, flips in enumerate((flip, flip_vertical)):
        if flips:
            first[:, axis] = 0
    mean = first / np.maximum(count, 1)
    variance = np.maximum(second / np.maximum(count, 1) - mean**2, 0)
    std = np.sqrt(variance)
    std = np.where(std > 1e-4, std, 1.0)
    mean[0], std[0] = 0, 1
    return BoxStatistics(mean=jnp.asarray(mean, jnp.float32), std=jnp.asarray(std, jnp.float32))


def identity_statistics(num_classes: int, dtype: Any = jnp.float32) -> BoxStatistics:
    """Identity statistics: mean 0, deviation 1. `num_classes` counts background."""
    return BoxStatistics(mean=jnp.zeros((num_classes, 4), dtype), std=jnp.ones((num_classes, 4), dtype))


@partial(jax.jit, static_argnames="num_classes")
def _sums(
    candidates: Float[Array, "P 4"],
    candidate_mask: Bool[Array, " P"],
    gt_boxes: Float[Array, "G 4"],
    gt_labels: Int[Array, " G"],
    gt_mask: Bool[Array, " G"],
    foreground_iou: Float[Array, ""],
    *,
    num_classes: int,
) -> Float[Array, "3 K1 4"]:
    """Count, sum and sum of squares of one image's targets by class."""
    overlaps = jnp.where(gt_mask[None, :], pairwise_iou(candidates, gt_boxes), 0)
    matched = jnp.argmax(overlaps, axis=1)
    foreground = candidate_mask & (jnp.max(overlaps, axis=1) >= foreground_iou)
    targets = encode_boxes(candidates, gt_boxes[matched])
    moments = jnp.stack([jnp.ones_like(targets), targets, jnp.square(targets)])
    one_hot = jax.nn.one_hot(jnp.where(foreground, gt_labels[matched], -1), num_classes)
    return jnp.einsum("pk,mpc->mkc", one_hot, jnp.where(foreground[:, None], moments, 0), precision="highest")
