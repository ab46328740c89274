"""Padded size of each image and images of each batch, planned ahead from the image sizes."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.words import counted

Bucket = tuple[int, int]  # height, width


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The S batches of a run in order, with N images each; no pixels are read."""

    images: Int[np.ndarray, "S N"]  # position in the data set
    scales: Float[np.ndarray, "S N"]  # resized size / original size
    flipped: Bool[np.ndarray, "S N"]  # left to right
    flipped_vertical: Bool[np.ndarray, "S N"]  # top to bottom
    buckets: Int[np.ndarray, "S 2"]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, steps: slice | Int[np.ndarray, " s"]) -> "BatchPlan":
        """The batches of these steps."""
        return BatchPlan(*(getattr(self, field.name)[steps] for field in dataclasses.fields(self)))


def round_up(count: int, multiple: int) -> int:
    """The least positive multiple of at least `count`: the padded size, so that few shapes are compiled."""
    return max(-(-count // multiple), 1) * multiple


def pad_rows(values: np.ndarray, count: int) -> np.ndarray:
    """`values` padded with zeros to `count` rows."""
    padded = np.zeros((count, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def resize_scale(size: tuple[int, int] | Int[np.ndarray, "2"], shorter: int, longest: int) -> float:
    """Factor that makes the shorter side `shorter` and the longer side at most `longest` (section 3)."""
    return min(shorter / min(size), longest / max(size))


def resized_size(size: tuple[int, int] | Int[np.ndarray, "2"], scale: float) -> tuple[int, int]:
    """Height and width in whole pixels after resizing, at least 1."""
    return max(round(int(size[0]) * scale), 1), max(round(int(size[1]) * scale), 1)


# Long side over short side. VOC's 3:2 photographs are slightly longer, for example 500 x 331.
_RATIOS = (Fraction(4, 3), Fraction(151, 100))


def default_buckets(scales: Sequence[int], longest: int, stride: int) -> tuple[Bucket, ...]:
    """Landscape and portrait, 4:3, 3:2 and the longest allowed, for each scale. Together they hold all images after
    `resize_scale`.
    """
    buckets = []
    for shorter in scales:
        short = min(shorter, longest)
        for long in sorted({min(math.ceil(short * ratio), longest) for ratio in _RATIOS} | {longest}):
            sides = tuple(-(-side // stride) * stride for side in (short, long))
            buckets += [sides, sides[::-1]]
    return tuple(dict.fromkeys(buckets))


def choose_bucket(size: tuple[int, int], buckets: Sequence[Bucket]) -> int | None:
    """Index of the smallest bucket (by area) that holds an image of `size`; None if none does."""
    chosen = int(_smallest_buckets(np.array([size]), buckets)[0])
    return None if chosen < 0 else chosen


def _smallest_buckets(sizes: Int[np.ndarray, "D 2"], buckets: Sequence[Bucket]) -> Int[np.ndarray, " D"]:
    """Index of the smallest bucket for each size, the first of equal areas; -1 if none holds it."""
    chosen = np.full(len(sizes), -1)
    for index in sorted(range(len(buckets)), key=lambda i: (buckets[i][0] * buckets[i][1], i), reverse=True):
        chosen[(sizes <= np.array(buckets[index])).all(axis=1)] = index
    return chosen


def plan_training(
    sizes: Int[np.ndarray, "D 2"],
    steps: int,
    batch_size: int,
    *,
    scales: Sequence[int],
    longest: int,
    buckets: Sequence[Bucket],
    flip: bool,
    flip_vertical: bool,
    seed: int,
    names: Sequence[str] | None = None,
) -> BatchPlan:
    """Random batches for `steps` steps, epoch by epoch; all images of a batch share a bucket.

    An epoch has each image once; a bucket's last batch is filled up with random images of that bucket, which then occur
    again. More steps extend the plan without changing its beginning.

    Raises:
        ValueError: the data set is empty, or an image fits no bucket.
    """
    if not len(sizes):
        raise ValueError("there are no images to train on")
    epochs: list[BatchPlan] = []
    planned = 0  # a sum over all epochs in each would take quadratic time
    while planned < steps:
        random = np.random.default_rng([seed, len(epochs)])
        shorter = random.choice(np.asarray(scales), len(sizes))
        # As `resize_scale`, for all images at once.
        image_scales = np.minimum(shorter / sizes.min(axis=1), longest / sizes.max(axis=1))
        bucket_of = assign_buckets(sizes, image_scales, buckets, names)
        parts = []
        for bucket in np.unique(bucket_of):
            members = random.permutation(np.flatnonzero(bucket_of == bucket))
            again = random.choice(members, -len(members) % batch_size)
            images = np.concatenate([members, again]).reshape(-1, batch_size)
            coins = random.random((len(images), 2, batch_size)) < 0.5
            sides = np.tile(buckets[bucket], (len(images), 1))
            parts.append(
                BatchPlan(images, image_scales[images], coins[:, 0] & flip, coins[:, 1] & flip_vertical, sides)
            )
        epoch = _concatenated(parts)
        planned += len(epoch)
        epochs.append(epoch.part(random.permutation(len(epoch))))
    return _concatenated(epochs).part(slice(steps))


def _concatenated(plans: Sequence[BatchPlan]) -> BatchPlan:
    names = [field.name for field in dataclasses.fields(BatchPlan)]
    return BatchPlan(*(np.concatenate([getattr(plan, name) for plan in plans]) for name in names))


def assign_buckets(
    sizes: Int[np.ndarray, "D 2"],
    scales: Float[np.ndarray, " D"],
    buckets: Sequence[Bucket],
    names: Sequence[str] | None = None,
) -> Int[np.ndarray, " D"]:
    """The bucket of each image after resizing.

    Raises:
        ValueError: some images fit in no bucket; gives their number and names the first.
    """
    # As `resized_size`, for all images at once.
    chosen = _smallest_buckets(np.maximum(np.rint(sizes * scales[:, None]), 1).astype(int), buckets)
    misfits = np.flatnonzero(chosen < 0)
    if len(misfits):
        first = int(misfits[0])
        name = names[first] if names else f"number {first}"
        height, width = resized_size(sizes[first], scales[first])
        raise ValueError(
            f"{counted(len(misfits), 'image fits', 'images fit')} in none of input.buckets {tuple(buckets)}: the first "
            f"is {name}, {height} x {width} (height x width) after resizing"
        )
    return chosen
