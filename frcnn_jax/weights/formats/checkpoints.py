"""Parameters of a run, from one of its checkpoints."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, read_chosen
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.formats.base import FOLDER, Arrays, own_format
from frcnn_jax.weights.metadata import WeightsMetadata


def read_checkpoint(
    workdir: str | Path, with_arrays: bool = True, checkpoint: str | int | None = None
) -> tuple[Arrays, WeightsMetadata]:
    """Parameters under flat names and metadata of a run's checkpoint; without arrays, {} and the metadata.

    Read as NumPy arrays, from any devices, and without the optimizer's state.

    Args:
        checkpoint: "best", "latest" or a step, as for `open_checkpoint`.

    Raises:
        FileNotFoundError: this checkpoint, or any, does not exist.
        ValueError: it is damaged.
    """
    names = ("trainable", "frozen", "statistics") if with_arrays else ("statistics",)

    def read(checkpoints: Checkpoints) -> tuple[int, CheckpointMetadata, dict]:
        step, about = checkpoints.step, checkpoints.metadata()
        with checkpoints.damage_named(contents="" if with_arrays else "metadata/"):
            return step, about, _restore(checkpoints.folder / "arrays", names)

    step, about, state = read_chosen(workdir, checkpoint, read)
    # Each parameter is in one of the two trees, with None in the other.
    arrays = {
        name: array
        for tree in names[:-1]
        for name, array in flatten_dict(state[tree], sep="/").items()
        if array is not None
    }
    statistics = BoxStatistics(**state["statistics"])
    return arrays, WeightsMetadata(about.classes, about.pixels, statistics, step, about.config, about.orientation)


def _restore(path: Path, names: tuple[str, ...]) -> dict:
    """Some of the state's fields, as NumPy arrays; the others are not read."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        saved = handler.metadata(path)["state"]
        wanted = {"state": {name: saved[name] for name in names}}
        restore = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        )
        return handler.restore(path, args=restore)["state"]


def _read_folder(folder: Path, with_arrays: bool = True) -> tuple[Arrays, WeightsMetadata]:
    """`read_checkpoint` of a workdir or of its folder `checkpoints`."""
    folder = folder.resolve()
    workdir = folder.parent if folder.name == "checkpoints" else folder
    if not (workdir / "checkpoints").is_dir():
        raise ValueError("neither the workdir of a run nor its folder checkpoints")
    return read_checkpoint(workdir, with_arrays)


CHECKPOINTS = own_format(FOLDER, _read_folder)
