"""Arrays that stay in their file until they are needed, so that a large file is never in memory twice."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# NumPy reads faster through a few rows than across all of them; so many outputs are transposed at a time.
_BLOCK = 64
# JAX on a CPU takes an array at such an address as it is; any other it copies.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file: what it is, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # may be a view of the file: copy what is kept


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
        # The last record may lack what follows its number, so the map is of bytes.
        length = (self.count - 1) * self.step + np.dtype(self.dtype).itemsize
        content = np.memmap(path, np.uint8, "r", self.offset, (length,))
        return np.ndarray((self.count,), self.dtype, content, strides=(self.step,))


def stored(path: Path, runs: Sequence[Run], shape: tuple[int, ...]) -> Stored:
    """The array of this shape whose numbers, in row-major order, are in these runs."""

    def read() -> np.ndarray:
        parts = [run.read(path) for run in runs]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(shape)

    return Stored(shape, read)


def transposed(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """A contiguous copy of the array with its axes permuted, the first of them last."""
    if axes[-1] != 0:
        raise ValueError(f"axis 0 must become the last, not {axes}")
    result = aligned_empty(tuple(array.shape[axis] for axis in axes), array.dtype)
    for start in range(0, array.shape[0], _BLOCK):
        block = np.ascontiguousarray(array[start : start + _BLOCK])
        result[..., start : start + _BLOCK] = block.transpose(axes)
    return result


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`np.empty` at an address that JAX need not copy from."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
