"""Normalisation of 8-bit pixels; it belongs to the weights and is stored with them."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from frcnn_jax.models.layers import Sizes, mask_outside
from frcnn_jax.ops.arguments import check_integers
from frcnn_jax.ops.precision import as_array, wide_dtype
from frcnn_jax.ops.shapes import check_shapes


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """Normalisation of 8-bit RGB pixels that a network was trained on.

    Raises:
        ValueError: the order is not known, mean or std are not three finite numbers, or a std is not positive.
    """

    mean: tuple[float, float, float]  # in the network's channel order, 0 ... 255
    std: tuple[float, float, float]
    order: str = "rgb"  # or "bgr"

    def __post_init__(self):
        for name in ("mean", "std"):
            given = getattr(self, name)
            if isinstance(given, str) or np.ndim(given) != 1:
                raise ValueError(f"{name} of pixels must be three numbers, one of each channel, not {given!r}")
            values = tuple(map(float, given))  # lists and arrays cannot be hashed, as models must be
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise ValueError(f"{name} of pixels must be three numbers, std above 0, not {values}")
            object.__setattr__(self, name, values)
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"the order of pixels is 'rgb' or 'bgr', not {self.order!r}")


CAFFE_PIXELS = PixelNormalization((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")
TORCHVISION_PIXELS = PixelNormalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")
EFFICIENTNET_LITE_PIXELS = PixelNormalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), "rgb")
CENTERED_PIXELS = PixelNormalization((127.5, 127.5, 127.5), (64.0, 64.0, 64.0), "rgb")


def normalize_images(
    images: Real[Array, "N H W 3"], sizes: Sizes, pixels: PixelNormalization, dtype: Any = jnp.float32
) -> Float[Array, "N H W 3"]:
    """8-bit RGB images as network input: mean and deviation per channel, zero outside `sizes` (rows, columns).

    Args:
        images: pixels of 0 ... 255, of any real dtype; scale those of 16-bit images to that range first.
        sizes: rows and columns of each image, the rest being padding, as integers of any kind; no padding if None.

    Raises:
        ValueError: a shape does not fit, for example because the axis of images is missing, or the sizes are not
            integers.
    """
    images, sizes = as_array(images), None if sizes is None else as_array(sizes)
    check_shapes("normalize_images", "images [N, H, W, 3], sizes [N, 2]", images, sizes)
    if sizes is not None:
        check_integers("normalize_images", "sizes", sizes)
    x = images[..., ::-1] if pixels.order == "bgr" else images
    wide = wide_dtype(dtype)
    mean, std = (jnp.array(v, wide)[None, None, None] for v in (pixels.mean, pixels.std))
    return mask_outside((x.astype(wide) - mean) / std, sizes).astype(dtype)
