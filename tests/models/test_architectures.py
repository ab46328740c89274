"""The contract of an architecture, which every entry of the table passes, and one of another stride too."""

import dataclasses
import re
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import frcnn_jax as frcnn
from frcnn_jax.config import Config, ModelConfig, OptimizerConfig, ParameterRule, replace
from frcnn_jax.models.architectures import (
    ARCHITECTURES,
    Architecture,
    create_model,
    create_window_network,
    register_architecture,
    resolve_rules,
)
from frcnn_jax.models.heads import FastRCNNHead, HiddenLayers
from frcnn_jax.models.layers import mask_outside
from frcnn_jax.models.pixels import CENTERED_PIXELS
from frcnn_jax.models.windows import WindowNetwork
from frcnn_jax.training.optimizer import match_rules


class Patches(nn.Module):
    """A convolution of 8 x 8 pixels each."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, sizes):
        padding = ((0, 7), (0, 7))
        x = nn.Conv(12, (8, 8), 8, padding, dtype=self.dtype, param_dtype=self.param_dtype)(x)
        sizes = None if sizes is None else -(-sizes // 8)
        return mask_outside(nn.relu(x), sizes), sizes


PATCHES = Architecture(
    trunk=Patches,
    stride=8,
    channels=12,
    pixels=CENTERED_PIXELS,
    rules=(ParameterRule("/bias$", 2.0, 0.0), ParameterRule("/kernel$")),
    output_size=(3, 2),
    head=partial(FastRCNNHead, widths=(8, 6)),
)


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "patches", PATCHES)


each = pytest.mark.parametrize("name", [*ARCHITECTURES, "patches"])


@cache
def shapes_of(name):
    """Shapes of a detector's parameters."""
    return jax.eval_shape(lambda: frcnn.init_params(create_model(name, 21), jax.random.key(0)))


def features_of(name, height, width):
    """Shape of the features of an image."""
    model, params = create_model(name, 21), shapes_of(name)
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    features = jax.eval_shape(lambda p, x: model.apply({"params": p}, x, method="features")[0], params, images)
    return features.shape


@each
def test_stride_and_channels_are_as_declared(name):
    architecture = ARCHITECTURES[name]
    stride = architecture.stride
    height, width = 111, 148
    n, rows, columns, channels = features_of(name, height, width)
    assert (n, channels) == (1, architecture.channels)
    for cells, side in ((rows, height), (columns, width)):
        assert abs(cells - side / stride) < 3
    model = create_model(name, 2)
    assert (model.stride, model.spatial_scale, model.output_size) == (stride, 1 / stride, architecture.output_size)


# Of a family one member, as the others have the same layers.
@pytest.mark.parametrize(
    "name",
    [
        # The large ones are compared with other engines, padded too, in files of their own.
        pytest.param(name, marks=[pytest.mark.long] * bool(re.match("caffe|vgg|resnet|efficientnet", name)))
        for name in (*ARCHITECTURES, "patches")
        if not re.search("lite[12]|_fc", name)
    ],
)
def test_padding_changes_nothing(name):
    """Noise in the padding of two images: features of the first are those of it alone, and zero outside both."""
    model = create_model(name, 2)
    random = np.random.default_rng(0)
    # Biases that are not zero, as otherwise zeros outside the image could go unnoticed.
    params = jax.tree.map(
        lambda s: jnp.asarray(
            random.standard_normal(s.shape) * (2 / np.prod(s.shape[:-1])) ** 0.5
            if len(s.shape) > 1
            else random.standard_normal(s.shape) * 0.2,
            jnp.float32,
        ),
        shapes_of(name)["backbone"],
    )
    sizes = np.array([(65, 50), (48, 79)])
    images = jnp.asarray(random.standard_normal((2, 80, 80, 3)), jnp.float32)
    apply = jax.jit(lambda params, x, sizes: model.apply({"params": {"backbone": params}}, x, sizes, method="features"))
    features, cells = apply(params, images, jnp.asarray(sizes))
    height, width = sizes[0]
    alone, none = apply(params, images[:1, :height, :width], None)
    assert none is None
    alone, features, cells = np.asarray(alone[0]), np.array(features), np.asarray(cells)
    spread = alone.std()
    assert spread > 0.01
    rows, columns = cells[0]
    np.testing.assert_allclose(features[0, :rows, :columns], alone, rtol=1e-3, atol=1e-3 * spread)
    for image, (rows, columns) in zip(features, cells, strict=True):
        assert image[:rows, :columns].any()
        image[:rows, :columns] = 0
        assert not image.any()


