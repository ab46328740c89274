"""The sizes of images in the programs of R-CNN and SPPnet, few of them, as each size is compiled."""

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.data.batch_plan import choose_bucket, default_buckets, resize_scale, resized_size

__all__ = ["pad_image", "padded_side", "resized_frame"]


def padded_side(length: int) -> int:
    """The padded side of an image, one of few so that few programs are compiled: 128, 192, 256, 384, 512 ..."""
    side = 128
    while side < length:
        side = side * 4 // 3 if side % 3 == 0 else side * 3 // 2
    return side


def resized_frame(
    image: UInt8[np.ndarray, "H W 3"], shorter: int, max_size: int, stride: int
) -> tuple[float, tuple[int, int]]:
    """Factor that scales the shorter side of an image to `shorter`, the longer one to at most `max_size`, and the
    padded size, one of few.
    """
    scale = resize_scale(image.shape[:2], shorter, max_size)
    buckets = default_buckets((shorter,), max_size, stride)
    return scale, buckets[choose_bucket(resized_size(image.shape[:2], scale), buckets)]


def pad_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """`image` with zeros at the bottom and right."""
    padded = np.zeros((*size, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
