"""Bit-by-bit comparison of two trainings: checkpoints, values, and metrics without their columns of speed."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax.checkpoint import open_checkpoint, read_evaluations
from frcnn_jax.ops.names import path_name
from frcnn_jax.training.data_record import read_record
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.training.workdir import read_config

SPEEDS = ("images_per_second", "waiting_share")


def contents(workdir: Path) -> dict[str, bytes | str]:
    """Everything that must be equal, by name."""
    found: dict[str, Any] = {}
    config = read_config(workdir)
    for step in _steps(workdir):
        with open_checkpoint(workdir, step) as checkpoints:
            metadata = checkpoints.metadata()
            state, key, position = checkpoints.restore(abstract_state(config, len(metadata.classes) + 1))
        arrays = {"state": state, "key": jax.random.key_data(key)}
        for path, array in jax.tree_util.tree_leaves_with_path(arrays):
            array, name = np.asarray(array), path_name(path)
            found[f"checkpoint {step}: {name} {array.dtype}{list(array.shape)}"] = array.tobytes()
        described = (metadata.classes, metadata.pixels, metadata.data, metadata.proposal_files, position)
        found[f"checkpoint {step}: metadata"] = repr(described)
    evaluations = read_evaluations(workdir)
    for name in ("values", "best", "since_best", "measured"):
        found[f"evaluations.json: {name}"] = repr(getattr(evaluations, name))
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines(), 1):
        values = {name: value for name, value in json.loads(line).items() if name not in SPEEDS}
        found[f"metrics.jsonl: line {number}"] = json.dumps(values)
    found["data.npz"] = read_record(workdir).digests.tobytes()
    measures = json.loads((workdir / "eval/metrics.json").read_text())
    found["eval/metrics.json"] = json.dumps({name: measures[name] for name in ("map", "ap", "step", "images")})
    return found


def differences(one: dict[str, bytes | str], other: dict[str, bytes | str]) -> list[str]:
    """Names of the contents that differ or are in only one of both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
