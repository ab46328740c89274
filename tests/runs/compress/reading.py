"""Ranks for the small run, and what lies in a workdir."""

import dataclasses
from pathlib import Path

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.config import Config
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.training.workdir import read_config

FULL = {"fc6_rank": 32, "fc7_rank": 16}  # of `tiny` as `shrink_tiny` makes it
SMALL = {"fc6_rank": 6, "fc7_rank": 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored_state(folder: Path):
    """State, key and data position of the newest checkpoint."""
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(abstract_state(read_config(folder), len(checkpoints.metadata().classes) + 1))
    finally:
        checkpoints.close()


def with_ranks(config: Config, **ranks) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **ranks))
