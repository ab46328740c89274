"""`load_weights`: parameters for a model from any kind of file that holds them, checked before they are used."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from frcnn_jax.models.detector import FastRCNN, PixelNormalization
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.arrays import match_arrays
from frcnn_jax.weights.files import (
    Arrays,
    read_checkpoints,
    read_named,
    read_npz,
    read_safetensors,
    read_stablehlo_metadata,
)
from frcnn_jax.weights.folding import fold_arrays
from frcnn_jax.weights.metadata import WeightsMetadata


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a reader makes of a file."""

    arrays: dict[str, np.ndarray]  # under flat names, with the layout of our models
    pixels: PixelNormalization  # what the weights were trained on
    statistics: BoxStatistics | None  # what the deltas are in; None where they are the offsets themselves


def _ours(read: Callable[[Path], tuple[Arrays, WeightsMetadata]]) -> Callable[[Path], Weights]:
    """The reader of a kind of file that has our metadata."""

    def reader(path: Path) -> Weights:
        arrays, metadata = read(path)
        return Weights(arrays, metadata.pixels, metadata.statistics)

    return reader


_READERS: dict[str, Callable[[Path], Weights]] = {
    ".safetensors": _ours(read_safetensors),
    ".npz": _ours(read_npz),
}
_METADATA_READERS: dict[str, Callable[[Path], WeightsMetadata]] = {
    ".safetensors": lambda path: read_safetensors(path, with_arrays=False)[1],
    ".npz": lambda path: read_npz(path, with_arrays=False)[1],
    ".stablehlo": read_stablehlo_metadata,
}


def load_weights(
    path: str | Path,
    model: FastRCNN,
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: Iterable[str] = (),
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Parameters for `model` that stand alone: box statistics, where there are any, are folded into `head/bbox_pred`.

    They detect with `frcnn_jax.detect(model, params, image, boxes)`, without statistics. To train on with statistics,
    take them out again: `unfold_statistics`.

    Args:
        path: a `.safetensors` or `.npz` file of `scripts/export.py`, a run's workdir or its folder `checkpoints`
            (the newest checkpoint).
        allow_missing: names, or regular expressions that match whole names, of parameters that the file need not
            have; they are initialised at random.
        allow_extra: names or expressions of arrays that are left out. An array whose shape differs from the model's
            is replaced by a random one if both lists name it, as in
            `allow_missing=(new,), allow_extra=(new,)` with `new = "head/(cls_score|bbox_pred)/.*"`.
        key: draws what is missing; needed if anything is.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the file is of no kind that is read, or damaged; it was trained on pixels normalised otherwise
            than `model.pixels`; arrays are missing, left over or of another shape, all of them named; or a key is
            needed.
    """
    path = Path(path)
    weights = read_named(path, _choose(path, _READERS, _ours(read_checkpoints)))
    if weights.pixels != model.pixels:
        raise ValueError(
            f"{path} is for other pixels than the model, which has {model.pixels}: "
            f"create the model with pixels={weights.pixels}"
        )
    arrays = weights.arrays
    if weights.statistics is not None:
        # Before the match: what is then replaced by random arrays has nothing to do with these statistics.
        arrays = read_named(path, lambda _: fold_arrays(arrays, weights.statistics))
    return match_arrays(arrays, model, allow_missing=allow_missing, allow_extra=allow_extra, key=key, source=str(path))


def read_metadata(path: str | Path) -> WeightsMetadata:
    """What an exported file (safetensors, npz or stablehlo), a workdir or its checkpoints say about the weights.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is of no kind that is read, or damaged.
    """
    path = Path(path)
    return read_named(path, _choose(path, _METADATA_READERS, lambda folder: read_checkpoints(folder)[1]))


def _choose(path: Path, readers: dict[str, Callable], folder_reader: Callable) -> Callable:
    """The reader for a path, by its suffix; folders have their own."""
    if path.is_dir():
        return folder_reader
    if path.suffix not in readers:
        raise ValueError(f"{path}: weights are read from {', '.join(readers)} and from the folder of a run")
    return readers[path.suffix]
