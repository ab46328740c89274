"""Checkpoints of a run on Orbax: everything needed to resume it exactly, or to detect."""

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from frcnn_jax.checkpoint.background import Background, copy_to_host
from frcnn_jax.checkpoint.damage import CheckpointRemovedError, check_files, damage_named
from frcnn_jax.checkpoint.errors import quiet_orbax, reason
from frcnn_jax.checkpoint.evaluations import choose_step
from frcnn_jax.checkpoint.metadata import READABLE, CheckpointMetadata, decode_metadata, encode_metadata
from frcnn_jax.checkpoint.shapes import check_shapes
from frcnn_jax.config import expand_user, from_json
from frcnn_jax.distributed.talk import process_count
from frcnn_jax.sums import SUMS_FILE, write_sums

_Read = TypeVar("_Read")


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


def read_chosen(workdir: str | Path, checkpoint: str | int | None, read: Callable[["Checkpoints"], _Read]) -> _Read:
    """`read` of the checkpoint chosen as by `open_checkpoint`; if a training removes it meanwhile, one is chosen and
    read once more.

    Raises:
        Exception: as `open_checkpoint` and `read`.
    """
    with contextlib.suppress(CheckpointRemovedError), open_checkpoint(workdir, checkpoint) as checkpoints:
        return read(checkpoints)
    with open_checkpoint(workdir, checkpoint) as checkpoints:
        return read(checkpoints)


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
        """Writes a checkpoint for the state's step, unless it is the newest already, and removes old ones.

        Args:
            best: step of a checkpoint that is kept beside the newest ones.
            wait: return when it is written; else a thread writes a copy of the state, and an error is raised by the
                next call of `save`, `wait`, `check` or `close`.
            then: called once it is written.

        Raises:
            OSError: it cannot be written, for example because the disk is full; earlier checkpoints are intact.
            ValueError: there is one of a later step.
        """
        self.wait()
        step = int(state.step)
        if self.latest is not None and step < self.latest:
            raise ValueError(
                f"a checkpoint of step {step} cannot be written to {self._manager.directory}, which has one of step "
                f"{self.latest}: give another workdir, or delete the later ones"
            )
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
                if not self._manager.save(step, args=items):
                    raise ValueError("Orbax declined to save it")
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # TensorStore reports system errors as ValueError
            self._remove_unfinished(step)
            others = "Checkpoints of earlier steps are whole" if self.steps else "There is none of an earlier step"
            raise OSError(
                f"cannot write the checkpoint of step {step} to {self._manager.directory}: {reason(error)}. {others}"
            ) from error
        try:
            write_sums(self._folder(step))
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {step} in {self._manager.directory} is whole, but its checksums cannot be "
                f"written: {reason(error)}. The same command goes on from it, and writes them"
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

    def add_sums(self) -> None:
        """Writes the checksums of a restored checkpoint that has none, as the process that wrote it was killed before.

        Raises:
            OSError: they cannot be written.
        """
        if not (self.folder / SUMS_FILE).exists():
            write_sums(self.folder)

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

    def damage_named(self, contents: str | None = "metadata/") -> contextlib.AbstractContextManager[None]:
        """A block whose reading errors name the checkpoint and the one to resume from, as in `damage.damage_named`."""
        return damage_named(self.folder, contents, self._advice)

    @property
    def _chosen(self) -> int | None:
        return self.latest if self.step is None else self.step

    def _advice(self) -> str:
        """Advice to continue without this checkpoint: the newest intact one."""
        for step in sorted(self.steps, reverse=True):
            with contextlib.suppress(ValueError, OSError):
                if step != self._chosen:
                    check_files(self._folder(step))
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
