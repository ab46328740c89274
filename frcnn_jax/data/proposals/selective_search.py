"""Selective Search (Uijlings et al., IJCV 2013): region proposals of one image, by OpenCV or by `grouping`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.images import check_pixels
from frcnn_jax.data.proposals.grouping import describe_regions, gradient_planes, group_regions
from frcnn_jax.data.proposals.near_duplicates import without_near_duplicates

__all__ = ["search_image", "selective_search"]

# For mode `mutual`: few segmentations, as they take most of the time, with different colours and scales; many
# groupings, as they are cheap. Chosen on VOC photographs: docs/proposals.md.
_SEGMENTATIONS = (  # colours, times k
    (cv2.COLOR_RGB2HSV, 1),
    (cv2.COLOR_RGB2HSV, 4),
    (cv2.COLOR_RGB2Lab, 2),
    (cv2.COLOR_RGB2Lab, 4),
)
_GROUPINGS = ((1, 1, 1, 1), (0, 1, 1, 1), (0, 0, 1, 0), (0, 0, 0, 1))  # weights of colour, texture, size, fill
_SIGMA, _SMALLEST_SEGMENT = 0.8, 50  # of the blur before segmentation; least pixels of a segment
_SAME_IOU = 0.9
_MODES = ("fast", "quality", "mutual")


def search_image(image: UInt8[np.ndarray, "H W 3"], config: ProposalConfig) -> Float[np.ndarray, "P 4"]:
    """The proposals of one RGB image by the settings in `config`: float32, half-open, in pixels of the image, best
    first.

    Raises:
        ValueError: the config's proposals come from a file.
    """
    return selective_search(image, **search_settings(config))


def search_settings(config: ProposalConfig) -> dict[str, Any]:
    """The arguments of `selective_search`.

    Raises:
        ValueError: the config's proposals come from a file.
    """
    if config.method == "file":
        raise ValueError("proposals.method is 'file': there is nothing to compute; give the boxes in a file")
    return {
        "mode": config.method.removeprefix("selective_search_"),
        "max_side": config.max_side,
        "max_count": config.max_count,
        "min_side": float(config.min_side),
        "segment_scale": config.segment_scale,
    }


def selective_search(
    image: UInt8[np.ndarray, "H W 3"],
    *,
    mode: str = "quality",
    max_side: int = 500,
    max_count: int = 2000,
    min_side: float = 16.0,
    segment_scale: int = 150,
) -> Float[np.ndarray, "P 4"]:
    """Proposals of one image by Selective Search, best first and without duplicates; deterministic for each image.

    Args:
        image: RGB.
        mode: `fast` (2 colour spaces, 3 segmentations of each, 2 groupings) and `quality` (5, 5 and 4) are OpenCV's;
            `mutual` (2 colour spaces, 2 segmentations of each, 4 groupings) merges all mutual nearest neighbours at
            once, and skips boxes that overlap an earlier one by an IoU above 0.9.
        max_side: limit on the longer side of the reduced image to search; 0 keeps the image's size.
        max_count: number of boxes kept.
        min_side: boxes with a side below this many pixels of the original image are skipped.
        segment_scale: the k of the graph segmentation the search starts from; smaller means smaller first regions,
            more boxes and a higher recall. `fast` uses k, 2k and 3k, `quality` up to 5k, `mutual` k, 2k and 4k.

    Returns:
        float32 boxes, half-open, in pixels of the original image.

    Raises:
        ValueError: the mode is unknown, a number is negative, `segment_scale` is below 1, or the image is not of the
            type and shape above.
    """
    image = check_pixels(image)
    if mode not in _MODES:
        raise ValueError(f"mode: expected 'fast', 'quality' or 'mutual', got {mode!r}")
    least = {"max_side": (max_side, 0), "max_count": (max_count, 0), "min_side": (min_side, 0)}
    for name, (number, bound) in (least | {"segment_scale": (segment_scale, 1)}).items():
        if not number >= bound:
            raise ValueError(f"{name}: expected {bound} or more, got {number}")
    reduced = _reduce(image, max_side)
    corners = _mutual(reduced, segment_scale) if mode == "mutual" else _opencv(reduced, mode, segment_scale)
    height, width = image.shape[:2]
    size = np.array([width, height, width, height], np.float64)
    boxes = np.minimum(corners * (size / np.tile(reduced.shape[1::-1], 2)), size).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= max(min_side, 1e-3)).all(axis=1)]
    ranked = rank_boxes(np.unique(boxes, axis=0))
    return without_near_duplicates(ranked, _SAME_IOU, max_count) if mode == "mutual" else ranked[:max_count]


def _opencv(image: UInt8[np.ndarray, "h w 3"], mode: str, scale: int) -> Float[np.ndarray, "B 4"]:
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast(scale, scale)
    else:
        search.switchToSelectiveSearchQuality(scale, scale)
    found = np.asarray(search.process(), dtype=np.float64).reshape(-1, 4)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def _mutual(image: UInt8[np.ndarray, "h w 3"], scale: int) -> Float[np.ndarray, "B 4"]:
    gradients = gradient_planes(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    segmentations = []
    for space, times in _SEGMENTATIONS:
        colours = cv2.cvtColor(image, space)
        search = cv2.ximgproc.segmentation.createGraphSegmentation(_SIGMA, times * scale, _SMALLEST_SEGMENT)
        segmentations.append(describe_regions(search.processImage(colours), colours, gradients))
    return group_regions(segmentations, _GROUPINGS, image.shape[0] * image.shape[1])


def rank_boxes(boxes: Float[np.ndarray, "P 4"]) -> Float[np.ndarray, "P 4"]:
    """`boxes` in the order to keep them: random, with a mild preference for small ones.

    OpenCV's own order is similar (a random number times the level in the hierarchy). But it uses the C library's global
    generator, so that an image's boxes depend on earlier calls. Recall of the first boxes is the same.
    """
    area = np.prod(boxes[:, 2:].astype(np.float64) - boxes[:, :2], axis=1)
    rank = np.random.default_rng(0).random(len(boxes)) * np.log2(1 + area)
    return boxes[np.argsort(rank, kind="stable")]


def _reduce(image: UInt8[np.ndarray, "H W 3"], max_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """`image` reduced to a longer side of at most `max_side`; unchanged if that is 0 or it is small enough."""
    height, width = image.shape[:2]
    if not max_side or max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
