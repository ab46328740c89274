"""Checkpoints of a run on Orbax: all that is needed to go on as if nothing had happened, or to detect."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from frcnn_jax.config import Config, expand_user, from_json, to_json
from frcnn_jax.models.pixels import PixelNormalization

FORMAT = 2
# In checkpoints of format 1, `data` covers ids and image bytes alone, and proposal files are not recorded.
_READABLE = (1, FORMAT)


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """Description of a checkpoint, stored beside its arrays."""

    classes: tuple[str, ...]  # without background
    pixels: PixelNormalization
    config: Config
    data: str  # fingerprint of the training set
    proposal_files: tuple[str, ...] = ()  # SHA-256 of each file of `proposals.train_files`
    format: int = FORMAT


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
        """Writes a checkpoint for the state's step, unless it already exists.

        Raises:
            OSError: it cannot be written, as when the disk is full; earlier checkpoints are whole.
        """
        step = int(state.step)
        if step == self.latest:
            return
        arrays = {"state": state, "key": jax.random.key_data(key)}
        described = _encode(metadata) | {"position": position}
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(described))
        try:
            with _quiet_orbax():
                self._manager.save(step, args=items)
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # TensorStore reports errors of the system as ValueError
            self._remove_unfinished(step)
            raise OSError(
                f"cannot write the checkpoint of step {step} to {self._manager.directory}: {_reason(error)}. "
                "Checkpoints of earlier steps are whole"
            ) from error

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
        """Description of the newest checkpoint.

        Raises:
            ValueError: its format is not known to this version.
        """
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        described = self._manager.restore(self.latest, args=items)["metadata"]
        if described["format"] not in _READABLE:
            raise ValueError(
                f"{self._manager.directory}: checkpoint format {described['format']}, "
                f"not {' or '.join(map(str, _READABLE))}"
            )
        return _decode(described)

    def close(self) -> None:
        self._manager.close()

    def _remove_unfinished(self, step: int) -> None:
        """Frees the space that a checkpoint takes which could not be completed."""
        for path in Path(self._manager.directory).glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _encode(metadata: CheckpointMetadata) -> dict[str, Any]:
    return {
        "format": metadata.format,
        "classes": list(metadata.classes),
        "pixels": dataclasses.asdict(metadata.pixels),
        "config": json.loads(to_json(metadata.config)),
        "data": metadata.data,
        "proposal_files": list(metadata.proposal_files),
    }


def _decode(described: dict[str, Any]) -> CheckpointMetadata:
    pixels = described["pixels"]
    return CheckpointMetadata(
        classes=tuple(described["classes"]),
        pixels=PixelNormalization(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["order"]),
        config=from_json(json.dumps(described["config"])),
        data=described["data"],
        proposal_files=tuple(described.get("proposal_files", ())),
        format=described["format"],
    )


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Leaves out tracebacks that Orbax's and TensorStore's threads print of an error that is raised as well."""

    def keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)

    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Of writes that end after the one that failed.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    sys.unraisablehook = hook
    try:
        yield
        # After an error it stays: such writes may end at any time until the process does.
        sys.unraisablehook = before
    finally:
        logger.removeFilter(keep)


def _reason(error: BaseException) -> str:
    """The system's own words for an error of Orbax or TensorStore, or its first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore writes it
    return os.strerror(int(code[1])) if code else str(error).partition("\n")[0]
