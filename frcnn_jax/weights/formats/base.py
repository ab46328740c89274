"""The contract of a weight format, and the errors of reading one."""

import dataclasses
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
import safetensors

from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import output_layers
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.metadata import NetworkMetadata, WeightsMetadata

Arrays = dict[str, np.ndarray]
Metadata = WeightsMetadata | NetworkMetadata

FOLDER = "/"  # instead of a suffix: the format is a folder
_LONGEST = 500  # characters of a reason
# Errors of the libraries on files that are truncated, damaged or of another kind.
_UNREADABLE = (
    safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, NotImplementedError,
    ValueError, KeyError, EOFError, OSError, RuntimeError, AttributeError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Weights:
    """Content of a weight file."""

    arrays: Arrays  # under flat names, with the layout of this package's models
    pixels: PixelNormalization  # of the images that the weights were trained on
    statistics: BoxStatistics | None = None  # of normalised deltas; None if the outputs are the offsets themselves
    skipped: tuple[str, ...] = ()  # layers of the file that detectors do not use
    has_heads: bool = True  # False: an ImageNet network; `cls_score` and `bbox_pred` must be drawn
    drawn: tuple[str, ...] = ()  # further parameters that are missing in the file's network and must be drawn
    network: str | None = None  # name of the complete network in the file, if known


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """A format of weight files; a line in `table.FORMATS` registers it for everything that takes weights.

    The functions get the path of an existing file; their errors need not name it.
    """

    suffix: str  # of the file's name, with the dot; or FOLDER
    pixels: Callable[[Path], PixelNormalization]
    read: Callable[[Path, FastRCNN], Weights] | None = None  # returns names and layout of the model, unchecked
    metadata: Callable[[Path], Metadata] | None = None  # None: a format of another framework
    write: Callable[[Path, Mapping[str, Any], Metadata], None] | None = None  # arrays under flat names
    fits: Callable[[Path], bool] = lambda path: True  # distinguishes formats with the same suffix


class ReadOwn(Protocol):
    """Reads arrays and metadata of this package's file; without arrays, {} and the metadata."""

    def __call__(self, path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]: ...


def own_format(
    suffix: str, read: ReadOwn, write: Callable[[Path, Mapping[str, Any], Metadata], None] | None = None
) -> WeightFormat:
    """The format of a file with this package's array names and metadata."""

    def weights(path: Path, model: FastRCNN) -> Weights:
        arrays, metadata = read(path)
        if isinstance(metadata, NetworkMetadata):
            has_heads = metadata.num_classes is not None
            return Weights(arrays, metadata.pixels, has_heads=has_heads, drawn=metadata.drawn, network=metadata.model)
        return Weights(arrays, metadata.pixels, metadata.statistics, network=metadata.config.model.name)

    def metadata(path: Path) -> Metadata:
        return read(path, with_arrays=False)[1]

    return WeightFormat(
        suffix=suffix, read=weights, metadata=metadata, pixels=lambda path: metadata(path).pixels, write=write
    )


def outputs_pattern(model: FastRCNN) -> str:
    """Regular expression for the names of the arrays that depend on the classes: `cls_score` and `bbox_pred`."""
    return f"head/({'|'.join(map(re.escape, output_layers(model.head)))})/.*"


def read_named(path: Path, read: Callable[[Path], Any]) -> Any:
    """`read(path)`, with errors that name the file.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: it cannot be read; in one line.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    try:
        return read(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as weights: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """The first line of an error, shortened and without control characters."""
    line = next(iter(str(error).strip().splitlines()), "") or "it ends too early"
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def storable(array: Any) -> np.ndarray:
    """A contiguous NumPy array with a native dtype: bfloat16 becomes float32, which is exact."""
    array = np.asarray(array)
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype == jnp.bfloat16 else array)
