"""NumPy's `.npz` files from anywhere: every size is checked against the file before room is made for it."""

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
_RATIO = 1032  # of which deflate packs at most
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Arrays(Mapping):
    """The arrays of an open archive by name, each read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        if info.file_size > _RATIO * (info.compress_size + 1):
            raise ValueError(f"{name} is said to be of {info.file_size} bytes, packed in {info.compress_size}")
        with self._archive.open(info) as member:
            shape, in_columns, dtype = _header(name, member, info.file_size)
            buffer = memoryview(bytearray(math.prod(shape) * dtype.itemsize))
            for start in range(0, len(buffer), _CHUNK):
                stop = min(start + _CHUNK, len(buffer))
                buffer[start:stop] = member.read(stop - start)  # ValueError where there is less
            member.read(1)  # at its end the check sum is compared
        if dtype.kind == "U" and len(buffer):
            codes = np.frombuffer(buffer, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
            if codes.max() > sys.maxunicode:  # which ends in a SystemError where it becomes a text
                raise ValueError(f"{name} holds letters that are none")
        return np.ndarray(shape, dtype, buffer, order="F" if in_columns else "C")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextlib.contextmanager
def open_npz(path: str | Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an `.npz` file by name, each read when it is asked for; objects are refused.

    Errors in the block that are not KeyErrors count as errors of reading too.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        OSError: the system does not let it be read.
        ValueError: the file is not an `.npz` file, or is damaged; in one line, which does not name the file.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield _Arrays(archive)
        except (OSError, KeyError) as error:
            # Of a damaged archive they have no number of the system.
            if isinstance(error, KeyError) or error.errno is not None:
                raise
            raise ValueError(_line(error)) from error
        # NumPy and zipfile may raise anything on damaged files: beside ValueError and BadZipFile, SyntaxError,
        # tokenize's errors, NotImplementedError, RuntimeError and MemoryError were met.
        except Exception as error:
            raise ValueError(_line(error)) from error


def _header(name: str, member: IO[bytes], stated: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array that is in the archive as a whole.

    Raises:
        ValueError: its header says something else than the archive.
    """
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the format")
    shape, in_columns, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not loaded")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or member.tell() + size != stated:
        raise ValueError(f"{name} should have {size} bytes for the shape {list(shape)[:10]}, and there are others")
    return shape, in_columns, dtype


def _line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
