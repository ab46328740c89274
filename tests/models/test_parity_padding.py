"""S, M and L: a padded image gives the features, and their size, that it gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024, CaffeNet

# Trunk of few channels, and the shortest image side of which anything is left.
TRUNKS = [(CaffeNet((6, 4, 4, 4, 4)), 1), (VGGCNNM1024((6, 4, 4, 4, 4)), 25), (VGG16((4, 4, 4, 4, 4)), 1)]


def parameters(trunk):
    """Random weights and, unlike those of `init`, biases: they are what shows outside an image that is not masked."""
    shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), None))
    random = np.random.default_rng(0)

    def draw(leaf):
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 10
        return jnp.asarray(random.normal(0, deviation, leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(("trunk", "shortest"), TRUNKS)
def test_sizes_of_every_remainder(trunk, shortest):
    params = parameters(trunk)
    lengths = np.array([shortest, shortest + 1, *range(50, 50 + 17)])
    sizes = jnp.stack([lengths, lengths[::-1]], axis=1)
    x = jnp.zeros((len(lengths), 70, 70, 3))
    tracked = np.asarray(jax.jit(lambda x, sizes: trunk.apply(params, x, sizes)[1])(x, sizes))
    for length, size in zip(lengths, tracked[:, 0], strict=True):
        alone = jax.eval_shape(lambda x: trunk.apply(params, x, None)[0], jnp.zeros((1, int(length), 64, 3)))
        assert size == alone.shape[1], length
    np.testing.assert_array_equal(tracked[:, 1], tracked[::-1, 0])


@pytest.mark.parametrize("trunk", [trunk for trunk, _ in TRUNKS])
def test_padding_changes_no_feature_and_no_gradient(trunk):
    params = parameters(trunk)
    sizes = [(62, 61), (59, 64)]
    x = np.random.default_rng(1).normal(0, 100, (2, 83, 90, 3)).astype(np.float32)
    for i, (height, width) in enumerate(sizes):
        x[i, height:], x[i, :, width:] = 0, 0

    @jax.jit
    def run(x, sizes):
        def loss(x):
            features, feature_sizes = trunk.apply(params, x, sizes)
            return jnp.sum(jnp.square(features)), (features, feature_sizes)

        return jax.grad(loss, has_aux=True)(x)

    gradient, (features, feature_sizes) = run(x, jnp.array(sizes))
    for i, (height, width) in enumerate(sizes):
        expected_gradient, (expected, _) = run(x[i : i + 1, :height, :width], None)
        rows, columns = feature_sizes[i].tolist()
        assert (rows, columns) == expected.shape[1:3]
        scale = np.abs(expected).max()
        assert scale > 1
        np.testing.assert_allclose(features[i, :rows, :columns], expected[0], rtol=1e-4, atol=1e-6 * scale)
        np.testing.assert_array_equal(features[i, rows:], 0)
        np.testing.assert_array_equal(features[i, :, columns:], 0)
        scale = np.abs(expected_gradient).max()
        np.testing.assert_allclose(gradient[i, :height, :width], expected_gradient[0], rtol=1e-3, atol=1e-5 * scale)
