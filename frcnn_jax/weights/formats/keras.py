"""Keras's VGG16 in an `.h5` file, with and without its fully connected layers (h5py, which is imported for it alone).

Two layouts are met. The older one, of Keras 1 and 2 and of Keras 3's `model.save("a.h5")`, has a group for each layer,
under `model_weights` or at the root, whose attribute `weight_names` lists its arrays: kernel, then bias. Keras 3's
`.weights.h5` has them as `vars/0` and `vars/1` below `layers`, also of layers within layers; the attribute `name` of
`vars` is the layer's, and files of the first versions lack it.

    block1_conv1    backbone/conv1_1, rows x columns x in x out as ours
    fc1, fc2        head/fc6, head/fc7, in = row, column, channel as ours
    predictions     left out: the classifier
    dsn1, fuse      left out: outputs of HED, an edge detector whose trunk is VGG16's
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.weights.formats.base import WeightFormat, Weights, outputs_pattern
from frcnn_jax.weights.formats.stored import aligned_empty
from frcnn_jax.weights.params import expected_shapes, matcher

_CONVOLUTION = re.compile(r"block([1-5])_conv([1-4])")
_CONVOLUTIONS = {
    network: [f"block{block}_conv{i}" for block, count in enumerate(counts, start=1) for i in range(1, count + 1)]
    for network, counts in {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}.items()
}
_NAMES = _CONVOLUTIONS["vgg16"]
_FULLY_CONNECTED = {"fc1": "head/fc6", "fc2": "head/fc7"}
_LEFT = re.compile(r"predictions|dsn[1-5]|fuse")
_PARTS = ("kernel", "bias")
_SHOWN = 10  # layers in a message


def read_vgg16(path: Path, model: FastRCNN) -> Weights:
    """The arrays of VGG16; without fc1 and fc2, the head's layers are to be drawn.

    Raises:
        ValueError: it is not an HDF5 file, damaged, or without convolutions of VGG16.
        ModuleNotFoundError: h5py is missing.
    """
    arrays, left = {}, []
    with _open(path) as file:
        layers = dict(_layers(file))
        if not layers.keys() & set(_NAMES):
            raise ValueError(f"it is not Keras's VGG16: it has no block1_conv1, but {_listed(list(layers))}")
        for layer, parts in layers.items():
            if _LEFT.fullmatch(layer):
                left.append(layer)
                continue
            for part, array in parts.items():
                arrays[f"{_our_name(layer)}/{part}"] = _read(array)
    drawn = ()
    if not layers.keys() & _FULLY_CONNECTED.keys():
        is_output = matcher("", [outputs_pattern(model)])
        drawn = tuple(name for name in expected_shapes(model) if name.startswith("head/") and not is_output(name))
    convolutions = layers.keys() - _FULLY_CONNECTED.keys() - set(left)
    network = next((name for name, names in _CONVOLUTIONS.items() if convolutions == set(names)), None)
    return Weights(arrays, CAFFE_PIXELS, left=tuple(left), has_heads=False, drawn=drawn, network=network)


def _our_name(layer: str) -> str:
    return _FULLY_CONNECTED.get(layer) or _CONVOLUTION.sub(r"backbone/conv\1_\2", layer)


def _open(path: Path) -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path} is read with h5py, which is missing: pip install h5py") from None
    return h5py.File(path, "r")


def _layers(file: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Layers that have arrays: kernel, bias and, by their numbers, what more there is."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        for layer in map(_text, root.attrs["layer_names"]):
            names = list(map(_text, root[layer].attrs.get("weight_names", ())))
            if names:
                yield layer, _parts(root[layer][name] for name in names)
        return
    found = []

    def visit(name: str, item: Any) -> None:
        if name.endswith("/vars") and not name.startswith("optimizer/") and len(item):
            found.append((name.removesuffix("/vars"), item))

    file.visititems(visit)
    # The file's own order is conv2d, conv2d_1, conv2d_10, conv2d_2.
    found.sort(key=lambda pair: [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", pair[0])])
    named = [(_layer_name(name, item), _parts(item[key] for key in sorted(item, key=int))) for name, item in found]
    yield from named if any(_CONVOLUTION.fullmatch(layer) for layer, _ in named) else _named_by_order(named)


def _named_by_order(layers: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers with VGG16's names, where there are as many 3 x 3 convolutions; else as they are."""
    kernels = [parts["kernel"].shape for _, parts in layers]
    convolutions, dense = iter(_NAMES), iter((*_FULLY_CONNECTED, "predictions"))
    if sum(shape[:2] == (3, 3) for shape in kernels) != len(_NAMES) or sum(len(shape) == 2 for shape in kernels) > 3:
        yield from layers
        return
    for (layer, parts), shape in zip(layers, kernels, strict=True):
        names = dense if len(shape) == 2 else convolutions if shape[:2] == (3, 3) else None
        yield next(names) if names else layer, parts


def _layer_name(path: str, variables: Any) -> str:
    """The layer's own name where it is one of VGG16's, else its path."""
    name = _text(variables.attrs.get("name", ""))
    is_known = _CONVOLUTION.fullmatch(name) or name in _FULLY_CONNECTED or _LEFT.fullmatch(name)
    return name if is_known else path


def _parts(arrays: Iterable[Any]) -> dict[str, Any]:
    return {_PARTS[i] if i < len(_PARTS) else str(i): array for i, array in enumerate(arrays)}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "no layers"


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _read(stored: Any) -> np.ndarray:
    array = aligned_empty(stored.shape, stored.dtype.newbyteorder("="))
    if array.size:
        stored.read_direct(array)
    return array


KERAS = WeightFormat(suffix=".h5", read=read_vgg16, pixels=lambda path: CAFFE_PIXELS)
