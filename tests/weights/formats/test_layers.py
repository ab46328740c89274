"""Converted layers compute what they computed in Caffe, by loops over Caffe's layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from frcnn_jax.models.caffe_trunks import CaffeNet
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.layers import Conv
from frcnn_jax.weights.formats.layers import convert_layers
from frcnn_jax.weights.formats.stored import Stored, aligned_empty, transposed
from frcnn_jax.weights.params import expected_shapes
from tests.weights.networks import compressed_m_layers, draw, m_layers, small_m


def stored(layers):
    def wrap(array, shape=None):
        return Stored(array.shape if shape is None else shape, lambda: array)

    return {
        name: {part: wrap(array) for part, array in zip(("weight", "bias"), blobs, strict=False)}
        for name, blobs in layers.items()
    }


def caffe_convolution(image, weight, bias, groups):
    """[C, H, W], [O, C / groups, h, w] -> [O, H - h + 1, W - w + 1]: every product written out."""
    outputs, inputs, rows, columns = weight.shape
    height, width = image.shape[1] - rows + 1, image.shape[2] - columns + 1
    result = np.zeros((outputs, height, width))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for y in range(height):
            for x in range(width):
                window = image[first : first + inputs, y : y + rows, x : x + columns]
                result[o, y, x] = np.sum(window * weight[o], dtype=np.float64) + bias[o]
    return result


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(groups):
    random = np.random.default_rng(0)
    # The model is asked for names alone here; the kernel may have any size.
    weight, bias = draw(random, 6, 4 // groups, 3, 2)
    arrays, _ = convert_layers(stored({"conv2": [weight, bias]}), small_m())
    image = np.float32(random.standard_normal((4, 6, 5)))
    ours = jax.lax.conv_general_dilated(
        jnp.asarray(image.transpose(1, 2, 0))[None],
        jnp.asarray(arrays["backbone/conv2/kernel"]),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    ours = ours[0] + arrays["backbone/conv2/bias"][None, None]
    expected = caffe_convolution(image, weight, bias, groups)
    np.testing.assert_allclose(ours, expected.transpose(1, 2, 0), rtol=1e-4, atol=1e-5)


def test_our_grouped_convolution_takes_it():
    random = np.random.default_rng(0)
    model = FastRCNN(CaffeNet((4, 6, 4, 4, 4)), FastRCNNHead(3, (5, 5)), output_size=(2, 2))
    weight, bias = draw(random, 6, 2, 5, 5)
    arrays, _ = convert_layers(stored({"conv2": [weight, bias]}), model)
    image = np.float32(random.standard_normal((4, 7, 6)))
    params = {name: jnp.asarray(arrays[f"backbone/conv2/{name}"]) for name in ("kernel", "bias")}
    conv = Conv(6, 5, padding=0, groups=2, use_bias=True)
    ours = conv.apply({"params": params}, jnp.asarray(image.transpose(1, 2, 0))[None])
    expected = caffe_convolution(image, weight, bias, groups=2)
    np.testing.assert_allclose(ours[0], expected.transpose(1, 2, 0), rtol=1e-4, atol=1e-5)


def test_head():
    """RoI features [C, 2, 3] through all four layers, flattened as Caffe does: channel, row, column."""
    layers, model = m_layers(), small_m()
    arrays, _ = convert_layers(stored(layers), model)
    pooled = np.float32(np.random.default_rng(0).standard_normal((5, 6, 2, 3)))
    x = pooled.reshape(5, -1)
    for name in ("fc6", "fc7"):
        x = np.maximum(x @ layers[name][0].T + layers[name][1], 0)
    scores, offsets = (x @ layers[name][0].T + layers[name][1] for name in ("cls_score", "bbox_pred"))

    params = {}
    for name in ("fc6", "fc7", "cls_score", "bbox_pred"):
        params[name] = {part: jnp.asarray(arrays[f"head/{name}/{part}"]) for part in ("kernel", "bias")}
    ours = model.head.apply({"params": params}, jnp.asarray(pooled.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(ours[0], scores, rtol=1e-4, atol=1e-4)
    # Class 2's offsets are rows 8 ... 11.
    np.testing.assert_allclose(ours[1], offsets.reshape(5, 4, 4), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours[1][:, 2], offsets[:, 8:12], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ranks", [(5, 3), (5, None), (None, 3)])
def test_compressed_head(ranks):
    """The same with fc6_L and fc6_U, fc7_L and fc7_U: two products and one bias each."""
    layers, model = compressed_m_layers(*ranks), small_m(ranks=ranks)
    arrays, left = convert_layers(stored(layers), model)
    assert not left
    assert {name: array.shape for name, array in arrays.items()} == {
        name: shape.shape for name, shape in expected_shapes(model).items()
    }
    # The form is that of the file, whatever the model has.
    assert convert_layers(stored(layers), small_m())[0].keys() == arrays.keys()
    pooled = np.float32(np.random.default_rng(0).standard_normal((5, 6, 2, 3)))
    x = pooled.reshape(5, -1)
    for name in ("fc6", "fc7"):
        if f"{name}_L" in layers:
            x = x @ layers[f"{name}_L"][0].T
            name = f"{name}_U"
        x = np.maximum(x @ layers[name][0].T + layers[name][1], 0)
    scores = x @ layers["cls_score"][0].T + layers["cls_score"][1]
    params = unflatten_dict(arrays, sep="/")["head"]
    ours, _ = model.head.apply({"params": params}, jnp.asarray(pooled.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(ours, scores, rtol=1e-4, atol=1e-3)


def test_all_names_and_shapes():
    arrays, left = convert_layers(stored(m_layers() | {"fc8_new": draw(np.random.default_rng(0), 3, 8)}), small_m())
    assert left == ("fc8_new",)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: shape.shape for name, shape in expected_shapes(small_m()).items()
    }
    for array in arrays.values():
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0


def test_what_does_not_fit_is_left_for_the_match_to_name():
    """Unknown layers keep their names, other forms their shapes; fc6 for another grid is turned and nothing else."""
    random = np.random.default_rng(0)
    odd = {"rpn_conv/3x3": draw(random, 3, 2, 3, 3), "conv1": draw(random, 3, 5), "fc6": draw(random, 4, 7)}
    arrays, left = convert_layers(stored(odd), small_m())
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "rpn_conv/3x3/weight": (3, 2, 3, 3),
        "rpn_conv/3x3/bias": (3,),
        "backbone/conv1/kernel": (3, 5),
        "backbone/conv1/bias": (3,),
        "head/fc6/kernel": (7, 4),
        "head/fc6/bias": (4,),
    }
    assert left == ()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 150])
def test_transposed_in_blocks(rows):
    array = np.arange(rows * 24).reshape(rows, 2, 3, 4)
    np.testing.assert_array_equal(transposed(array, (2, 3, 1, 0)), array.transpose(2, 3, 1, 0))


def test_transposed_copies():
    array = np.arange(3.0)
    assert not np.shares_memory(transposed(array, (0,)), array)
    with pytest.raises(ValueError, match="axis 0 must become the last"):
        transposed(np.zeros((2, 3)), (0, 1))


def test_aligned_empty():
    for shape in ((), (1,), (3, 5), (7,)):
        array = aligned_empty(shape, np.float32)
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0
