"""Several data sets as one."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.data.dataset import Dataset, file_name
from frcnn_jax.types import GroundTruth

__all__ = ["JoinedDataset", "join_datasets"]

_log = logging.getLogger(__name__)


def join_datasets(parts: Sequence[Dataset]) -> Dataset:
    """The only part, or all as one `JoinedDataset`, errors as there; a line in the log counts images of several."""
    if len(parts) == 1:
        return parts[0]
    joined = JoinedDataset(parts)
    sets = Counter(key for part in parts for key in {part.image_fingerprint(i) for i in range(len(part))})
    shared = sum(count > 1 for count in sets.values())
    if shared:
        _log.warning("%s: %d images are in more than one of these sets, and are used for each", joined.name, shared)
    return joined


class JoinedDataset:
    """Data sets with the same classes as one `Dataset`; ids are prefixed with the data set's name.

    Raises:
        ValueError: their classes differ, or there are none.
    """

    def __init__(self, parts: Sequence[Dataset]):
        if not parts:
            raise ValueError("no data sets to join: give at least one")
        first = parts[0]
        for other in parts[1:]:
            if other.classes != first.classes:
                raise ValueError(
                    f"{first.name} and {other.name} have different classes: {first.classes}, {other.classes}"
                )
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in parts)
        self.classes: tuple[str, ...] = first.classes
        self.image_ids = tuple(f"{part.name}/{image_id}" for part in parts for image_id in part.image_ids)
        self.sizes = np.concatenate([part.sizes for part in parts])
        self.annotations: tuple[GroundTruth, ...] = tuple(truth for part in parts for truth in part.annotations)
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    @property
    def directory(self) -> Path:
        return self.parts[0].directory

    @property
    def shared_directory(self) -> Path:
        return self.parts[0].shared_directory

    @property
    def orientation(self) -> str | None:
        """Orientation of the parts, if those that have one agree; else None."""
        found = {getattr(part, "orientation", None) for part in self.parts} - {None}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def fingerprint(self) -> str:
        return "+".join(part.fingerprint for part in self.parts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def read_image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        part, position = self._place(index)
        return part.read_image(position)

    def image_file(self, index: int) -> str:
        return file_name(*self._place(index))

    def image_fingerprint(self, index: int) -> str:
        part, position = self._place(index)
        return part.image_fingerprint(position)

    def _place(self, index: int) -> tuple[Dataset, int]:
        index = range(len(self))[index]
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)
