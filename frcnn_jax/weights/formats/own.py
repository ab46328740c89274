"""This package's own files: parameters with their metadata as safetensors or NumPy's npz.

A safetensors file has the metadata, as JSON, under "frcnn_jax" in its header; an npz file as the string
"__metadata__". All other arrays are parameters under flat names such as "backbone/conv1_1/kernel", unchanged from
training: box statistics are in the metadata, never folded into the arrays.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from frcnn_jax.npz import open_npz
from frcnn_jax.weights.formats.base import Arrays, Metadata, own_format, storable
from frcnn_jax.weights.metadata import from_json, to_json

_SAFETENSORS_KEY = "frcnn_jax"
_NPZ_KEY = "__metadata__"


def write_safetensors(path: Path, arrays: Mapping[str, Any], metadata: Metadata) -> None:
    """Writes arrays and metadata as safetensors."""
    plain = {name: storable(array) for name, array in arrays.items()}
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.numpy.save_file(plain, path, metadata={_SAFETENSORS_KEY: to_json(metadata)})
    except safetensors.SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    path.chmod(mode)  # safetensors makes files readable only for their owner


def read_safetensors(path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]:
    """Arrays and metadata of a file written by `write_safetensors`; without arrays only the header is read."""
    with safetensors.safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_SAFETENSORS_KEY)
        if text is None:
            raise ValueError(
                f"it holds no metadata of frcnn_jax, and its first array is {next(iter(file.keys()), 'missing')}; "
                "torchvision's vgg16 has features.0.weight, its resnet18 and resnet50 have layer1.0.conv1.weight"
            )
        metadata = from_json(text)
        return {name: file.get_tensor(name) for name in file.keys()} if with_arrays else {}, metadata  # noqa: SIM118


def read_safetensors_names(path: Path) -> tuple[set[str], bool]:
    """The array names in any safetensors file, and True if it has this package's metadata."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return set(file.keys()), _SAFETENSORS_KEY in (file.metadata() or {})


def write_npz(path: Path, arrays: Mapping[str, Any], metadata: Metadata) -> None:
    """Writes arrays and metadata as npz, not compressed."""
    plain = {name: storable(array) for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, **plain, **{_NPZ_KEY: np.array(to_json(metadata))})


def read_npz(path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]:
    """Arrays and metadata of a file written by `write_npz`."""
    with open_npz(path) as file:
        metadata = from_json(_text(file[_NPZ_KEY]) if _NPZ_KEY in file else None)
        return {name: file[name] for name in file if name != _NPZ_KEY} if with_arrays else {}, metadata


def _text(array: np.ndarray) -> str:
    if array.dtype.kind != "U" or array.ndim:
        raise ValueError(f"its {_NPZ_KEY} is not a text")
    return str(array)


SAFETENSORS = own_format(".safetensors", read_safetensors, write_safetensors)
NPZ = own_format(".npz", read_npz, write_npz)
