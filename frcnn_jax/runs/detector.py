"""A trained detector with its settings, read from its workdir."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real, UInt8

from frcnn_jax.config import Config
from frcnn_jax.data.images import check_pixels
from frcnn_jax.data.proposals.selective_search import search_image
from frcnn_jax.detection.detect import detect
from frcnn_jax.detection.settings import detection_settings
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.initial import build_model
from frcnn_jax.training.workdir import read_config
from frcnn_jax.types import BoxStatistics, Detections
from frcnn_jax.weights.formats.checkpoints import read_checkpoint
from frcnn_jax.weights.params import match_arrays


@dataclasses.dataclass(frozen=True, eq=False)  # a comparison of arrays is an array and no bool
class Detector:
    """A model with its parameters, box statistics, class names and config; equal only to itself."""

    model: FastRCNN
    params: Any = dataclasses.field(repr=False)
    statistics: BoxStatistics = dataclasses.field(repr=False)
    classes: tuple[str, ...]  # labels 1 ... K
    config: Config
    step: int
    orientation: Literal["apply", "ignore"] = "apply"  # turn images by their EXIF orientation, as those trained on

    def detect(self, image: UInt8[np.ndarray, "H W 3"], boxes: Real[np.ndarray, "P 4"] | None = None) -> Detections:
        """`frcnn_jax.detect` at the scales and with the thresholds of the config.

        Args:
            image: RGB.
            boxes: proposals, half-open x1 y1 x2 y2 in pixels of the image; None: those of Selective Search by the
                config, as in `frcnn detect`.

        Raises:
            ValueError: as `frcnn_jax.detect`; or there are no boxes, and the config reads them from a file.
        """
        if boxes is None:
            boxes = search_image(check_pixels(image), self.config.proposals)
        return detect(
            self.model,
            self.params,
            image,
            boxes,
            statistics=self.statistics,
            scale=self.config.input.test_scale,
            max_size=self.config.input.test_max_size,
            scales=self.config.input.test_scales,
            **dataclasses.asdict(detection_settings(self.config.evaluate)),
        )


def open_run(workdir: str | Path) -> Config:
    """The config of a run; its plug-ins are imported.

    Raises:
        FileNotFoundError: the run does not exist.
        PermissionError: it names a plug-in that this user has not given for this workdir; see `load_plugins`.
        ImportError: a plug-in cannot be imported, or lies in the workdir.
    """
    config = read_config(workdir)
    load_plugins(config.plugins, workdir, from_workdir=True)
    return config


def load_detector(workdir: str | Path, checkpoint: str | int | None = None) -> Detector:
    """The detector from a checkpoint in `workdir`; the optimizer's state is not read.

    Args:
        checkpoint: "best", "latest" or a step; if None, the best one if the run was measured while it trained
            (`train.evaluate_every`), else the newest. Where the best one is missing, the newest is taken and a warning
            logged. `Detector.step` is the step.

    Raises:
        FileNotFoundError: the run or this checkpoint does not exist; names the existing ones.
        PermissionError, ImportError: as `open_run`, because of a plug-in.
        ValueError: the parameters are not those of the config's model, or the config or the checkpoint cannot be read.
    """
    config = open_run(workdir)
    arrays, metadata = read_checkpoint(workdir, checkpoint=checkpoint)
    model = build_model(config, metadata.num_classes, metadata.pixels)
    return Detector(
        model=model,
        params=match_arrays(arrays, model, source=str(workdir)),
        statistics=jax.tree.map(jnp.asarray, metadata.statistics),
        classes=metadata.classes,
        config=config,
        step=metadata.step,
        orientation=metadata.orientation,
    )
