"""Reading of stored features: those of all proposals of a data set, in one file that is mapped into memory.

Format, version 1. A store is a folder with
    settings.json   format, version, dtype, features per row, rows of each image, and `made_from`
    features.bin    [T, F], the rows of the images, concatenated; allocated at full length at the start
    written.bin     uint64 [N]: 0, or 2^32 + CRC-32 of the image's bytes once all of its rows are written
    .lock           held by the writing process

An image is marked after its rows are written, so images that a killed process left unfinished are computed again. A
resumed writer checks the marked images first. A store can be read only if all images are written, and only with the
same `made_from`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

__all__ = ["FeatureStore", "SelectedRows", "fingerprint", "store_bytes"]

FORMAT, VERSION = "frcnn_jax features", 1
SETTINGS, FEATURES, WRITTEN = "settings.json", "features.bin", "written.bin"
_MARK = 1 << 32


def store_bytes(counts: Sequence[int], num_features: int, dtype: str = "float32") -> int:
    """Bytes of the features of images with these numbers of rows."""
    return int(np.sum(counts, dtype=np.int64)) * num_features * np.dtype(dtype).itemsize


def fingerprint(tree: Any) -> str:
    """Hex SHA-256 of the arrays and numbers of a pytree with their paths, for `made_from`."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Layout:
    """Concatenated rows of images.

    Attributes:
        counts: number of rows of each image.
        offsets: [N + 1], first row of each image, and the total number.
        shape: total number of rows, and features per row.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.dtype = np.dtype(settings["dtype"])
        self.counts = np.array(settings["counts"], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self.shape = (int(self.offsets[-1]), int(settings["features"]))
        self.row_bytes = self.shape[1] * self.dtype.itemsize
        self.nbytes = self.shape[0] * self.row_bytes

    def __len__(self) -> int:
        return len(self.counts)


class FeatureStore(Layout):
    """The complete features of N images, written by `write_features`."""

    @classmethod
    def open(cls, folder: str | Path, made_from: Mapping[str, Any]) -> FeatureStore:
        """Opens a complete store.

        Raises:
            FileNotFoundError: the store does not exist.
            ValueError: it was made from other data or settings (named), is incomplete, or its files are damaged.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        if settings is None:
            raise FileNotFoundError(f"{folder}: no features are stored there")
        check_made_from(folder, settings, made_from)
        return cls(folder, settings)

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        super().__init__(folder, settings)
        written = np.fromfile(folder / WRITTEN, np.uint64)
        if len(written) != len(self) or not written.all():
            raise ValueError(
                f"{folder}: features of {np.count_nonzero(written)} of {len(self)} images: run the same command again, "
                "which goes on there"
            )
        size = (folder / FEATURES).stat().st_size
        if size != self.nbytes:
            raise ValueError(f"{folder}: {FEATURES} has {size} bytes, not {self.nbytes}: delete the folder")
        self._written = written
        # A plain array is sliced faster than a `memmap`, and keeps the map alive.
        self._rows = (
            np.memmap(folder / FEATURES, self.dtype, "r", shape=self.shape).view(np.ndarray)
            if size
            else np.zeros(self.shape, self.dtype)
        )

    def __getitem__(self, index: int) -> Float[np.ndarray, "P F"]:
        """The rows of an image, mapped read-only."""
        index = range(len(self))[index]
        return self._rows[self.offsets[index] : self.offsets[index + 1]]

    def select(self, rows: Int[np.ndarray, " n"]) -> SelectedRows:
        """Rows of the store by number, read on access."""
        return SelectedRows(self._rows, np.asarray(rows, np.int64))

    def damaged(self) -> list[int]:
        """Images with rows that changed after writing; reads the whole store."""
        return [index for index in range(len(self)) if int(self._written[index]) != checksum(self[index])]


class SelectedRows:
    """Some rows of a store, read as float32 on access."""

    def __init__(self, whole: Float[np.ndarray, "T F"], rows: Int[np.ndarray, " n"]):
        self._whole, self._rows = whole, rows
        self.shape = (len(rows), whole.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Float[np.ndarray, "m F"]:
        return np.asarray(self._whole[self._rows[index]], np.float32)


def checksum(rows: np.ndarray) -> int:
    return _MARK + zlib.crc32(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))


def read_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text())
        known = (settings["format"], settings["version"]) == (FORMAT, VERSION)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}): delete the folder {folder}") from error
    if not known:
        raise ValueError(f"{path}: format version {settings['version']}; this program reads version {VERSION}")
    return settings


def check_made_from(folder: Path, settings: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    before, now = settings["made_from"], json.loads(json.dumps(made_from))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{folder}: features made from other {name}: {before.get(name)!r} there and {now.get(name)!r} here. "
                "Delete the folder, or give another one"
            )
