"""The records that flow through Fast R-CNN, and the names and letters used throughout the package.

Letters (in shapes)
    N  images in a batch          H W C  height, width, channels
    P  proposals of one image     R      RoIs of one image that enter the head
    G  ground-truth boxes         K      object classes, background not counted
    D  detections of one image    B      boxes of any kind
    K1 K + 1: background and the K classes

Names
    proposals  candidate boxes from Selective Search, a file or the caller
    rois       the boxes that are pooled: a sample of the proposals in training, all proposals at test time
    labels     class of a box: 0 is background, 1 ... K are the classes
    deltas     box offsets (tx, ty, tw, th) relative to an RoI, divided by its size (section 2.3 of the paper)
    scores     class probabilities after the softmax; `logits` are the values before it
    mask       True where an entry is real, False where it is padding

Boxes are float32 `x1 y1 x2 y2` in pixels of the original image, 0-based and half-open: width = x2 - x1. The image
may have been resized by `scale` before it enters the network; boxes stay in the original frame and are projected
once, at RoI pooling. A mask tells which entries are padding; it is never guessed from coordinates.
Operations also accept boxes as integers or in half precision, and compute in float32.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

__all__ = ["Batch", "BoxStatistics", "Detections", "GroundTruth", "RoiSample"]

# Host code builds these records from NumPy arrays, device code from JAX arrays; `Array` stands for both.
# A comparison of arrays is an array and no bool, so that records are equal only to themselves.
record = partial(dataclasses.dataclass, frozen=True, kw_only=True, eq=False)


@jax.tree_util.register_dataclass
@record()
class Batch:
    """Images of one bucket size with their proposals and ground truth, all padded to fixed shapes."""

    images: UInt8[Array, "N H W 3"]  # RGB, zero outside the valid top-left corner; floats: network input
    image_sizes: Int[Array, "N 2"]  # height and width of the valid corner, after resizing
    original_sizes: Int[Array, "N 2"]  # height and width before resizing: the frame of all boxes
    scales: Float[Array, " N"]  # resized size / original size
    image_mask: Bool[Array, " N"]  # False for images that only fill the batch
    image_index: Int[Array, " N"]  # position in the data set, to name an image in messages
    proposals: Float[Array, "N P 4"]
    proposal_mask: Bool[Array, "N P"]
    gt_boxes: Float[Array, "N G 4"]
    gt_labels: Int[Array, "N G"]
    gt_difficult: Bool[Array, "N G"]
    gt_mask: Bool[Array, "N G"]
    gt_crowd: Bool[Array, "N G"] | None = None  # regions of many objects, among those in `gt_mask`; None: no crowds

    replace = dataclasses.replace


@jax.tree_util.register_dataclass
@record()
class RoiSample:
    """The RoIs drawn from one image for a training step, foreground first (section 2.3)."""

    rois: Float[Array, "R 4"]
    labels: Int[Array, " R"]  # 0 for background
    gt_boxes: Float[Array, "R 4"]  # the matched ground truth; the RoI itself where the label is 0
    mask: Bool[Array, " R"]  # False where the image had too few RoIs

    replace = dataclasses.replace


@jax.tree_util.register_dataclass
@record()
class Detections:
    """Detections of one image: padded and masked on the device, trimmed and sorted by score on the host."""

    boxes: Float[Array, "D 4"]
    scores: Float[Array, " D"]  # 0 ... 1
    labels: Int[Array, " D"]  # 1 ... K
    mask: Bool[Array, " D"]

    replace = dataclasses.replace


@jax.tree_util.register_dataclass
@record()
class BoxStatistics:
    """Mean and standard deviation of the training set's box targets, by class; row 0 (background) is 0 and 1."""

    mean: Float[Array, "K1 4"]
    std: Float[Array, "K1 4"]

    replace = dataclasses.replace


@record()
class GroundTruth:
    """The annotated objects of one image, on the host (NumPy arrays).

    A crowd is a region of many objects that were not annotated one by one. It is neither foreground nor background in
    training, and evaluation ignores detections inside it.
    """

    boxes: Float[Any, "G 4"]
    labels: Int[Any, " G"]
    difficult: Bool[Any, " G"]
    crowd: Bool[Any, " G"] | None = None  # None: no object is a crowd

    replace = dataclasses.replace

    def __post_init__(self) -> None:
        if self.crowd is None:
            object.__setattr__(self, "crowd", np.zeros(np.shape(self.difficult)[:1], np.bool_))
