"""Padded size of each image and images of each batch, planned ahead from the image sizes."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

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
    fitting = [i for i, (height, width) in enumerate(buckets) if size[0] <= height and size[1] <= width]
    return min(fitting, key=lambda i: buckets[i][0] * buckets[i][1], default=None)


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

    An image occurs once per epoch; a bucket's last batch is filled up with random other images of that bucket. More
    steps extend the plan without changing its beginning.

    Raises:
        ValueError: the data set is empty, or an image fits no bucket.
    """
    if not len(sizes):
        raise ValueError("there are no images to train on")
    rows: list[tuple] = []
    epoch = 0
    while len(rows) < steps:
        random = np.random.default_rng([seed, epoch])
        shorter = random.choice(np.asarray(scales), len(sizes))
        image_scales = np.array([resize_scale(size, s, longest) for size, s in zip(sizes, shorter, strict=True)])
        bucket_of = assign_buckets(sizes, image_scales, buckets, names)
        epoch_rows = []
        for bucket in np.unique(bucket_of):
            members = random.permutation(np.flatnonzero(bucket_of == bucket))
            missing = -len(members) % batch_size
            members = np.concatenate([members, random.choice(members, missing)])
            for images in members.reshape(-1, batch_size):
                coins = random.random((2, batch_size)) < 0.5
                epoch_rows.append(
                    (images, image_scales[images], coins[0] & flip, coins[1] & flip_vertical, buckets[bucket])
                )
        rows += [epoch_rows[i] for i in random.permutation(len(epoch_rows))]
        epoch += 1
    images, *columns = (np.array(column) for column in zip(*rows[:steps], strict=True))
    return BatchPlan(images, *columns)


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
    chosen = [choose_bucket(resized_size(size, scale), buckets) for size, scale in zip(sizes, scales, strict=True)]
    misfits = [i for i, bucket in enumerate(chosen) if bucket is None]
    if misfits:
        first = misfits[0]
        name = names[first] if names else f"number {first}"
        height, width = resized_size(sizes[first], scales[first])
        raise ValueError(
            f"{len(misfits)} images fit in none of input.buckets {tuple(buckets)}: the first is {name}, "
            f"{height} x {width} (height x width) after resizing"
        )
    return np.array(chosen, int)
