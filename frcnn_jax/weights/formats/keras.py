"""Keras's VGG16 in an `.h5` file, with or without its fully connected layers; `keras_file.py` reads the file.

block1_conv1    backbone/conv1_1, rows x columns x in x out as ours
fc1, fc2        head/fc6, head/fc7, in = row, column, channel as ours
predictions     left out: the classifier
dsn1, fuse      left out: outputs of HED, an edge detector whose trunk is VGG16's
"""

from pathlib import Path

from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.weights.formats.base import WeightFormat, Weights, outputs_pattern
from frcnn_jax.weights.formats.keras_file import CONVOLUTION, CONVOLUTIONS, FULLY_CONNECTED, LEFT, read_layers
from frcnn_jax.weights.formats.stored import aligned_empty
from frcnn_jax.weights.params import expected_shapes, matcher
from frcnn_jax.words import listed

_SHOWN = 10  # layers in a message


def read_vgg16(path: Path, model: FastRCNN) -> Weights:
    """The arrays of VGG16; without fc1 and fc2, the head's layers are to be drawn.

    Raises:
        ValueError: it is not an HDF5 file, damaged, or without convolutions of VGG16.
        ModuleNotFoundError: h5py is missing.
    """
    try:
        import h5py  # noqa: F401  - fails early with a message, before the reading process starts
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path} is read with h5py, which is missing: pip install h5py") from None
    layers = read_layers(path, aligned_empty)
    if not layers.keys() & set(CONVOLUTIONS["vgg16"]):
        raise ValueError(
            f"it is not Keras's VGG16: it has no block1_conv1, but {listed(list(layers), _SHOWN) or 'no layers'}"
        )
    skipped = tuple(layer for layer in layers if LEFT.fullmatch(layer))
    arrays = {f"{_our_name(layer)}/{part}": array for layer, parts in layers.items() for part, array in parts.items()}
    drawn = ()
    if not layers.keys() & FULLY_CONNECTED.keys():
        is_output = matcher("", [outputs_pattern(model)])
        drawn = tuple(name for name in expected_shapes(model) if name.startswith("head/") and not is_output(name))
    convolutions = layers.keys() - FULLY_CONNECTED.keys() - set(skipped)
    network = next((name for name, names in CONVOLUTIONS.items() if convolutions == set(names)), None)
    return Weights(arrays, CAFFE_PIXELS, skipped=skipped, has_heads=False, drawn=drawn, network=network)


def _our_name(layer: str) -> str:
    return FULLY_CONNECTED.get(layer) or CONVOLUTION.sub(r"backbone/conv\1_\2", layer)


KERAS = WeightFormat(suffix=".h5", read=read_vgg16, pixels=lambda path: CAFFE_PIXELS)
