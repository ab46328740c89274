"""A data set in memory, for tests: encoded images and their objects."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.images import decode_image, image_size
from frcnn_jax.types import GroundTruth


@dataclasses.dataclass(frozen=True)
class MemoryDataset:
    """The smallest implementation of the contract."""

    name: str
    directory: Path
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    files: tuple[bytes, ...]
    annotations: tuple[GroundTruth, ...]

    @property
    def shared_directory(self) -> Path:
        return self.directory

    @property
    def sizes(self) -> np.ndarray:
        return np.array([image_size(data) for data in self.files], np.int32).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        return content_fingerprint(self)

    def __len__(self) -> int:
        return len(self.files)

    def read_image(self, index: int) -> np.ndarray:
        return decode_image(self.files[index])

    def image_fingerprint(self, index: int) -> str:
        return hashlib.sha256(self.files[index]).hexdigest()
