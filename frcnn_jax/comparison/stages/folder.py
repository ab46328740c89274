"""The folder of a system: what it was made from, and results that stay there.

A folder holds one system with one model. Each stage takes what the stages before it left, and is skipped where its own
result is there:

    settings.json    what all of it was made from
    checkpoints/     of fine-tuning, with evaluations.json where windows are held out
    network.npz      parameters after fine-tuning
    vectors/         vector before the classifier of every window
    pooled/          last pooled features of some windows
    mining.npz       SVMs on the way
    svms.npz, regressors.npz
    tested/          best boxes of each test image
    eval/            metrics, page and pictures
    record.json      times, memory, disk, mAP
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from frcnn_jax.atomic import replacing, write_text
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.config import Config

__all__ = ["check_folder", "claim_folder", "describe_settings", "is_claimed", "load_arrays", "save_arrays"]

_FILE = "settings.json"
# Settings that leave what is on disk as it is.
_FREE = ("selection", "windows_at_once", "checkpoint_every")


def describe_settings(config: Config, comparison: ComparisonConfig, system: str, settings: Any) -> dict[str, Any]:
    """All settings that decide what is on disk, as JSON has it."""
    described = {
        "system": system,
        "model": dataclasses.asdict(config.model),
        "seed": config.train.seed,
        "train": config.data.train,
        "settings": dataclasses.asdict(settings),
    }
    described |= {
        field.name: _plain(getattr(comparison, field.name))
        for field in dataclasses.fields(comparison)
        if field.name not in ("rcnn", "sppnet")
    }
    return json.loads(json.dumps(_without(described)))


def is_claimed(folder: Path) -> bool:
    """True where a system has begun in the folder."""
    return (folder / _FILE).exists()


def claim_folder(folder: Path, description: dict[str, Any]) -> None:
    """Notes in a folder what it is made from. Raises as `check_folder`."""
    check_folder(folder, description)
    write_text(folder / _FILE, json.dumps(description, indent=1) + "\n")


def check_folder(folder: Path, description: dict[str, Any]) -> None:
    """Raises ValueError where the folder holds what was made from something else; names the first that differs."""
    path = folder / _FILE
    if not path.exists():
        return
    try:
        before = flatten_dict(json.loads(path.read_text()), sep=".")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {folder}, or give another --workdir") from error
    for name, value in flatten_dict(description, sep=".").items():
        if name in before and before[name] != value:
            raise ValueError(
                f"{folder} was made with another {name}, {before[name]!r} and not {value!r}: give that again, or "
                "another --workdir"
            )


def save_arrays(path: Path, tree: Any) -> None:
    """Writes a tree of dictionaries of arrays as one file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: np.asarray(array) for name, array in flatten_dict(tree, sep="/").items()})


def load_arrays(path: Path) -> Any:
    """The tree that `save_arrays` wrote, on the device.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: train the system first")
    try:
        with np.load(path, allow_pickle=False) as file:
            return unflatten_dict({name: jnp.asarray(file[name]) for name in file.files}, sep="/")
    except Exception as error:  # of zip files, of their members and of NumPy's headers
        raise ValueError(f"{path} is damaged ({error}): delete it, and its stage is done again") from error


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _without(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    return {name: _without(value) for name, value in described.items() if name not in _FREE}
