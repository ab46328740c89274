"""Overlaps of the boxes of one image with its objects, on the host: by class, and as pairs for box regression."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from frcnn_jax.data.batch_plan import pad_rows, round_up
from frcnn_jax.ops.boxes import box_area, encode_boxes, paired_intersection, pairwise_iou
from frcnn_jax.ops.sampling import CROWD_COVER
from frcnn_jax.types import GroundTruth

__all__ = ["box_pairs", "class_overlaps", "overlaps"]


def overlaps(boxes: Float[np.ndarray, "P 4"], objects: Float[np.ndarray, "G 4"]) -> Float[np.ndarray, "P G"]:
    """IoU of each box with each object."""
    # Rounded up, so that few distinct shapes are compiled.
    found = _pairwise_iou(_padded(boxes, 512), _padded(objects, 32))
    return np.asarray(found)[: len(boxes), : len(objects)]


def class_overlaps(boxes: Float[np.ndarray, "P 4"], truth: GroundTruth, num_classes: int) -> Float[np.ndarray, "P K"]:
    """The highest IoU of each box with an object of each class, difficult ones included; 0 without objects.

    For a crowd it is the share of the box's own area that the crowd covers, if at least `CROWD_COVER`: such a box lies
    on unannotated objects and is not a negative of their class.
    """
    values = np.asarray(_covers(_padded(boxes, 512), _padded(truth.boxes, 32)))[: len(boxes), : len(truth.boxes)]
    values = np.where(truth.crowd[None, :], values * (values >= CROWD_COVER), overlaps(boxes, truth.boxes))
    found = np.zeros((len(boxes), num_classes), np.float32)
    for label in np.unique(truth.labels):
        found[:, label - 1] = values[:, truth.labels == label].max(axis=1)
    return found


def box_pairs(
    boxes: Float[np.ndarray, "P 4"], truth: GroundTruth, min_iou: float, *, inclusive: bool = False
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, "n 4"]]:
    """The pairs of a box and the object that it overlaps most, in one image.

    Args:
        truth: difficult objects count, crowds do not.
        min_iou: pairs above this IoU are used; with `inclusive`, pairs at it too.

    Returns:
        Rows of `boxes`, labels 1 ... K, and float32 offsets from the box to the object as in `encode_boxes`.
    """
    objects, labels = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
    if not len(objects):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    values = overlaps(boxes, objects)
    best, highest = values.argmax(axis=1), values.max(axis=1)
    rows = np.flatnonzero(highest >= min_iou if inclusive else highest > min_iou)
    offsets = _encode(_padded(boxes[rows], 512), _padded(objects[best[rows]], 512))
    return rows, labels[best[rows]].astype(np.int64), np.asarray(offsets)[: len(rows)]


_pairwise_iou, _encode = jax.jit(pairwise_iou), jax.jit(encode_boxes)


@jax.jit
def _covers(boxes: Float[Array, "P 4"], objects: Float[Array, "G 4"]) -> Float[Array, "P G"]:
    """Share of each box's area that each object covers; 0 for an empty box."""
    area = box_area(boxes)[:, None]
    return paired_intersection(boxes[:, None], objects[None, :]) / jnp.where(area > 0, area, 1)


def _padded(boxes: Float[np.ndarray, "B 4"], multiple: int) -> Float[np.ndarray, "_ 4"]:
    return pad_rows(boxes.astype(np.float32), round_up(len(boxes), multiple))
