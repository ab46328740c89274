"""Checkpoints of a run, the values that were measured of them while it trained, and the choice of one."""

from frcnn_jax.checkpoint.evaluations import Evaluations, read_evaluations, write_evaluations
from frcnn_jax.checkpoint.metadata import CheckpointMetadata
from frcnn_jax.checkpoint.store import Checkpoints, open_checkpoint

__all__ = [
    "CheckpointMetadata",
    "Checkpoints",
    "Evaluations",
    "open_checkpoint",
    "read_evaluations",
    "write_evaluations",
]
