"""Checkpoints of a run on Orbax: everything needed to resume it exactly, or to detect."""

import contextlib
import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from frcnn_jax.checkpoint.background import Background, copy_to_host
from frcnn_jax.checkpoint.errors import is_missing_elsewhere, quiet_orbax, reason, system_code
from frcnn_jax.checkpoint.evaluations import choose_step
from frcnn_jax.checkpoint.metadata import READABLE, CheckpointMetadata, decode_metadata, encode_metadata
from frcnn_jax.checkpoint.shapes import check_shapes
from frcnn_jax.config import expand_user, from_json
from frcnn_jax.distributed.talk import process_count
from frcnn_jax.sums import check_contents, write_sums


@contextlib.contextmanager
def open_checkpoint(workdir: str | Path, checkpoint: str | int | None = None) -> "Iterator[Checkpoints]":
    """The checkpoints of a run, to read one of them; closed when the block is left. Creates no files.

    Args:
        checkpoint: "best", "latest" or a step; if None, the best one if the run was measured while it trained
            (`train.evaluate_every`), else the newest. Where the best one is missing, the newest is taken and a warning
            logged.

    Raises:
        FileNotFoundError: `workdir` holds no checkpoint yet, or not this one; names the existing ones.
        ValueError: `checkpoint` is something else.
    """
    workdir = expand_user(workdir)
    if not (workdir / "checkpoints").is_dir():  # opening would create it
        raise FileNotFoundError(f"{workdir} holds no checkpoint yet")
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.latest is None:
            raise FileNotFoundError(f"{workdir} holds no checkpoint yet")
        checkpoints.step = choose_step(workdir, checkpoint, checkpoints.steps)
        yield checkpoints
    finally:
        checkpoints.close()


