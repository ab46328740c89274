"""Checkpoints of a run on Orbax: all that is needed to go on as if nothing had happened, or to detect."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from frcnn_jax.config import Config, expand_user, from_json, to_json
from frcnn_jax.models.pixels import PixelNormalization

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says about itself beside its arrays."""

    classes: tuple[str, ...]  # without background
    pixels: PixelNormalization
    config: Config
    data: str  # fingerprint of the training set


@contextlib.contextmanager
def newest_checkpoint(workdir: str | Path) -> "Iterator[Checkpoints]":
    """The checkpoints of a run, for reading the newest one; closed when the block is left. Nothing is created.

    Raises:
        FileNotFoundError: `workdir` holds no checkpoint yet.
    """
    workdir = expand_user(workdir)
    if not (workdir / "checkpoints").is_dir():  # opening would create it
        raise FileNotFoundError(f"{workdir} holds no checkpoint yet")
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.latest is None:
            raise FileNotFoundError(f"{workdir} holds no checkpoint yet")
        yield checkpoints
    finally:
        checkpoints.close()


class Checkpoints:
    """The folder `checkpoints/` of a workdir.

    A checkpoint holds the state (parameters, optimizer, step, statistics), the run's key, the position of the data
    iterator and the metadata. It is complete or not there: Orbax writes beside it and renames.
    """

    def __init__(self, workdir: str | Path, keep: int = 2):
        self._manager = ocp.CheckpointManager(
            Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: Any, key: jax.Array, position: dict[str, Any], metadata: CheckpointMetadata) -> None:
        """Writes a checkpoint for the state's step; does nothing if it is there already."""
        step = int(state.step)
        if step == self.latest:
            return
        arrays = {"state": state, "key": jax.random.key_data(key)}
        described = {
            "format": FORMAT,
            "classes": list(metadata.classes),
            "pixels": dataclasses.asdict(metadata.pixels),
            "config": json.loads(to_json(metadata.config)),
            "data": metadata.data,
            "position": position,
        }
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(described))
        self._manager.save(step, args=items)
        self._manager.wait_until_finished()

    def restore(self, state: Any) -> tuple[Any, jax.Array, dict[str, Any]]:
        """The newest checkpoint as (state, key, data position); `state` gives the arrays' shapes and devices.

        Raises:
            ValueError: a shape or name in the checkpoint differs from `state`'s.
        """
        template = {"state": state, "key": jax.random.key_data(jax.random.key(0))}
        # On one device, whatever devices wrote it: the caller spreads it.
        here = SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), template)
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(template),
            metadata=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(self.latest, args=items)
        key = jax.random.wrap_key_data(restored["arrays"]["key"])
        return restored["arrays"]["state"], key, restored["metadata"]["position"]

    def metadata(self) -> CheckpointMetadata:
        """What the newest checkpoint says about itself."""
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        described = self._manager.restore(self.latest, args=items)["metadata"]
        if described["format"] != FORMAT:
            raise ValueError(f"{self._manager.directory}: checkpoint format {described['format']}, not {FORMAT}")
        pixels = described["pixels"]
        return CheckpointMetadata(
            classes=tuple(described["classes"]),
            pixels=PixelNormalization(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["order"]),
            config=from_json(json.dumps(described["config"])),
            data=described["data"],
        )

    def close(self) -> None:
        self._manager.close()
