"""Winograd's convolution against a plain loop: with small integers every sum is exact, and so is every comparison."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from frcnn_jax.ops.layers.conv import conv2d
from frcnn_jax.ops.layers.winograd import suits_winograd, winograd_convolve, winograd_kernel_gradient

CHANNELS = 128  # the fewest that go this way


def plain_convolve(x, kernel, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    n, height, width, _ = x.shape
    y = np.zeros((n, height - 2, width - 2, kernel.shape[3]))
    for image, i, j in np.ndindex(y.shape[:3]):
        y[image, i, j] = np.einsum("ijc,ijcd->d", x[image, i : i + 3, j : j + 3], kernel)
    return y


def plain_kernel_gradient(x, cotangent, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    gradient = np.zeros((3, 3, x.shape[3], cotangent.shape[3]))
    for image, i, j in np.ndindex(cotangent.shape[:3]):
        gradient += x[image, i : i + 3, j : j + 3, :, None] * cotangent[image, i, j]
    return gradient


def integers(seed, *shape):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def native(x, kernel, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=layout)


def relative_error(value, expected):
    return np.max(np.abs(np.asarray(value, np.float64) - expected)) / np.max(np.abs(expected))


def test_by_hand():
    x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 1, 0, 0].set(1.0).at[1, 2, 0, 0].set(10.0)
    # Each cell is the one above plus ten times the one to its right.
    expected = [[20, 30, 0], [51, 62, 3], [84, 95, 6]]
    np.testing.assert_array_equal(winograd_convolve(x, kernel, 1)[0, :, :, 0], expected)
    # The last cell's output is seen by itself in the middle and by the cells around it, turned around.
    cotangent = jnp.zeros((1, 3, 3, 1)).at[0, 2, 2, 0].set(2.0)
    gradient = winograd_kernel_gradient(x, cotangent, 1)[:, :, 0, 0]
    np.testing.assert_array_equal(gradient, [[10, 12, 0], [16, 18, 0], [0, 0, 0]])


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 6), (5, 6), (6, 7), (5, 3), (3, 3), (1, 8), (2, 1)])
def test_equals_a_plain_loop(shape, padding):
    if min(shape) + 2 * padding < 3:
        pytest.skip("no output")
    x, kernel = integers(0, 2, *shape, 5), integers(1, 3, 3, 5, 4)
    y = plain_convolve(x, kernel, padding)
    cotangent = integers(2, *y.shape)

    @jax.jit
    def both(x, kernel, cotangent):
        return winograd_convolve(x, kernel, padding), winograd_kernel_gradient(x, cotangent, padding)

    found, gradient = both(x, kernel, cotangent)
    np.testing.assert_array_equal(found, y)
    np.testing.assert_array_equal(gradient, plain_kernel_gradient(x, cotangent, padding))


def test_rounding_errors_are_those_of_the_direct_sum(x64):
    """Of ReLU features through He-initialised weights; the same bounds do not hold for tiles of 4 x 4 outputs."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.nn.relu(jax.random.normal(keys[0], (1, 14, 15, 256), jnp.float64))
    kernel = jax.random.normal(keys[1], (3, 3, 256, 96), jnp.float64) / 34
    cotangent = jax.random.normal(keys[2], (1, 14, 15, 96), jnp.float64)
    y, pullback = jax.vjp(lambda x, kernel: native(x, kernel, 1), x, kernel)
    _, gradient = pullback(cotangent)
    x, kernel, cotangent = (a.astype(jnp.float32) for a in (x, kernel, cotangent))
    assert relative_error(winograd_convolve(x, kernel, 1), y) < 1e-6
    assert relative_error(winograd_kernel_gradient(x, cotangent, 1), gradient) < 1e-6


def test_half_precision_is_rounded_once_at_the_end():
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(1, 5, 6, 32), (3, 3, 32, 8)]))
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    wide = winograd_convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), 1)
    y = winograd_convolve(x, kernel, 1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(wide.astype(jnp.bfloat16), np.float32))
    assert winograd_kernel_gradient(x, y, 1).dtype == jnp.float32


def test_what_it_suits():
    def suits(x=(1, 8, 8, CHANNELS), kernel=(3, 3, CHANNELS, CHANNELS), stride=1, padding=1):
        return suits_winograd(jnp.zeros(x), jnp.zeros(kernel), stride, padding)

    assert suits()
    assert suits(padding=0)
    assert suits(padding=2)
    assert not suits(padding=3)  # the input's gradient would need negative padding
    assert not suits(stride=2)
    assert not suits(kernel=(5, 5, CHANNELS, CHANNELS))
    assert not suits(kernel=(1, 3, CHANNELS, CHANNELS))
    assert not suits(x=(1, 8, 8, CHANNELS - 1), kernel=(3, 3, CHANNELS - 1, CHANNELS))
    assert not suits(kernel=(3, 3, CHANNELS, CHANNELS - 1))
    assert not suits(x=(1, 2, 8, CHANNELS), padding=0)  # smaller than the kernel
    assert suits(x=(1, 1, 1, CHANNELS))


def lowered(platform, channels):
    def value_and_gradients(x, kernel):
        y, pullback = jax.vjp(lambda x, kernel: conv2d(x, kernel, 1, 1), x, kernel)
        return y, pullback(y)

    shapes = (
        jax.ShapeDtypeStruct((1, 6, 5, channels), "float32"),
        jax.ShapeDtypeStruct((3, 3, channels, CHANNELS), "float32"),
    )
    return jax.jit(value_and_gradients).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "channels", "convolutions", "products"),
    [("cpu", CHANNELS, 0, 48), ("cpu", 32, 2, 9), ("cuda", CHANNELS, 3, 0), ("tpu", CHANNELS, 3, 0), ("tpu", 32, 3, 0)],
)
def test_only_cpus_go_this_way(platform, channels, convolutions, products):
    text = lowered(platform, channels)
    assert text.count("stablehlo.convolution(") == convolutions
    assert text.count("stablehlo.dot_general ") == products
