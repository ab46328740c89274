"""torchvision's ResNets as files: every form gives the same numbers, and what does not fit is one line that says so."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy

from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.weights.convert import convert_weights
from frcnn_jax.weights.formats import table
from frcnn_jax.weights.formats.layers import convert_layers
from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch import resnet
from frcnn_jax.weights.formats.torch.networks import torchvision_network
from frcnn_jax.weights.load import load_weights, read_pixels
from frcnn_jax.weights.params import expected_shapes
from tests.models.test_resnet import FIXTURES, small_resnet
from tests.weights.formats.test_torch_vgg16 import arrays as vgg16_arrays
from tests.weights.networks import small_m, small_vgg16
from tests.weights.torch_files import WRITERS, Tensor, write_zip

TORCHVISION = json.loads((FIXTURES / "torchvision_resnets.json").read_text())
BASIC = small_resnet(bottleneck=False)


def arrays(kind="basic"):
    """torchvision's state dict of a small network."""
    stored = safetensors.numpy.load_file(FIXTURES / f"resnet_{kind}.safetensors")
    return {name: np.asarray(array, np.float32 if array.ndim else np.int64) for name, array in stored.items()}


def write(path, state):
    return write_zip(path, {name: Tensor(array) for name, array in state.items()})


def whole(network):
    """The names of torchvision's network, with arrays of one number each."""
    return {name: np.zeros((1,) * len(shape), np.float32) for name, shape in TORCHVISION[network].items()}


@pytest.fixture(scope="module")
def expected():
    return load_weights(FIXTURES / "resnet_basic.safetensors", BASIC)


@pytest.mark.parametrize("form", list(WRITERS))
def test_every_form_gives_the_same_numbers(tmp_path, expected, form):
    path = WRITERS[form](tmp_path / "a.pth", {name: Tensor(array) for name, array in arrays().items()})
    assert read_pixels(path) == read_pixels(FIXTURES / "resnet_basic.safetensors") == TORCHVISION_PIXELS
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, BASIC), expected)


def test_folding_by_hand(expected):
    """gamma * (w * x - mean) / sqrt(variance + 1e-5) + beta, as a kernel and a bias."""
    state = {name: np.float64(array) for name, array in arrays().items()}
    for theirs, norm, ours in (
        ("conv1", "bn1", expected["backbone"]["conv1"]),
        ("layer2.0.downsample.0", "layer2.0.downsample.1", expected["backbone"]["layer2_0"]["downsample"]),
        ("layer4.0.conv2", "layer4.0.bn2", expected["head"]["stages"]["layer4_0"]["conv2"]),
    ):
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        kernel = state[f"{theirs}.weight"].transpose(2, 3, 1, 0) * scale
        np.testing.assert_allclose(ours["kernel"], kernel, rtol=1e-6)
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        np.testing.assert_allclose(ours["bias"], bias, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", list(TORCHVISION))
def test_names_and_shapes_are_torchvisions(name, monkeypatch):
    """The whole network's, as recorded: all of it finds its place."""
    tensors = {
        key: Stored(tuple(shape), partial(np.broadcast_to, np.float32(1), shape))
        for key, shape in TORCHVISION[name].items()
    }
    monkeypatch.setattr(resnet, "read_tensors", lambda path: tensors)
    model = create_model(name, 21)
    found, left = convert_layers(resnet.read_resnet(None), model)
    shapes = {key: shape.shape for key, shape in expected_shapes(model).items()}
    outputs = {key for key in shapes if "cls_score" in key or "bbox_pred" in key}
    assert {key: array.shape for key, array in found.items()} == {key: shapes[key] for key in shapes.keys() - outputs}
    assert left == ("fc",)
    assert torchvision_network(tensors) == name


def test_converted(tmp_path, monkeypatch, expected):
    monkeypatch.setattr(
        "frcnn_jax.weights.convert.create_model",
        lambda name, num_classes, pixels=TORCHVISION_PIXELS: small_resnet(bottleneck=False).clone(pixels=pixels),
    )
    done = convert_weights(FIXTURES / "resnet_basic.safetensors", "resnet18", tmp_path / "out")
    assert done.skipped == ("fc",)
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "out", BASIC), expected)


def changed(**parts):
    """The small network's state with arrays replaced, or left out where None is given; `__` stands for a dot."""
    state = arrays() | {name.replace("__", "."): array for name, array in parts.items()}
    return {name: array for name, array in state.items() if array is not None}


