"""Sizes of images of every integer dtype, sizes beyond the padded images, and inputs as lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.layers import GroupNorm, flatten, halve, mask_outside
from frcnn_jax.ops.arguments import valid_part
from frcnn_jax.ops.layers.conv import conv_length
from frcnn_jax.ops.layers.max_pool import pooled_length
from tests.training.cases import small_model, small_params

pytestmark = pytest.mark.usefixtures("unchecked_types")
IMAGES = np.random.default_rng(0).integers(0, 256, (1, 256, 192, 3)).astype(np.uint8)
ROIS = np.array([[[2, 3, 90, 80], [10, 20, 180, 250]]], np.float32)


@pytest.fixture(scope="module")
def parts():
    model, params = small_model(), {"params": small_params(0.0)}
    return model, params, jax.jit(model.apply, static_argnames="method")


def test_sizes_of_narrow_and_unsigned_integers(parts):
    _, params, apply = parts
    expected, cells = apply(params, IMAGES, np.array([[255, 180]], np.int32), method="features")
    for dtype in (np.uint8, np.int16, np.uint16, np.uint32, np.int64):
        features, sizes = apply(params, IMAGES, np.array([[255, 180]], dtype), method="features")
        np.testing.assert_array_equal(features, expected, err_msg=str(dtype))
        np.testing.assert_array_equal(sizes, cells, err_msg=str(dtype))


def test_sizes_beyond_the_padded_image_are_its_own(parts):
    _, params, apply = parts
    expected = apply(params, IMAGES, np.array([[256, 192]]), method="features")
    for found, want in zip(apply(params, IMAGES, np.array([[2000, 300]]), method="features"), expected, strict=True):
        np.testing.assert_array_equal(found, want)


def test_sizes_that_are_no_integers_are_refused(parts):
    model, params, _ = parts
    message = r'^the model takes image_sizes as integers, not float32: give .astype\("int32"\) of them'
    with pytest.raises(ValueError, match=message):
        model.apply(params, IMAGES, np.ones((1, 2), np.float32), method="features")


def test_lists_are_arrays(parts):
    model, params, _ = parts
    options = {"scales": np.ones(1, np.float32), "image_sizes": np.array([[250, 180]])}
    expected = jax.eval_shape(lambda: model.apply(params, IMAGES, ROIS, **options))
    lists = {name: value.tolist() for name, value in options.items()}
    assert jax.eval_shape(lambda: model.apply(params, IMAGES, ROIS.tolist(), **lists)) == expected
    few = jax.eval_shape(lambda: model.apply(params, IMAGES[:, :32, :32].tolist(), ROIS))  # integers of 32 bits
    assert few[0].shape == expected[0].shape


def test_parts_called_alone_check_their_shapes(parts):
    model, params, _ = parts
    maps = jnp.ones((1, 16, 12, 16))
    for arguments, method, message in (
        ((IMAGES[0],), "features", r"images \[N, H, W, 3\], not \[256, 192, 3\]"),
        ((IMAGES, [256, 192]), "features", r"image_sizes \[N, 2\] = \[1, 2\], not \[2\]"),
        ((maps[0], ROIS), "pool", r"features \[N, h, w, C\], not \[16, 12, 16\]"),
        ((maps, ROIS[0]), "pool", r"rois \[N, R, 4\] = \[1, R, 4\], not \[2, 4\]"),
        ((maps, ROIS, [1.0, 2.0]), "pool", r"scales \[N\] = \[1\], not \[2\]"),
        ((maps, ROIS, None, [[16, 12], [3, 3]]), "pool", r"feature_sizes \[N, 2\] = \[1, 2\], not \[2, 2\]"),
    ):
        with pytest.raises(ValueError, match=f"^the model takes {message}"):
            model.apply(params, *arguments, method=method)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32])
def test_layers_count_in_32_bits(dtype):
    sizes = np.array([[2, 255], [1, 200]], dtype)
    plain = sizes.astype(np.int32)
    for found, want in (
        (halve(sizes), halve(plain)),
        (conv_length(sizes, 11, 4, 0), conv_length(plain, 11, 4, 0)),
        (pooled_length(sizes, 3, 2, 1), pooled_length(plain, 3, 2, 1)),
        (mask_outside(jnp.ones((2, 4, 256, 1)), sizes), mask_outside(jnp.ones((2, 4, 256, 1)), plain)),
        (valid_part("f", "size", sizes[0], (9, 9)), [2, 9]),
    ):
        np.testing.assert_array_equal(found, want)


def test_group_norm_of_narrow_sizes_and_other_channels():
    x, norm = jax.random.normal(jax.random.key(0), (1, 200, 200, 16)), GroupNorm()
    expected, _ = norm.init_with_output(jax.random.key(0), x, np.array([[200, 200]]))
    found, _ = norm.init_with_output(jax.random.key(0), x, np.array([[200, 200]], np.int16))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"^GroupNorm: 40 channels are not a multiple of group_size 16"):
        norm.init(jax.random.key(0), jnp.zeros((1, 4, 4, 40)), None)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_no_cells_have_no_window(size, stride, padding):
    assert pooled_length(0, size, stride, padding) == 0
    assert pooled_length(jnp.array([0]), size, stride, padding).tolist() == [0]


def test_no_windows_are_flattened_to_no_rows():
    assert flatten(jnp.zeros((0, 7, 7, 8))).shape == (0, 392)
    assert flatten(jnp.arange(8).reshape(2, 2, 1, 2)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
