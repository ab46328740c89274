"""From a data set and its proposals to padded batches, on Grain: deterministic, and resumable from a step number."""

from collections.abc import Iterator, Sequence

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import AugmentConfig, InputConfig
from frcnn_jax.data.augment.color import changes_colors, jitter_colors
from frcnn_jax.data.augment.view import TRIES, View, changes_views, choose_view, crop_boxes, crop_objects
from frcnn_jax.data.batch_plan import BatchPlan, Bucket, default_buckets, plan_training, resized_size, round_up
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.records import float_boxes
from frcnn_jax.types import Batch
from frcnn_jax.words import counted

# Padded counts of proposals are multiples of this, so that similar data sets share compiled functions.
PROPOSAL_MULTIPLE = 64


class BatchSource:
    """Random access to the batches of a plan; `source[step]` reads, resizes, augments, flips and pads N images.

    Args:
        augment: random changes of each image; none if not given. They depend only on the seed, the step and the image's
            place in the batch, so batch i is always the same.
        places: places in the batch to read, for several processes that share it; all if not given.
    """

    def __init__(
        self,
        dataset: Dataset,
        proposals: Sequence[Float[np.ndarray, "P 4"]],
        plan: BatchPlan,
        *,
        max_objects: int,
        cache: bool = False,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        places: slice = slice(None),
    ):
        if len(proposals) != len(dataset):
            raise ValueError(
                f"{dataset.name} has {counted(len(dataset), 'image')} but there are proposals for {len(proposals)}"
            )
        check_object_counts(dataset, max_objects)
        self._dataset, self._proposals, self._plan = dataset, proposals, plan
        self._places = range(plan.images.shape[1])[places]
        self._images = DecodedImages(dataset, keep=cache)
        self._max_proposals, self._max_objects = padded_count(proposals), max_objects
        self._augment, self._seed = augment or AugmentConfig(), seed
        self._cuts, self._colors = changes_views(self._augment), changes_colors(self._augment)
        # A cropped object may become a crowd.
        self._crowds = self._cuts or any(annotation.crowd.any() for annotation in dataset.annotations)

    def __len__(self) -> int:
        return len(self._plan)

    def being_read(self) -> list[str]:
        """Names of the images that threads are reading at this moment."""
        return self._images.being_read()

    def __getitem__(self, step: int) -> Batch:
        plan, step = self._plan, int(step)
        batch = _empty_batch(
            len(self._places),
            tuple(int(side) for side in plan.buckets[step]),
            proposals=self._max_proposals,
            objects=self._max_objects,
            crowds=self._crowds,
        )
        batch.image_mask[:] = True
        for n, place in enumerate(self._places):
            at = step, place
            flips = {"horizontal": bool(plan.flipped[at]), "vertical": bool(plan.flipped_vertical[at])}
            chance = np.zeros(0)
            if self._cuts or self._colors:
                seed = np.random.SeedSequence(self._seed, spawn_key=at)
                chance = np.random.default_rng(seed).random(4 + 5 * TRIES)
            batch.image_index[n] = plan.images[at]
            self._fill(batch, n, int(plan.images[at]), float(plan.scales[at]), flips, chance)
        return batch

    def image_ids(self, step: int) -> list[str]:
        """Names of all images of a batch."""
        return [self._dataset.image_ids[index] for index in self._plan.images[step]]

    def _fill(
        self, batch: Batch, n: int, index: int, scale: float, flips: dict[str, bool], chance: Float[np.ndarray, " C"]
    ) -> None:
        """Writes image `index` and its boxes to place `n` of a batch."""
        size = tuple(int(side) for side in self._dataset.sizes[index])
        annotation, proposals = self._dataset.annotations[index], self._proposals[index]
        view = View((0, 0, size[1], size[0]), scale)
        if self._cuts:
            view = choose_view(chance[4:].reshape(TRIES, 5), size, scale, annotation, self._augment)
        if view.size != size:
            annotation = crop_objects(annotation, view.window, self._augment.min_visible)
            proposals = crop_boxes(proposals, view.window)
        x1, y1, x2, y2 = view.window
        height, width = resized_size(view.size, view.scale)
        # Written in place: copies to flip, pad and stack took as long as the decoding.
        valid = batch.images[n, :height, :width]
        resize_image(self._images[index][y1:y2, x1:x2], view.scale, out=valid)
        if self._colors:
            jitter_colors(valid, chance[:4], self._augment)
        flip_image(valid, **flips)
        batch.scales[n], batch.image_sizes[n], batch.original_sizes[n] = view.scale, (height, width), view.size

        proposals, boxes = (flip_boxes(boxes, view.size, **flips) for boxes in (proposals, annotation.boxes))
        batch.proposals[n, : len(proposals)], batch.proposal_mask[n, : len(proposals)] = proposals, True
        batch.gt_boxes[n, : len(boxes)], batch.gt_mask[n, : len(boxes)] = boxes, True
        batch.gt_labels[n, : len(boxes)] = annotation.labels
        batch.gt_difficult[n, : len(boxes)] = annotation.difficult
        if batch.gt_crowd is not None:
            batch.gt_crowd[n, : len(boxes)] = annotation.crowd


