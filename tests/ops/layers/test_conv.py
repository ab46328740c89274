"""The convolution with its own weight gradient against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from frcnn_jax.ops.layers.conv import conv2d


def case(size, shape, dtype=jnp.float32):
    x_key, kernel_key = jax.random.split(jax.random.key(3))
    x = jax.random.normal(x_key, (2, *shape, 3), dtype)
    return x, jax.random.normal(kernel_key, (size, size, 3, 4), dtype)


def test_by_hand():
    x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 1, 0, 0].set(1.0).at[1, 2, 0, 0].set(10.0)
    # Each cell is the one above plus ten times the one to its right: a correlation, not flipped.
    expected = [[20, 30, 0], [51, 62, 3], [84, 95, 6]]
    np.testing.assert_array_equal(conv2d(x, kernel, 1, 1)[0, :, :, 0], expected)
    np.testing.assert_array_equal(conv2d(x, kernel, 2, 1)[0, :, :, 0], [[20, 0], [84, 6]])


@pytest.mark.parametrize(
    ("stride", "size", "padding", "shape"),
    [
        (1, 1, 0, (7, 9)),
        (1, 3, 1, (7, 9)),
        (1, 5, 2, (8, 6)),
        (2, 1, 0, (7, 9)),
        (2, 1, 0, (8, 6)),
        (2, 3, 1, (7, 9)),
        (2, 3, 1, (8, 6)),
        (2, 3, 0, (8, 7)),  # a last row that no window reaches
        (2, 5, 2, (7, 6)),
        (3, 2, 0, (7, 9)),  # columns between windows that none reaches
        (2, 3, 0, (2, 7)),  # no row of windows at all
    ],
)
def test_value_and_both_gradients_equal_xla(stride, size, padding, shape):
    x, kernel = case(size, shape)

    def xla(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=layout)

    def value_and_gradients(function):
        y, pullback = jax.vjp(function, x, kernel)
        return y, *pullback(jax.random.normal(jax.random.key(4), y.shape))

    expected = jax.jit(lambda: value_and_gradients(xla))()
    found = jax.jit(lambda: value_and_gradients(lambda x, kernel: conv2d(x, kernel, stride, padding)))()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_equal_finite_differences(stride, x64):
    x, kernel = case(3, (5, 4), jnp.float64)
    function = jax.jit(lambda x, kernel: conv2d(x, kernel, stride, 1))
    check_grads(function, (x, kernel), order=1, modes=["rev"])


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_many_channels_equal_xla(padding, dtype):
    keys = jax.random.split(jax.random.key(5), 3)
    x = jax.random.normal(keys[0], (2, 5, 6, 128)).astype(dtype)
    kernel = jax.random.normal(keys[1], (3, 3, 128, 130)).astype(dtype)

    def xla(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=layout)

    expected, expected_pullback = jax.vjp(xla, x.astype("float32"), kernel.astype("float32"))
    y, pullback = jax.vjp(jax.jit(lambda x, kernel: conv2d(x, kernel, 1, padding)), x, kernel)
    cotangent = jax.random.normal(keys[2], y.shape).astype(dtype)
    theirs = (expected, *expected_pullback(cotangent.astype("float32")))
    for ours, exact in zip((y, *pullback(cotangent)), theirs, strict=True):
        assert ours.dtype == dtype
        error = np.max(np.abs(np.asarray(ours, np.float32) - exact)) / np.max(np.abs(exact))
        assert error < (1e-5 if dtype == "float32" else 2**-8)


def test_vmap_of_the_gradient_equals_a_loop():
    x, kernel = case(3, (6, 5))
    gradient = jax.grad(lambda kernel, x: jnp.sum(jnp.sin(conv2d(x, kernel, 2, 1))))
    images = x[:, None]
    together = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(kernel, images)
    alone = jnp.stack([gradient(kernel, image) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients_keep_their_type():
    x, kernel = (a.astype(jnp.bfloat16) for a in case(3, (6, 5)))
    value, (dx, dk) = jax.value_and_grad(lambda x, k: jnp.sum(conv2d(x, k, 1, 1)), argnums=(0, 1))(x, kernel)
    assert (value.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16,) * 3
    exact = jax.grad(lambda x, k: jnp.sum(conv2d(x, k, 1, 1)), argnums=1)(*(a.astype(jnp.float32) for a in (x, kernel)))
    np.testing.assert_allclose(np.asarray(dk, np.float32), exact, rtol=2e-2, atol=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("inputs", "outputs"), [(12, 5), (5, 12)])
def test_one_cell_kernels_equal_a_product(inputs, outputs, dtype):
    keys = jax.random.split(jax.random.key(6), 3)
    x = jax.random.normal(keys[0], (2, 3, 5, inputs)).astype(dtype)
    kernel = jax.random.normal(keys[1], (1, 1, inputs, outputs)).astype(dtype)
    y, pullback = jax.vjp(jax.jit(lambda x, kernel: conv2d(x, kernel)), x, kernel)
    cotangent = jax.random.normal(keys[2], y.shape).astype(dtype)
    flat, weights, flat_cotangent = (np.asarray(a, np.float64) for a in (x, kernel[0, 0], cotangent))
    expected = (
        flat @ weights,
        flat_cotangent @ weights.T,
        np.einsum("nhwc,nhwd->cd", flat, flat_cotangent)[None, None],
    )
    for ours, exact in zip((y, *pullback(cotangent)), expected, strict=True):
        assert (ours.dtype, ours.shape) == (dtype, exact.shape)
        error = np.max(np.abs(np.asarray(ours, np.float64) - exact)) / np.max(np.abs(exact))
        assert error < (1e-6 if dtype == "float32" else 2**-7)


def test_one_cell_kernels_are_products_where_channels_become_fewer():
    """Forward and backward, on a CPU; on other devices both are convolutions."""

    def convolutions(inputs, outputs, platform):
        x, kernel, cotangent = (
            jnp.ones((1, 2, 2, inputs)),
            jnp.ones((1, 1, inputs, outputs)),
            jnp.ones((1, 2, 2, outputs)),
        )
        forward = jax.jit(conv2d).trace(x, kernel)
        backward = jax.jit(lambda x: jax.vjp(lambda x: conv2d(x, kernel), x)[1](cotangent)[0]).trace(x)
        return ["convolution" in f.lower(lowering_platforms=(platform,)).as_text() for f in (forward, backward)]

    assert convolutions(8, 4, "cpu") == [False, True]
    assert convolutions(4, 8, "cpu") == [True, False]
    assert convolutions(8, 4, "cuda") == convolutions(4, 8, "cuda") == [True, True]
