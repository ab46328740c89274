"""The workdir of a run: its settings, the ones that may change when it is resumed, and the state to resume from."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax

from frcnn_jax.atomic import remove_unfinished, write_text
from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, Evaluations, read_evaluations
from frcnn_jax.config import Config, absolute_paths, changed_settings, expand_user, from_json, to_json, with_steps
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.distributed.arrays import from_first_process
from frcnn_jax.distributed.talk import from_first, is_first
from frcnn_jax.locks import folder_lock
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.training.data_record import DataRecord, compare_data, write_record
from frcnn_jax.training.initial import read_start_pixels
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.validation import compare_measured

_UNFINISHED = 3600.0  # seconds; exports and evaluations write there without the lock

# Settings that may change between two starts of a run, as they do not affect what was learned so far. Data and proposal
# files are compared by content instead (`data_record`), wherever they are.
_FREE = ("train.steps", "train.epochs", "train.min_steps", "train.evaluate_every", "train.patience",
         "train.log_every", "train.pictures_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluate.",
         "input.workers", "input.cache_decoded", "input.max_objects", "input.read_timeout", "input.test_",
         "model.roi_pooling", "data.", "proposals.train_files", "proposals.test_file", "proposals.validation_file",
         "proposals.workers", "plugins")  # fmt: skip


class RunFolder:
    """The locked workdir of a run that begins or is resumed. Among several processes, only process 0 reads and writes
    it, and tells the others the contents.
    """

    def __init__(self, workdir: Path, checkpoints: Checkpoints | None, accept_changed_data: bool):
        self._workdir, self._checkpoints, self._accept_changed = workdir, checkpoints, accept_changed_data
        self._before = checkpoints.metadata() if is_first() and checkpoints.latest is not None else None

    def with_length(self, config: Config, images: int) -> Config:
        """`count_steps`, with a check of the settings of a resumed run.

        Raises:
            ValueError: as `check_settings`, or the run has already made more steps.
        """

        def count() -> int:
            counted = count_steps(config, self._workdir, images)
            check_settings(self._workdir, counted)
            if self._before is not None and self._checkpoints.latest > counted.train.steps:
                raise ValueError(
                    f"{self._workdir} has reached step {self._checkpoints.latest}, beyond train.steps = "
                    f"{counted.train.steps}: give more {config.train.length_option}, or another --workdir"
                )
            return counted.train.steps

        return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=from_first(count)))

    def check_data(self, config: Config, record: DataRecord, dataset: Any) -> None:
        """Raises ValueError if the data have changed, unless that is accepted and steps remain to learn from them."""
        if self._before is None or not is_first():
            return
        changed = compare_data(self._workdir, self._before, record, dataset, self._accept_changed)
        if changed and self._checkpoints.latest >= config.train.steps:
            raise ValueError(
                f"{self._workdir} is at its last step, {self._checkpoints.latest}, so that nothing is learned from the "
                "changed data and its checkpoint stays that of the data before: give more "
                f"{config.train.length_option} to go on with them, or the data as they were"
            )

    def check_measured(self, measured: Mapping[str, Any]) -> None:
        """Compares with the values so far; errors as `compare_measured`."""
        if is_first():
            compare_measured(self._workdir, measured, self._accept_changed)

    def claim(self, config: Config) -> None:
        """Claims the workdir for this run. Raises ValueError as `check_settings`."""
        if is_first():
            claim_workdir(self._workdir, config)

    def pixels(self, config: Config) -> PixelNormalization | None:
        """The normalization that the run's weights, or its initial weights, expect."""

        def read() -> dict[str, Any] | None:
            pixels = read_start_pixels(config) if self._before is None else self._before.pixels
            return None if pixels is None else dataclasses.asdict(pixels)

        found = from_first(read)
        if found is None:
            return None
        return PixelNormalization(tuple(found["mean"]), tuple(found["std"]), found["order"])

    def state(
        self, shapes: TrainState, begin: Callable[[], tuple[TrainState, jax.Array]]
    ) -> tuple[TrainState, jax.Array, dict[str, Any] | None]:
        """The state and key to resume from, and the position in the data; None if the run begins.

        Args:
            shapes: shapes of the state.
            begin: returns the state before the first step, and the key.
        """
        if not is_first():
            state, data, position = shapes, jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))), None
        elif self._before is None:
            (state, key), position = begin(), None
        else:
            state, key, position = self._checkpoints.restore(shapes)
            self._checkpoints.add_sums()
        if is_first():
            data = jax.random.key_data(key)
        state, data = from_first_process((state, data))
        return state, jax.random.wrap_key_data(data), from_first(lambda: position)

    def evaluations(self, step: int) -> Evaluations:
        """The values measured up to that step."""
        found = from_first(lambda: dataclasses.asdict(read_evaluations(self._workdir).up_to(step)))
        return Evaluations(found["measured"], tuple((int(step), float(value)) for step, value in found["values"]))

    def save(
        self,
        state: TrainState,
        key: jax.Array,
        position: dict[str, Any],
        metadata: CheckpointMetadata,
        record: DataRecord,
        best: int | None,
        wait: bool,
    ) -> None:
        """Writes a checkpoint, and then the record of the data that it was trained on.

        Args:
            wait: return when both are written; else a thread writes them during the next steps.
        """
        if is_first():
            then = partial(write_record, self._workdir, record)
            self._checkpoints.save(state, key, position, metadata, best=best, wait=wait, then=then)

    def check_saved(self) -> None:
        """Raises OSError if the previous checkpoint could not be written; does not wait for it."""
        if is_first():
            self._checkpoints.check()


