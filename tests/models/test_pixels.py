"""Normalisation of pixels alone: lists are arrays, and what does not fit is named."""

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.pixels import TORCHVISION_PIXELS, normalize_images

pytestmark = pytest.mark.usefixtures("unchecked_types")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_lists_are_arrays(order):
    pixels, sizes = TORCHVISION_PIXELS.__class__((1, 2, 3), (4, 5, 6), order), np.array([[3, 2], [1, 4]])
    expected = normalize_images(jnp.asarray(IMAGES), jnp.asarray(sizes), pixels)
    np.testing.assert_array_equal(normalize_images(IMAGES.tolist(), sizes.tolist(), pixels), expected)


@pytest.mark.parametrize(
    ("images", "sizes", "message"),
    [
        (IMAGES[0], None, r"images \[N, H, W, 3\], not \[3, 4, 3\]"),
        (IMAGES[..., 0], None, r"images \[N, H, W, 3\], not \[2, 3, 4\]"),
        (IMAGES, [3, 4], r"sizes \[N, 2\] = \[2, 2\], not \[2\]"),
        (IMAGES, [[3, 4]], r"sizes \[N, 2\] = \[2, 2\], not \[1, 2\]"),
        (IMAGES, [[3.0, 4.0]] * 2, r"sizes as integers, not float32: give \.astype\(\"int32\"\)"),
    ],
)
def test_what_does_not_fit_is_named(images, sizes, message):
    with pytest.raises(ValueError, match=f"^normalize_images takes {message}"):
        normalize_images(images, sizes, TORCHVISION_PIXELS)
