"""The records of testing: images at one or several scales, their proposals, and the RoIs that the proposals share."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from frcnn_jax.data.batch_plan import Bucket, pad_rows, resized_size, round_up
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE, resize_image
from frcnn_jax.detection.roi_plan import RoiPlan
from frcnn_jax.types import record

# RoIs that `detect` pools and classifies together: as many as a second pass of the configs has, so that both passes run
# the same programs.
ROIS_AT_A_TIME = 128


@jax.tree_util.register_dataclass
@record()
class Level:
    """Images of a batch at one scale and the RoIs that are pooled from them."""

    images: UInt8[Array, "N H W 3"]  # RGB, zero outside the valid top-left corner
    image_sizes: Int[Array, "N 2"]  # height and width of the valid corner
    scales: Float[Array, " N"]  # resized size / original size
    rois: Float[Array, "N R 4"]
    slots: Int[Array, "N R"]  # position of each RoI among those of all levels; past the end for padding


@jax.tree_util.register_dataclass
@record()
class Pyramid:
    """A batch of test images, padded to fixed shapes. Levels without RoIs are left out."""

    levels: tuple[Level, ...]
    roi_index: Int[Array, "N P"]  # position of each proposal's RoI among those of all levels
    proposals: Float[Array, "N P 4"]
    proposal_mask: Bool[Array, "N P"]
    original_sizes: Int[Array, "N 2"]  # height and width before resizing: the frame of all boxes
    image_mask: Bool[Array, " N"]  # False for images that only fill the batch
    image_index: Int[Array, " N"]  # position in the data set
    num_rois: int = dataclasses.field(metadata={"static": True})  # padded count of the RoIs of all levels

    replace = dataclasses.replace


@dataclasses.dataclass(frozen=True)
class PyramidShape:
    """The padded sizes of a pyramid; functions are compiled once per `PyramidShape`."""

    buckets: tuple[Bucket, ...]  # padded image size of each level
    level_rois: tuple[int, ...]  # padded count of RoIs at each level
    num_rois: int  # at all levels together
    num_proposals: int


def padded_proposals(count: int) -> int:
    """The padded number of proposals: 64 or a multiple of 128, at most four from one power of two to the next.

    The selection is compiled for each.
    """
    if count <= PROPOSAL_MULTIPLE:
        return PROPOSAL_MULTIPLE
    quarter = 2 ** ((count - 1).bit_length() - 3)
    return round_up(count, max(quarter, ROIS_AT_A_TIME))


def pyramid_shape(
    buckets: Sequence[Bucket], counts: Sequence[Int[np.ndarray, " L"]], num_proposals: int, multiple: int
) -> PyramidShape:
    """The least shape that holds each of these images.

    Counts of RoIs are rounded up to multiples, but not above `num_proposals`. Without any RoI the first level is padded
    to some, so that every stage has an input.

    Args:
        counts: number of RoIs per image and level; `RoiPlan.counts`.
    """

    def padded(count: int) -> int:
        return min(round_up(int(count), multiple), num_proposals) if count else 0

    most = np.max(counts, axis=0)
    if not most.any():
        most[0] = 1
    total = max(1, int(np.sum(counts, axis=1).max()))
    buckets = tuple((int(height), int(width)) for height, width in buckets)
    return PyramidShape(buckets, tuple(padded(count) for count in most), padded(total), num_proposals)


def image_pyramid(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "P 4"],
    plan: RoiPlan,
    scales: Sequence[float],
    shape: PyramidShape,
    image_index: int = 0,
) -> Pyramid:
    """One image as a batch of one.

    Args:
        plan: the plan of these boxes at these scales.
        scales: resized size / original size of each level.
    """
    boxes = np.asarray(boxes, np.float32)
    rois = boxes[plan.chosen]
    levels = [
        _level(image, scale, bucket, rois[start : start + count], start, padded, shape.num_rois)
        for scale, bucket, start, count, padded in zip(
            scales, shape.buckets, plan.starts, plan.counts, shape.level_rois, strict=True
        )
        if padded
    ]
    return Pyramid(
        levels=tuple(levels),
        roi_index=pad_rows(plan.index.astype(np.int32), shape.num_proposals)[None],
        proposals=pad_rows(boxes, shape.num_proposals)[None],
        proposal_mask=(np.arange(shape.num_proposals) < len(boxes))[None],
        original_sizes=np.array([image.shape[:2]], np.int32),
        image_mask=np.ones(1, bool),
        image_index=np.array([image_index], np.int32),
        num_rois=shape.num_rois,
    )


def join(images: Sequence[Pyramid], count: int) -> Pyramid:
    """Batches of one shape joined, filled up to `count` images with masked copies of the first."""
    filling = images[0].replace(image_mask=np.zeros_like(images[0].image_mask))
    images = [*images, *[filling] * (count - len(images))]
    return images[0] if count == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *images)


def _level(
    image: UInt8[np.ndarray, "H W 3"],
    scale: float,
    bucket: Bucket,
    rois: Float[np.ndarray, "U 4"],
    start: int,
    count: int,
    num_rois: int,
) -> Level:
    height, width = resized_size(image.shape[:2], scale)
    padded = np.zeros((*bucket, 3), np.uint8)
    resize_image(image, scale, out=padded[:height, :width])
    place = np.arange(count)
    return Level(
        images=padded[None],
        image_sizes=np.array([[height, width]], np.int32),
        scales=np.array([scale], np.float32),
        rois=pad_rows(rois, count)[None],
        # Padding gets distinct slots past the last one.
        slots=np.where(place < len(rois), start + place, num_rois + place).astype(np.int32)[None],
    )
