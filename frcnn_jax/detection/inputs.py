"""Inputs from arrays: images and boxes are checked, resized and padded to a `Batch` or a `Pyramid`."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Real, UInt8

from frcnn_jax.data.batch_plan import (
    Bucket,
    choose_bucket,
    default_buckets,
    pad_rows,
    resize_scale,
    resized_size,
    round_up,
)
from frcnn_jax.data.images import check_pixels
from frcnn_jax.data.pipeline import padded_count, resize_image
from frcnn_jax.detection.pyramid import ROIS_AT_A_TIME, Pyramid, image_pyramid, padded_proposals, pyramid_shape
from frcnn_jax.detection.roi_plan import plan_rois
from frcnn_jax.ops.arguments import is_traced
from frcnn_jax.types import Batch

# Padded sides and counts are multiples of these, so that similar inputs share compiled functions.
_SIDE_MULTIPLE = 32
_OBJECT_MULTIPLE = 8


def make_batch(
    image: UInt8[np.ndarray, "H W 3"] | Sequence[UInt8[np.ndarray, "H W 3"]],
    boxes: Real[np.ndarray, "P 4"] | Sequence[Real[np.ndarray, "P 4"]],
    gt_boxes: Real[np.ndarray, "G 4"] | Sequence[Real[np.ndarray, "G 4"]] | None = None,
    gt_labels: Int[np.ndarray, " G"] | Sequence[Int[np.ndarray, " G"]] | None = None,
    *,
    scale: int | None = None,
    max_size: int = 1000,
    num_classes: int | None = None,
    gt_difficult: Bool[np.ndarray, " G"] | Sequence[Bool[np.ndarray, " G"]] | None = None,
    gt_crowd: Bool[np.ndarray, " G"] | Sequence[Bool[np.ndarray, " G"]] | None = None,
) -> Batch:
    """One image, or several, with proposals and ground truth as a padded batch: for `loss_fn` and `detect_batch`.

    It runs on the host and returns NumPy arrays. Images are padded at the bottom and right: to the greatest height and
    width among them in multiples of 32 pixels, or with a `scale` to one of a few shapes for it, from 4:3 up to
    `max_size` on the longer side. Proposals are padded to a multiple of 64, objects to a multiple of 8; masks mark the
    real entries. Proposals keep their positions; those without an area inside the image are masked.

    Args:
        image: 8-bit RGB of any size, or a sequence of N images; then the boxes and labels are sequences of N too.
        boxes: proposals, half-open x1 y1 x2 y2 in pixels of the given image; may be empty.
        gt_boxes: boxes of the objects; None for a batch without ground truth.
        gt_labels: class of each object, 1 ... K.
        scale: length of the shorter side after resizing, as in `detect`; None keeps the image size.
        max_size: with a scale, limit of the longer side.
        num_classes: K + 1, as in `create_model`; labels above K are refused then.
        gt_difficult: True for objects that `SamplingConfig(use_difficult=False)` leaves out; all False if None.
        gt_crowd: True for regions of many objects, near which RoIs are neither foreground nor background; none if None.

    Raises:
        TypeError: an argument is traced.
        ValueError: an image is not uint8 [H, W, 3]; boxes are not numbers [P, 4], not finite or reversed; an object has
            no area inside the image; labels are not integers of 1 ... K, one for each object; marks of objects are not
            bools, one for each; a scale is not a finite length of at least 1; or lengths differ.
    """
    given = image, boxes, gt_boxes, gt_labels, scale, gt_difficult, gt_crowd
    if any(map(is_traced, jax.tree.leaves(given))):
        raise TypeError(
            "make_batch prepares images on the host and cannot be traced by jax.jit, jax.vmap or jax.grad: call it "
            "before, and give the traced function the batch"
        )
    images = [image] if _is_single(image) else list(image)
    if not images:
        raise ValueError("make_batch needs at least one image")
    if (gt_boxes is None) != (gt_labels is None):
        raise ValueError("make_batch needs gt_boxes and gt_labels, or neither")

    def by_image(values: Any, name: str) -> list[Any]:
        values = [values] if _is_single(image) else list(values)
        if len(values) != len(images):
            raise ValueError(f"make_batch: {len(images)} images but {name} of {len(values)}")
        return values

    images = [check_pixels(pixels) for pixels in images]
    sizes = [pixels.shape[:2] for pixels in images]
    proposals = [check_boxes(b, size) for b, size in zip(by_image(boxes, "boxes"), sizes, strict=True)]
    if gt_boxes is None:
        objects = [(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))] * len(images)
    else:
        pairs = zip(by_image(gt_boxes, "gt_boxes"), by_image(gt_labels, "gt_labels"), sizes, strict=True)
        most_label = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
        objects = [_check_objects(*pair, most_label) for pair in pairs]
    most = round_up(max(len(labels) for _, labels in objects), _OBJECT_MULTIPLE)

    def marks(values: Any, name: str) -> Bool[np.ndarray, "N most"]:
        counts = [len(labels) for _, labels in objects]
        checked = [_check_marks(v, n, name) for v, n in zip(by_image(values, name), counts, strict=True)]
        return np.stack([pad_rows(marked, most) for marked in checked])

    no_marks = np.zeros((len(images), most), bool)
    difficult = no_marks if gt_difficult is None else marks(gt_difficult, "gt_difficult")
    crowd = None if gt_crowd is None else marks(gt_crowd, "gt_crowd")
    scales, bucket = _scales_and_bucket(sizes, scale, max_size)
    padded = np.zeros((len(images), *bucket, 3), np.uint8)
    resized = [resized_size(size, factor) for size, factor in zip(sizes, scales, strict=True)]
    for pixels, (height, width), factor, place in zip(images, resized, scales, padded, strict=True):
        resize_image(pixels, factor, out=place[:height, :width])
    count = padded_count(proposals)
    return Batch(
        images=padded,
        image_sizes=np.array(resized, np.int32),
        original_sizes=np.array(sizes, np.int32),
        scales=np.array(scales, np.float32),
        image_mask=np.ones(len(images), bool),
        image_index=np.arange(len(images), dtype=np.int32),
        proposals=np.stack([pad_rows(b, count) for b in proposals]),
        proposal_mask=np.stack(
            [pad_rows(inside_image(b, size), count) for b, size in zip(proposals, sizes, strict=True)]
        ),
        gt_boxes=np.stack([pad_rows(b, most) for b, _ in objects]),
        gt_labels=np.stack([pad_rows(labels, most) for _, labels in objects]),
        gt_difficult=difficult,
        gt_mask=np.stack([np.arange(most) < len(labels) for _, labels in objects]),
        gt_crowd=crowd,
    )


def single_pyramid(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Real[np.ndarray, "P 4"],
    *,
    scales: Sequence[int],
    max_size: int,
    spatial_scale: float,
    flip: bool = False,
    shared: bool = True,
) -> Pyramid:
    """One image at one or several scales, for `detect_pyramid`; boxes without an area inside the image are dropped.

    Args:
        scales: lengths of the shorter side; the longer side is at most `max_size`.
        spatial_scale: feature cells per pixel of a resized image.
        flip: the image is tested mirrored too.
        shared: the model's `shares_rois`.

    Raises:
        ValueError: the image, the boxes or a scale is invalid, as in `detect`.
    """
    image = check_pixels(image)
    boxes = check_boxes(boxes, image.shape[:2])
    boxes = boxes[inside_image(boxes, image.shape[:2])]
    check_lengths(scales, max_size)
    factors = [resize_scale(image.shape[:2], shorter, max_size) for shorter in scales]
    sizes = [resized_size(image.shape[:2], factor) for factor in factors]
    buckets = default_buckets(tuple(scales), max_size, round(1 / spatial_scale))
    mirrored_width = image.shape[1] if flip else None
    plan = plan_rois(boxes, np.array(factors), spatial_scale, shared=shared, mirrored_width=mirrored_width)
    chosen = [buckets[choose_bucket(size, buckets)] for size in sizes]
    shape = pyramid_shape(chosen, [plan.counts], padded_proposals(len(boxes)), ROIS_AT_A_TIME)
    return image_pyramid(image, boxes, plan, factors, shape)


def check_boxes(boxes: Real[np.ndarray, "B 4"], size: tuple[int, int], name: str = "boxes") -> Float[np.ndarray, "B 4"]:
    """The boxes as float32; an empty list becomes [0, 4].

    Args:
        size: height and width of the image.
        name: name of the argument, for messages.

    Raises:
        ValueError: they are not numbers [B, 4], not finite, or reversed.
    """
    boxes = _as_float32(boxes, name)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must be [P, 4], not {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{name} must be finite; box {np.argwhere(~np.isfinite(boxes))[0][0]} is not")
    low, high = boxes[:, :2], boxes[:, 2:]
    wrong = np.flatnonzero((high < low).any(axis=1))
    if len(wrong):
        first = wrong[0]
        axis = "x" if high[first, 0] < low[first, 0] else "y"
        message = (
            f"{name} must be x1 y1 x2 y2 (half-open, in pixels): box {first} is {boxes[first].tolist()}, "
            f"where {axis}2 is less than {axis}1"
        )
        # Rounding may leave such a box outside by a fraction of a pixel.
        within = (low >= -1).all() and (low + high <= np.array(size[::-1]) + 1).all()
        if within and (high > 0).all():
            message += "; these boxes look like x y w h: give x, y, x + w, y + h"
        raise ValueError(message)
    return boxes


def _as_float32(boxes: Any, name: str) -> Float[np.ndarray, "..."]:
    try:
        boxes = np.asarray(boxes)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be [P, 4], all rows with four numbers: {error}") from error
    mixed = boxes.dtype == object and all(isinstance(number, numbers.Real) for number in boxes.flat)
    # Not `dtype.kind`: bfloat16 has the kind of bytes.
    if not (mixed or jnp.issubdtype(boxes.dtype, np.integer) or jnp.issubdtype(boxes.dtype, np.floating)):
        raise ValueError(f"{name} must be real numbers, not {boxes.dtype}: convert them, as by np.float32(...)")
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite and are reported as such
        return boxes.astype(np.float32)


def check_lengths(scales: Sequence[int], max_size: int) -> None:
    """Raises ValueError if a length to resize to is not a finite number of at least 1."""
    for length in (*scales, max_size):
        known = isinstance(length, numbers.Real) or (hasattr(length, "dtype") and np.ndim(length) == 0)
        if not (known and np.asarray(length).dtype != bool and length >= 1 and math.isfinite(length)):
            shown = f"scale {scales[0]!r}" if len(scales) == 1 else f"scales {tuple(scales)}"
            raise ValueError(f"{shown} and max_size {max_size!r} must be at least 1 and finite")


def inside_image(boxes: Float[np.ndarray, "B 4"], size: tuple[int, int]) -> Bool[np.ndarray, " B"]:
    """Mask of the boxes with an area after clipping to an image of height and width `size`."""
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], np.array(size[::-1], boxes.dtype))
    return (high > low).all(axis=1)


def _check_objects(
    boxes: Real[np.ndarray, "G 4"], labels: Int[np.ndarray, " G"], size: tuple[int, int], most_label: int
) -> tuple[Float[np.ndarray, "G 4"], Int[np.ndarray, " G"]]:
    boxes, labels = check_boxes(boxes, size, "gt_boxes"), np.asarray(labels)
    if labels.size == 0:
        labels = np.zeros(0, np.int32)
    if labels.dtype.kind not in "iu" or labels.shape != boxes.shape[:1] or (labels < 1).any():
        raise ValueError(
            f"gt_labels must be integers of 1 ... K, one for each of {len(boxes)} gt_boxes, "
            f"not {labels.dtype} {list(labels.shape)}{f' from {labels.min()}' if labels.size else ''}"
        )
    if (labels > most_label).any():
        last = "num_classes - 1 = " if most_label < np.iinfo(np.int32).max else ""
        raise ValueError(f"gt_labels must be of 1 ... {last}{most_label}, not {labels.max()}")
    empty = np.flatnonzero(~inside_image(boxes, size))
    if len(empty):
        raise ValueError(
            f"gt_boxes: box {empty[0]}, {boxes[empty[0]].tolist()}, is empty inside the image of {size[1]} x {size[0]}"
        )
    return boxes, labels.astype(np.int32)


def _check_marks(marks: Any, count: int, name: str) -> Bool[np.ndarray, " G"]:
    marks = np.asarray(marks)
    if marks.size == 0:
        marks = np.zeros(0, bool)
    if marks.dtype != bool or marks.shape != (count,):
        raise ValueError(
            f"{name} must be True or False for each of {count} gt_boxes, not {marks.dtype} {list(marks.shape)}"
        )
    return marks


def _scales_and_bucket(
    sizes: Sequence[tuple[int, int]], scale: int | None, max_size: int
) -> tuple[list[float], Bucket]:
    """The scale of each image, and the common padded height and width."""
    if scale is None:
        height, width = np.max(sizes, axis=0)
        return [1.0] * len(sizes), (round_up(int(height), _SIDE_MULTIPLE), round_up(int(width), _SIDE_MULTIPLE))
    check_lengths((scale,), max_size)
    scales = [resize_scale(size, scale, max_size) for size in sizes]
    buckets = default_buckets((scale,), max_size, _SIDE_MULTIPLE)
    resized = [resized_size(size, factor) for size, factor in zip(sizes, scales, strict=True)]
    height, width = np.max([buckets[choose_bucket(size, buckets)] for size in resized], axis=0)
    return scales, (int(height), int(width))


def _is_single(image: Any) -> bool:
    """True for one image, False for several."""
    return not isinstance(image, list | tuple) and np.ndim(image) != 4
