"""The windows of a data set: its objects and proposals, their labels, and batches of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.comparison.overlaps import class_overlaps, overlaps
from frcnn_jax.types import GroundTruth

__all__ = ["Kept", "Windows", "candidates", "draw_batch", "keep_windows", "label_windows", "split_images"]


def candidates(proposals: Float[np.ndarray, "P 4"], truth: GroundTruth) -> Float[np.ndarray, "B 4"]:
    """The windows of an image: its objects, including difficult ones but no crowds, then its proposals."""
    return np.concatenate([truth.boxes[~truth.crowd].reshape(-1, 4), proposals.reshape(-1, 4)]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of several images, concatenated."""

    images: Int[np.ndarray, " W"]  # position in the data set
    boxes: Float[np.ndarray, "W 4"]  # half-open x1 y1 x2 y2 in pixels of the image
    labels: Int[np.ndarray, " W"]  # class of the object that it overlaps most, 1 ... K; 0 without overlap
    overlaps: Float[np.ndarray, " W"]  # IoU with that object
    on_crowd: Bool[np.ndarray, " W"]  # lies on a crowd, and so is not background

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " W"]) -> "Windows":
        """The windows of some rows."""
        return Windows(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def counts(self, num_images: int) -> Int[np.ndarray, " N"]:
        """Number of windows of each image."""
        return np.bincount(self.images, minlength=num_images)


def label_windows(proposals: Sequence[Float[np.ndarray, "P 4"]], annotations: Sequence[GroundTruth]) -> Windows:
    """The windows of all images, each with the object that it overlaps most."""
    parts = []
    for image, (boxes, truth) in enumerate(zip(proposals, annotations, strict=True)):
        boxes = candidates(boxes, truth)
        labels, highest = np.zeros(len(boxes), np.int32), np.zeros(len(boxes), np.float32)
        if not truth.crowd.all():
            values = overlaps(boxes, truth.boxes[~truth.crowd])
            highest = values.max(axis=1)
            labels = np.where(highest > 0, truth.labels[~truth.crowd][values.argmax(axis=1)], 0).astype(np.int32)
        parts.append(Windows(np.full(len(boxes), image, np.int32), boxes, labels, highest, _on_crowd(boxes, truth)))
    fields = [[getattr(part, field.name) for part in parts] for field in dataclasses.fields(Windows)]
    return Windows(*map(np.concatenate, fields))


@dataclasses.dataclass(frozen=True)
class Kept:
    """The windows with stored features, in the order of the store."""

    windows: Windows
    places: list[Int[np.ndarray, " B"]]  # row in the store of each image's windows; -1 where not stored

    def rows_of(self, rows: Sequence[Int[np.ndarray, " n"]]) -> Int[np.ndarray, " m"]:
        """Rows of the store for some windows of each image."""
        return np.concatenate([places[part] for places, part in zip(self.places, rows, strict=True)])


def keep_windows(windows: Windows, num_images: int, least: float) -> Kept:
    """The windows with an IoU of `least` or more."""
    mask = windows.overlaps >= least
    ends = np.cumsum(windows.counts(num_images))[:-1]
    places = np.where(mask, np.cumsum(mask) - 1, -1)
    return Kept(windows.take(mask), np.split(places, ends))


def split_images(num_images: int, share: float, seed: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Training images and held-out images, both in order; with a share above 0, at least one of each."""
    order = np.random.default_rng([seed, 1]).permutation(num_images)
    count = min(max(round(share * num_images), 1), num_images - 1) if share else 0
    return np.sort(order[count:]), np.sort(order[:count])


def draw_batch(
    windows: Windows,
    foreground: Int[np.ndarray, " n"],
    background: Int[np.ndarray, " m"],
    counts: tuple[int, int],
    random: np.random.Generator,
) -> tuple[Int[np.ndarray, " W"], Int[np.ndarray, " W"], Bool[np.ndarray, " W"]]:
    """Rows, labels and flips of a batch, drawn uniformly from the windows of each kind, with replacement.

    Args:
        foreground, background: rows of each kind; if one is empty, the other fills its places.
        counts: number of windows of each kind.
    """
    if not len(foreground):
        counts = 0, sum(counts)
    elif not len(background):
        counts = sum(counts), 0
    rows = np.concatenate(
        [random.choice(kind, n) for kind, n in zip((foreground, background), counts, strict=True) if n]
    )
    labels = np.where(np.arange(len(rows)) < counts[0], windows.labels[rows], 0).astype(np.int32)
    return rows, labels, random.random(len(rows)) < 0.5


def _on_crowd(boxes: Float[np.ndarray, "B 4"], truth: GroundTruth) -> Bool[np.ndarray, " B"]:
    crowds = truth.boxes[truth.crowd]
    if not len(crowds):
        return np.zeros(len(boxes), bool)
    as_one_class = GroundTruth(
        boxes=crowds,
        labels=np.ones(len(crowds), int),
        difficult=np.zeros(len(crowds), bool),
        crowd=np.ones(len(crowds), bool),
    )
    return class_overlaps(boxes, as_one_class, 1)[:, 0] > 0
