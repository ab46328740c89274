"""R-CNN's windows: by hand, against a loop over OpenCV's resize, gradients, padding and the degenerate."""

import math
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.warp import warp_window
from tests.ops.reference import c_round

HEIGHT, WIDTH = 37, 61


@partial(jax.jit, static_argnames=("size", "context"))
def warp(image, boxes, image_size=None, size=24, context=3):
    return jax.vmap(lambda box: warp_window(image, box, image_size, size=size, context=context))(boxes)


def picture(seed, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)


def axis(start, end, cells, size, context):
    """First and last cell shown, first pixel of the window and number of pixels, along one axis."""
    half = (end - start) / 2
    first, last = (c_round(start + half + sign * half * size / (size - 2 * context)) for sign in (-1, 1))
    scale = size / (last - first + 1)
    begin, stop = max(first, 0), min(last + 1, cells)
    before, length = c_round((begin - first) * scale), c_round(max(stop - begin, 0) * scale)
    return begin, stop, before, min(length, size - before)


def loop(image, box, size, context):
    """One window by cropping, OpenCV's resize in float32, and pasting."""
    top, bottom, y, height = axis(box[1], box[3], image.shape[0], size, context)
    left, right, x, width = axis(box[0], box[2], image.shape[1], size, context)
    window = np.zeros((size, size, image.shape[2]), np.float32)
    if min(height, width) > 0:
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        window[y : y + height, x : x + width] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    return window


def test_by_hand():
    """A box of 2 x 4 pixels; as inclusive corners it ends a pixel later, and so is 3 x 5."""
    image = jnp.asarray(np.arange(48, dtype=np.float32).reshape(6, 8, 1))
    (window,) = warp(image, jnp.array([[2.0, 1.0, 6.0, 3.0]]), size=5, context=0)
    assert window.shape == (5, 5, 1)
    # Columns 2 ... 6 as they are. Rows 1 ... 3 in 5 pixels: centres at 0.6 i - 0.2 from row 1, not above it or below.
    rows = 1 + np.clip(0.6 * np.arange(5) - 0.2, 0, 2)
    np.testing.assert_allclose(window[:, :, 0], 8 * rows[:, None] + np.arange(2, 7), atol=1e-5)


def test_context_and_border_by_hand():
    """6 pixels with 2 of context in a window of 10: 10 pixels of the image from -2 to 8, 11 with the last one."""
    image = jnp.ones((20, 20, 1))
    (window,) = warp(image, jnp.array([[0.0, 6.0, 6.0, 12.0]]), size=10, context=2)
    # Two of eleven are beyond the border: 2 * 10 / 11 = 1.8 pixels, rounded.
    np.testing.assert_array_equal(window[:, :, 0], np.tile([0.0, 0, 1, 1, 1, 1, 1, 1, 1, 1], (10, 1)))


@pytest.mark.parametrize(("size", "context"), [(24, 3), (15, 0), (21, 6)])
def test_equals_a_loop_over_opencv(size, context):
    random = np.random.default_rng(size)
    corners = random.integers([-20, -20], [WIDTH + 10, HEIGHT + 10], (80, 2))
    sides = random.integers(1, 60, (80, 2))
    sides[::4] = 1  # boxes of one pixel
    corners[1:24:3] = 0
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    boxes[:3] = [[0, 0, WIDTH, HEIGHT], [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT], [10, 5, WIDTH, HEIGHT]]
    image = picture(1)
    windows = np.asarray(warp(jnp.asarray(image), jnp.asarray(boxes), size=size, context=context))
    outside = 0
    for box, window in zip(boxes.tolist(), windows, strict=True):
        np.testing.assert_allclose(window, loop(image, box, size, context), atol=1e-4, err_msg=str(box))
        outside += not window.all()
    assert 20 < outside < 75  # some within the image, some beyond its border


def test_the_papers_window():
    image, box = picture(2, 150, 300), [31.0, 20.0, 240.0, 140.0]
    (window,) = warp(jnp.asarray(image), jnp.array([box]), size=227, context=16)
    np.testing.assert_allclose(window, loop(image, box, 227, 16), atol=1e-4)
    np.testing.assert_allclose(window, warp_window(jnp.asarray(image), jnp.array(box), size=227), atol=1e-5)


def test_a_half_is_rounded_away_from_zero():
    """12 * n + 6 pixels make the corners end in a half, which float32 does not hit in every order of operations."""
    image = jnp.asarray(picture(3, 200, 200))
    for start, side in ((50, 6), (50, 18), (51, 30), (40, 90)):
        box = [start, start, start + side, start + side]
        assert math.isclose((start + side / 2 - side / 2 * 224 / 192) % 1, 0.5)
        (window,) = warp(image, jnp.array([box], jnp.float32), size=224, context=16)
        np.testing.assert_allclose(window, loop(np.asarray(image), box, 224, 16), atol=1e-4)


def test_padding_changes_nothing():
    image, boxes = picture(4), jnp.array([[-5.0, -3, 20, 30], [40.0, 20, 70, 50], [100.0, 100, 110, 110]])
    padded = np.full((HEIGHT + 9, WIDTH + 14, 3), np.nan, np.float32)
    padded[:HEIGHT, :WIDTH] = image
    windows = warp(jnp.asarray(padded), boxes, jnp.array([HEIGHT, WIDTH]))
    np.testing.assert_array_equal(windows, warp(jnp.asarray(image), boxes))
    assert not windows[2].any()


def test_other_numbers():
    image = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    box = np.array([3, 4, 30, 33])
    window = warp_window(jnp.asarray(image), jnp.asarray(box), size=24, context=8)
    assert window.dtype == jnp.float32
    as_floats = warp_window(jnp.asarray(image, jnp.float32), jnp.asarray(box, jnp.float32), size=24, context=8)
    np.testing.assert_array_equal(window, as_floats)


def test_gradient(x64):
    image = np.random.default_rng(6).normal(size=(6, 7, 2))
    box = jnp.array([1.0, -2, 6, 4])
    check_grads(
        lambda x: warp_window(jnp.asarray(x), box, size=9, context=2), (jnp.asarray(image),), 2, modes=["fwd", "rev"]
    )
    gradient = jax.grad(lambda b: warp_window(jnp.asarray(image), b, size=9, context=2).sum())(box)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("image", "box", "context", "message"),
    [
        ((4, 4), (4,), 1, r"an image \[H, W, C\] and a box \[4\], not \(4, 4\) and \(4,\)"),
        ((4, 0, 3), (4,), 1, "not"),
        ((4, 4, 3), (2, 4), 1, r"\(2, 4\)"),
        ((4, 4, 3), (4,), 5, "a context of 5 pixels leaves nothing of a window of 10"),
        ((4, 4, 3), (4,), -1, "a context of -1"),
    ],
)
def test_what_is_refused(unchecked_types, image, box, context, message):
    with pytest.raises(ValueError, match=message):
        warp_window(np.zeros(image), np.zeros(box), size=10, context=context)
