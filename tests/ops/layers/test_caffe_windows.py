"""Caffe's pooling with windows that overlap and padding, and convolution in groups, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.layers.conv import conv2d, conv_length
from frcnn_jax.ops.layers.max_pool import max_pool, pooled_length

WINDOWS = [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 2, 1), (3, 1, 1), (3, 3, 2), (5, 2, 2), (5, 3, 4), (1, 1, 0)]


def plain_starts(length, size, stride, padding):
    """First cells of the windows: as many as reach the end, but none that starts beyond it."""
    starts = [-padding]
    while starts[-1] + size < length + padding:
        starts.append(starts[-1] + stride)
    while padding and starts[-1] >= length:
        starts.pop()
    return starts


def plain_pool(x, size, stride, padding):
    """Values, and the row-major first cell of each maximum."""
    rows, columns = (plain_starts(length, size, stride, padding) for length in x.shape)
    y, best = np.zeros((len(rows), len(columns))), {}
    for i, j in np.ndindex(y.shape):
        cells = [
            (a, b)
            for a in range(max(rows[i], 0), min(rows[i] + size, x.shape[0]))
            for b in range(max(columns[j], 0), min(columns[j] + size, x.shape[1]))
        ]
        best[i, j] = max(cells, key=lambda cell: x[cell])
        y[i, j] = x[best[i, j]]
    return y, best


@pytest.mark.parametrize(
    ("length", "size", "stride", "padding", "expected"),
    [
        (5, 3, 2, 0, 2),
        (6, 3, 2, 0, 3),  # the third window holds two cells
        (5, 3, 2, 1, 3),
        (6, 3, 2, 1, 4),  # starts at -1, 1, 3 and 5
        (4, 2, 2, 1, 3),
        (3, 2, 2, 1, 2),  # a third window would start at 3, beyond the cells
        (1, 3, 2, 0, 0),
        (2, 3, 2, 0, 1),
    ],
)
def test_pooled_length_by_hand(length, size, stride, padding, expected):
    assert pooled_length(length, size, stride, padding) == expected
    np.testing.assert_array_equal(pooled_length(jnp.array([length]), size, stride, padding), [expected])


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
def test_pooled_length_counts_windows(size, stride, padding):
    for length in range(size, 40):
        expected = len(plain_starts(length, size, stride, padding))
        assert pooled_length(length, size, stride, padding) == expected
        assert max_pool_shape(length, size, stride, padding) == expected


def max_pool_shape(length, size, stride, padding):
    x = jax.ShapeDtypeStruct((1, length, size, 1), jnp.float32)
    return jax.eval_shape(lambda x: max_pool(x, size, stride, padding), x).shape[1]


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
def test_pool_equals_a_plain_loop(size, stride, padding):
    """Values, and a gradient that adds up where windows share a maximum and goes to the first of equal cells."""
    random = np.random.default_rng(0)
    shape = (7, 6)
    function = jax.jit(lambda x, weights: jax.vjp(lambda x: max_pool(x, size, stride, padding), x)[1](weights)[0])
    for values in (random.normal(0, 1, shape), random.integers(-2, 1, shape)):
        x = values.astype(np.float32)
        expected, best = plain_pool(x, size, stride, padding)
        weights = random.integers(1, 9, expected.shape).astype(np.float32)
        gradient = np.zeros(shape)
        for window, cell in best.items():
            gradient[cell] += weights[window]
        stacked = jnp.stack([x, -x], axis=-1)[None]  # the other channel must not interfere
        y = max_pool(stacked, size, stride, padding)
        np.testing.assert_array_equal(y[0, :, :, 0], expected)
        ours = function(stacked, jnp.stack([weights, 0 * weights], axis=-1)[None])
        np.testing.assert_array_equal(ours[0, :, :, 0], gradient)
        np.testing.assert_array_equal(ours[0, :, :, 1], 0)


def test_pool_has_no_select_and_scatter():
    x = jnp.zeros((1, 6, 6, 2))
    text = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 3, 2, 1)))).lower(x).as_text()
    assert "scatter" not in text


def test_pool_of_bfloat16_stays_so():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (1, 7, 7, 2)), jnp.bfloat16)
    y, gradient = jax.value_and_grad(lambda x: jnp.sum(max_pool(x, 3, 2)))(x)
    assert (y.dtype, gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 3, 0), (3, 2, 3), (3, 0, 0), (3, 1, -1)])
def test_pool_refuses_windows_that_make_no_sense(size, stride, padding):
    with pytest.raises(ValueError, match="max_pool needs"):
        max_pool(jnp.zeros((1, 8, 8, 1)), size, stride, padding)


def test_pool_refuses_a_map_too_small():
    with pytest.raises(ValueError, match="no window of size 3 fits a map of 4 x 1 cells"):
        max_pool(jnp.zeros((1, 4, 1, 1)), 3, 2)


def test_groups_split_channels_in_order():
    x, kernel = jnp.array([1.0, 10, 100, 1000]), jnp.array([[1.0, 0, 3, 0], [0, 2, 0, 4]])
    y = conv2d(x[None, None, None], kernel[None, None], groups=2)
    np.testing.assert_array_equal(y[0, 0, 0], [1, 20, 300, 4000])


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 2), (2, 2, 2), (1, 0, 3)])
def test_groups_equal_convolutions_of_their_own(stride, padding, groups):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(0, 1, (2, 6, 7, 6)), jnp.float32)
    kernel = random.normal(0, 1, (3, 3, 6 // groups, 6)).astype(np.float32)
    whole = np.zeros((3, 3, 6, 6), np.float32)  # the same as one convolution, with zeros between groups
    step = 6 // groups
    inside = np.zeros(whole.shape, bool)
    for start in range(0, 6, step):
        part = (slice(None), slice(None), slice(start, start + step), slice(start, start + step))
        whole[part], inside[part] = kernel[:, :, :, start : start + step], True

    y, pullback = jax.vjp(lambda x, k: conv2d(x, k, stride, padding, groups), x, jnp.asarray(kernel))
    expected, expected_pullback = jax.vjp(lambda x, k: conv2d(x, k, stride, padding), x, jnp.asarray(whole))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert y.shape[1:3] == (conv_length(6, 3, stride, padding), conv_length(7, 3, stride, padding))
    cotangent = jnp.asarray(random.normal(0, 1, y.shape), jnp.float32)
    (dx, dk), (expected_dx, expected_dk) = pullback(cotangent), expected_pullback(cotangent)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-4)
    blocks = [expected_dk[:, :, s : s + step, s : s + step] for s in range(0, 6, step)]
    np.testing.assert_allclose(dk, np.concatenate(blocks, axis=-1), rtol=1e-4, atol=1e-4)


def test_gradient_in_groups_equals_finite_differences(x64):
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 2))
    check_grads(jax.jit(lambda x, k: conv2d(x, k, 2, 1, 2)), (x, kernel), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [(4, (1, 1, 4, 4), 2), (4, (1, 1, 2, 3), 2), (5, (1, 1, 2, 4), 2)]
)
def test_groups_that_do_not_fit(channels, kernel, groups):
    with pytest.raises(ValueError, match="does not fit"):
        conv2d(jnp.zeros((1, 2, 2, channels)), jnp.zeros(kernel), groups=groups)


@pytest.mark.parametrize("channels", [3, 15, 16])
def test_kernel_gradient_with_few_and_many_channels(channels):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(0, 1, (2, 9, 8, channels)), jnp.float32)
    kernel = jnp.asarray(random.normal(0, 1, (3, 3, channels, 2)), jnp.float32)
    y, pullback = jax.vjp(lambda kernel: conv2d(x, kernel, 2, 1), kernel)
    cotangent = random.normal(0, 1, y.shape).astype(np.float32)
    expected = np.zeros(kernel.shape)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for n, i, j in np.ndindex(y.shape[:3]):
        expected += padded[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, :, None] * cotangent[n, i, j]
    np.testing.assert_allclose(pullback(jnp.asarray(cotangent))[0], expected, rtol=1e-4, atol=1e-4)
