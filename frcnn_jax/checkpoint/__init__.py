"""Checkpoints of a run, the values measured while it trained, and the choice of a checkpoint."""

from frcnn_jax.checkpoint.evaluations import Evaluations, read_evaluations, write_evaluations
from frcnn_jax.checkpoint.metadata import CheckpointMetadata
from frcnn_jax.checkpoint.store import Checkpoints, open_checkpoint, read_chosen

__all__ = [
    "CheckpointMetadata",
    "Checkpoints",
    "Evaluations",
    "open_checkpoint",
    "read_chosen",
    "read_evaluations",
    "write_evaluations",
]
