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

FOLDER = "/"  # in place of a suffix: the format is a folder
_LONGEST = 500  # characters of a reason
# What the libraries raise on files that are cut off, damaged or of another kind.
_UNREADABLE = (
    safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, NotImplementedError,
    ValueError, KeyError, EOFError, OSError, RuntimeError, AttributeError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Weights:
    """Content of a weight file."""

    arrays: Arrays  # under flat names, with the layout of our models
    pixels: PixelNormalization  # the weights were trained on
    statistics: BoxStatistics | None = None  # what the deltas are in; None where they are the offsets themselves
    left: tuple[str, ...] = ()  # layers of the file that detectors have no use for
    has_heads: bool = True  # False: an ImageNet network, whose `cls_score` and `bbox_pred` are still to be drawn
    drawn: tuple[str, ...] = ()  # names of more parameters that the file's network does not have: these are drawn too
    network: str | None = None  # that the file holds, whole, where that is known


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """A kind of file that holds weights; a line in `table.FORMATS` makes it known to everything that takes weights.

    The functions get the path of an existing file and raise an error that needs not name it.
    """

    suffix: str  # of the file's name, with its dot; or FOLDER
    pixels: Callable[[Path], PixelNormalization]
    read: Callable[[Path, FastRCNN], Weights] | None = None  # names and layout are the model's, which is not checked
    metadata: Callable[[Path], Metadata] | None = None  # None: a format of another framework
    write: Callable[[Path, Mapping[str, Any], Metadata], None] | None = None  # arrays under flat names
    fits: Callable[[Path], bool] = lambda path: True  # tells formats of one suffix apart


class ReadOwn(Protocol):
    """Reads arrays and metadata of a file of ours; without arrays, {} and the metadata."""

    def __call__(self, path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]: ...


def own_format(
    suffix: str, read: ReadOwn, write: Callable[[Path, Mapping[str, Any], Metadata], None] | None = None
) -> WeightFormat:
    """The format of a file with arrays under our names and our metadata."""

    def weights(path: Path, model: FastRCNN) -> Weights:
        arrays, metadata = read(path)
        if isinstance(metadata, NetworkMetadata):
            has_heads = metadata.num_classes is not None
            return Weights(arrays, metadata.pixels, has_heads=has_heads, drawn=metadata.drawn, network=metadata.model)
        return Weights(arrays, metadata.pixels, metadata.statistics)

    def metadata(path: Path) -> Metadata:
        return read(path, with_arrays=False)[1]

    return WeightFormat(
        suffix=suffix, read=weights, metadata=metadata, pixels=lambda path: metadata(path).pixels, write=write
    )


def outputs_pattern(model: FastRCNN) -> str:
    """Expression for the names of the arrays that depend on the classes: `cls_score` and `bbox_pred`."""
    return f"head/({'|'.join(map(re.escape, output_layers(model.head)))})/.*"


def read_named(path: Path, read: Callable[[Path], Any]) -> Any:
    """`read(path)`, with the file named in whatever goes wrong.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read; says so in one line.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    try:
        return read(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as weights: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """The first line of an error, without what a terminal would obey and not longer than a person reads."""
    line = next(iter(str(error).strip().splitlines()), "") or "it ends too early"
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def storable(array: Any) -> np.ndarray:
    """A contiguous NumPy array of a type that NumPy itself has: bfloat16 is widened to float32, which is exact."""
    array = np.asarray(array)
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype == jnp.bfloat16 else array)
