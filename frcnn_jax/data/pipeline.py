"""From a data set and its proposals to padded batches, on Grain: deterministic, and restored by its step number."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import InputConfig
from frcnn_jax.data.buckets import (
    BatchPlan,
    Bucket,
    default_buckets,
    plan_evaluation,
    plan_training,
    resized_size,
)
from frcnn_jax.data.voc import VocDataset, decode_image
from frcnn_jax.types import Batch

# Counts of padded proposals are multiples of this, so that data sets of like size share compiled functions.
PROPOSAL_MULTIPLE = 64


class BatchSource:
    """Random access to the batches of a plan; `source[step]` reads, resizes, mirrors and pads N images."""

    def __init__(
        self,
        dataset: VocDataset,
        proposals: Sequence[Float[np.ndarray, "P 4"]],
        plan: BatchPlan,
        *,
        max_objects: int,
        cache: bool = False,
    ):
        if len(proposals) != len(dataset):
            raise ValueError(f"{dataset.name} has {len(dataset)} images but there are proposals for {len(proposals)}")
        most = max((len(annotation.labels) for annotation in dataset.annotations), default=0)
        if most > max_objects:
            raise ValueError(f"{dataset.name} has an image with {most} objects: set input.max_objects to that or more")
        self._dataset, self._proposals, self._plan = dataset, proposals, plan
        self._max_objects = max_objects
        self._max_proposals = padded_count(proposals)
        self._cache: dict[tuple[int, float], np.ndarray] | None = {} if cache else None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, step: int) -> Batch:
        plan, step = self._plan, int(step)
        images = [
            self._entry(int(index), float(scale), bool(mirror), bool(flip), plan.buckets[step], bool(real))
            for index, scale, mirror, flip, real in zip(
                plan.images[step], plan.scales[step], plan.mirrored[step], plan.flipped[step], plan.real[step],
                strict=True,
            )
        ]  # fmt: skip
        return Batch(**{name: np.stack([image[name] for image in images]) for name in images[0]})

    def _entry(
        self, index: int, scale: float, mirror: bool, flip: bool, bucket: Any, real: bool
    ) -> dict[str, np.ndarray]:
        """One image's part of each field of `Batch`."""
        original = tuple(int(side) for side in self._dataset.sizes[index])
        image = self._resized(index, scale)
        annotation = self._dataset.annotations[index]
        boxes, proposals = annotation.boxes, self._proposals[index]
        if mirror:
            image = image[:, ::-1]
            boxes, proposals = mirror_boxes(boxes, original[1]), mirror_boxes(proposals, original[1])
        if flip:
            image = image[::-1]
            boxes, proposals = flip_boxes(boxes, original[0]), flip_boxes(proposals, original[0])
        padded = np.zeros((*bucket, 3), np.uint8)
        padded[: image.shape[0], : image.shape[1]] = image
        return {
            "images": padded,
            "image_sizes": np.array(image.shape[:2], np.int32),
            "original_sizes": np.array(original, np.int32),
            "scales": np.float32(scale),
            "image_mask": np.bool_(real),
            "image_index": np.int32(index),
            "proposals": _pad(np.asarray(proposals, np.float32).reshape(-1, 4), self._max_proposals),
            "proposal_mask": np.arange(self._max_proposals) < len(proposals),
            "gt_boxes": _pad(np.asarray(boxes, np.float32).reshape(-1, 4), self._max_objects),
            "gt_labels": _pad(np.asarray(annotation.labels, np.int32), self._max_objects),
            "gt_difficult": _pad(np.asarray(annotation.difficult, bool), self._max_objects),
            "gt_mask": np.arange(self._max_objects) < len(boxes),
        }

    def _resized(self, index: int, scale: float) -> UInt8[np.ndarray, "H W 3"]:
        if self._cache is not None and (index, scale) in self._cache:
            return self._cache[index, scale]
        example = self._dataset[index]
        image = resize_image(decode_image(example.image), scale)
        if self._cache is not None:
            with self._lock:
                self._cache[index, scale] = image
        return image


