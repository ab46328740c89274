"""Sizes, objects and hashes of a prepared split, stored beside it so that opening it reads no images."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from frcnn_jax.atomic import replacing
from frcnn_jax.data.images import image_size, turned_size
from frcnn_jax.npz import open_npz
from frcnn_jax.progress import Progress
from frcnn_jax.types import GroundTruth

__all__ = [
    "LAYOUT_FILE",
    "SUMMARY_FILE",
    "Index",
    "decode_objects",
    "load_index",
    "make_index",
    "read_summary",
    "save_index",
    "tfds_split",
]

LAYOUT_FILE = "frcnn_splits.json"
"""Holds, for each split, its ids in order, the stored splits with its images, and the numbers of dropped ones."""
SUMMARY_FILE = "frcnn_summary.json"
"""Holds `read`, a short list of data that are read differently than written, and `empty`, the splits without remaining
images and their drops; and `orientation`, "apply" or "ignore", if it was decided for the folder, and `source`, its
folder and settings without the files' content. Earlier versions wrote no summary, or none of that.
"""
_FORMAT = 1
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
    """One row per image of a split; objects of all images in one array, in the order of the images."""

    sizes: Int[np.ndarray, "n 2"]  # height, width
    digests: UInt8[np.ndarray, "n 32"]  # SHA-256 of the encoded image
    starts: Int[np.ndarray, " n+1"]  # position of each image's first object
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    difficult: Bool[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"] | None = None  # None: no object is a crowd

    def annotation(self, k: int) -> GroundTruth:
        """Objects of image `k`."""
        part = slice(self.starts[k], self.starts[k + 1])
        crowd = None if self.crowd is None else self.crowd[part]
        return GroundTruth(
            boxes=self.boxes[part], labels=self.labels[part], difficult=self.difficult[part], crowd=crowd
        )


def tfds_split(split: str) -> str:
    """TFDS's name of a stored split, as `all` means all splits in TFDS."""
    return "all_images" if split == "all" else split


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a prepared folder; empty if an earlier version prepared it."""
    path = folder / SUMMARY_FILE
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"read": [], "empty": {}}


def decode_objects(record: dict[str, Any], size: tuple[int, int]) -> GroundTruth:
    """A TFDS record's objects, with boxes in pixels, 0-based and half-open; `size` is height and width.

    `box` holds the boxes directly. If it is missing, in VOC's data sets, they are computed from `bbox`, which holds
    VOC's corners divided by the image's size, as in TFDS's `voc`.
    """
    height, width = size
    objects = record["objects"]
    if "box" in objects:
        boxes = np.array(objects["box"], np.float32).reshape(-1, 4)
    else:
        fractions = np.array(objects["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        # Stored as float32; this rounding restores whole coordinates up to 16384 exactly.
        corners = np.round(fractions * [width, height, width, height], 3)
        boxes = (corners - [1, 1, 0, 0]).astype(np.float32)
    return GroundTruth(
        boxes=boxes,
        labels=np.array(objects["label"], np.int32) + np.int32(1),
        difficult=np.array(objects["is_difficult"], np.bool_),
        crowd=np.array(objects["is_crowd"], np.bool_) if "is_crowd" in objects else None,
    )


def make_index(source: Sequence[dict[str, Any]], title: str, turns: Sequence[int]) -> Index:
    """The index of a data source with encoded images; `turns` are the orientations applied on reading."""
    sizes, digests, objects = [], [], []
    for i in Progress(range(len(source)), title, unit="image", leave=False, delay=2):
        record = source[i]
        sizes.append(turned_size(image_size(record["image"]), turns[i]))
        digests.append(np.frombuffer(hashlib.sha256(record["image"]).digest(), np.uint8))
        objects.append(decode_objects(record, sizes[-1]))
    crowd = np.concatenate([truth.crowd for truth in objects])
    return Index(
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        digests=np.array(digests, np.uint8).reshape(-1, 32),
        starts=np.cumsum([0, *(len(truth.labels) for truth in objects)]),
        boxes=np.concatenate([truth.boxes for truth in objects]),
        labels=np.concatenate([truth.labels for truth in objects]),
        difficult=np.concatenate([truth.difficult for truth in objects]),
        crowd=crowd if crowd.any() else None,
    )


def load_index(path: Path) -> Index | None:
    """The index at `path`; None if it does not exist, has another version, or is damaged (logged)."""
    if not path.is_file():
        return None
    try:
        with open_npz(path) as arrays:
            values = dict(arrays)
        return Index(**values) if values.pop("format", None) == _FORMAT else None
    except (ValueError, TypeError) as error:
        _log.warning("%s is damaged (%s) and made anew from the prepared images", path, error)
        return None


def save_index(path: Path, index: Index) -> None:
    """Writes the index atomically. In a read-only folder it is not written, and made again each time."""
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, format=_FORMAT, **arrays)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
