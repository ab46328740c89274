"""Training with measurements on a data set and pictures, which `training` itself does not import."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from frcnn_jax.config import Config
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.proposals.source import Proposals, open_proposals, validation_file
from frcnn_jax.evaluation.coco import check_pycocotools
from frcnn_jax.evaluation.evaluate import EvaluationInterrupted, measure_dataset
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.runs.training_pictures import TrainingPictures, training_pictures
from frcnn_jax.training import loop
from frcnn_jax.training.losses import MultiTaskLoss
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import BoxStatistics
from frcnn_jax.words import counted

# Settings of `evaluate` that only display results or add measures, and change no value.
_SHOWN = ("coco", "pictures", "picture_score")


def train(
    config: Config,
    workdir: str | Path,
    loss: MultiTaskLoss | None = None,
    *,
    accept_changed_data: bool = False,
    before_data: Callable[[Config], Any] | None = None,
) -> TrainState:
    """Trains for `config.train.steps` or `epochs`, resuming from the newest checkpoint in `workdir` if there is one.

    With `train.evaluate_every` the run is measured on `data.validation` while it trains, its best checkpoint is kept
    beside the newest ones, and `train.patience` ends it early. Interrupted by Ctrl-C or SIGTERM, it ends the step and
    writes a checkpoint first.

    Args:
        loss: replaces `config.loss`; the run records it there by name: a loss of the tables in `ops.losses`, or
            "module:function". Resuming needs the same loss, passed or named.
        accept_changed_data: resume with data that have changed since the newest checkpoint. The number of classes and
            their labels must be the same; a renamed class keeps its label.
        before_data: called with the config before the training set is opened, when settings, workdir and initial
            weights have been found usable: for other work on the data, such as opening the test set.

    Returns:
        The state after the last step, which need not be the best one; `load_detector` reads the best one.

    Raises:
        TypeError: the loss is not a `MultiTaskLoss`.
        ValueError: the workdir holds a run with other settings or data, or one that was measured differently; or a
            setting does not fit the data or the devices.
        ImportError: a module of `config.plugins` or of the loss cannot be imported, or `evaluate.coco` is set and
            pycocotools is not installed.
        FolderInUseError: another process trains in `workdir`; names it.
        FloatingPointError: the loss is not finite; names the step and the images. Checkpoints are unchanged.
        OSError: a checkpoint cannot be written, for example because the disk is full. Earlier ones are unchanged.
        KeyboardInterrupt: interrupted; the state is in the newest checkpoint.
    """
    if config.evaluate.coco:
        check_pycocotools()  # before the training, as it is needed only at the end
    return loop.train(
        config,
        workdir,
        loss,
        accept_changed_data=accept_changed_data,
        before_data=before_data,
        open_evaluation=open_validation,
        open_pictures=open_pictures,
    )


@dataclasses.dataclass(frozen=True)
class ValidationSet:
    """A data set with its proposals, to measure a run on."""

    dataset: Dataset
    proposals: Proposals
    config: Config
    measured: dict[str, Any]

    def __call__(
        self, model: FastRCNN, params: Any, statistics: BoxStatistics, interrupted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """The measures of a state; None if interrupted."""
        try:
            return measure_dataset(
                model,
                params,
                statistics,
                self.dataset,
                self.proposals,
                input_config=self.config.input,
                config=self.config.evaluate,
                interrupted=interrupted,
            )
        except EvaluationInterrupted:
            return None


def open_validation(
    config: Config, training: Dataset, check: Callable[[Mapping[str, Any]], Any] = lambda _: None
) -> ValidationSet:
    """The data set that `config.data.validation` names, or `data.test`; a line logs its name.

    Args:
        check: raises an error if values of `ValidationSet.measured` cannot be used; called before proposals, which may
            take hours, are opened.

    Raises:
        ValueError: it has other classes than the `training` set, no objects, or no file of proposals is given.
        FileNotFoundError: it does not exist.
    """
    name, field = config.data.validation or config.data.test, "validation" if config.data.validation else "test"
    dataset = open_dataset(name, config.data)
    if tuple(dataset.classes) != tuple(training.classes):
        raise ValueError(
            f"data.{field}: {dataset.name} has the classes {dataset.classes}, the training set {training.classes}: "
            "give a set of the same classes, their order by data.classes"
        )
    if not any((~truth.difficult & ~truth.crowd).any() for truth in dataset.annotations):
        raise ValueError(
            f"data.{field}: {dataset.name} of {config.data.root} has no objects to measure by: give another set by "
            f"--data.{field}, or no train.evaluate_every"
        )
    file = validation_file(config.proposals, config.data.validation, config.data.test)
    measured = _measured(config, dataset, file)
    check(measured)
    print(_describe(config, dataset, training))
    return ValidationSet(dataset, open_proposals(dataset, config.proposals, file), config, measured)


def open_pictures(
    config: Config, model: FastRCNN, dataset: Dataset, proposals: Proposals, measured_on: ValidationSet | None
) -> TrainingPictures:
    """The pictures of a run, with detections in images of its validation set, or else of its training set."""
    if measured_on is None:
        return training_pictures(config, model, dataset, proposals)
    return training_pictures(config, model, measured_on.dataset, measured_on.proposals)


def _describe(config: Config, dataset: Dataset, training: Dataset) -> str:
    trained_on = {training.image_fingerprint(index) for index in range(len(training))}
    shared = sum(dataset.image_fingerprint(index) in trained_on for index in range(len(dataset)))
    line = f"The run is measured on {dataset.name}, {counted(len(dataset), 'image')}, and its best checkpoint is kept"
    if shared:
        line += f"; {shared} of them are trained on too, so that the values say little about others"
    elif config.data.validation in (None, config.data.test):
        line += "; the best value on the test set itself is optimistic, data.validation names another set"
    return line


def _measured(config: Config, dataset: Dataset, file: str | None) -> dict[str, Any]:
    """Everything besides the state that a value depends on, as JSON values."""
    digest = None
    if file is not None:
        with Path(file).expanduser().open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settings = {
        f"evaluate.{name}": value for name, value in dataclasses.asdict(config.evaluate).items() if name not in _SHOWN
    }
    settings |= {
        f"input.{name}": getattr(config.input, name) for name in ("test_scale", "test_max_size", "test_scales")
    }
    about = {"data": dataset.name, "fingerprint": dataset.fingerprint, "proposals": digest}
    return json.loads(json.dumps(about | settings))