def resize_image(image: UInt8[np.ndarray, "H W 3"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """`image` times `scale` by bilinear interpolation, as the original release does; of size `resized_size`."""
    height, width = resized_size(image.shape[:2], scale)
    if image.shape[:2] == (height, width):
        return image
    if min(image.shape[:2]) * scale <= 0.5:  # OpenCV would round a side to 0
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    # Given the factor rather than the size, OpenCV samples at exactly the points where boxes times scale say.
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def mirror_boxes(boxes: Float[np.ndarray, "B 4"], width: int) -> Float[np.ndarray, "B 4"]:
    """Boxes in the image mirrored left to right."""
    x1, y1, x2, y2 = np.asarray(boxes).reshape(-1, 4).T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def flip_boxes(boxes: Float[np.ndarray, "B 4"], height: int) -> Float[np.ndarray, "B 4"]:
    """Boxes in the image mirrored top to bottom."""
    x1, y1, x2, y2 = np.asarray(boxes).reshape(-1, 4).T
    return np.stack([x1, height - y2, x2, height - y1], axis=1)


def padded_count(proposals: Sequence[Float[np.ndarray, "P 4"]]) -> int:
    """Room for the proposals of any image of a data set."""
    most = max((len(boxes) for boxes in proposals), default=0)
    return max(-(-most // PROPOSAL_MULTIPLE), 1) * PROPOSAL_MULTIPLE


def training_buckets(config: InputConfig) -> tuple[Bucket, ...]:
    """`input.buckets`, or those that follow from the scales."""
    return config.buckets or default_buckets(config.scales, config.max_size)


def training_source(
    dataset: VocDataset, proposals: Sequence[Float[np.ndarray, "P 4"]], config: InputConfig, steps: int, seed: int
) -> BatchSource:
    """The batches of a training run of `steps` steps."""
    plan = plan_training(
        dataset.sizes,
        steps,
        config.batch_size,
        scales=config.scales,
        longest=config.max_size,
        buckets=training_buckets(config),
        mirror=config.flip,
        flip=config.flip_vertical,
        seed=seed,
        names=dataset.image_ids,
    )
    return BatchSource(dataset, proposals, plan, max_objects=config.max_objects, cache=config.cache_decoded)


def evaluation_source(
    dataset: VocDataset, proposals: Sequence[Float[np.ndarray, "P 4"]], config: InputConfig
) -> BatchSource:
    """The batches of one pass over a test set."""
    plan = plan_evaluation(
        dataset.sizes,
        config.test_batch_size,
        scale=config.test_scale,
        longest=config.test_max_size,
        buckets=config.buckets or default_buckets((config.test_scale,), config.test_max_size),
        names=dataset.image_ids,
    )
    most = max((len(annotation.labels) for annotation in dataset.annotations), default=1)
    return BatchSource(dataset, proposals, plan, max_objects=max(most, 1))


def iterate(source: BatchSource, workers: int, prefetch: int = 4) -> Iterator[Batch]:
    """A Grain iterator over `source` that reads ahead in threads.

    Its position is read by `get_state()` and restored by `set_state()`; batch i does not depend on what came before.
    """
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=prefetch if workers else 0)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def _pad(values: np.ndarray, count: int) -> np.ndarray:
    padded = np.zeros((count, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def concatenate(datasets: Sequence[VocDataset], proposals: Sequence[Sequence[np.ndarray]]) -> tuple[Any, list]:
    """Several data sets with the same classes, and their proposals, as one.

    Raises:
        ValueError: their classes differ.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes != first.classes:
            raise ValueError(f"{first.name} and {other.name} have different classes: {first.classes}, {other.classes}")
    if len(datasets) == 1:
        return first, proposals[0]
    return JoinedDataset(tuple(datasets)), [boxes for part in proposals for boxes in part]


@dataclasses.dataclass(frozen=True)
class JoinedDataset:
    """Data sets one after the other, as one that reads like `VocDataset`."""

    parts: tuple[VocDataset, ...]

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts[0].classes

    def __post_init__(self):
        join = object.__setattr__
        join(self, "image_ids", tuple(f"{part.name}/{i}" for part in self.parts for i in part.image_ids))
        join(self, "sizes", np.concatenate([part.sizes for part in self.parts]))
        join(self, "annotations", tuple(a for part in self.parts for a in part.annotations))
        join(self, "_starts", np.cumsum([0, *(len(part) for part in self.parts)]))

    @property
    def fingerprint(self) -> str:
        return "+".join(part.fingerprint for part in self.parts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int):
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[part][index - int(self._starts[part])]
