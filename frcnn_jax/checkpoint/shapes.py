"""Names and shapes of a checkpoint's arrays, compared with those of a model."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from frcnn_jax.ops.names import path_name


def check_shapes(folder: Path, template: Any) -> None:
    """Raises ValueError if the checkpoint in `folder` is intact and has other arrays than `template`."""
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            stored = handler.metadata(folder / "arrays")
        found, wanted = (
            {path_name(path): tuple(leaf.shape) for path, leaf in leaves}
            for leaves in map(jax.tree_util.tree_leaves_with_path, (stored, template))
        )
    except Exception:
        return  # the fault is reported already
    differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differ:
        first = differ[0]
        raise ValueError(
            f"the checkpoint in {folder.parent} does not fit the model in {len(differ)} arrays: {first} "
            f"is {_shape(found, first)} there and {_shape(wanted, first)} here. Go on with the model that it is of"
        )


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "missing"
