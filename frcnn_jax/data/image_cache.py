"""The decoded images of a data set, read on every access or kept in memory."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.data.dataset import Dataset
from frcnn_jax.machine import total_memory


class DecodedImages:
    """`images[index]` is the RGB image at that position in the data set; several threads may read at once.

    Args:
        keep: keep decoded images: 3 bytes per pixel, before resizing.

    Raises:
        ValueError: the images to keep exceed the machine's memory, or an image differs from its recorded size.
    """

    def __init__(self, dataset: Dataset, *, keep: bool = False):
        self._dataset = dataset
        self._reading: dict[int, int] = {}  # by thread
        self._kept: list[np.ndarray | None] | None = [None] * len(dataset) if keep else None
        if keep:
            needed, memory = decoded_bytes(dataset), total_memory()
            if needed > memory:
                raise ValueError(
                    f"input.cache_decoded: the {len(dataset)} images of {dataset.name} take {needed / 1e9:.1f} GB when "
                    f"decoded, and this machine has {memory / 1e9:.1f} GB: set it to False"
                )

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        if self._kept is not None and self._kept[index] is not None:
            return self._kept[index]
        self._reading[threading.get_ident()] = index
        try:
            image = self._dataset.read_image(index)
        except ValueError as error:
            raise ValueError(f"{self._dataset.name}: image {self._dataset.image_ids[index]}: {error}") from error
        finally:
            self._reading.pop(threading.get_ident(), None)
        if image.shape[:2] != tuple(self._dataset.sizes[index]):
            (height, width), (rows, columns) = image.shape[:2], self._dataset.sizes[index]
            name = f"{self._dataset.name}: image {self._dataset.image_ids[index]}"
            raise ValueError(f"{name} is {width} x {height} pixels, but was {columns} x {rows} when it was prepared")
        if self._kept is not None:
            self._kept[index] = image
        return image

    def being_read(self) -> list[str]:
        """Names of the images that threads are reading at this moment."""
        return [self._dataset.image_ids[index] for index in list(self._reading.values())]


def decoded_bytes(dataset: Dataset) -> int:
    """Bytes of memory that all decoded images of a data set need."""
    return 3 * int(np.prod(dataset.sizes, axis=1, dtype=np.int64).sum())