@contextmanager
def run_folder(workdir: Path, config: Config, accept_changed_data: bool) -> Iterator[RunFolder]:
    """The workdir of a run, locked until the block is left.

    Raises:
        ValueError: as `check_settings` and `check_new`.
        FileExistsError: as `check_new`.
        FolderInUseError: another run trains in it.
    """
    if not is_first():
        yield RunFolder(workdir, None, accept_changed_data)
        return
    check_new(workdir, config.data.root)
    with folder_lock(workdir, purpose="training"):
        remove_unfinished(workdir, min_age=_UNFINISHED)
        check_settings(workdir, config)
        with closing(Checkpoints(workdir, config.train.keep_checkpoints)) as checkpoints:
            try:
                yield RunFolder(workdir, checkpoints, accept_changed_data)
            except KeyboardInterrupt:  # a second one, as the first waits for the end of a step
                checkpoints.abandon()
                raise


def check_new(workdir: Path, root: str | None) -> None:
    """Checks a workdir without config.json, which a run writes first: for files of others that the run would replace,
    and for images of `root`, the setting `data.root`.

    Raises:
        ValueError: the run would mix its files with the images and annotations of `root`.
        FileExistsError: it would replace files of others, or take them for its own.
    """
    if (workdir / "config.json").exists():
        return
    names = [name for name in ("metrics.jsonl", "data.npz", "evaluations.json") if (workdir / name).exists()]
    names += [f"checkpoints/{path.name}" for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    if names:
        raise FileExistsError(
            f"{workdir / names[0]} is not of a run, as there is no config.json beside it: give another --workdir"
        )
    if root is None:
        return
    images, folder = expand_user(root).resolve(), workdir.resolve()
    inside = [path for path in (folder, *folder.parents) if images in path.parents and path.is_dir()]
    suffixes = {file.suffix.lower() for path in inside for file in path.iterdir()}
    if folder == images or suffixes & {*IMAGE_SUFFIXES, ".xml"}:
        raise ValueError(f"--workdir {workdir} lies among the images of data.root = {root}: give a folder of its own")


def claim_workdir(workdir: Path, config: Config) -> None:
    """Claims `workdir` for this run and writes `config.json`, with absolute paths.

    Raises:
        ValueError: as `check_settings`.
    """
    check_settings(workdir, config)
    now = absolute_paths(config)
    for name, (old, new) in changed_settings(_recorded(workdir) or now, now).items():
        if name.startswith(("evaluate.", "input.test_")):
            print(f"{name} of {workdir} is {new!r} from now on, in place of {old!r}")
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", to_json(now))


def check_settings(workdir: Path, config: Config) -> None:
    """Compares the settings with those of the run in `workdir`, if there is one.

    Without a checkpoint nothing can be lost, so a wrong setting can be corrected in the same workdir.

    Raises:
        ValueError: it holds checkpoints of a run with other settings (named in the message), or another program's
            config.
    """
    before, now = _recorded(workdir), absolute_paths(config)
    if before is None:
        return
    changed = changed_settings(before, now)
    # The number of steps is unknown until the images are counted.
    steps_matter = config.optimizer.follows_length and config.train.steps not in (None, before.train.steps)
    lengths = ("train.steps", "train.epochs", "train.min_steps") if steps_matter else ()
    changed = {name: pair for name, pair in changed.items() if name in lengths or not name.startswith(_FREE)}
    if changed:
        listed = "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in changed.items())
        advice = "Give what is there to go on with that run, or another --workdir"
        if "train.steps" in changed:
            weights = f"--model.weights {shlex.quote(str(workdir))}"
            advice += f" and {weights}, as the schedule of the rate is laid out over all steps"
        if any(name in ("loss.classification", "loss.localization") for name in changed):
            advice += ', or the same loss again: by name, or as train(..., loss=...) where it is not "module:function"'
        raise ValueError(f"{workdir} holds a run with other settings: {listed}. {advice}")


def count_steps(config: Config, workdir: Path, images: int) -> Config:
    """`config` with the steps computed from its epochs, which a line logs.

    A run that is resumed with its original epochs keeps its steps, even if its data have changed.

    Raises:
        ValueError: steps are given besides epochs, and differ.
    """
    train = config.train
    if train.epochs is None:
        return config
    length = f"train.epochs = {train.epochs:g}" + (f", at least {train.min_steps} steps" if train.min_steps else "")
    uncounted = dataclasses.replace(config, train=dataclasses.replace(train, steps=None))
    recorded, counted = _recorded(workdir), with_steps(uncounted, images)
    if recorded is not None and recorded.train.steps != counted.train.steps:
        before = recorded.train
        if (before.epochs, before.min_steps) == (train.epochs, train.min_steps):
            print(
                f"{length} came to {before.steps} steps when this run began, and stays so; with the {images} images "
                f"that there are now it would be {counted.train.steps}"
            )
            return dataclasses.replace(config, train=dataclasses.replace(train, steps=before.steps))
    config = with_steps(config, images)
    size = config.input.batch_size
    print(f"{length}: {config.train.steps} steps of {size} images each, from {images} images")
    return config


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`.

    Raises:
        FileNotFoundError: `workdir` holds no run.
        ValueError: the file is not one of `to_json`, or has a setting that this version does not know.
    """
    path = expand_user(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: there is no {path}. Train one there first, or give the folder of one"
        )
    return _read(path)


def _recorded(workdir: Path) -> Config | None:
    """The config of the run in `workdir`, with absolute paths; None before its first checkpoint."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    config = absolute_paths(_read(path))
    return config if any(entry.name.isdecimal() for entry in (workdir / "checkpoints").glob("*")) else None


def _read(path: Path) -> Config:
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
