"""Depthwise convolution as it is computed on a CPU, small maps and large ones, against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.layers import depthwise_cells
from frcnn_jax.ops.layers.depthwise import depthwise_conv2d

SMALL, LARGE = "cells", "taps"

# Kernel, stride, zeros before, rows and columns.
CASES = [
    (3, 1, None, (3, 4)),
    (3, 1, 2, (1, 5)),
    (3, 1, 0, (4, 2)),
    (3, 2, None, (6, 4)),
    (3, 2, 1, (5, 4)),
    (3, 2, 2, (3, 4)),  # a last row and column that no window reaches
    (5, 1, None, (4, 3)),
    (5, 2, None, (5, 4)),
    (5, 2, 2, (7, 1)),
    (5, 2, None, (1, 1)),
    (3, 3, None, (4, 5)),
]


@pytest.fixture(scope="module", params=[SMALL, LARGE])
def cleared(request):
    """Has all tests of one way run before those of the other, without what was traced for that."""
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


@pytest.fixture
def way(cleared, monkeypatch):
    """The functions that compute it: those for small maps, or those for large ones."""
    monkeypatch.setattr(depthwise_cells, "suits_cells", lambda *_: cleared == SMALL)
    return cleared


def arrays(size, shape, stride, dtype="float32", channels=3, images=3):
    """Input, kernel and cotangent. No two numbers are alike, and none is near 0."""
    random = np.random.default_rng(7)
    outputs = [-(-length // stride) for length in shape]
    shapes = (images, *shape, channels), (size, size, channels), (images, *outputs, channels)
    return [jnp.asarray(random.uniform(0.5, 2, shape) * random.choice([-1, 1], shape), dtype) for shape in shapes]


def loops(x, kernel, cotangent, stride, before):
    """Output and both gradients, product by product in float64."""
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    y, dx, dk = np.zeros_like(cotangent), np.zeros_like(x), np.zeros_like(kernel)
    for row, column in np.ndindex(*y.shape[1:3]):
        for i, j in np.ndindex(*kernel.shape[:2]):
            a, b = stride * row + i - before, stride * column + j - before
            if 0 <= a < x.shape[1] and 0 <= b < x.shape[2]:
                y[:, row, column] += x[:, a, b] * kernel[i, j]
                dx[:, a, b] += cotangent[:, row, column] * kernel[i, j]
                dk[i, j] += (x[:, a, b] * cotangent[:, row, column]).sum(0)
    return y, dx, dk


def ours(x, kernel, cotangent, stride, before):
    @jax.jit
    def all_three(x, kernel, cotangent):
        y, pullback = jax.vjp(lambda x, kernel: depthwise_conv2d(x, kernel, stride, before), x, kernel)
        return y, *pullback(cotangent)

    return all_three(x, kernel, cotangent)


def test_by_hand():
    x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1) * jnp.array([1.0, -2.0]).reshape(1, 1, 1, 2)
    kernel = jnp.zeros((3, 3, 2)).at[0, 1].set(1.0).at[1, 2].set(10.0)
    # Each cell is the one above plus ten times the one to its right: a correlation, not flipped.
    expected = np.array([[20, 30, 0], [51, 62, 3], [84, 95, 6]])
    y = depthwise_conv2d(x, kernel)
    np.testing.assert_array_equal(y[0, :, :, 0], expected)
    np.testing.assert_array_equal(y[0, :, :, 1], -2 * expected)
    # Without zeros before, windows start at the cells 0 and 2.
    np.testing.assert_array_equal(depthwise_conv2d(x, kernel, 2)[0, :, :, 0], [[62, 0], [8, 0]])


@pytest.mark.parametrize(("size", "stride", "before", "shape"), CASES)
def test_value_and_both_gradients_equal_loops(way, size, stride, before, shape):
    inputs = arrays(size, shape, stride)
    expected = loops(*inputs, stride, (size - stride) // 2 if before is None else before)
    for found, exact in zip(ours(*inputs, stride, before), expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_float64_is_exact(way, x64):
    inputs = arrays(5, (5, 4), 2, "float64")
    for found, exact in zip(ours(*inputs, 2, None), loops(*inputs, 2, 1), strict=True):
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_rounded_once(way):
    inputs = arrays(3, (5, 4), 1, "bfloat16")
    for found, exact in zip(ours(*inputs, 1, None), loops(*inputs, 1, 1), strict=True):
        assert found.dtype == jnp.bfloat16
        error = np.abs(np.asarray(found, np.float64) - exact)
        assert (error <= 2.0**-8 * np.abs(exact) + 1e-5).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_gradients(way, stride, x64):
    x, kernel, _ = arrays(3, (2, 3), stride, "float64", channels=2, images=1)
    function = jax.jit(lambda x, kernel: jnp.sin(depthwise_conv2d(x, kernel, stride)))
    check_grads(function, (x, kernel), order=2, modes=["rev"])


def test_vmap_of_the_gradient_equals_a_loop(way):
    x, kernel, _ = arrays(3, (4, 3), 2)
    gradient = jax.jit(jax.grad(lambda kernel, x: jnp.sum(jnp.sin(depthwise_conv2d(x, kernel, 2)))))
    images = x[:, None]
    together = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(kernel, images)
    alone = jnp.stack([gradient(kernel, image) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_same_call_gives_the_same_bits(way):
    inputs = arrays(3, (4, 3), 1, channels=24)
    for first, second in zip(ours(*inputs, 1, None), ours(*inputs, 1, None), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("size", "stride", "shape"), [(1, 1, (3, 4)), (1, 2, (4, 6)), (9, 1, (4, 5)), (3, 5, (11, 6)), (3, 1, (0, 4))]
)
def test_others_are_left_to_xla(size, stride, shape):
    inputs = arrays(size, shape, stride)
    assert "conv_general_dilated" in str(jax.make_jaxpr(depthwise_conv2d, static_argnums=2)(*inputs[:2], stride))
    expected = loops(*inputs, stride, max((size - stride) // 2, 0))
    for found, exact in zip(ours(*inputs, stride, None), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_small_maps_are_those_with_few_products():
    assert depthwise_cells.suits_cells((7, 7), 5, 2, 2)
    assert depthwise_cells.suits_cells((4, 4), 5, 1, 2)
    assert not depthwise_cells.suits_cells((30, 40), 3, 1, 1)


def test_kernel_that_does_not_fit_is_refused(unchecked_types):
    with pytest.raises(ValueError, match=r"kernel \(3, 3, 4\) does not fit 3 channels"):
        depthwise_conv2d(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 4)))
