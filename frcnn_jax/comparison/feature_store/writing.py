"""Writing of stored features, image by image; the format is described in `reading`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from frcnn_jax.atomic import write_text
from frcnn_jax.comparison.feature_store.reading import (
    FEATURES,
    FORMAT,
    SETTINGS,
    VERSION,
    WRITTEN,
    Layout,
    check_made_from,
    checksum,
    read_settings,
)
from frcnn_jax.locks import folder_lock

__all__ = ["FeatureWriter", "write_features"]


@contextlib.contextmanager
def write_features(
    folder: str | Path,
    counts: Sequence[int],
    num_features: int,
    *,
    made_from: Mapping[str, Any],
    dtype: str = "float32",
) -> Iterator[FeatureWriter]:
    """Begins or resumes a store; rows written in the block are on disk when it is left.

    Args:
        counts: number of rows of each image.
        made_from: everything the features depend on, as JSON values: settings, fingerprints of the weights, the data
            and the proposals.
        dtype: float32, or float16 for half the size.

    Raises:
        ValueError: another dtype, or the folder holds features made from other data or settings (named).
        OSError: the disk has too little space; names the needed and the free space.
        FolderInUseError: another process writes there.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"features are stored as float32 or float16, not {dtype}")
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype,
        "features": int(num_features),
        "counts": [int(count) for count in counts],
        "made_from": json.loads(json.dumps(made_from)),
    }
    with (
        folder_lock(folder, purpose="writing features"),
        contextlib.closing(FeatureWriter(Path(folder), settings)) as writer,
    ):
        yield writer
        writer.flush()


class FeatureWriter(Layout):
    """A store that is being written; `write_features` yields it."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        super().__init__(folder, settings)
        found = read_settings(folder)
        if found is not None:
            check_made_from(folder, found, settings["made_from"])
            for name in ("dtype", "features", "counts"):
                if found[name] != settings[name]:
                    raise ValueError(f"{folder}: features stored with other {name}: delete the folder, or give another")
        self._features = os.open(folder / FEATURES, os.O_RDWR | os.O_CREAT, 0o644)
        self._marks = os.open(folder / WRITTEN, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Marks without settings are left by a process that was killed at the start.
            os.ftruncate(self._marks, 0 if found is None else 8 * len(self))
            os.ftruncate(self._marks, 8 * len(self))
            truncated = os.fstat(self._features).st_size < self.nbytes
            self._allocate()
            if found is None:
                write_text(folder / SETTINGS, json.dumps(settings) + "\n")
            self._written = np.fromfile(folder / WRITTEN, np.uint64)
            for index in np.flatnonzero(self._written) if truncated or self.missing() else ():
                if int(self._written[index]) != checksum(self._read(index)):
                    self._mark(index, 0)
        except BaseException:
            self.close()
            raise

    def missing(self) -> list[int]:
        """Images with missing rows."""
        return np.flatnonzero(self._written == 0).tolist()

    def write(self, index: int, rows: Float[np.ndarray, "P F"]) -> None:
        """Stores the rows of an image, rounded to the store's dtype.

        Raises:
            ValueError: their number is not the declared one, or they are not finite in the store's dtype.
            OSError: they cannot be written, for example because the disk is full; the image stays missing.
        """
        expected = (int(self.counts[index]), self.shape[1])
        if np.shape(rows) != expected:
            raise ValueError(f"{self.folder}: image {index} has features {list(expected)}, not {list(np.shape(rows))}")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, self.dtype)
        if not np.isfinite(rows).all():
            raise ValueError(
                f"{self.folder}: features of image {index} are not finite in {self.dtype}"
                + (": store them as float32" if self.dtype == np.float16 else "")
            )
        with _naming(self.folder / FEATURES):
            self._mark(index, 0)
            _write_all(self._features, rows, int(self.offsets[index]) * self.row_bytes)
            self._mark(index, checksum(rows))

    def flush(self) -> None:
        """Flushes to the disk, so that a power failure loses nothing."""
        os.fsync(self._features)
        os.fsync(self._marks)

    def close(self) -> None:
        os.close(self._features)
        os.close(self._marks)

    def _read(self, index: int) -> Float[np.ndarray, "P F"]:
        length = int(self.counts[index]) * self.row_bytes
        content = _read_all(self._features, length, int(self.offsets[index]) * self.row_bytes)
        return np.frombuffer(content, self.dtype)

    def _mark(self, index: int, value: int) -> None:
        self._written[index] = value
        os.pwrite(self._marks, self._written[index].tobytes(), 8 * index)

    def _allocate(self) -> None:
        """Allocates the full size."""
        status = os.fstat(self._features)
        needed, free = self.nbytes - 512 * status.st_blocks, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"features take {_gigabytes(self.nbytes)}, and {_gigabytes(free)} are free: free some space, store "
                "them as float16, or use fewer proposals",
                str(self.folder),
            )
        if self.nbytes == status.st_size:
            return
        try:
            if self.nbytes:
                with _naming(self.folder / FEATURES):
                    os.posix_fallocate(self._features, 0, self.nbytes)
        except OSError as error:
            # Not every file system can allocate space in advance.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        os.ftruncate(self._features, self.nbytes)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes system errors name the file and the way on."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_on = ": free some space, and give the same command again, which continues" * full
        raise OSError(error.errno, error.strerror + way_on, str(path)) from error


def _write_all(descriptor: int, array: np.ndarray, offset: int) -> None:
    content = memoryview(array).cast("B") if array.size else memoryview(b"")
    while len(content):
        done = os.pwrite(descriptor, content, offset)
        content, offset = content[done:], offset + done


def _read_all(descriptor: int, length: int, offset: int) -> bytes:
    parts = []
    while length and (part := os.pread(descriptor, min(length, 1 << 30), offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
