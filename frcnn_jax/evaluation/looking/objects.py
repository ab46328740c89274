"""Objects of many images, and of an image in a batch, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.types import Batch, GroundTruth

__all__ = ["AllObjects", "all_objects", "objects_in_batch"]


@dataclasses.dataclass(frozen=True)
class AllObjects:
    """The objects of many images, image after image."""

    image: Int[np.ndarray, " G"]  # position of the image
    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, " G"]
    difficult: Bool[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]

    @property
    def counted(self) -> Bool[np.ndarray, " G"]:
        """Neither difficult nor a crowd."""
        return ~(self.difficult | self.crowd)


def all_objects(annotations: Sequence[GroundTruth]) -> AllObjects:
    """The objects of these images."""

    def joined(name: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *(getattr(truth, name) for truth in annotations)])

    return AllObjects(
        image=np.repeat(np.arange(len(annotations)), [len(truth.labels) for truth in annotations]),
        boxes=joined("boxes", np.zeros((0, 4))),
        labels=joined("labels", np.zeros(0, int)),
        difficult=joined("difficult", np.zeros(0, bool)),
        crowd=joined("crowd", np.zeros(0, bool)),
    )


def objects_in_batch(batch: Batch, n: int, scale: float) -> GroundTruth:
    """The objects of the nth image of a batch, with boxes times `scale`."""
    real = batch.gt_mask[n]
    return GroundTruth(
        boxes=batch.gt_boxes[n][real] * scale,
        labels=batch.gt_labels[n][real],
        difficult=batch.gt_difficult[n][real],
        crowd=None if batch.gt_crowd is None else batch.gt_crowd[n][real],
    )
