"""Region proposals of a data set: computed and stored per image, or read from a file."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.proposals.files import iterate_proposal_file
from frcnn_jax.data.proposals.legacy import read_legacy
from frcnn_jax.data.proposals.searching import search_images
from frcnn_jax.data.proposals.selected import select_each
from frcnn_jax.data.proposals.selective_search import search_settings
from frcnn_jax.data.proposals.store import Place, ProposalStore
from frcnn_jax.progress import Progress

__all__ = ["Proposals", "open_joined_proposals", "open_proposals", "proposal_files", "validation_file"]

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_SEGMENTS = 5.0
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Proposals(Sequence):
    """Boxes [P, 4] of each image of a data set, in its order."""

    def __init__(self, parts: Sequence[Float[np.ndarray, "T 4"]], places: Int[np.ndarray, "N 3"], computed: int = 0):
        """
        Args:
            parts: arrays with the boxes of several images, maybe mapped from disk.
            places: part, start and stop of each image's boxes.
            computed: number of images that were not on disk before.
        """
        self._parts, self._places, self.computed = tuple(parts), places, computed

    @classmethod
    def from_arrays(cls, arrays: Sequence[Float[np.ndarray, "P 4"]], computed: int = 0) -> Proposals:
        ends = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        places = np.stack([np.zeros(len(arrays), np.int64), ends[:-1], ends[1:]], axis=1)
        return cls([np.concatenate([np.zeros((0, 4), np.float32), *arrays])], places, computed)

    @classmethod
    def on_disk(cls, arrays: Iterable[Float[np.ndarray, "P 4"]], folder: Path) -> Proposals:
        """From an iterator over images, through an unnamed temporary file that is mapped into memory."""
        with tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None) as file:
            counts = [0]
            for boxes in arrays:
                file.write(np.ascontiguousarray(boxes, np.float32).tobytes())
                counts.append(len(boxes))
            file.flush()
            ends = np.cumsum(counts, dtype=np.int64)
            if not ends[-1]:
                return cls.from_arrays([np.zeros((0, 4), np.float32)] * (len(counts) - 1))
            boxes = np.memmap(file, np.float32, "r", shape=(int(ends[-1]), 4)).view(np.ndarray)
        return cls([boxes], np.stack([np.zeros(len(counts) - 1, np.int64), ends[:-1], ends[1:]], axis=1))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Float[np.ndarray, "P 4"]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Float[np.ndarray, "P 4"]]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, start, stop = self._places[range(len(self))[index]].tolist()
        return self._parts[part][start:stop]


def proposal_files(config: ProposalConfig, train: Sequence[str]) -> tuple[tuple[str | None, ...], str | None]:
    """The proposal files of the training sets `train` and of the test set; None if the method computes proposals.

    Raises:
        ValueError: with method `file`, the numbers of files and data sets differ.
    """
    if config.method != "file":
        return (None,) * len(train), None
    if len(config.train_files) != len(train):
        raise ValueError(
            f"proposals.train_files: {len(config.train_files)} files for {len(train)} data sets ({', '.join(train)})"
        )
    if config.test_file is None:
        raise ValueError("proposals.test_file: not set, and proposals.method is 'file'")
    return config.train_files, config.test_file


def validation_file(config: ProposalConfig, validation: str | None, test: str) -> str | None:
    """The file of the set `validation`, or of `test` if that is the same or None; None if the method computes
    proposals.

    Raises:
        ValueError: with method `file`, it is not set.
    """
    if config.method != "file":
        return None
    name = "test_file" if validation in (None, test) else "validation_file"
    if getattr(config, name) is None:
        raise ValueError(f"proposals.{name}: not set, and proposals.method is 'file'")
    return getattr(config, name)


def open_proposals(
    dataset: Dataset, config: ProposalConfig, file: str | None = None, *, progress: bool = True
) -> Proposals:
    """The proposals of all images of `dataset`.

    With method `file` they are read from `file`. Otherwise they come from the store in the data set's shared directory,
    or are the first ones in a store with a larger `max_count`; missing ones are computed on all cores and added. After
    an interruption the computation resumes with the missing images. If several processes need the same proposals, one
    computes and the others wait.

    Args:
        progress: show a progress bar.

    Raises:
        ValueError: the file does not fit the data set or holds invalid boxes, or an image cannot be decoded.
        OSError: proposals are missing and the store cannot be written.
    """
    if config.method == "file":
        if file is None:
            raise ValueError(f"proposals.method is 'file', but no file is given for the data set {dataset.name}")
        arrays = iterate_proposal_file(file, dataset.image_ids, dataset.sizes, config.invalid)
        return Proposals.on_disk(select_each(arrays, config, file), dataset.shared_directory)

    arguments = search_settings(config)
    settings = {"method": config.method, **arguments}
    store = ProposalStore(dataset.shared_directory, settings)
    keys = [dataset.image_fingerprint(index) for index in range(len(dataset))]
    computed, longer = 0, {}
    if len(store.find(keys)) < len(set(keys)):
        longer = _first_boxes(store, keys, config.max_count)
    if len(store.find(keys) | longer) < len(set(keys)):
        earlier = read_legacy(dataset, settings)
        try:
            with store.lock():
                store.merge()
                known = store.find(keys)
                store.add({key: earlier[key] for key in keys if key in earlier and key not in known})
                store.refresh()
                missing = _missing(keys, longer | store.find(keys))
                computed, total = len(missing), len(set(keys))
                _log_start(store, dataset.name, computed, total)
                title, done = f"proposals of {dataset.name}", total - computed
                bar = Progress(total=total, initial=done, desc=title, unit="image", disable=not progress)
                with bar, closing(search_images(dataset, missing, arguments, config.workers)) as found:
                    _add_all(store, keys, found, bar)
                store.merge()
        except OSError as error:
            if error.errno not in _READ_ONLY or not set(keys) <= set(earlier):
                raise
            return Proposals.from_arrays([earlier[key] for key in keys])
    places = longer | store.find(keys)
    segments = {id(segment): segment for segment, _, _ in places.values()}
    number = {key: i for i, key in enumerate(segments)}
    rows = [(number[id(places[key][0])], *places[key][1:]) for key in keys]
    parts = [segment.boxes for segment in segments.values()]
    return Proposals(parts, np.array(rows, np.int64).reshape(-1, 3), computed)


def open_joined_proposals(
    parts: Sequence[Dataset], config: ProposalConfig, files: Sequence[str | None]
) -> Sequence[Float[np.ndarray, "P 4"]]:
    """The proposals of all images of `join_datasets(parts)`, with a file for each part; errors as `open_proposals`."""
    opened = [open_proposals(part, config, file) for part, file in zip(parts, files, strict=True)]
    return opened[0] if len(opened) == 1 else [boxes for proposals in opened for boxes in proposals]


def _first_boxes(store: ProposalStore, keys: Sequence[str], count: int) -> dict[str, Place]:
    """The first `count` boxes of the images in stores with more boxes, which are those that a search would find."""
    found = {key: place for longer in store.longer() for key, place in longer.find(keys).items()}
    return {key: (segment, start, min(stop, start + count)) for key, (segment, start, stop) in found.items()}


def _missing(keys: Sequence[str], known: Mapping[str, Place]) -> list[int]:
    """Positions of the images to search: equal images once."""
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    return sorted(index for key, index in first.items() if key not in known)


def _log_start(store: ProposalStore, name: str, missing: int, total: int) -> None:
    if 0 < missing < total:
        _log.info("%s: going on after %d of %d images", name, total - missing, total)
    elif missing and (others := store.others()):
        text = "%s: searching with other settings than before (%s); the proposals of the earlier ones (%s) are kept"
        _log.info(text, name, store.folder.name, ", ".join(others))


def _add_all(
    store: ProposalStore, keys: Sequence[str], found: Iterable[tuple[int, Float[np.ndarray, "P 4"]]], bar: Progress
) -> None:
    """Adds the boxes to the store every few seconds, and the last ones at the end or when the search is stopped."""
    fresh: dict[str, Float[np.ndarray, "P 4"]] = {}
    written = time.monotonic()
    try:
        for index, boxes in found:
            fresh[keys[index]] = boxes
            bar.update()
            if time.monotonic() - written >= _SECONDS_BETWEEN_SEGMENTS:
                store.add(fresh)
                fresh, written = {}, time.monotonic()
    finally:
        store.add(fresh)
