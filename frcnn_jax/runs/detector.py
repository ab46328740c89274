"""A trained detector read from its workdir, with all that belongs to it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.config import Config
from frcnn_jax.detection.detect import detect, selection_settings
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.state import abstract_state, build_model
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
        ImportError: a module of the run's `plugins` cannot be imported, or lies in the workdir.
    """
    config = read_config(workdir)
    load_plugins(config.plugins, workdir)
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
