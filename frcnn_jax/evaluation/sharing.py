"""An evaluation by several processes: the batches that each takes, and the detections of all in every one."""

import jax
import numpy as np

from frcnn_jax.detection.pyramid import Pyramid
from frcnn_jax.detection.source import PyramidSource
from frcnn_jax.distributed.arrays import gather_bytes
from frcnn_jax.distributed.talk import gather, process_count, process_index
from frcnn_jax.types import Detections

__all__ = ["Share", "of_all_processes"]


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


def of_all_processes(found: dict[int, Detections]) -> dict[int, Detections]:
    """The detections of all processes, by image index; on the host, and the same to the bit."""
    if process_count() == 1:
        return found
    own_counts = [[index, len(each.scores)] for index, each in found.items()]
    columns = [np.concatenate(parts) for parts in zip(*map(jax.tree.leaves, found.values()), strict=True)] or []
    kinds = gather([[column.dtype.str, *column.shape[1:]] for column in columns])
    contents = gather_bytes(b"".join(column.tobytes() for column in columns))
    everything: dict[int, Detections] = {}
    for counts, of_columns, content in zip(gather(own_counts), kinds, contents, strict=True):
        total = sum(count for _, count in counts)
        arrays, start = [], 0
        for kind, *shape in of_columns:
            size = total * int(np.prod(shape)) * np.dtype(kind).itemsize
            arrays.append(np.frombuffer(content[start : start + size], kind).reshape(total, *shape))
            start += size
        end = 0
        for index, count in counts:
            everything[index] = Detections(*(array[end : end + count] for array in arrays))
            end += count
    return everything
