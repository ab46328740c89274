"""Writes VGG16 as Keras does, in its two layouts, without Keras."""

import re
from pathlib import Path

import h5py
import numpy as np

from tests.weights.networks import vgg16_layers

KerasLayers = dict[str, list[np.ndarray]]


def keras_layers(top: bool = True) -> KerasLayers:
    """The arrays of `vgg16_layers` in Keras's names and order, kernel and bias."""
    layers = {}
    for name, (weight, bias) in vgg16_layers(heads=None).items():
        if name.startswith("conv"):
            layers[f"block{name[4]}_{name[:4]}{name[6]}"] = [weight.transpose(2, 3, 1, 0), bias]
        elif top:
            if name == "fc6":  # inputs from channel, row, column to row, column, channel; the grid is 2 x 3
                weight = weight.reshape(len(weight), -1, 2, 3).transpose(0, 2, 3, 1).reshape(weight.shape)
            layers[{"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}[name]] = [weight.T, bias]
    return layers


def write_groups(path: Path, layers: KerasLayers, names: str = "{0}/{1}:0", below: str = "") -> Path:
    """The older layout: a group for each layer, with its arrays' `names` made of the layer's and the part's."""
    with h5py.File(path, "w") as file:
        root = file.require_group(below) if below else file
        everything = ["input_1", *layers, "block1_pool", "flatten"]
        root.attrs["layer_names"] = [name.encode() for name in everything]
        root.attrs["backend"] = b"tensorflow"
        for layer in everything:
            group = root.create_group(layer)
            parts = (
                [names.format(layer, part, part[0].upper()) for part in ("kernel", "bias")] if layer in layers else []
            )
            group.attrs["weight_names"] = [part.encode() for part in parts]
            for part, array in zip(parts, layers.get(layer, ()), strict=True):
                group[part] = array
        if below:
            file["optimizer_weights/block1_conv1/kernel_momentum"] = np.zeros(3, np.float32)
    return path


def write_variables(path: Path, layers: KerasLayers, nested: bool = False, named: bool = True) -> Path:
    """Keras 3's layout: `layers/conv2d_1/vars/0`, or with blocks as layers of their own; `named` as newer ones are."""
    with h5py.File(path, "w") as file:
        counts: dict[str, int] = {}
        for layer, arrays in layers.items():
            block = re.match(r"block\d(?=_conv)", layer) if nested else None
            folder = f"{block[0]}/layers" if block else "" if nested else "layers"
            kind = "conv2d" if "conv" in layer else layer if nested else "dense"
            number = counts.get(f"{folder}/{kind}", 0)
            counts[f"{folder}/{kind}"] = number + 1
            group = file.create_group(f"{folder}/{kind}{f'_{number}' if number else ''}/vars")
            if named:
                group.attrs["name"] = layer if block or not nested else "conv2d_7"
            for i, array in enumerate(arrays):
                group[str(i)] = array
        for empty in ("vars", "layers/max_pooling2d/vars"):
            file.create_group(empty)
        file["optimizer/vars/0"] = np.zeros(3, np.float32)
    return path