class Checkpoints:
    """The folder `checkpoints/` of a workdir; with several processes, only process 0 opens it.

    A checkpoint holds the state (parameters, optimizer, step, statistics), the run's key, the position of the data
    iterator and the metadata. It appears atomically: Orbax writes it beside its place and renames it.

    Attributes:
        step: step of the checkpoint to read; None for the newest.
    """

    def __init__(self, workdir: str | Path, keep: int = 2):
        folder = expand_user(workdir).resolve() / "checkpoints"
        options = {"create": True}
        if process_count() > 1:
            folder.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="frcnn")
            options = {"create": False, "multiprocessing_options": alone}
        self._manager = ocp.CheckpointManager(
            folder, options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False, **options)
        )
        self._keep = keep
        self._background = Background()
        self.step: int | None = None

    @property
    def folder(self) -> Path:
        """Folder of the checkpoint to read."""
        return self._folder(self._chosen)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: Any,
        key: jax.Array,
        position: dict[str, Any],
        metadata: CheckpointMetadata,
        best: int | None = None,
        *,
        wait: bool = True,
        then: Callable[[], Any] = lambda: None,
    ) -> None:
        """Writes a checkpoint for the state's step, unless it already exists, and removes old ones.

        Args:
            best: step of a checkpoint that is kept beside the newest ones.
            wait: return when it is written; else a thread writes a copy of the state, and an error is raised by the
                next call of `save`, `wait`, `check` or `close`.
            then: called once it is written.

        Raises:
            OSError: it cannot be written, for example because the disk is full; earlier checkpoints are intact.
        """
        self.wait()
        step = int(state.step)
        if step == self.latest:
            then()
            return
        arrays = {"state": state, "key": jax.random.key_data(key)}
        if not wait:
            arrays = copy_to_host(arrays)
        elif process_count() > 1:  # with arrays on devices, Orbax would make all processes write
            arrays = jax.device_get(arrays)
        described = encode_metadata(metadata) | {"position": position}
        write = partial(self._write, step, arrays, described, best, then)
        if wait:
            write()
        else:
            self._background.start(write)

    def wait(self) -> None:
        """Returns when no checkpoint is being written.

        Raises:
            OSError: the one before could not be written.
        """
        self._background.wait()

    def check(self) -> None:
        """Raises OSError if the previous checkpoint could not be written; does not wait for it."""
        self._background.check()

    def abandon(self) -> None:
        """Lets the program end without waiting for the checkpoint that is being written."""
        self._background = Background()

    def _write(self, step: int, arrays: Any, described: Any, best: int | None, then: Callable[[], Any]) -> None:
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(described))
        self._remove_unfinished(step)  # from a run that was killed while saving
        try:
            with quiet_orbax():
                self._manager.save(step, args=items)
                self._manager.wait_until_finished()
            write_sums(self._folder(step))
        except (OSError, ValueError) as error:  # TensorStore reports system errors as ValueError
            self._remove_unfinished(step)
            others = "Checkpoints of earlier steps are whole" if self.steps else "There is none of an earlier step"
            raise OSError(
                f"cannot write the checkpoint of step {step} to {self._manager.directory}: {reason(error)}. {others}"
            ) from error
        then()
        for old in self.steps[: -self._keep]:
            if old != best:
                self._manager.delete(old)

    def restore(self, state: Any) -> tuple[Any, jax.Array, dict[str, Any]]:
        """The checkpoint as (state, key, data position); `state` gives the arrays' shapes and devices.

        Raises:
            ValueError: a shape or name in the checkpoint differs from `state`, or it is damaged.
        """
        template = {"state": state, "key": jax.random.key_data(jax.random.key(0))}
        # On one device, whatever devices wrote it: the caller distributes it.
        one_device = SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device), template)
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(template),
            metadata=ocp.args.JsonRestore(),
        )
        try:
            with self.damage_named(contents=""):
                restored = self._manager.restore(self._chosen, args=items)
        except ValueError:
            check_shapes(self.folder, template)
            raise
        with self.damage_named(contents=None):
            key = jax.random.wrap_key_data(restored["arrays"]["key"])
            return restored["arrays"]["state"], key, restored["metadata"]["position"]

    def metadata(self) -> CheckpointMetadata:
        """Description of the checkpoint.

        Raises:
            ValueError: its format is not known to this version, or it is damaged.
        """
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        with self.damage_named():
            described = self._manager.restore(self._chosen, args=items)["metadata"]
            known = described["format"] in READABLE
            settings = json.dumps(described["config"]) if known else ""
        if not known:
            raise ValueError(
                f"{self._manager.directory}: checkpoint format {described['format']}, "
                f"not {' or '.join(map(str, READABLE))}"
            )
        config = from_json(settings)  # its errors name the setting
        with self.damage_named(contents=None):
            return decode_metadata(described, config)

    @contextlib.contextmanager
    def damage_named(self, contents: str | None = "metadata/") -> Iterator[None]:
        """Converts reading errors in the block to an error that names the damaged checkpoint and the one to resume
        from.

        Args:
            contents: start of the paths of files whose contents are checked first; sizes are checked for all files.
                None checks nothing, as after an earlier block.

        Raises:
            ValueError: it is damaged; one line.
            OSError: the system cannot read it, or a path outside it is missing.
        """
        folder = self.folder
        try:
            if contents is not None:
                _check_files(folder, contents)
            with quiet_orbax():
                yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax raises a bare Exception for a truncated array
            if is_missing_elsewhere(error, folder):
                raise
            code = system_code(error)
            if code not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                raise OSError(f"{folder} cannot be read: {os.strerror(code)}") from error
            raise ValueError(f"{folder} is damaged ({reason(error)}): {self._advice()}") from error

    @property
    def _chosen(self) -> int | None:
        return self.latest if self.step is None else self.step

    def _advice(self) -> str:
        """Advice to continue without this checkpoint: the newest intact one."""
        for step in sorted(self.steps, reverse=True):
            with contextlib.suppress(ValueError, OSError):
                if step != self._chosen:
                    _check_files(self._folder(step))
                    other = f"give --checkpoint {step}"
                    if self._chosen != self.latest:
                        return other
                    delete = f"rm -r {shlex.quote(str(self.folder))}"
                    return f"delete it to go on from step {step}: {delete}; or, to use that one, {other}"
        return "delete it to begin anew, as there is no earlier one that is whole"

    def _folder(self, step: int | None) -> Path:
        return Path(self._manager.directory) / str(step)

    def close(self) -> None:
        """Waits for the checkpoint that is being written.

        Raises:
            OSError: it could not be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def _remove_unfinished(self, step: int) -> None:
        """Frees the space of an unfinished checkpoint."""
        for path in Path(self._manager.directory).glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _check_files(folder: Path, contents: str = "") -> None:
    """Raises an error if a part of the checkpoint is missing, or has another size than when it was written.

    Args:
        contents: start of the paths of files whose contents are checked too.
    """
    absent = [name for name in ("metadata", "arrays") if not (folder / name).is_dir()]
    if absent:
        raise FileNotFoundError(f"it has no {' and no '.join(absent)}")
    check_contents(folder, contents)
