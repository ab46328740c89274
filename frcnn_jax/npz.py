"""Untrusted `.npz` files: every size is checked against the file before memory is allocated."""

import contextlib
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["open_npz"]

_CHUNK = 1 << 20
_LONGEST = 300  # characters of a reason
_RATIO = 1032  # the highest compression ratio of deflate
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Arrays(Mapping):
    """The arrays of an open archive by name, each read on access."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        if info.file_size > _RATIO * (info.compress_size + 1):
            raise ValueError(f"{name} claims {info.file_size} bytes, compressed to {info.compress_size}")
        with self._archive.open(info) as member:
            shape, in_columns, dtype = _header(name, member, info.file_size)
            buffer = memoryview(bytearray(math.prod(shape) * dtype.itemsize))
            for start in range(0, len(buffer), _CHUNK):
                stop = min(start + _CHUNK, len(buffer))
                buffer[start:stop] = member.read(stop - start)  # ValueError if there is less
            member.read(1)  # the checksum is compared at the end
        if dtype.kind == "U" and len(buffer):
            codes = np.frombuffer(buffer, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
            if codes.max() > sys.maxunicode:  # a SystemError when it becomes a string
                raise ValueError(f"{name} holds code points that are not characters")
        return np.ndarray(shape, dtype, buffer, order="F" if in_columns else "C")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextlib.contextmanager
def open_npz(path: str | Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an `.npz` file by name, each read on access; objects are refused.

    Errors in the block, other than KeyError, count as reading errors too.

    Raises:
        FileNotFoundError: `path` does not exist.
        OSError: the system cannot read it.
        ValueError: the file is not an `.npz` file, or is damaged; one line, without the file's name.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield _Arrays(archive)
        except (OSError, KeyError) as error:
            # A damaged archive raises OSError without a system error number.
            if isinstance(error, KeyError) or error.errno is not None:
                raise
            raise ValueError(_line(error)) from error
        # NumPy and zipfile may raise anything on damaged files: ValueError and BadZipFile, but also SyntaxError,
        # tokenize's errors, NotImplementedError, RuntimeError and MemoryError.
        except Exception as error:
            raise ValueError(_line(error)) from error


def _header(name: str, member: IO[bytes], stated: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array that is stored completely.

    Raises:
        ValueError: its header contradicts the archive.
    """
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the format")
    shape, in_columns, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not loaded")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or member.tell() + size != stated:
        raise ValueError(f"{name} should have {size} bytes for the shape {list(shape)[:10]}, and has another number")
    return shape, in_columns, dtype


def _line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