@each
def test_the_rules_cover_every_parameter(name):
    config = resolve_rules(Config(model=ModelConfig(name=name), optimizer=OptimizerConfig(rules=())))
    assert config.optimizer.rules == ARCHITECTURES[name].rules
    params = shapes_of(name)
    rules = jax.tree.leaves(match_rules(params, config.optimizer.rules))  # raises where one does not match
    assert len(rules) == len(jax.tree.leaves(params))
    assert any(rule.learning_rate is None for rule in rules) == (name not in ("tiny", "patches"))


def test_rules_of_a_config_stay():
    for name in ("vgg16", "tiny"):
        config = resolve_rules(replace(Config(), model={"name": name}))
        assert config.optimizer.rules == ARCHITECTURES[name].rules
        assert resolve_rules(config) == config


@pytest.mark.parametrize(
    ("name", "size", "pool5", "fc7"),
    [
        ("caffenet", 227, (6, 6, 256), 4096),
        ("vgg_cnn_m_1024", 224, (6, 6, 512), 1024),
        ("vgg16", 224, (7, 7, 512), 4096),
        ("tiny", 112, (7, 7, 192), 256),
    ],
)
def test_window_networks_take_the_detectors_parameters(name, size, pool5, fc7):
    window = ARCHITECTURES[name].window
    assert window.size == size
    network = create_window_network(name)
    params = shapes_of(name)
    windows = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    pooled, vector = (
        jax.eval_shape(partial(network.apply, method=method), {"params": params}, windows)
        for method in ("pool5", "__call__")
    )
    assert (pooled.shape, vector.shape) == ((2, *pool5), (2, fc7))
    # The grid that the detector pools each RoI to is the one that fc6 was trained on.
    assert pool5 == (*ARCHITECTURES[name].output_size, ARCHITECTURES[name].channels)
    own = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))["params"]
    assert own["backbone"] == params["backbone"]
    assert own["head"] == {layer: params["head"][layer] for layer in ("fc6", "fc7")}


@pytest.mark.parametrize(
    ("name", "size", "cells", "last", "regressed"),
    [
        ("efficientnet_lite0", 224, 14, 1280, 5 * 5 * 672),
        pytest.param("efficientnet_lite1", 240, 15, 1280, 5 * 5 * 672, marks=pytest.mark.long),
        pytest.param("efficientnet_lite2", 260, 17, 1280, 6 * 6 * 720, marks=pytest.mark.long),
        ("resnet18", 224, 14, 512, 7 * 7 * 256),
        pytest.param("resnet50", 224, 14, 2048, 4 * 4 * 1024, marks=pytest.mark.long),
    ],
)
def test_window_networks_without_a_last_pooling(name, size, cells, last, regressed):
    """The map is the trunk's, and pooled where boxes are regressed from it; the vector is the mean over the cells of
    the last stage, by the head's parameters."""
    assert (ARCHITECTURES[name].window.size, ARCHITECTURES[name].window.pooling) == (size, None)
    network, params = create_window_network(name), shapes_of(name)
    windows = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    pooled, vector = (
        jax.eval_shape(partial(network.apply, method=method), {"params": params}, windows)
        for method in ("pool5", "__call__")
    )
    assert pooled.shape == (2, cells, cells, ARCHITECTURES[name].channels)
    assert vector.shape == (2, last)
    rows = jax.eval_shape(lambda pooled: network.apply({}, pooled, method="regression_features"), pooled)
    assert rows.shape == (2, regressed)
    own = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))["params"]
    assert own["backbone"] == params["backbone"]
    assert own["head"] == {"stages": params["head"]["stages"]}


def test_regression_features_by_hand():
    pooled = jnp.arange(2 * 4 * 4 * 1, dtype=jnp.float32).reshape(2, 4, 4, 1)
    network = WindowNetwork(Patches(), HiddenLayers((8, 6)), None)
    np.testing.assert_array_equal(network.apply({}, pooled, method="regression_features"), np.arange(32).reshape(2, 16))
    network = network.clone(regression_pooling=(2, 2))
    np.testing.assert_array_equal(
        network.apply({}, pooled, method="regression_features"), [[5, 7, 13, 15], [21, 23, 29, 31]]
    )


