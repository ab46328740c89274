"""A trained detector read from its workdir, with all that belongs to it, and its evaluation on the test set."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import Config
from frcnn_jax.data.proposals import open_proposals
from frcnn_jax.data.voc import open_dataset
from frcnn_jax.evaluation.detect import detect, selection_settings
from frcnn_jax.evaluation.evaluate import evaluate_dataset, voc_split
from frcnn_jax.evaluation.report import voc_results_files
from frcnn_jax.models.detector import FastRCNN
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.loop import abstract_state, build_model
from frcnn_jax.training.workdir import read_config
from frcnn_jax.types import BoxStatistics, Detections

_OF_TEST = ("data.", "proposals.", "evaluate.", "input.test_", "input.buckets", "input.workers")
_OF_TRAINING = ("data.train", "proposals.train_files")


@dataclasses.dataclass(frozen=True)
class Detector:
    """A model with its parameters, the statistics its deltas are in, its class names and its config."""

    model: FastRCNN
    params: Any
    statistics: BoxStatistics
    classes: tuple[str, ...]  # labels 1 ... K
    config: Config
    step: int

    def detect(self, image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"]) -> Detections:
        """`frcnn_jax.detect` at the scales and with the thresholds of the config."""
        return detect(
            self.model,
            self.params,
            image,
            boxes,
            statistics=self.statistics,
            scale=self.config.input.test_scale,
            max_size=self.config.input.test_max_size,
            scales=self.config.input.test_scales,
            **selection_settings(self.config.evaluate),
        )


def load_detector(workdir: str | Path) -> Detector:
    """The detector of the newest checkpoint in `workdir`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
    """
    config = read_config(workdir)
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.latest is None:
            raise FileNotFoundError(f"{workdir} holds no checkpoint yet")
        metadata = checkpoints.metadata()
        num_classes = len(metadata.classes) + 1
        state, _, _ = checkpoints.restore(abstract_state(config, num_classes))
    finally:
        checkpoints.close()
    return Detector(
        model=build_model(config, num_classes, metadata.pixels),
        params=state.params,
        statistics=state.statistics,
        classes=metadata.classes,
        config=config,
        step=int(state.step),
    )


def evaluate_run(
    workdir: str | Path,
    config: Config | None = None,
    *,
    directory: str | Path | None = None,
    voc_results: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of `workdir` on its config's test set and writes metrics, page and pictures.

    Args:
        config: the run's own if None; another one to change the test set, its proposals or the way of testing.
        directory: where to write; `workdir/eval` if None.
        voc_results: folder for results files of the VOC server, also of a test set whose annotations are not public.
        overwrite: replace results files that are there.

    Returns:
        What is written to `metrics.json`.

    Raises:
        ValueError: `config` changes a setting that does not bear on evaluation, or the test set has other classes.
        FileExistsError: a results file is there.
    """
    detector = load_detector(workdir)
    config = detector.config if config is None else config
    _check_changes(detector.config, config)
    dataset = open_dataset(config.data.test, config.data)
    if dataset.classes != detector.classes:
        raise ValueError(f"{dataset.name} has the classes {dataset.classes}, the detector {detector.classes}")
    if voc_results is not None and not overwrite:
        files = voc_results_files(voc_results, dataset.classes, voc_split(dataset.name))
        for path in filter(Path.exists, files):
            raise FileExistsError(f"{path} exists: give --overwrite to replace it, or another folder")
    proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
    scales = list(config.input.test_scales or (config.input.test_scale,))
    return evaluate_dataset(
        detector.model,
        detector.params,
        detector.statistics,
        dataset,
        proposals,
        input_config=config.input,
        config=config.evaluate,
        directory=Path(workdir) / "eval" if directory is None else directory,
        extra={
            "step": detector.step,
            "settings": {
                **dataclasses.asdict(config.evaluate),
                "scales": scales,
                "max_size": config.input.test_max_size,
            },
        },
        voc_results=voc_results,
    )


def _check_changes(before: Config, now: Config) -> None:
    """Raises ValueError if a setting was changed that would silently have no effect on an evaluation."""
    idle = [name for name in _changes(before, now) if not name.startswith(_OF_TEST) or name in _OF_TRAINING]
    if idle:
        raise ValueError(
            f"{', '.join(idle)}: no setting of an evaluation, but of the run; what can be changed are the sections "
            "data, proposals and evaluate, and input.test_*, input.buckets and input.workers"
        )


def _changes(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """Names of the settings that differ."""
    for field in dataclasses.fields(now):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if dataclasses.is_dataclass(new):
            yield from _changes(old, new, f"{prefix}{field.name}.")
        elif old != new:
            yield prefix + field.name
