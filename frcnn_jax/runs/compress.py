"""Compression of a run's detector by truncated SVD (section 3.1), written as another run."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from frcnn_jax.atomic import new_folder
from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, read_chosen
from frcnn_jax.config import Config, absolute_paths, expand_user, replace
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.detector import open_run
from frcnn_jax.training.data_record import read_record, write_record
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.training.state import TrainState, create_state
from frcnn_jax.training.workdir import claim_workdir
from frcnn_jax.weights.svd import LAYERS, compress_head


def compressed_workdir(workdir: str | Path, *, fc6_rank: int | None = None, fc7_rank: int | None = None) -> Path:
    """Default folder of the compressed run: beside the run, as in `voc07-svd-fc6-1024-fc7-256`."""
    workdir = expand_user(workdir).resolve()
    ranks = [f"{layer}-{rank}" for layer, rank in zip(LAYERS, (fc6_rank, fc7_rank), strict=True) if rank is not None]
    return workdir.with_name("-".join([workdir.name, "svd", *ranks]))


def compress_run(
    workdir: str | Path,
    out: str | Path,
    *,
    fc6_rank: int | None = None,
    fc7_rank: int | None = None,
    checkpoint: str | int | None = None,
) -> bool:
    """Writes a run to `out` with a single checkpoint: one of `workdir` with fc6 and fc7 truncated.

    It can be evaluated, used for detection, exported and trained further like any run. Step, schedule, data position
    and the momentum of all other layers are those of `workdir`, which is only read.

    Args:
        checkpoint: "best", "latest" or a step, as for `load_detector`.

    Returns:
        False if `out` holds this compression already; nothing is done then.

    Raises:
        FileNotFoundError: the run or this checkpoint does not exist.
        PermissionError, ImportError: as `open_run`, because of a plug-in.
        FileExistsError: `out` holds anything else.
        ValueError: no rank is given, one does not fit, the run is compressed already, or `out` is inside it.
    """
    workdir, out = expand_user(workdir), expand_user(out)
    if fc6_rank is None and fc7_rank is None:
        raise ValueError("no rank is given for fc6 or fc7: nothing to compress")
    if out.resolve().is_relative_to(workdir.resolve()):
        raise ValueError(f"{out} lies in {workdir}, which is only read: give another --out")
    config, metadata, (state, key, position) = _read(workdir, checkpoint)
    before = (config.model.fc6_rank, config.model.fc7_rank)
    if before != (None, None):
        raise ValueError(f"{workdir} is compressed already: its model has fc6_rank={before[0]}, fc7_rank={before[1]}")
    config = absolute_paths(replace(config, model={"fc6_rank": fc6_rank, "fc7_rank": fc7_rank}))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _check_same(out, config, state, workdir)
        load_plugins(config.plugins, out)
        return False
    params = jax.tree.map(jnp.asarray, compress_head(state.params, fc6_rank=fc6_rank, fc7_rank=fc7_rank))
    state = _carry_over(create_state(config, params, state.statistics), state)

    with new_folder(out) as temporary:
        claim_workdir(temporary, config)
        with contextlib.closing(Checkpoints(temporary, config.train.keep_checkpoints)) as checkpoints:
            checkpoints.save(state, key, position, dataclasses.replace(metadata, config=config))
        record = read_record(workdir)
        if record is not None:
            write_record(temporary, record)
    load_plugins(config.plugins, out)  # trusted there as in `workdir`
    return True


def _read(
    workdir: Path, checkpoint: str | int | None = None
) -> tuple[Config, CheckpointMetadata, tuple[TrainState, jax.Array, dict[str, Any]]]:
    """Config and checkpoint of a run."""
    config = open_run(workdir)

    def read(checkpoints: Checkpoints) -> tuple[CheckpointMetadata, tuple[TrainState, jax.Array, dict[str, Any]]]:
        metadata = checkpoints.metadata()
        return metadata, checkpoints.restore(abstract_state(config, len(metadata.classes) + 1))

    return config, *read_chosen(workdir, checkpoint, read)


def _check_same(out: Path, config: Config, state: TrainState, workdir: Path) -> None:
    """Raises FileExistsError unless `out` holds what `compress_run` would write there."""
    try:
        found, _, (other, _, _) = _read(out)
    except (ValueError, OSError):
        raise FileExistsError(f"{out} already exists and is not a compressed run: give another --out") from None
    ranks = (config.model.fc6_rank, config.model.fc7_rank)
    if found != config:
        reason = f"its settings are not those of {workdir} with fc6_rank={ranks[0]}, fc7_rank={ranks[1]}"
    elif int(other.step) != int(state.step):
        reason = f"it is at step {int(other.step)}, {workdir} at {int(state.step)}"
    elif not _share_parameters(other.params, state.params):
        reason = f"its parameters are not those of {workdir}"
    else:
        return
    raise FileExistsError(f"{out} holds another run, {reason}: give another --out")


def _share_parameters(compressed: Any, whole: Any) -> bool:
    """True if all parameters outside the truncated layers are equal."""
    a, b = flatten_dict(compressed), flatten_dict(whole)
    return all(np.array_equal(a[name], b[name]) for name in a.keys() & b.keys())


def _carry_over(new: Any, old: Any) -> Any:
    """`new` with arrays of `old` that have the same path and shape."""
    before = dict(jax.tree_util.tree_leaves_with_path(old))

    def choose(path: tuple, array: Any) -> Any:
        same = path in before and np.shape(before[path]) == np.shape(array)
        return before[path] if same else array

    return jax.tree_util.tree_map_with_path(choose, new)
