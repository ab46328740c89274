"""2 x 2 max pooling against a plain loop, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.layers.max_pool import max_pool


def max_pool_2x2(x):
    return max_pool(x, 2, 2)


def plain_pool(x, cotangent):
    """Value, and gradient that goes to the first largest cell in row-major order."""
    n, height, width, channels = x.shape
    y = np.zeros((n, -(-height // 2), -(-width // 2), channels), x.dtype)
    gradient = np.zeros_like(x)
    for image, i, j, c in np.ndindex(y.shape):
        best = None
        for a in range(2 * i, min(2 * i + 2, height)):
            for b in range(2 * j, min(2 * j + 2, width)):
                if best is None or x[image, a, b, c] > x[image, best[0], best[1], c]:
                    best = (a, b)
        y[image, i, j, c] = x[image, best[0], best[1], c]
        gradient[image, best[0], best[1], c] = cotangent[image, i, j, c]
    return y, gradient


def test_by_hand():
    x = jnp.array([[1.0, 4.0, -5.0], [3.0, 2.0, -6.0], [0.0, 0.0, 7.0]])[None, :, :, None]
    np.testing.assert_array_equal(max_pool_2x2(x)[0, :, :, 0], [[4, -5], [0, 7]])
    gradient = jax.grad(lambda x: jnp.sum(max_pool_2x2(x) * jnp.array([[1.0, 2], [3, 4]])[None, :, :, None]))(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 2], [0, 0, 0], [3, 0, 4]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1), (2, 1)])
def test_equals_a_plain_loop(size, dtype):
    random = np.random.default_rng(0)
    shape = (2, *size, 3)
    spread, ties, negative = random.standard_normal(shape), random.integers(0, 2, shape), random.integers(-3, 0, shape)
    weights = jnp.asarray(random.standard_normal((2, -(-size[0] // 2), -(-size[1] // 2), 3)), dtype)

    @jax.jit
    def value_and_gradient(x):
        y, pullback = jax.vjp(max_pool_2x2, x)
        return y, *pullback(weights)

    for values in (spread, ties, negative):
        x = jnp.asarray(values, dtype)
        results = value_and_gradient(x)
        for ours, expected in zip(results, plain_pool(*(np.asarray(a, np.float32) for a in (x, weights))), strict=True):
            assert ours.dtype == dtype
            np.testing.assert_array_equal(np.asarray(ours, np.float32), expected)


def test_gradient_equals_finite_differences(x64):
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2 * 5 * 3 * 2.0)).reshape(2, 5, 3, 2)
    check_grads(jax.jit(max_pool_2x2), (x,), order=1, modes=["rev"])


def test_vmap_equals_a_loop():
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 2))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 2, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * max_pool_2x2(x))))
    np.testing.assert_array_equal(jax.vmap(gradient)(x), jnp.stack([gradient(part) for part in x]))
