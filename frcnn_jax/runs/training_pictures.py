"""Pictures of a run during training: RoIs that a step drew, and detections in the same two images each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from frcnn_jax.config import Config
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.detection.detect import detect
from frcnn_jax.detection.settings import detection_settings
from frcnn_jax.evaluation.drawing import draw_detections, draw_objects, draw_rois
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.step import sample_step
from frcnn_jax.types import Batch, GroundTruth

__all__ = ["TrainingPictures", "training_pictures"]


@dataclasses.dataclass(frozen=True)
class TrainingPictures:
    """Draws the pictures after a step, from this process's part of the state and the batch."""

    config: Config
    model: FastRCNN
    dataset: Dataset  # of the detections
    proposals: Sequence[Float[np.ndarray, "P 4"]]
    indexes: tuple[int, ...]  # of images with objects
    sample: Callable[..., jax.Array]

    def __call__(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray, step: int
    ) -> Mapping[str, UInt8[np.ndarray, "H W 3"]]:
        """RGB pictures by their names in TensorBoard.

        Args:
            state: state after the step.
            batch: batch of the step, on the host.
            key: key of the run.
        """
        local_state, local_key = jax.tree.map(lambda x: x.addressable_data(0), ((state.params, state.statistics), key))
        pictures = {"train/rois": self._rois(batch, local_key, step)}
        for number, index in enumerate(self.indexes, start=1):
            pictures[f"detections/{number}_{self.dataset.image_ids[index]}"] = self._detections(*local_state, index)
        return pictures

    def _rois(self, batch: Batch, key: PRNGKeyArray, step: int) -> UInt8[np.ndarray, "H W 3"]:
        """The RoIs of the step's first image: foreground in the colours of the classes, background in gray."""
        # Sampling does not read pixels: with a single pixel it compiles once for all image sizes.
        first = jax.tree.map(lambda x: x[:1], batch)
        sample = jax.device_get(self.sample(first.replace(images=first.images[:, :1, :1]), key, step - 1))
        (height, width), scale, real = batch.image_sizes[0], batch.scales[0], sample.mask[0]
        image = draw_rois(batch.images[0, :height, :width], sample.rois[0][real] * scale, sample.labels[0][real])
        objects = batch.gt_mask[0]
        return draw_objects(
            image,
            GroundTruth(
                boxes=batch.gt_boxes[0][objects] * scale,
                labels=batch.gt_labels[0][objects],
                difficult=batch.gt_difficult[0][objects],
                crowd=np.ones(objects.sum(), bool),  # dashed in white
            ),
        )

    def _detections(self, params: Mapping, statistics: object, index: int) -> UInt8[np.ndarray, "H W 3"]:
        image, settings = self.dataset.read_image(index), self.config.input
        found = detect(
            self.model,
            params,
            image,
            self.proposals[index],
            statistics=statistics,
            scale=settings.test_scale,
            max_size=settings.test_max_size,
            scales=settings.test_scales,
            **dataclasses.asdict(detection_settings(self.config.evaluate)),
        )
        truth, least = self.dataset.annotations[index], self.config.evaluate.picture_score
        return draw_detections(image, found, self.dataset.classes, ground_truth=truth, min_score=least)


def training_pictures(
    config: Config, model: FastRCNN, dataset: Dataset, proposals: Sequence[Float[np.ndarray, "P 4"]]
) -> TrainingPictures:
    """The pictures of a run, with detections in the first and the middle one of the images with objects.

    Args:
        dataset: data set to detect in: the training set, or the validation set.
        proposals: proposals of its images.
    """
    with_objects = [index for index, truth in enumerate(dataset.annotations) if len(truth.labels)]
    indexes = tuple(dict.fromkeys(with_objects[:1] + with_objects[len(with_objects) // 2 :][:1]))
    sample = jax.jit(partial(sample_step, config=config.sampling))
    return TrainingPictures(config, model, dataset, proposals, indexes, sample)