def without_background(empty: int, background_iou: tuple[float, float]) -> str:
    """A sentence about images without objects, from which no RoIs are drawn; "" if there are none, or if RoIs that
    overlap no object are background.

    Args:
        empty: their number.
        background_iou: `sampling.background_iou`.
    """
    if not empty or not background_iou[0]:
        return ""
    least, most = background_iou
    return (
        f"nothing is learned from {counted(empty, 'image')} without objects, as background RoIs overlap an object by "
        f"{least:g} or more (sampling.background_iou): --sampling.background-iou 0 {most:g} draws from all of an image"
    )


def check_object_counts(dataset: Dataset, max_objects: int) -> None:
    """Raises ValueError if an image has more objects than `max_objects`; names the image that has the most."""
    counts = [len(annotation.labels) for annotation in dataset.annotations]
    most = max(counts, default=0)
    if most > max_objects:
        raise ValueError(
            f"{dataset.name}: image {dataset.image_ids[counts.index(most)]} has {most} objects, more than "
            f"input.max_objects = {max_objects}: give --input.max-objects {most}"
        )


def _empty_batch(images: int, bucket: Bucket, *, proposals: int, objects: int, crowds: bool) -> Batch:
    """An empty batch, only padding."""
    return Batch(
        images=np.zeros((images, *bucket, 3), np.uint8),
        image_sizes=np.zeros((images, 2), np.int32),
        original_sizes=np.zeros((images, 2), np.int32),
        scales=np.zeros(images, np.float32),
        image_mask=np.zeros(images, bool),
        image_index=np.zeros(images, np.int32),
        proposals=np.zeros((images, proposals, 4), np.float32),
        proposal_mask=np.zeros((images, proposals), bool),
        gt_boxes=np.zeros((images, objects, 4), np.float32),
        gt_labels=np.zeros((images, objects), np.int32),
        gt_difficult=np.zeros((images, objects), bool),
        gt_mask=np.zeros((images, objects), bool),
        gt_crowd=np.zeros((images, objects), bool) if crowds else None,
    )


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], scale: float, out: UInt8[np.ndarray, "h w 3"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """`image` resized by `scale` with bilinear interpolation, as in the original release; the size is `resized_size`.

    Args:
        out: written to and returned if given; may be a part of a larger image.
    """
    height, width = resized_size(image.shape[:2], scale)
    if image.shape[:2] == (height, width):
        resized = image
    elif min(image.shape[:2]) * scale <= 0.5:  # OpenCV would round a side to 0
        resized = cv2.resize(image, (width, height), out, interpolation=cv2.INTER_LINEAR)
    else:
        # Given the factor instead of the size, OpenCV samples exactly where boxes times scale are.
        resized = cv2.resize(image, None, out, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    if out is None or out is resized:
        return resized
    out[...] = resized
    return out


def flip_image(image: UInt8[np.ndarray, "H W 3"], *, horizontal: bool, vertical: bool) -> None:
    """Flips an image in place: left to right, top to bottom, or both."""
    if horizontal or vertical:
        cv2.flip(image, 0 if not horizontal else -1 if vertical else 1, image)


def flip_boxes(
    boxes: Float[np.ndarray, "B 4"], size: tuple[int, int], *, horizontal: bool, vertical: bool
) -> Float[np.ndarray, "B 4"]:
    """Boxes in the flipped image of height and width `size`; integers and half precision become float32."""
    height, width = size
    x1, y1, x2, y2 = float_boxes(boxes).T
    if horizontal:
        x1, x2 = width - x2, width - x1
    if vertical:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def padded_count(proposals: Sequence[Float[np.ndarray, "P 4"]]) -> int:
    """Padded number of proposals for all images of a data set."""
    return round_up(max((len(boxes) for boxes in proposals), default=0), PROPOSAL_MULTIPLE)


def training_buckets(config: InputConfig, stride: int) -> tuple[Bucket, ...]:
    """`input.buckets`, or those that follow from the scales for a model whose feature cells are `stride` pixels."""
    return config.buckets or default_buckets(config.scales, config.max_size, stride)


def training_plan(dataset: Dataset, config: InputConfig, steps: int, seed: int, stride: int) -> BatchPlan:
    """The images, scales and flips of `steps` steps; `stride` as in `training_buckets`."""
    return plan_training(
        dataset.sizes,
        steps,
        config.batch_size,
        scales=config.scales,
        longest=config.max_size,
        buckets=training_buckets(config, stride),
        flip=config.flip,
        flip_vertical=config.flip_vertical,
        seed=seed,
        names=dataset.image_ids,
    )


def training_source(
    dataset: Dataset,
    proposals: Sequence[Float[np.ndarray, "P 4"]],
    config: InputConfig,
    steps: int,
    seed: int,
    stride: int,
    places: slice = slice(None),
) -> BatchSource:
    """The batches of a training run of `steps` steps; `stride` as in `training_buckets`, `places` as `BatchSource`."""
    return BatchSource(
        dataset,
        proposals,
        training_plan(dataset, config, steps, seed, stride),
        max_objects=config.max_objects,
        cache=config.cache_decoded,
        augment=config.augment,
        seed=seed,
        places=places,
    )


def iterate(source: BatchSource, workers: int, prefetch: int = 4) -> Iterator[Batch]:
    """A Grain iterator over `source` that reads ahead in threads.

    Its position is read by `get_state()` and restored by `set_state()`; batch i does not depend on earlier batches.
    """
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=prefetch if workers else 0)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
