"""Parameters of a run, from the newest of its checkpoints."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from frcnn_jax.checkpoint import newest_checkpoint
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.formats.base import FOLDER, Arrays, own_format
from frcnn_jax.weights.metadata import WeightsMetadata


def read_checkpoint(folder: str | Path, with_arrays: bool = True) -> tuple[Arrays, WeightsMetadata]:
    """Parameters under flat names and metadata, from a run's workdir or its folder `checkpoints`.

    Read as NumPy arrays, whatever devices they were on, and without the optimizer's state.

    Raises:
        ValueError: the folder is neither.
        FileNotFoundError: it holds no checkpoint yet.
    """
    folder = Path(folder).resolve()
    workdir = folder.parent if folder.name == "checkpoints" else folder
    if not (workdir / "checkpoints").is_dir():
        raise ValueError("neither the workdir of a run nor its folder checkpoints")
    with newest_checkpoint(workdir) as checkpoints:
        step, about = checkpoints.latest, checkpoints.metadata()
    names = ("trainable", "frozen", "statistics") if with_arrays else ("statistics",)
    state = _restore(workdir / "checkpoints" / str(step) / "arrays", names)
    # Each parameter is in one of the two trees, and None in the other.
    arrays = {
        name: array
        for tree in names[:-1]
        for name, array in flatten_dict(state[tree], sep="/").items()
        if array is not None
    }
    statistics = BoxStatistics(**state["statistics"])
    return arrays, WeightsMetadata(about.classes, about.pixels, statistics, step, about.config)


def _restore(path: Path, names: tuple[str, ...]) -> dict:
    """Some of the state's fields, as NumPy arrays; the others are not read."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(path).item_metadata["state"]
        wanted = {"state": {name: saved[name] for name in names}}
        restore = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        )
        return reader.restore(path, args=restore)["state"]


CHECKPOINTS = own_format(FOLDER, read_checkpoint)
