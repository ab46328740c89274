"""How computed proposals are kept on disk.

Format, version 1: an .npz file, beside the prepared data set as `proposals/SPLIT-METHOD-KEY.npz` (KEY stands for the
settings), that `numpy.load` reads without pickle:
    boxes      float32 [T, 4]  the boxes of all images one after the other, `x1 y1 x2 y2`, 0-based and half-open, in
                               pixels of the original image, best first within an image
    offsets    int64 [N + 1]   the boxes of image i are boxes[offsets[i] : offsets[i + 1]]
    image_ids  str [N]         in the order of the data set
    indices    int64 [N]       position of each image in the data set; 0 ... N - 1 in a complete file
    metadata   str []          JSON: format, version, dataset, fingerprint (of the data set), settings

While the proposals are being computed, the images that are done lie in files of the same format, some images each, in
the folder `SPLIT-METHOD-KEY.parts`. Every file is written under another name and then renamed, so that one that is
there is whole. Settings have their own file each; data of another fingerprint is refused, never overwritten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "Store",
    "StoreKey",
    "is_store",
    "load_npz",
    "parts_folder",
    "read_parts",
    "read_store",
    "remove_parts",
    "write_part",
    "write_store",
]

_log = logging.getLogger(__name__)
_FORMAT, _VERSION = "frcnn_jax proposals", 1


@dataclasses.dataclass(frozen=True)
class Store:
    """The content of one file; the fields are explained above."""

    boxes: Float[np.ndarray, "T 4"]
    offsets: Int[np.ndarray, " N+1"]
    image_ids: tuple[str, ...]
    indices: Int[np.ndarray, " N"]
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StoreKey:
    """What stored proposals were made from; all of it must agree for them to be used."""

    dataset: str
    fingerprint: str
    settings: Mapping[str, Any]

    def path(self, directory: Path) -> Path:
        """The complete file in the data set's directory."""
        split = re.sub(r"[^\w.-]", "_", self.dataset.rsplit("/", 1)[-1])
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return Path(directory) / "proposals" / f"{split}-{self.settings['method']}-{digest}.npz"

    def check(self, store: Store, path: Path) -> None:
        """Raises ValueError if `store`, read from `path`, was made from other data or with other settings."""
        found = store.metadata.get("fingerprint")
        if found != self.fingerprint:
            raise ValueError(
                f"{path}: these proposals were made from other data (fingerprint {found}) than the data set "
                f"{self.dataset} holds now ({self.fingerprint}); move or delete the file to compute them anew"
            )
        if store.metadata.get("settings") != dict(self.settings):
            raise ValueError(f"{path}: made with other settings ({store.metadata.get('settings')}); move or delete it")


def parts_folder(path: Path) -> Path:
    """Where the finished images of an unfinished computation lie."""
    return path.with_suffix(".parts")


def write_store(path: Path, key: StoreKey, rows: Mapping[int, Float[np.ndarray, "P 4"]], ids: Sequence[str]) -> None:
    """Writes the boxes of the images at the positions `rows.keys()` of the data set whose ids are `ids`."""
    indices = np.array(sorted(rows), np.int64)
    arrays = [rows[i] for i in indices.tolist()]
    offsets = np.zeros(len(arrays) + 1, np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    metadata = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(key)}
    # The temporary file lies among the parts, which are removed in the end, so that a killed run leaves no litter.
    folder = parts_folder(path) if path.parent.suffix != ".parts" else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.name}.{os.getpid()}"
    with open(temporary, "wb") as file:
        np.savez(
            file,
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *arrays]),
            offsets=offsets,
            image_ids=np.array([ids[i] for i in indices.tolist()], np.str_),
            indices=indices,
            metadata=np.array(json.dumps(metadata)),
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_store(path: Path) -> Store:
    """The content of a complete or a part file.

    Raises:
        ValueError: the file is damaged, or of another format or version.
    """
    arrays = load_npz(path)
    if not is_store(arrays):
        raise ValueError(f"{path}: not a file of stored proposals")
    metadata = json.loads(str(arrays["metadata"]))
    if metadata["version"] != _VERSION:
        raise ValueError(f"{path}: format version {metadata['version']}; this program reads version {_VERSION}")
    ids = tuple(arrays["image_ids"].tolist())
    store = Store(arrays["boxes"], arrays["offsets"], ids, arrays["indices"], metadata)
    whole = len(store.offsets) == len(ids) + 1 == len(store.indices) + 1 and store.boxes.shape == (store.offsets[-1], 4)
    if not whole or store.offsets[0] != 0 or (np.diff(store.offsets) < 0).any():
        raise ValueError(f"{path}: the arrays do not fit together")
    return store


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        ValueError: it is no such file, it is damaged, or holds pickled objects.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an .npz file ({error})") from None


def is_store(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays of an .npz file are in the format above, of whatever version."""
    if not {"boxes", "offsets", "image_ids", "indices", "metadata"} <= set(arrays):
        return False
    metadata = arrays["metadata"]
    return metadata.dtype.kind == "U" and metadata.ndim == 0 and f'"{_FORMAT}"' in str(metadata)


def read_parts(path: Path, key: StoreKey) -> dict[int, Float[np.ndarray, "P 4"]]:
    """The boxes of the images already done, by position; a part that cannot be read is computed again.

    Raises:
        ValueError: the parts were made from other data.
    """
    rows: dict[int, Float[np.ndarray, "P 4"]] = {}
    for part in sorted(parts_folder(path).glob("*.npz")):
        try:
            store = read_store(part)
        except ValueError as error:
            _log.warning("left out: %s", error)
            continue
        key.check(store, parts_folder(path))
        rows.update(zip(store.indices.tolist(), np.split(store.boxes, store.offsets[1:-1]), strict=True))
    return rows


def write_part(path: Path, key: StoreKey, rows: Mapping[int, Float[np.ndarray, "P 4"]], ids: Sequence[str]) -> None:
    """Adds the images in `rows` to those that are done."""
    write_store(parts_folder(path) / f"{min(rows):08d}-{os.getpid()}.npz", key, rows, ids)


def remove_parts(path: Path) -> None:
    """Removes the part files, once the complete file is there."""
    shutil.rmtree(parts_folder(path), ignore_errors=True)