def test_a_window_network_by_hand():
    """Maximum of 2 x 2 cells, fc6 and fc7 with ReLU, of a small network; and the detector's first hidden layers."""
    network = WindowNetwork(Patches(), HiddenLayers((8, 6)), (2, 2), CENTERED_PIXELS)
    windows = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)), jnp.uint8)
    params = network.init(jax.random.key(0), windows)["params"]
    cells, _ = network.backbone.apply({"params": params["backbone"]}, (windows - 127.5) / 64, None)
    pooled = np.asarray(cells).reshape(3, 2, 2, 2, 2, 12).max(axis=(2, 4))
    np.testing.assert_allclose(network.apply({"params": params}, windows, method="pool5"), pooled, rtol=1e-5)
    x = pooled.reshape(3, -1)
    for layer in ("fc6", "fc7"):
        kernel, bias = (np.asarray(params["head"][layer][part]) for part in ("kernel", "bias"))
        x = np.maximum(x @ kernel + bias, 0)
    np.testing.assert_allclose(network.apply({"params": params}, windows), x, rtol=1e-4, atol=1e-5)
    assert np.ptp(x) > 0.1


def test_an_architecture_of_another_stride_detects():
    model = frcnn.create_model("patches", 3)
    params = frcnn.init_params(model, jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    found = frcnn.detect(model, params, image, np.array([[10.0, 10, 60, 50]]), scale=70, max_size=100)
    assert set(found.labels) == {1, 2}
    with pytest.raises(ValueError, match=r"fc6_rank 9 is not in 1 \.\.\. 8: the layer is 72 x 8"):
        frcnn.create_model("patches", 3, fc6_rank=9)


def test_registered_once(monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "patches")
    register_architecture("patches", PATCHES)
    register_architecture("patches", PATCHES)
    assert create_model("patches", 4).backbone == Patches(dtype=jnp.dtype("float32"), param_dtype=jnp.dtype("float32"))
    with pytest.raises(ValueError, match="there is another architecture named 'patches'"):
        register_architecture("patches", dataclasses.replace(PATCHES))
    with pytest.raises(ValueError, match="there is another architecture named 'tiny'"):
        register_architecture("tiny", PATCHES)


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("bad", 3, r"architecture 'bad' must be a frcnn_jax\.Architecture\(\.\.\.\), not 3$"),
        ("bad", Patches, r"architecture 'bad' must be a frcnn_jax\.Architecture\(\.\.\.\), not <class"),
        (5, PATCHES, r'takes a name first, as in "my_net", not 5$'),
        ("", PATCHES, "takes a name first, as in \"my_net\", not ''$"),
    ],
)
def test_what_cannot_be_registered(unchecked_types, name, architecture, message):
    known = dict(ARCHITECTURES)
    with pytest.raises(TypeError, match=message):
        register_architecture(name, architecture)
    assert known == ARCHITECTURES


def test_what_is_not_there():
    with pytest.raises(ValueError, match=r"no model 'vgg17'; there are caffenet, .* named in `plugins`"):
        resolve_rules(Config(model=ModelConfig(name="vgg17")))
    with pytest.raises(ValueError, match=r"'efficientnet_lite0_fc' has no .*; those that have one: caffenet, .*tiny"):
        create_window_network("efficientnet_lite0_fc")


class Linear(nn.Module):
    """A head without fc6 and fc7."""

    num_classes: int
    dropout: float = 0.5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled, *, train=False):
        x = nn.Dense(5 * self.num_classes)(pooled.reshape(len(pooled), -1)).reshape(-1, self.num_classes, 5)
        return x[..., 0], x[..., 1:]


def test_a_head_of_another_kind(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "linear", dataclasses.replace(PATCHES, head=Linear))
    model = create_model("linear", 3)
    assert list(frcnn.init_params(model, jax.random.key(0))["head"]) == ["Dense_0"]
    with pytest.raises(ValueError, match="heads with fc6 and fc7, which 'linear' does not have"):
        create_model("linear", 3, fc7_rank=2)
