"""A trained detector read from its workdir, with all that belongs to it, and its evaluation on the test set."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import Config
from frcnn_jax.data.proposals import open_proposals
from frcnn_jax.data.voc import open_dataset
from frcnn_jax.evaluation.detect import detect
from frcnn_jax.evaluation.evaluate import evaluate_dataset
from frcnn_jax.models.detector import FastRCNN
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.loop import abstract_state, build_model
from frcnn_jax.training.workdir import read_config
from frcnn_jax.types import BoxStatistics, Detections


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
        """`frcnn_jax.detect` at the scale and with the thresholds of the config."""
        return detect(
            self.model,
            self.params,
            image,
            boxes,
            statistics=self.statistics,
            scale=self.config.input.test_scale,
            max_size=self.config.input.test_max_size,
            nms_iou=self.config.evaluate.nms_iou,
            score_threshold=self.config.evaluate.score_threshold,
            per_class=self.config.evaluate.per_class,
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


def evaluate_run(workdir: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint of `workdir` on its config's test set and writes `workdir/eval`.

    Args:
        config: the run's own if None; another one to change data or thresholds.

    Returns:
        What is written to `eval/metrics.json`.
    """
    workdir = Path(workdir)
    detector = load_detector(workdir)
    config = detector.config if config is None else config
    dataset = open_dataset(config.data.test, config.data)
    if dataset.classes != detector.classes:
        raise ValueError(f"{dataset.name} has the classes {dataset.classes}, the detector {detector.classes}")
    proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
    return evaluate_dataset(
        detector.model,
        detector.params,
        detector.statistics,
        dataset,
        proposals,
        input_config=config.input,
        config=config.evaluate,
        directory=workdir / "eval",
        extra={"step": detector.step, "settings": dataclasses.asdict(config.evaluate)},
    )
