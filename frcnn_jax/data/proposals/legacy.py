"""Stored proposals of earlier versions, which can still be read: one file per split.

Format, version 1: an .npz file beside the prepared data set, `proposals/SPLIT-METHOD-KEY.npz` (KEY stands for the
settings), that `numpy.load` reads without pickle:
    boxes      float32 [T, 4]  the boxes of all images, concatenated, `x1 y1 x2 y2`, 0-based and half-open, in
                               pixels of the original image, best first within an image
    offsets    int64 [N + 1]   the boxes of image i are boxes[offsets[i] : offsets[i + 1]]
    image_ids  str [N]         in the order of the data set
    indices    int64 [N]       position of each image in the data set; 0 ... N - 1 in a complete file
    metadata   str []          JSON: format, version, dataset, fingerprint (of the data set), settings

An unfinished computation left files of the same format, with some images each, in the folder `SPLIT-METHOD-KEY.parts`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.data.proposals.store import settings_key
from frcnn_jax.npz import open_npz

__all__ = ["Store", "is_store", "npz_arrays", "npz_names", "read_legacy", "read_store"]

_log = logging.getLogger(__name__)
_FORMAT, _VERSION = "frcnn_jax proposals", 1
_FORMS = {
    "boxes": ("f", 2),
    "offsets": ("i", 1),
    "image_ids": ("U", 1),
    "indices": ("i", 1),
}  # dtype kind and number of axes


@dataclasses.dataclass(frozen=True)
class Store:
    """The content of one file, as explained above."""

    boxes: Float[np.ndarray, "T 4"]
    offsets: Int[np.ndarray, " N+1"]
    image_ids: tuple[str, ...]
    indices: Int[np.ndarray, " N"]
    metadata: dict[str, Any]


def read_legacy(dataset: Any, settings: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "P 4"]]:
    """Boxes by image fingerprint, from files beside the data set and beside its versions before an edit.

    They were made with the same settings, from images of these versions; the data set may have other images now.
    """
    states = [*getattr(dataset, "earlier_states", list)(), dataset]
    return {name: boxes for state in states for name, boxes in _read_files(state, settings).items()}


def _read_files(dataset: Any, settings: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "P 4"]]:
    """Boxes from the files beside one data set; files of other data or settings are skipped."""
    split = re.sub(r"[^\w.-]", "_", dataset.name.rsplit("/", 1)[-1])
    path = Path(dataset.directory) / "proposals" / f"{split}-{settings_key(settings)}.npz"
    paths = [path] * path.exists() + sorted(path.with_suffix(".parts").glob("*.npz"))
    wanted = legacy_fingerprint(dataset) if paths else "", dict(settings)
    rows: dict[str, Float[np.ndarray, "P 4"]] = {}
    for path in paths:
        try:
            store = read_store(path)
        except ValueError as error:
            _log.warning("skipped: %s", error)
            continue
        if (store.metadata.get("fingerprint"), store.metadata.get("settings")) != wanted:
            _log.warning("%s: skipped, these proposals were made from other data or with other settings", path)
            continue
        names = map(dataset.image_fingerprint, store.indices.tolist())
        # Earlier versions did not turn images: boxes of the stored image are wrong for the turned one.
        found = zip(names, np.split(store.boxes, store.offsets[1:-1]), strict=True)
        rows.update((name, boxes) for name, boxes in found if "+" not in name)
    return rows


def read_store(path: Path) -> Store:
    """The content of a file, complete or partial.

    Raises:
        ValueError: the file is damaged, or of another format or version.
    """
    if not is_store(path):
        raise ValueError(f"{path}: not a file of stored proposals")
    names = npz_names(path)
    arrays = dict(zip(names, npz_arrays(path, names), strict=True))
    try:
        metadata = json.loads(str(arrays["metadata"]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, its metadata are not JSON ({error}); delete it") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: damaged, its metadata are not an object; delete it")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"{path}: format version {metadata.get('version')}; this program reads version {_VERSION}")
    forms = {name: (array.dtype.kind, array.ndim) for name, array in arrays.items()}
    if forms != {**_FORMS, "metadata": ("U", 0)}:
        raise ValueError(f"{path}: the arrays are not of the kinds of stored proposals")
    ids = tuple(arrays["image_ids"].tolist())
    store = Store(arrays["boxes"], arrays["offsets"], ids, arrays["indices"], metadata)
    whole = len(store.offsets) == len(ids) + 1 == len(store.indices) + 1 and store.boxes.shape == (store.offsets[-1], 4)
    if not whole or store.offsets[0] != 0 or (np.diff(store.offsets) < 0).any():
        raise ValueError(f"{path}: the arrays do not fit together")
    return store


def npz_names(path: Path) -> list[str]:
    """Names of the arrays of an .npz file.

    Raises:
        ValueError: the file is not an .npz file or is damaged.
    """
    with _opened(path) as content:
        return list(content)


def npz_arrays(path: Path, names: Iterable[str]) -> Iterator[np.ndarray]:
    """Arrays of an .npz file, one at a time.

    Raises:
        ValueError: the file is not an .npz file, is damaged, or holds pickled objects.
    """
    with _opened(path) as content:
        for name in names:
            yield content[name]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    try:
        with open_npz(path) as content:
            yield content
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as an .npz file ({error})") from None


def is_store(path: Path) -> bool:
    """True for an .npz file in the format above, of any version.

    Raises:
        ValueError: the file is not an .npz file or is damaged.
    """
    if not {"boxes", "offsets", "image_ids", "indices", "metadata"} <= set(npz_names(path)):
        return False
    (metadata,) = npz_arrays(path, ["metadata"])
    return metadata.dtype.kind == "U" and metadata.ndim == 0 and f'"{_FORMAT}"' in str(metadata)