ONES = np.ones(2, np.float32)
FAULTS = {
    "no variance": (
        changed(layer1__0__bn1__running_var=None),
        r"it has no layer1\.0\.bn1\.running_var, which belong to layer1\.0\.conv1\.weight$",
    ),
    "another norm": (
        changed(layer1__0__bn1__weight=np.ones(3, np.float32)),
        r"layer1\.0\.bn1 \[2\] and \[3\] does not fit layer1\.0\.conv1\.weight \[2, 2, 3, 3\]$",
    ),
    "no convolution": (changed(layer2__0__conv1__weight=None), "missing: backbone/layer2_0/conv1/bias .*layer2.0.bn1/"),
    "an own bias": (changed(layer1__0__conv1__bias=ONES), r"not in the model: layer1\.0\.conv1/bias float32 \[2\]$"),
    "more layers": (changed(layer1__0__se__weight=ONES), r"not in the model: layer1\.0\.se/weight float32 \[2\]$"),
    "another kernel": (
        changed(conv1__weight=np.ones((2, 3, 3, 3), np.float32)),
        r"backbone/conv1/kernel is float32 \[3, 3, 3, 2\] where the model has float32 \[7, 7, 3, 2\]$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_named_in_one_line(tmp_path, fault):
    state, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(write(tmp_path / "a.pth", state), BASIC)
    assert "a.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("state", "model", "message"),
    [
        (whole("resnet50"), BASIC.clone(architecture="resnet18"), "holds resnet50, the model is resnet18"),
        (whole("resnet18"), BASIC.clone(architecture="resnet50"), "holds resnet18, the model is resnet50"),
        (whole("resnet50"), small_vgg16(), "holds resnet50, the model is VGG16"),
        (vgg16_arrays(), BASIC.clone(architecture="resnet18"), "holds vgg16, the model is resnet18"),
        (vgg16_arrays(), small_m(), "holds vgg16, the model is VGGCNNM1024"),
    ],
)
def test_a_file_of_another_network_is_named(tmp_path, state, model, message):
    """Before its pixels are looked at, which are another matter."""
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(state, path)
    network = message.split()[1].rstrip(",")
    advice = rf": create the model by that name, in a config as --model\.name {network}$"
    for pixels in (TORCHVISION_PIXELS, CAFFE_PIXELS):
        with pytest.raises(ValueError, match=rf"a\.safetensors {message}{advice}"):
            load_weights(path, model.clone(pixels=pixels))


def test_a_network_that_no_architecture_has(tmp_path):
    state = whole("resnet18")
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(2, count):
            state |= {name.replace(f"layer{stage}.1", f"layer{stage}.{block}"): array for name, array in state.items()}
    path = write(tmp_path / "a.pth", state)
    message = r"a\.pth holds resnet34, the model is resnet18, which takes torchvision's resnet18: \.pth, \.safetensors$"
    with pytest.raises(ValueError, match=message):
        load_weights(path, BASIC.clone(architecture="resnet18"))
    with pytest.raises(ValueError, match=r"a\.pth holds resnet34, the model is ResNetTrunk$"):
        load_weights(path, BASIC)


def test_another_network_where_the_lists_allow_for_it(tmp_path, expected):
    """Layers that differ may be left out and drawn, if the caller says so."""
    state = arrays() | {"layer1.2.conv1.weight": np.ones((2, 2, 3, 3), np.float32)}
    state |= {f"layer1.2.bn1.{part}": ONES for part in ("weight", "bias", "running_mean", "running_var")}
    params = load_weights(write(tmp_path / "a.pth", state), BASIC, allow_extra="layer1_2/conv1/.*")
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (vgg16_arrays(), "vgg16"),
        (TORCHVISION["resnet50"], "resnet50"),
        (TORCHVISION["resnet18"].keys() - {"layer3.1.conv2.weight"}, None),
        ((f"features.{i}.weight" for i in (0, 3, 6, 8, 10)), "alexnet"),
        ((f"features.{i}.{part}" for i in (0, 1, 4, 5, 8, 9, 11, 12, 15, 16, 18, 19, 22, 23, 25, 26)
          for part in (("weight",) if i in (0, 4, 8, 11, 15, 18, 22, 25) else ("weight", "running_mean"))), "vgg11_bn"),
        ((), None),
        (("features.0.weight", "features.0.0.weight"), None),
    ],
)  # fmt: skip
def test_networks_by_their_names(names, network):
    assert torchvision_network(list(names)) == network


def test_no_network_that_is_read(tmp_path):
    path = write(tmp_path / "a.pth", {"encoder.weight": ONES})
    with pytest.raises(
        ValueError, match=r"a\.pth .*its first tensor is encoder\.weight: torchvision's vgg16 has features\.0"
    ):
        load_weights(path, BASIC)


def test_names_are_read_without_the_numbers(tmp_path):
    """To tell formats apart, a large file's checksums are not computed."""
    path = write(tmp_path / "a.pth", arrays())
    content = bytearray(path.read_bytes())
    content[content.index(arrays()["layer4.0.conv1.weight"].tobytes()[:64])] ^= 1
    path.write_bytes(content)
    assert table.RESNET_PTH.fits(path)
    with pytest.raises(ValueError, match="is damaged: its checksum is wrong"):
        load_weights(path, BASIC)
