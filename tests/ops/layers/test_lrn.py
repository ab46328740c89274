"""Local response normalisation against hand-computed numbers and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.layers.lrn import local_response_norm


def plain(x, size, alpha, beta, k):
    y = np.zeros(x.shape)
    for *cell, c in np.ndindex(x.shape):
        window = x[(*cell, slice(max(c - size // 2, 0), c + size // 2 + 1))].astype(np.float64)
        y[(*cell, c)] = x[(*cell, c)] / (k + alpha / size * np.sum(window**2)) ** beta
    return y


def test_by_hand():
    """alpha is divided by the window's size, also at the ends where the window is cut."""
    x = jnp.array([[3.0, 0.0, 6.0, 1.0]])
    # Sums of squares of three: 9, 45, 37, 37; with alpha / 3 = 1/9 and k = 4: 5, 9, 73/9, 73/9.
    y = local_response_norm(x, size=3, alpha=1 / 3, beta=0.5, k=4.0)
    np.testing.assert_allclose(y, [[3 / 5**0.5, 0, 18 / 73**0.5, 3 / 73**0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 1.0), (5, 5e-4, 0.75, 2.0), (3, 0.1, 0.3, 1.0), (1, 1.0, 1.0, 0.5)]
)
@pytest.mark.parametrize("channels", [1, 4, 9])
def test_equals_a_plain_loop(size, alpha, beta, k, channels):
    x = np.random.default_rng(0).normal(0, 100, (2, 3, 2, channels)).astype(np.float32)
    y = jax.jit(local_response_norm, static_argnums=(1, 2, 3, 4))(x, size, alpha, beta, k)
    np.testing.assert_allclose(y, plain(x, size, alpha, beta, k), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.75, 0.4])
def test_gradient_equals_finite_differences(beta, x64):
    x = jax.random.normal(jax.random.key(0), (2, 7))
    check_grads(jax.jit(lambda x: local_response_norm(x, 3, 2.0, beta, 1.5)), (x,), order=1, modes=["rev"])


def test_gradient_at_zero_passes_through():
    gradient = jax.grad(lambda x: jnp.sum(local_response_norm(x, 5, 1.0, 0.5, 4.0)))(jnp.zeros((1, 6)))
    np.testing.assert_allclose(gradient, np.full((1, 6), 0.5), rtol=1e-6)


def test_bfloat16_is_rounded_once():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 200, (3, 16)), jnp.bfloat16)
    y, pullback = jax.vjp(local_response_norm, x)
    wide, wide_pullback = jax.vjp(local_response_norm, x.astype(jnp.float32))
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    (gradient,), (wide_gradient,) = pullback(jnp.ones_like(y)), wide_pullback(jnp.ones_like(wide))
    np.testing.assert_array_equal(gradient, wide_gradient.astype(jnp.bfloat16))


@pytest.mark.parametrize(("size", "k"), [(4, 1.0), (0, 1.0), (5, 0.0)])
def test_settings_that_make_no_sense(size, k):
    with pytest.raises(ValueError, match="needs an odd size and k > 0"):
        local_response_norm(jnp.ones((1, 4)), size, 1.0, 0.75, k)
