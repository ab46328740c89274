"""Checkpoints of a run on Orbax: all that is needed to go on as if nothing had happened, or to detect."""

import contextlib
import dataclasses
import errno
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
_LONGEST = 160  # characters of a reason


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
        self._remove_unfinished(step)  # of a run that was killed while it saved
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
            ValueError: a shape or name in the checkpoint differs from `state`'s, or it is damaged.
        """
        template = {"state": state, "key": jax.random.key_data(jax.random.key(0))}
        # On one device, whatever devices wrote it: the caller spreads it.
        here = SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), template)
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(template),
            metadata=ocp.args.JsonRestore(),
        )
        try:
            with self.damage_named():
                restored = self._manager.restore(self.latest, args=items)
        except ValueError:
            self._check_shapes(template)
            raise
        with self.damage_named():
            key = jax.random.wrap_key_data(restored["arrays"]["key"])
            return restored["arrays"]["state"], key, restored["metadata"]["position"]

    def metadata(self) -> CheckpointMetadata:
        """Description of the newest checkpoint.

        Raises:
            ValueError: its format is not known to this version, or it is damaged.
        """
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        with self.damage_named():
            described = self._manager.restore(self.latest, args=items)["metadata"]
            known = described["format"] in _READABLE
            settings = json.dumps(described["config"]) if known else ""
        if not known:
            raise ValueError(
                f"{self._manager.directory}: checkpoint format {described['format']}, "
                f"not {' or '.join(map(str, _READABLE))}"
            )
        config = from_json(settings)  # whose errors name the setting
        with self.damage_named():
            return _decode(described, config)

    @contextlib.contextmanager
    def damage_named(self) -> Iterator[None]:
        """Says of errors of reading in the block that the newest checkpoint is damaged, and what to go on from.

        Raises:
            ValueError: it is damaged; one line.
            OSError: the system does not let it be read.
        """
        folder = Path(self._manager.directory) / str(self.latest)
        try:
            absent = [name for name in ("metadata", "arrays") if not (folder / name).is_dir()]
            if absent:
                raise FileNotFoundError(f"it has no {' and no '.join(absent)}")
            with _quiet_orbax():
                yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax raises just that for an array that is cut off
            code = _system_code(error)
            if code not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                raise OSError(f"{folder} cannot be read: {os.strerror(code)}") from error
            earlier = [step for step in self._manager.all_steps() if step != self.latest]
            advice = f"to go on from step {max(earlier)}" if earlier else "to begin anew, as there is no earlier one"
            raise ValueError(f"{folder} is damaged ({_reason(error)}): delete it {advice}") from error

    def _check_shapes(self, template: Any) -> None:
        """Raises ValueError where the newest checkpoint is whole and has other arrays than `template`."""
        try:
            with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
                stored = handler.metadata(Path(self._manager.directory) / str(self.latest) / "arrays")
            found, wanted = (
                {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
                for leaves in map(jax.tree_util.tree_leaves_with_path, (stored, template))
            )
        except Exception:
            return  # what is wrong with it has been said
        differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        if differ:
            first = differ[0]
            raise ValueError(
                f"the checkpoint in {self._manager.directory} does not fit the model in {len(differ)} arrays: {first} "
                f"is {_shape(found, first)} there and {_shape(wanted, first)} here. Go on with the model that it is of"
            )

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


def _decode(described: dict[str, Any], config: Config) -> CheckpointMetadata:
    pixels = described["pixels"]
    return CheckpointMetadata(
        classes=tuple(described["classes"]),
        pixels=PixelNormalization(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["order"]),
        config=config,
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


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "missing"


def _system_code(error: BaseException) -> int | None:
    """The system's number of an error of Orbax or TensorStore."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore writes it
    return int(code[1]) if code else None


def _reason(error: BaseException) -> str:
    """The system's own words for an error of Orbax or TensorStore, or its first line without a listing."""
    code = _system_code(error)
    if code is not None:
        return os.strerror(code)
    if isinstance(error, KeyError):
        return f"its metadata has no {error}"
    if type(error) is Exception and error.__cause__ is not None:
        return _reason(error.__cause__)
    line = str(error).strip().partition("\n")[0]
    line = re.split(r" \[(?:source locations|\w+=)", line)[0]  # as TensorStore begins its listings
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...") or type(error).__name__
