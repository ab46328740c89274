"""Which reader takes which kind of file, and what it makes of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.config import expand_user
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS, PixelNormalization
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.formats.caffe import read_caffemodel
from frcnn_jax.weights.formats.layers import convert_layers
from frcnn_jax.weights.formats.own import (
    Arrays,
    read_checkpoints,
    read_named,
    read_npz,
    read_safetensors,
    read_safetensors_header,
    read_stablehlo_metadata,
)
from frcnn_jax.weights.formats.torchvision import read_torchvision_pth, read_torchvision_safetensors
from frcnn_jax.weights.metadata import NetworkMetadata, WeightsMetadata
from frcnn_jax.weights.params import matcher

# The layers that depend on the classes.
HEADS = r"head/(cls_score|bbox_pred)/.*"


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a reader makes of a file."""

    arrays: dict[str, np.ndarray]  # under flat names, with the layout of our models
    pixels: PixelNormalization  # what the weights were trained on
    statistics: BoxStatistics | None = None  # what the deltas are in; None where they are the offsets themselves
    left: tuple[str, ...] = ()  # layers of the file that detectors have no use for
    has_heads: bool = True  # False: an ImageNet network, whose `cls_score` and `bbox_pred` are still to be drawn


Reader = Callable[[Path, FastRCNN], Weights]


def _own(read: Callable[[Path], tuple[Arrays, WeightsMetadata | NetworkMetadata]]) -> Reader:
    """The reader of a kind of file that has our metadata."""

    def reader(path: Path, model: FastRCNN) -> Weights:
        arrays, metadata = read(path)
        if isinstance(metadata, NetworkMetadata):
            return Weights(arrays, metadata.pixels, has_heads=metadata.num_classes is not None)
        return Weights(arrays, metadata.pixels, metadata.statistics)

    return reader


def _foreign(read: Callable[[Path], Any], pixels: PixelNormalization) -> Reader:
    """The reader of a kind of file that has layers of other frameworks."""

    def reader(path: Path, model: FastRCNN) -> Weights:
        arrays, left = convert_layers(read(path), model)
        has_heads = any(map(matcher("", [HEADS]), arrays))
        return Weights(arrays, pixels, left=left, has_heads=has_heads)

    return reader


FOREIGN_READERS: dict[str, Reader] = {
    ".caffemodel": _foreign(read_caffemodel, CAFFE_PIXELS),
    ".pth": _foreign(read_torchvision_pth, TORCHVISION_PIXELS),
    ".safetensors": _foreign(read_torchvision_safetensors, TORCHVISION_PIXELS),
}


_FOREIGN_PIXELS = {".caffemodel": CAFFE_PIXELS, ".pth": TORCHVISION_PIXELS}


def _is_torchvision(path: Path) -> bool:
    """Whether a safetensors file has torchvision's names and no metadata of ours."""
    names, metadata = read_safetensors_header(path)
    return metadata is None and "features.0.weight" in names


def _read_any_safetensors(path: Path, model: FastRCNN) -> Weights:
    read = FOREIGN_READERS[".safetensors"] if _is_torchvision(path) else _own(read_safetensors)
    return read(path, model)


_READERS: dict[str, Reader] = {
    **FOREIGN_READERS,
    ".safetensors": _read_any_safetensors,
    ".npz": _own(read_npz),
}
_METADATA_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": lambda path: read_safetensors(path, with_arrays=False)[1],
    ".npz": lambda path: read_npz(path, with_arrays=False)[1],
    ".stablehlo": read_stablehlo_metadata,
}
# Name of the file in a folder of `scripts/convert_weights.py`.
CONVERTED = "weights.safetensors"


def read_weights(path: Path, model: FastRCNN) -> Weights:
    """What is in the file, in the layout of `model`, not yet checked against it.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    reader = _choose(path, _READERS, _own(read_checkpoints))
    return read_named(_file_of(path), lambda file: reader(file, model))


def read_pixels(path: str | Path) -> PixelNormalization:
    """The pixels that weights were trained on, to create their model with.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is of no kind that is read, or damaged.
    """
    path = expand_user(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.suffix in _FOREIGN_PIXELS and path.is_file():
        return _FOREIGN_PIXELS[path.suffix]
    if path.suffix == ".safetensors" and path.is_file() and read_named(path, _is_torchvision):
        return TORCHVISION_PIXELS
    return _read_own_metadata(path).pixels


def read_metadata(path: str | Path) -> WeightsMetadata:
    """What an exported file (safetensors, npz or stablehlo), a workdir or its checkpoints say about the weights.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is of no kind that is read, or damaged, or holds a network without a detector's settings.
    """
    metadata = _read_own_metadata(expand_user(path))
    if not isinstance(metadata, WeightsMetadata):
        raise ValueError(f"{path} holds weights of {metadata.source} without classes and settings of a detector")
    return metadata


def _read_own_metadata(path: Path) -> WeightsMetadata | NetworkMetadata:
    return read_named(_file_of(path), _choose(path, _METADATA_READERS, lambda folder: read_checkpoints(folder)[1]))


def _file_of(path: Path) -> Path:
    """The path, or the file of weights in a folder that is no run."""
    converted = path / CONVERTED
    return converted if converted.is_file() and not (path / "checkpoints").exists() else path


def _choose(path: Path, readers: dict[str, Callable], folder_reader: Callable) -> Callable:
    """The reader for a path, by its suffix; folders of runs have their own."""
    path = _file_of(path)
    if path.is_dir():
        return folder_reader
    if path.suffix not in readers:
        raise ValueError(f"{path}: weights are read from {', '.join(sorted(readers))} and from the folder of a run")
    return readers[path.suffix]
