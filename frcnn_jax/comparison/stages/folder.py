"""The folder of a system: the record of its inputs, and its results.

A folder holds one system with one model. Each stage uses the results of earlier stages, and is skipped if its own
result exists:

    settings.json    the inputs and settings of all results
    checkpoints/     of fine-tuning, with evaluations.json if windows are held out
    network.npz      parameters after fine-tuning
    vectors/         vector before the classifier of every window
    pooled/          last pooled features of some windows
    mining.npz       intermediate SVMs
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

__all__ = [
    "NETWORK",
    "SVMS",
    "check_folder",
    "claim_folder",
    "describe_features",
    "describe_settings",
    "is_claimed",
    "load_arrays",
    "save_arrays",
    "trained_classes",
]

NETWORK, SVMS = "network.npz", "svms.npz"
_FILE = "settings.json"
_NORM = "regression.feature_norm"
# Settings that do not affect the files.
_FREE = ("selection", "checkpoint_every")
# Settings that do not affect the features.
_NOT_OF_FEATURES = {"regression": ("feature_norm",), "settings": ("windows_at_once",)}
_AT_ONCE = "settings.windows_at_once"


def describe_settings(config: Config, comparison: ComparisonConfig, system: str, settings: Any) -> dict[str, Any]:
    """All settings that the files depend on, as JSON values."""
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
    if comparison.share < 1:
        described["images"] = "spread"
    return json.loads(json.dumps(_without(described)))


def describe_features(description: dict[str, Any]) -> dict[str, Any]:
    """The part of `describe_settings` that features depend on."""
    kept = dict(description)
    for section, names in _NOT_OF_FEATURES.items():
        kept[section] = {name: value for name, value in kept.get(section, {}).items() if name not in names}
    return kept


def is_claimed(folder: Path) -> bool:
    """True if a system has begun in the folder."""
    return (folder / _FILE).exists()


def trained_classes(folder: Path) -> tuple[str, ...] | None:
    """Classes of the training set of a claimed folder; None if an earlier version claimed it."""
    classes = json.loads((folder / _FILE).read_text()).get("classes")
    return None if classes is None else tuple(classes)


def claim_folder(folder: Path, description: dict[str, Any]) -> None:
    """Records the inputs of a folder. Raises as `check_folder`."""
    check_folder(folder, description)
    write_text(folder / _FILE, json.dumps(description, indent=1) + "\n")


def check_folder(folder: Path, description: dict[str, Any]) -> None:
    """Raises ValueError if the folder was made from other inputs; names the first difference."""
    path = folder / _FILE
    if not path.exists():
        return
    try:
        before = flatten_dict(json.loads(path.read_text()), sep=".")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {folder}, or give another --workdir") from error
    now = flatten_dict(description, sep=".")
    if "images" in now and "images" not in before and before.get("share", 1) != 1:
        raise ValueError(
            f"{folder} was made by an earlier version from a share of other images, the first ones: delete it, or give "
            "another --workdir"
        )
    fitted = folder / "regressors.npz"
    # Earlier versions did not scale their features, and do not have the setting.
    if fitted.exists() and before.get(_NORM) != now.get(_NORM):
        raise ValueError(
            f"{fitted} was fitted with another {_NORM}, {before.get(_NORM)} and not {now.get(_NORM)}: delete it and "
            f"{folder / 'tested'} to fit and test anew, or give --comparison.{_NORM.replace('_', '-')} "
            f"{before.get(_NORM)}"
        )
    free = {_NORM} if _is_fine_tuning(folder) else {_NORM, _AT_ONCE}
    for name, value in now.items():
        if name in before and before[name] != value and name not in free:
            raise ValueError(
                f"{folder} was made with another {name}, {before[name]!r} and not {value!r}: give that again, or "
                "another --workdir"
            )


def _is_fine_tuning(folder: Path) -> bool:
    """True between the first checkpoint and the last: each part of a batch has dropout of its own."""
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir()) and not (folder / NETWORK).exists()


def save_arrays(path: Path, tree: Any) -> None:
    """Writes a tree of dictionaries of arrays as one file, atomically."""
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
    except Exception as error:  # errors of zip files, their members and NumPy's headers
        raise ValueError(f"{path} is damaged ({error}): delete it, and its stage is done again") from error


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _without(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    return {name: _without(value) for name, value in described.items() if name not in _FREE}
