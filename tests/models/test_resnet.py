"""ResNets of few channels against torchvision, batch normalisation with random statistics: same weights, same numbers.

`make_resnet_fixtures.py` recorded them.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.heads import HiddenStages, StagesHead
from frcnn_jax.models.pixels import TORCHVISION_PIXELS
from frcnn_jax.models.resnet import ResNetBlock, ResNetLastStage, ResNetTrunk
from frcnn_jax.models.windows import WindowNetwork
from frcnn_jax.training.optimizer import match_rules
from frcnn_jax.weights.load import load_weights

FIXTURES = Path(__file__).parent / "fixtures"
KINDS = {"basic": False, "bottleneck": True}


def small_resnet(bottleneck: bool) -> FastRCNN:
    """The network of the fixtures."""
    trunk = ResNetTrunk((2, 1, 1), bottleneck, width=2)
    stages = partial(ResNetLastStage, blocks=1, bottleneck=bottleneck, width=2)
    return FastRCNN(trunk, StagesHead(4, stages), TORCHVISION_PIXELS)


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    model = small_resnet(KINDS[request.param])
    params = load_weights(FIXTURES / f"resnet_{request.param}.safetensors", model)
    return model, params, np.load(FIXTURES / f"resnet_{request.param}.npz")


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_padded_batch_equals_torchvision(case):
    """Two images of different sizes in one batch, with noise where the padding is."""
    model, params, recorded = case
    images = np.float32(np.random.default_rng(0).standard_normal((2, 70, 71, 3)) * 9)
    for i in range(2):
        image = recorded[f"image{i}"]
        images[i, : image.shape[0], : image.shape[1]] = image
    sizes = jnp.array([recorded[f"image{i}"].shape[:2] for i in range(2)])
    apply = jax.jit(partial(model.apply, method="features"))
    features, cells = apply({"params": params}, images, sizes)
    for i in range(2):
        expected = recorded[f"features{i}"].transpose(1, 2, 0)
        rows, columns = cells[i].tolist()
        assert (rows, columns) == expected.shape[:2]
        assert_close(features[i, :rows, :columns], expected)
        assert not np.any(features[i, rows:])
        assert not np.any(features[i, :, columns:])


def test_head_equals_torchvision(case):
    """Logits and offsets are linear in torchvision's mean."""
    model, params, recorded = case
    pooled = jnp.asarray(recorded["pooled"].transpose(0, 2, 3, 1), jnp.float32)
    logits, deltas = jax.jit(model.head.apply)({"params": params["head"]}, pooled)
    scores, boxes = params["head"]["cls_score"], params["head"]["bbox_pred"]
    assert_close(logits, recorded["mean"] @ scores["kernel"] + scores["bias"][None])
    assert_close(deltas.reshape(2, -1), recorded["mean"] @ boxes["kernel"] + boxes["bias"][None])


def test_windows_equal_torchvision(case):
    model, params, recorded = case
    network = WindowNetwork(model.backbone, HiddenStages(model.head.stages), None, TORCHVISION_PIXELS)
    params = {"backbone": params["backbone"], "head": {"stages": params["head"]["stages"]}}
    for i in range(2):
        vector = jax.jit(network.apply)({"params": params}, jnp.asarray(recorded[f"image{i}"], jnp.float32)[None])
        assert_close(vector[0], recorded[f"vector{i}"])


@pytest.mark.parametrize(("name", "blocks", "width"), [("resnet18", 2, 512), ("resnet50", 3, 2048)])
def test_window_networks_take_the_detectors_parameters(name, blocks, width):
    window = ARCHITECTURES[name].window
    assert (window.size, window.pooling) == (224, None)
    shapes = jax.eval_shape(lambda: init_params(create_model(name, 21), jax.random.key(0)))["head"]["stages"]
    assert sorted(shapes) == [f"layer4_{i}" for i in range(blocks)]
    features = jax.ShapeDtypeStruct((2, 14, 14, ARCHITECTURES[name].channels), jnp.float32)
    vector = jax.eval_shape(window.hidden().apply, {"params": {"stages": shapes}}, features)
    assert vector.shape == (2, width)


def test_random_parameters_keep_the_scale():
    """Each block starts as its shortcut, so that depth changes nothing; features are about as large as the input."""
    trunk = ResNetTrunk((2, 1, 2), bottleneck=True, width=16)
    images = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    params = jax.jit(trunk.init)(jax.random.key(0), images, None)["params"]
    features, _ = jax.jit(trunk.apply)({"params": params}, images, None)
    assert 0.5 < np.sqrt(np.mean(np.square(features))) < 4
    flat = flatten_dict(params, sep="/")
    last = [name for name in flat if name.endswith("conv3/kernel")]
    assert len(last) == 5
    assert not any(np.any(flat[name]) for name in last)
    others = [name for name in flat if name.endswith("/kernel") and name not in last]
    for name in others:
        fan_in = np.prod(flat[name].shape[:-1])
        np.testing.assert_allclose(np.std(flat[name]), (2 / fan_in) ** 0.5, rtol=0.15)


def test_a_block_that_starts_as_its_shortcut_learns():
    block = ResNetBlock(4, 1, bottleneck=False)
    x = jax.nn.relu(jax.random.normal(jax.random.key(1), (1, 6, 6, 4)))
    params = block.init(jax.random.key(0), x, None)["params"]
    np.testing.assert_array_equal(block.apply({"params": params}, x, None)[0], x)
    gradient = jax.grad(lambda params: jnp.sum(jnp.square(block.apply({"params": params}, x, None)[0])))(params)
    assert np.any(gradient["conv2"]["kernel"])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_conv1_and_layer1_are_frozen(name):
    params = jax.eval_shape(lambda: init_params(create_model(name, 21), jax.random.key(0)))
    rules = flatten_dict(match_rules(params, ARCHITECTURES[name].rules), sep="/")
    frozen = {path.split("/")[1] for path, rule in rules.items() if rule.learning_rate is None}
    learned = {path.split("/")[1] for path, rule in rules.items() if rule.learning_rate is not None}
    assert frozen == {"conv1", *(f"layer1_{i}" for i in range(2 if name == "resnet18" else 3))}
    assert not frozen & learned
    assert all(rule.weight_decay == 0 for path, rule in rules.items() if path.endswith("/bias") and "layer3" in path)
