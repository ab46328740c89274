"""torchvision's `vgg16`, from `.pth` or from safetensors with the same names, as layers under their names in Caffe."""

from pathlib import Path

from frcnn_jax.models.pixels import TORCHVISION_PIXELS
from frcnn_jax.weights.formats.layers import Layers, layer_format
from frcnn_jax.weights.formats.torch.networks import network_of_file
from frcnn_jax.weights.formats.torch.tensors import read_names, read_tensors

# `features` counts ReLU and pooling too.
_LAYERS = {
    "features.0": "conv1_1",
    "features.2": "conv1_2",
    "features.5": "conv2_1",
    "features.7": "conv2_2",
    "features.10": "conv3_1",
    "features.12": "conv3_2",
    "features.14": "conv3_3",
    "features.17": "conv4_1",
    "features.19": "conv4_2",
    "features.21": "conv4_3",
    "features.24": "conv5_1",
    "features.26": "conv5_2",
    "features.28": "conv5_3",
    "classifier.0": "fc6",
    "classifier.3": "fc7",
}


def read_vgg16(path: Path) -> Layers:
    """The layers of a `.pth` or safetensors file; layers unknown in vgg16 keep their names.

    Raises:
        ValueError: a `.pth` cannot be read, see `read_state_dict`, or none of its names is one of vgg16's.
        safetensors.SafetensorError: it is not a safetensors file, or damaged.
    """
    layers: Layers = {}
    tensors = read_tensors(path)
    for name, array in tensors.items():
        layer, _, part = name.rpartition(".")
        layers.setdefault(_LAYERS.get(layer, layer), {})[part] = array
    if not layers.keys() & set(_LAYERS.values()):
        raise ValueError(
            f"it holds no network that is read, its first tensor is {next(iter(tensors))}: "
            "torchvision's vgg16 has features.0.weight, its resnet18 and resnet50 have layer1.0.conv1.weight, "
            "EfficientNet-Lite has _conv_stem.weight"
        )
    return layers


def _fits(path: Path) -> bool:
    """True for a safetensors file with torchvision's names and without this package's metadata."""
    return "features.0.weight" in read_names(path)


TORCHVISION_PTH = layer_format(".pth", read_vgg16, TORCHVISION_PIXELS, network=network_of_file)
TORCHVISION_SAFETENSORS = layer_format(".safetensors", read_vgg16, TORCHVISION_PIXELS, _fits, network_of_file)
