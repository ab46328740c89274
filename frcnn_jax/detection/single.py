"""One image with a person's own boxes: checked, resized and padded so that few distinct shapes occur."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.data.batch_plan import choose_bucket, default_buckets, resize_scale, resized_size
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE, padded_count, resize_image
from frcnn_jax.detection.roi_plan import plan_rois
from frcnn_jax.detection.test_batch import Pyramid, image_pyramid, pyramid_shape, round_up
from frcnn_jax.types import Batch


def single_pyramid(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "P 4"],
    *,
    scales: Sequence[int],
    max_size: int,
    spatial_scale: float,
) -> Pyramid:
    """One image at one scale or several, for `detect_pyramid`.

    Args:
        scales: lengths of the shorter side; the longer one is at most `max_size`.
        spatial_scale: feature cells per pixel of a resized image.

    Raises:
        ValueError: the image, the boxes or a scale is not what it should be.
    """
    image, boxes = _checked(image, boxes)
    if min(*scales, max_size) < 1:
        raise ValueError(f"scales {tuple(scales)} and max_size {max_size} must be at least 1")
    factors = [resize_scale(image.shape[:2], shorter, max_size) for shorter in scales]
    sizes = [resized_size(image.shape[:2], factor) for factor in factors]
    known = default_buckets(tuple(scales), max_size, round(1 / spatial_scale))
    plan = plan_rois(boxes, np.array(factors), spatial_scale)
    num_proposals = padded_count([boxes])
    # In sixteenths: other boxes seldom need other compiled functions, and little is computed in vain.
    step = round_up(num_proposals // 16, PROPOSAL_MULTIPLE)
    shape = pyramid_shape([known[choose_bucket(size, known)] for size in sizes], [plan], num_proposals, step)
    return image_pyramid(image, boxes, plan, factors, shape)


def single_batch(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], *, scale: int, max_size: int
) -> Batch:
    """One image with its boxes as a batch without ground truth, for `detect_batch`.

    Raises:
        ValueError: the image or the boxes are not what they should be.
    """
    image, boxes = _checked(image, boxes)
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


def _checked(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "P 4"]]:
    """The image, and the boxes as float32, or what is wrong with them."""
    image, boxes = np.asarray(image), np.asarray(boxes, np.float32)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"the image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [P, 4], not {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite; box {np.argwhere(~np.isfinite(boxes))[0][0]} is not")
    return image, boxes
