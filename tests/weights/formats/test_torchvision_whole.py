"""Whole networks of torchvision with random weights and statistics, by way of the files that PyTorch writes."""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.architectures import create_model, create_window_network
from frcnn_jax.models.pixels import TORCHVISION_PIXELS
from frcnn_jax.weights.load import load_weights
from tests.models.test_resnet import FIXTURES

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

IMAGE_SIZES = ((97, 131), (112, 80), (64, 75))
# Where sizes do not halve, VGG16 here pools as Caffe does, which rounds up.
VGG16_SIZES = ((96, 128), (112, 80), (64, 48))


@pytest.fixture
def network(request):
    """torchvision's network, by name."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = getattr(models, request.param)(weights=None).eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.4, 1.2)
        if getattr(module, "bias", None) is not None:
            torch.nn.init.normal_(module.bias, 0, 0.3)
    yield request.param, net
    del net
    gc.collect()


def trunk_and_vector(net):
    """The trunk, and the network without its classifier."""
    import torch

    if hasattr(net, "classifier"):
        net.classifier = net.classifier[:-1]
        return net.features[:-1], net
    net.fc = torch.nn.Identity()
    return torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3), net


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.std(expected) > 1e-3


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("network", ["resnet18", "resnet50", "vgg16"], indirect=True)
def test_equal_numbers(network, form, tmp_path):
    import torch

    name, net = network
    if form == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "a.safetensors"
        save_file(net.state_dict(), path)
    else:
        path = tmp_path / "a.pth"
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    model = create_model(name, 21, pixels=TORCHVISION_PIXELS)
    params = load_weights(path, model)
    path.unlink()
    trunk, whole = trunk_and_vector(net)

    random = np.random.default_rng(0)
    images = np.float32(random.standard_normal((3, 128, 144, 3)))
    sizes = VGG16_SIZES if name == "vgg16" else IMAGE_SIZES
    apply = jax.jit(lambda params, x, sizes: model.apply({"params": params}, x, sizes, method="features"))
    features, cells = apply(params, images, jnp.array(sizes))
    for i, (height, width) in enumerate(sizes):
        image = torch.from_numpy(images[i, :height, :width].transpose(2, 0, 1).copy())[None]
        expected = trunk(image)[0].permute(1, 2, 0).numpy()
        rows, columns = cells[i].tolist()
        assert (rows, columns) == expected.shape[:2]
        assert_close(features[i, :rows, :columns], expected)
        assert not np.any(features[i, rows:])
        assert not np.any(features[i, :, columns:])

    windows = np.float32(random.standard_normal((2, 224, 224, 3)))
    head = {layer: params["head"][layer] for layer in params["head"] if layer not in ("cls_score", "bbox_pred")}
    vectors = jax.jit(create_window_network(name).apply)(
        {"params": {"backbone": params["backbone"], "head": head}}, windows
    )
    assert_close(vectors, whole(torch.from_numpy(windows.transpose(0, 3, 1, 2).copy())).numpy())


@pytest.mark.parametrize("network", ["resnet18", "resnet50"], indirect=True)
def test_recorded_names_and_shapes(network):
    """Those that the quick tests compare with."""
    name, net = network
    recorded = json.loads((FIXTURES / "torchvision_resnets.json").read_text())[name]
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == recorded
