"""Conversion of Caffe's and PyTorch's layers to arrays of this package's models.

    convolution      out x in / groups x rows x columns    ->  rows x columns x in / groups x out
    fully connected  out x in                              ->  in x out
    fc6              in = channel, row, column             ->  in = row, column, channel

In models compressed by truncated SVD, `fc6_L` and `fc6_U` replace `fc6`, and `fc7_L` and `fc7_U` replace `fc7`.
`cls_score` and `bbox_pred` are only transposed: outputs are classes, and four coordinates per class.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.weights.formats.base import WeightFormat, Weights, outputs_pattern
from frcnn_jax.weights.formats.stored import Stored, transposed
from frcnn_jax.weights.params import expected_shapes, matcher
from frcnn_jax.weights.svd import LAYERS

# The ImageNet classifier in Caffe's and torchvision's networks, which detectors do not use.
IMAGENET_CLASSIFIER = re.compile(r"fc8.*|classifier\.6|fc")

_OURS = {"weight": "kernel", "bias": "bias"}

Layers = dict[str, dict[str, Stored]]


def layer_format(
    suffix: str,
    read: Callable[[Path], Layers],
    pixels: PixelNormalization,
    fits: Callable[[Path], bool] = lambda path: True,
    network: Callable[[Path], str | None] = lambda path: None,
) -> WeightFormat:
    """The format of a file with the layers of another framework, trained on these pixels.

    Args:
        network: returns the name of the network in the file if it has exactly its convolutions.
    """

    def weights(path: Path, model: FastRCNN) -> Weights:
        arrays, skipped = convert_layers(read(path), model)
        has_heads = any(map(matcher("", [outputs_pattern(model)]), arrays))
        return Weights(arrays, pixels, skipped=skipped, has_heads=has_heads, network=network(path))

    return WeightFormat(suffix=suffix, read=weights, pixels=lambda path: pixels, fits=fits)


def convert_layers(
    layers: Mapping[str, Mapping[str, Stored]], model: FastRCNN
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays under the flat names of `model`, and the names of the skipped layers (the ImageNet classifier).

    A layer that the model does not have keeps its name and shape, and so does an array with an unexpected shape:
    `match_arrays` reports both. fc6 and fc7 stay whole or compressed, as in the file.

    Args:
        layers: layers by their Caffe names, which are also the names in the model.
    """
    shapes = expected_shapes(model)
    groups = {name.split("/", 1)[1].rsplit("/", 1)[0]: name.rsplit("/", 1)[0] for name in shapes}
    convolutions = {name.rsplit("/", 1)[0] for name, shape in shapes.items() if shape.ndim == 4}
    groups |= {name: f"head/{name}" for layer in LAYERS for name in (layer, f"{layer}_L", f"{layer}_U")}
    arrays, skipped = {}, []
    for layer, parts in layers.items():
        if layer not in groups and IMAGENET_CLASSIFIER.fullmatch(layer):
            skipped.append(layer)
            continue
        for part, array in parts.items():
            if layer in groups and part in _OURS:
                grid = model.output_size if layer in ("fc6", "fc6_L") else None
                rank = 1 if part == "bias" else 4 if groups[layer] in convolutions else 2
                arrays[f"{groups[layer]}/{_OURS[part]}"] = _convert(array, rank, grid)
            else:
                arrays[f"{layer}/{part}"] = array.read()
    return arrays, tuple(skipped)


def _convert(array: Stored, rank: int, grid: tuple[int, int] | None) -> np.ndarray:
    shape = array.shape
    # Caffe's old form adds leading axes of size 1, up to four axes.
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    values = array.read()
    if len(shape) != rank:
        return np.array(values)
    values = values.reshape(shape)
    if rank == 1:
        return transposed(values, (0,))
    if rank == 4:
        return transposed(values, (2, 3, 1, 0))
    if grid is None or shape[1] % (grid[0] * grid[1]):
        return transposed(values, (1, 0))
    by_cell = transposed(values.reshape(shape[0], -1, *grid), (2, 3, 1, 0))
    return by_cell.reshape(-1, shape[0])
