"""An evaluation by several processes: the batches that each takes, and the detections of all in every one."""

import numpy as np

from frcnn_jax.detection.pyramid import Pyramid
from frcnn_jax.detection.source import PyramidSource
from frcnn_jax.distributed.arrays import gather_bytes
from frcnn_jax.distributed.talk import gather, process_count, process_index
from frcnn_jax.types import Detections

__all__ = ["Share", "of_all_processes"]


# Fields of an image's detections: kind, and shape of a row.
_COLUMNS = {"boxes": (np.float32, 4), "scores": (np.float32,), "labels": (np.int32,), "mask": (np.bool_,)}


class Share:
    """The batches of a source that this process takes: every n-th, of n processes."""

    def __init__(self, source: PyramidSource):
        self._source, self._steps = source, range(process_index(), len(source), process_count())

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> Pyramid:
        return self._source[self._steps[int(step)]]

    @property
    def images(self) -> int:
        return sum(self._source.image_count(step) for step in self._steps)

    def being_read(self) -> list[str]:
        """Names of the images that threads of this process are reading."""
        return self._source.being_read()


def of_all_processes(found: dict[int, Detections]) -> dict[int, Detections]:
    """The detections of all processes, by image index, the same to the bit."""
    if process_count() == 1:
        return found
    own = {name: [getattr(each, name) for each in found.values()] for name in _COLUMNS}
    columns = [
        np.concatenate([np.zeros((0, *shape), kind), *own[name]], dtype=kind)
        for name, (kind, *shape) in _COLUMNS.items()
    ]
    counts = gather([[index, len(each.scores)] for index, each in found.items()])
    contents = gather_bytes(b"".join(column.tobytes() for column in columns))
    everything: dict[int, Detections] = {}
    for images, content in zip(counts, contents, strict=True):
        total, start, arrays = sum(count for _, count in images), 0, {}
        for name, (kind, *shape) in _COLUMNS.items():
            size = total * int(np.prod(shape)) * np.dtype(kind).itemsize
            arrays[name] = np.frombuffer(content[start : start + size], kind).reshape(total, *shape)
            start += size
        end = 0
        for index, count in images:
            everything[index] = Detections(**{name: array[end : end + count] for name, array in arrays.items()})
            end += count
    return everything
