"""Parameters with their metadata in a file: safetensors, NumPy's npz, and the reading of a run's checkpoints.

A safetensors file has the metadata, as JSON, under "frcnn_jax" in its header; an npz file as the string
"__metadata__". All other arrays are parameters under flat names such as "backbone/conv1_1/kernel", as they were in
training: box statistics are in the metadata, never in the arrays. bfloat16 is widened to float32, which is exact.
"""

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.metadata import NetworkMetadata, WeightsMetadata, from_config, from_json, to_json
from frcnn_jax.weights.params import flatten

Metadata = WeightsMetadata | NetworkMetadata

Arrays = dict[str, np.ndarray]

_SAFETENSORS_KEY = "frcnn_jax"
_NPZ_KEY = "__metadata__"
# What the libraries raise on files that are cut off, damaged or of another kind.
_UNREADABLE = (
    safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, NotImplementedError,
    ValueError, KeyError, EOFError, OSError, RuntimeError, AttributeError,
)  # fmt: skip


def write_file(path: str | Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Lets `write` fill a temporary file beside `path` and moves it there: `path` is whole or as it was before.

    Raises:
        FileExistsError: `path` exists and is not to be overwritten, or is a folder.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists" + (" and is a folder" if path.is_dir() else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_safetensors(path: Path, arrays: Mapping[str, Any], metadata: Metadata) -> None:
    """Writes arrays and metadata as safetensors."""
    plain = {name: _storable(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(plain, path, metadata={_SAFETENSORS_KEY: to_json(metadata)})


def read_safetensors(path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]:
    """Arrays and metadata of a file written by `write_safetensors`; without arrays only the header is read."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = _parse((file.metadata() or {}).get(_SAFETENSORS_KEY))
        return {name: file.get_tensor(name) for name in file.keys()} if with_arrays else {}, metadata  # noqa: SIM118


def read_safetensors_header(path: Path) -> tuple[list[str], str | None]:
    """The names in a safetensors file of any origin, and our metadata as text, None where there is none."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return list(file.keys()), (file.metadata() or {}).get(_SAFETENSORS_KEY)


def write_npz(path: Path, arrays: Mapping[str, Any], metadata: WeightsMetadata) -> None:
    """Writes arrays and metadata as npz, not compressed."""
    plain = {name: _storable(array) for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, **plain, **{_NPZ_KEY: np.array(to_json(metadata))})


def read_npz(path: Path, with_arrays: bool = True) -> tuple[Arrays, Metadata]:
    """Arrays and metadata of a file written by `write_npz`."""
    with zipfile.ZipFile(path):
        pass  # np.load would take any file for a pickle and say so
    with np.load(path, allow_pickle=False) as file:
        metadata = _parse(str(file[_NPZ_KEY]) if _NPZ_KEY in file.files else None)
        return {name: file[name] for name in file.files if name != _NPZ_KEY} if with_arrays else {}, metadata


def read_stablehlo_metadata(path: Path) -> Metadata:
    """The metadata that `export_stablehlo` puts at the end of its file."""
    with zipfile.ZipFile(path) as file:
        return _parse(file.read("metadata.json") if "metadata.json" in file.namelist() else None)


def read_checkpoints(folder: Path) -> tuple[Arrays, WeightsMetadata]:
    """Parameters and metadata of the newest checkpoint, from a run's workdir or its folder `checkpoints`.

    Read as NumPy arrays, whatever devices they were on, and without the optimizer's state.

    Raises:
        ValueError: the folder is neither, or holds no checkpoint.
    """
    folder = folder.resolve()
    workdir = folder.parent if folder.name == "checkpoints" else folder
    if not (workdir / "checkpoints").is_dir():
        raise ValueError("neither the workdir of a run nor its folder checkpoints")
    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.latest
        if step is None:
            raise ValueError("there is no checkpoint yet")
        metadata = checkpoints.metadata()
    finally:
        checkpoints.close()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = workdir / "checkpoints" / str(step) / "arrays"
        saved = reader.metadata(path).item_metadata["state"]
        wanted = {"state": {name: saved[name] for name in ("trainable", "frozen", "statistics")}}
        restore = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        )
        state = reader.restore(path, args=restore)["state"]
    # Each parameter is in one of the two trees, and None in the other.
    arrays = flatten(state["trainable"]) | flatten(state["frozen"])
    statistics = BoxStatistics(**state["statistics"])
    return arrays, from_config(metadata.config, metadata.classes, metadata.pixels, statistics, step)


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends too early"
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error


def _parse(text: str | bytes | None) -> Metadata:
    if text is None:
        raise ValueError("it holds no metadata of frcnn_jax")
    return from_json(text)


def _storable(array: Any) -> np.ndarray:
    """A contiguous NumPy array of a type that NumPy itself has."""
    array = np.asarray(array)
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype == jnp.bfloat16 else array)
