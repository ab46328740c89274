"""EfficientNet-Lite's state dict: names, folding, what is left and drawn, and each fault in one line."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.efficientnet_lite import LITE1
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import EFFICIENTNET_LITE_PIXELS
from frcnn_jax.weights.formats.table import read_pixels, read_weights
from frcnn_jax.weights.load import load_weights
from tests.models.efficientnet import NARROW, TRUNK, narrow_state_dict
from tests.weights.networks import small_vgg16
from tests.weights.torch_files import WRITERS, Tensor

WITH_LAYERS = dataclasses.replace(NARROW, head=FastRCNNHead(3, (8, 5)))


@pytest.fixture
def path(tmp_path):
    return WRITERS["legacy"](tmp_path / "lite.pth", narrow_state_dict())


def test_both_forms_give_the_same(path, tmp_path):
    other = WRITERS["zip"](tmp_path / "other.pth", {f"module.{k}": v for k, v in narrow_state_dict().items()})
    assert read_pixels(path) == read_pixels(other) == EFFICIENTNET_LITE_PIXELS
    first, second = (read_weights(file, NARROW) for file in (path, other))
    jax.tree.map(np.testing.assert_array_equal, first.arrays, second.arrays)
    assert (first.skipped, first.drawn, first.has_heads) == (("_fc",), (), False)


def test_folding_by_hand(path):
    """kernel * weight / sqrt(variance + 0.001), and the bias that is left of mean, weight and bias."""
    state = {name: np.float64(tensor.array) for name, tensor in narrow_state_dict().items()}
    arrays = read_weights(path, NARROW).arrays
    for ours, convolution, norm in (
        ("backbone/stem", "_conv_stem", "_bn0"),
        ("backbone/stage2_2/depthwise", "_blocks.2._depthwise_conv", "_blocks.2._bn1"),
        ("head/stages/stage7_1/project", "_blocks.10._project_conv", "_blocks.10._bn2"),
        ("head/stages/top", "_conv_head", "_bn1"),
    ):
        kernel = state[f"{convolution}.weight"]
        weight, bias, mean, variance = (
            state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = weight / (variance + 0.001) ** 0.5
        for channel in range(len(kernel)):
            expected = kernel[channel].transpose(1, 2, 0) * factor[channel]
            actual = arrays[f"{ours}/kernel"][..., channel]
            np.testing.assert_allclose(actual, expected.reshape(actual.shape), rtol=1e-6)
        np.testing.assert_allclose(arrays[f"{ours}/bias"], bias - mean * factor, rtol=1e-5, atol=1e-6)


def test_fc6_and_fc7_are_drawn(path, tmp_path, caplog):
    """The trunk is the file's; all of the head is new, and said so."""
    with caplog.at_level(logging.INFO):
        params = load_weights(path, WITH_LAYERS, key=jax.random.key(5))
    new = "loaded; only fc6, fc7, cls_score and bbox_pred are new and start at random, as is usual before training"
    assert caplog.messages == [f"{path}: {new}"]
    assert float(jnp.std(params["head"]["fc6"]["kernel"])) == pytest.approx((2 / 294) ** 0.5, rel=0.1)
    stages = load_weights(path, NARROW)
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], stages["backbone"])
    assert read_weights(path, WITH_LAYERS).skipped == (
        "_blocks.8",
        "_blocks.9",
        "_blocks.10",
        "_conv_head",
        "_bn1",
        "_fc",
    )


def test_a_trunk_may_end_within_a_block_whatever_the_head(path):
    """Its last layer is the first one of the last stages, the other layers of that block are left out."""
    model = dataclasses.replace(WITH_LAYERS, backbone=dataclasses.replace(TRUNK, expansion=2))
    arrays, whole = read_weights(path, model).arrays, read_weights(path, NARROW).arrays
    for name in ("kernel", "bias"):
        ours, theirs = arrays[f"backbone/stage6_1/expand/{name}"], whole[f"head/stages/stage6_1/expand/{name}"]
        np.testing.assert_array_equal(ours, theirs)
    assert {name for name in arrays if "stage6" in name or "stage7" in name} == {
        "backbone/stage6_1/expand/kernel",
        "backbone/stage6_1/expand/bias",
    }
    assert "fc6" in load_weights(path, model)["head"]


@pytest.mark.parametrize("name", ["vgg16", "efficientnet_lite0"])
def test_another_network_is_refused_by_name(tmp_path, name):
    """The channels of a file tell which of the family it is."""
    state = {"_conv_stem.weight": Tensor(np.zeros((32, 3, 3, 3), np.float32))}
    channels = [stage.channels for stage in LITE1 for _ in range(stage.repeats)]
    for block, outputs in enumerate(channels):
        state[f"_blocks.{block}._project_conv.weight"] = Tensor(np.zeros((outputs, 1, 1, 1), np.float32))
    file = WRITERS["legacy"](tmp_path / "a.pth", state)
    with pytest.raises(ValueError, match="cannot be read as weights") as caught:
        load_weights(file, create_model(name, 4, pixels=EFFICIENTNET_LITE_PIXELS))
    assert str(caught.value) == (
        f"{file} cannot be read as weights: it holds efficientnet_lite1, the model is {name}: create the model by "
        "that name, in a config as --model.name efficientnet_lite1"
    )


def without(*names):
    return {name: tensor for name, tensor in narrow_state_dict().items() if name not in names}


FAULTS = {
    "a norm": (without("_blocks.3._bn1.running_var"), r"it has no _blocks\.3\._bn1\.running_var$"),
    "the last stage": (
        without("_blocks.10._project_conv.weight"),
        r"it holds an EfficientNet-Lite of 10 blocks, the model is EfficientNetLiteTrunk$",
    ),
    "a norm of another size": (
        without() | {"_bn0.bias": Tensor(np.zeros(5, np.float32))},
        r"_conv_stem\.weight \[4, 3, 3, 3\] and _bn0 \[4\] do not fit each other$",
    ),
    "a kernel of another size": (
        without() | {"_conv_stem.weight": Tensor(np.zeros((4, 3, 5, 5), np.float32))},
        r"backbone/stem/kernel is float32 \[5, 5, 3, 4\] where the model has float32 \[3, 3, 3, 4\]$",
    ),
    "one more": (
        without() | {"_swish.a": Tensor(np.zeros(2, np.float32))},
        r"not in the model: _swish\.a float32 \[2\]$",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_named_in_one_line(tmp_path, fault):
    state, message = FAULTS[fault]
    file = WRITERS["legacy"](tmp_path / "a.pth", state)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(file, NARROW)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_vgg16_of_torchvision_is_not_taken_for_it(path):
    with pytest.raises(ValueError, match=r"the model is VGG16$"):
        load_weights(path, small_vgg16(pixels=EFFICIENTNET_LITE_PIXELS))
