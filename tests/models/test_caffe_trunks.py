"""Trunks: sizes, normalisation, and that padding changes no feature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.caffe_trunks import VGG16
from frcnn_jax.models.layers import Conv, GroupNorm, mask_outside
from frcnn_jax.models.tiny import TinyBackbone, space_to_depth

SIZES = [(33, 50), (16, 64)]  # of the two images, in rows and columns
PADDED = (48, 64)


@pytest.fixture(scope="module", params=["vgg16", "tiny"])
def trunk(request):
    """(apply, params) with random biases: with zero ones, zeros outside the image could go unnoticed."""
    module = VGG16((16, 16, 16, 16, 16)) if request.param == "vgg16" else TinyBackbone((16, 16, 32), (1, 1, 1))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), None))
    random = np.random.default_rng(0)

    def draw(shape):
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 20
        return jnp.asarray(random.standard_normal(shape.shape) * np.sqrt(2 / fan_in), jnp.float32)

    return jax.jit(module.apply), jax.tree.map(draw, shapes)


def images():
    """Two images in one array, with noise where there should be nothing."""
    return jax.random.normal(jax.random.key(1), (2, *PADDED, 3))


def test_stride_is_16_rounded_up(trunk):
    apply, params = trunk
    for size in SIZES:
        features, sizes = apply(params, jnp.zeros((1, *size, 3)), jnp.array([size]))
        expected = [-(-side // 16) for side in size]
        assert list(features.shape[1:3]) == expected
        np.testing.assert_array_equal(sizes, [expected])


def test_padding_changes_no_feature(trunk):
    apply, params = trunk
    x = mask_outside(images(), jnp.array(SIZES))
    features, sizes = apply(params, x, jnp.array(SIZES))
    assert features.shape[1:3] == (3, 4)
    for i, (height, width) in enumerate(SIZES):
        alone, none = apply(params, x[i : i + 1, :height, :width], None)
        assert none is None
        assert float(jnp.std(alone)) > 0.01
        rows, columns = sizes[i]
        np.testing.assert_allclose(features[i, :rows, :columns], alone[0], rtol=1e-4, atol=1e-4)
        outside = features[i].at[:rows, :columns].set(0)
        np.testing.assert_array_equal(outside, 0)


def test_group_norm_by_a_numpy_loop():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 5, 6)).astype(np.float32) * 3 + 1
    sizes = [(4, 5), (2, 3)]
    scale, bias = random.standard_normal((2, 6)).astype(np.float32)
    norm = GroupNorm(group_size=3)
    masked = mask_outside(jnp.asarray(x), jnp.array(sizes))
    ours = norm.apply({"params": {"scale": scale, "bias": bias}}, masked, jnp.array(sizes))
    expected = np.zeros(x.shape)
    for image, (height, width) in enumerate(sizes):
        for group in range(2):
            part = slice(3 * group, 3 * group + 3)
            values = x[image, :height, :width, part].astype(np.float64)
            normal = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
            expected[image, :height, :width, part] = normal * scale[part] + bias[part]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_group_norm_of_a_constant_is_its_bias():
    norm = GroupNorm(group_size=2)
    params = {"params": {"scale": jnp.ones(2), "bias": jnp.array([0.5, -0.25])}}
    ours = norm.apply(params, jnp.full((1, 3, 3, 2), 100.0), None)
    np.testing.assert_allclose(ours[0, 0, 0], [0.5, -0.25], atol=1e-2)


def test_group_norm_in_bfloat16_sums_in_float32():
    """70 000 ones: in bfloat16 a sum would stop growing at 256."""
    x = jnp.concatenate([jnp.ones((1, 265, 265, 1)), -jnp.ones((1, 265, 265, 1))], axis=3).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}
    ours = GroupNorm(group_size=2, dtype=jnp.bfloat16).apply(params, x, None)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours[0, 0, 0], np.float32), [1, -1], rtol=1e-2)


def test_space_to_depth_by_hand():
    x = jnp.arange(1.0, 7).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2), [[[[1, 2, 4, 5], [3, 0, 6, 0]]]])


def test_convolution_with_bias():
    x = jnp.ones((1, 3, 3, 1))
    params = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.array([0.5])}}
    y = Conv(1, use_bias=True).apply(params, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[4.5, 6.5, 4.5], [6.5, 9.5, 6.5], [4.5, 6.5, 4.5]])
