"""Checked images of a folder as a data set, read from the original files without preparation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.prepared.checks.image import CheckedImage
from frcnn_jax.types import GroundTruth

__all__ = ["FolderView"]


class FolderView:
    """A `Dataset` of checked images. It shares proposals with the data sets prepared from the same images.

    Args:
        shared_directory: folder of prepared data sets.
    """

    def __init__(self, name: str, images: Sequence[CheckedImage], classes: Sequence[str], shared_directory: str | Path):
        self.name, self.classes = name, tuple(classes)
        self.directory = self.shared_directory = Path(shared_directory)
        self._images = tuple(images)
        self.image_ids = tuple(image.image_id for image in images)
        self.sizes = np.array([image.size for image in images], np.int32).reshape(-1, 2)
        label = {name: k for k, name in enumerate(self.classes, start=1)}
        self.annotations = tuple(
            GroundTruth(
                boxes=np.array([item.box for item in image.objects], np.float32).reshape(-1, 4),
                labels=np.array([label[item.name] for item in image.objects], np.int32),
                difficult=np.array([item.difficult for item in image.objects], bool),
                crowd=np.array([item.crowd for item in image.objects], bool),
            )
            for image in images
        )

    @cached_property
    def fingerprint(self) -> str:
        return content_fingerprint(self)

    def __len__(self) -> int:
        return len(self._images)

    def read_image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        image = self._images[index]
        try:
            return decode_image(image.path.read_bytes(), image.orientation)
        except ValueError as error:
            raise ValueError(f"{image.path}: {error}") from error

    def image_file(self, index: int) -> str:
        return self._images[index].path.name

    def image_fingerprint(self, index: int) -> str:
        image = self._images[index]
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
        return digest + (f"+turned{image.orientation}" if image.orientation != 1 else "")

    def part(self, indices: Sequence[int]) -> FolderView:
        """The images at these positions as a data set."""
        return FolderView(self.name, [self._images[i] for i in indices], self.classes, self.shared_directory)
