"""Sizes, objects and hashes of a prepared split, kept beside it so that opening it reads no image."""

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
from tqdm import tqdm

from frcnn_jax.atomic import replacing
from frcnn_jax.data.images import image_size, turned_size
from frcnn_jax.npz import open_npz
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
"""Lists for each split its ids in order, the stored splits that hold them, and what was dropped."""
SUMMARY_FILE = "frcnn_summary.json"
"""What was read otherwise than written, in short, as `read`; and as `empty` the splits of which no image is left, with
what was dropped. Earlier versions wrote none."""
_FORMAT = 1
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
    """One row for each of a split's images; objects of all images in one array, image after image."""

    sizes: Int[np.ndarray, "n 2"]  # height, width
    digests: UInt8[np.ndarray, "n 32"]  # SHA-256 of the encoded image
    starts: Int[np.ndarray, " n+1"]  # of each image's objects
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    difficult: Bool[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"] | None = None  # None: no object is one

    def annotation(self, k: int) -> GroundTruth:
        """Objects of image `k`."""
        part = slice(self.starts[k], self.starts[k + 1])
        crowd = None if self.crowd is None else self.crowd[part]
        return GroundTruth(
            boxes=self.boxes[part], labels=self.labels[part], difficult=self.difficult[part], crowd=crowd
        )


def tfds_split(split: str) -> str:
    """TFDS's name of a stored split; `all` is its word for all splits together."""
    return "all_images" if split == "all" else split


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a prepared folder; an empty one where an earlier version prepared it."""
    path = folder / SUMMARY_FILE
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"read": [], "empty": {}}


def decode_objects(record: dict[str, Any], size: tuple[int, int]) -> GroundTruth:
    """A TFDS record's objects, with boxes in pixels, 0-based and half-open; `size` is height and width.

    `box` holds them as they are. Where it is missing, in VOC's data sets, they are made of `bbox`, in which TFDS's own
    `voc` has VOC's corners divided by the image's size.
    """
    height, width = size
    objects = record["objects"]
    if "box" in objects:
        boxes = np.array(objects["box"], np.float32).reshape(-1, 4)
    else:
        fractions = np.array(objects["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        # They are stored as float32: with this rounding whole coordinates up to 16384 come back exactly.
        corners = np.round(fractions * [width, height, width, height], 3)
        boxes = (corners - [1, 1, 0, 0]).astype(np.float32)
    return GroundTruth(
        boxes=boxes,
        labels=np.array(objects["label"], np.int32) + np.int32(1),
        difficult=np.array(objects["is_difficult"], np.bool_),
        crowd=np.array(objects["is_crowd"], np.bool_) if "is_crowd" in objects else None,
    )


def make_index(source: Sequence[dict[str, Any]], title: str, turns: Sequence[int]) -> Index:
    """The index of a data source whose images are left encoded; `turns` are the orientations by which they are read."""
    sizes, digests, objects = [], [], []
    for i in tqdm(range(len(source)), title, unit="image", leave=False, delay=2):
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
    """The index saved at `path`; None if it does not exist, is of another version, or damaged, which is logged."""
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
    """Writes the index so that it appears whole. Where the folder is read-only it is made anew each time."""
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, format=_FORMAT, **arrays)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
