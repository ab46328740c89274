"""torchvision's `vgg16`, from `.pth` or from safetensors with the same names, as layers under their names in Caffe."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from frcnn_jax.models.pixels import TORCHVISION_PIXELS
from frcnn_jax.weights.formats.layers import Layers, layer_format
from frcnn_jax.weights.formats.own import read_safetensors_names
from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch.state_dict import read_state_dict

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


def read_torchvision_pth(path: Path) -> Layers:
    """The layers of a `.pth` file; those that vgg16 does not have keep their names.

    Raises:
        ValueError: it cannot be read, see `read_state_dict`, or none of its names is one of vgg16's.
    """
    return _layers(read_state_dict(path))


def read_torchvision_safetensors(path: Path) -> Layers:
    """The layers of a safetensors file; those that vgg16 does not have keep their names.

    Raises:
        ValueError: none of its names is one of vgg16's.
        safetensors.SafetensorError: it is not a safetensors file, or damaged.
    """

    def stored(file: safetensors.safe_open, name: str) -> Stored:
        shape = tuple(file.get_slice(name).get_shape())

        def read() -> np.ndarray:
            with safetensors.safe_open(path, framework="numpy") as again:
                return again.get_tensor(name)

        return Stored(shape, read)

    with safetensors.safe_open(path, framework="numpy") as file:
        return _layers({name: stored(file, name) for name in file.keys()})  # noqa: SIM118


def _layers(tensors: Mapping[str, Stored]) -> Layers:
    layers: Layers = {}
    for name, array in tensors.items():
        layer, _, part = name.rpartition(".")
        layers.setdefault(_LAYERS.get(layer, layer), {})[part] = array
    if not layers.keys() & set(_LAYERS.values()):
        raise ValueError("it is not torchvision's vgg16: features.0.weight and the like are missing")
    return layers


def _fits(path: Path) -> bool:
    """True for a safetensors file with torchvision's names and no metadata of ours."""
    names, is_ours = read_safetensors_names(path)
    return not is_ours and "features.0.weight" in names


TORCHVISION_PTH = layer_format(".pth", read_torchvision_pth, TORCHVISION_PIXELS)
TORCHVISION_SAFETENSORS = layer_format(".safetensors", read_torchvision_safetensors, TORCHVISION_PIXELS, _fits)
