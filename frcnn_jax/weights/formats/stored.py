"""Arrays that stay in their file until needed, so that a large file is never in memory twice."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Outputs that are transposed together: NumPy reads a few rows faster than single elements across all rows.
_BLOCK = 64
# JAX on a CPU uses an array at an aligned address without a copy.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file: shape, dtype and a function to read it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # may be a view of the file: copy to keep it


@dataclasses.dataclass(frozen=True)
class Run:
    """Numbers in a file, one every `step` bytes."""

    offset: int
    count: int
    dtype: str
    step: int

    def read(self, path: Path) -> np.ndarray:
        """The numbers as a view of the file."""
        if self.count == 0:
            return np.empty(0, self.dtype)
        # The last record may end after its number, so bytes are mapped instead of records.
        length = (self.count - 1) * self.step + np.dtype(self.dtype).itemsize
        content = np.memmap(path, np.uint8, "r", self.offset, (length,))
        return np.ndarray((self.count,), self.dtype, content, strides=(self.step,))


def stored(path: Path, runs: Sequence[Run], shape: tuple[int, ...]) -> Stored:
    """The array of this shape with its numbers, in row-major order, in these runs."""

    def read() -> np.ndarray:
        parts = [run.read(path) for run in runs]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(shape)

    return Stored(shape, read)


def transposed(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """A contiguous copy of the array with permuted axes; the first axis becomes the last."""
    if axes[-1] != 0:
        raise ValueError(f"axis 0 must become the last, not {axes}")
    result = aligned_empty(tuple(array.shape[axis] for axis in axes), array.dtype)
    for start in range(0, array.shape[0], _BLOCK):
        block = np.ascontiguousarray(array[start : start + _BLOCK])
        result[..., start : start + _BLOCK] = block.transpose(axes)
    return result


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`np.empty` at an aligned address, which JAX uses without a copy."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
