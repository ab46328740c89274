"""Region proposals of a data set: computed on all cores and stored per image, or read from a file."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.proposals.files import iterate_proposal_file
from frcnn_jax.data.proposals.legacy import read_legacy
from frcnn_jax.data.proposals.selective_search import search_settings, selective_search
from frcnn_jax.data.proposals.store import Place, ProposalStore
from frcnn_jax.machine import cores
from frcnn_jax.progress import Progress

__all__ = ["Proposals", "open_joined_proposals", "open_proposals", "proposal_files", "select_proposals"]

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
        return Proposals.on_disk(_select(arrays, config, file), dataset.shared_directory)

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
                search = partial(_search, dataset, **arguments)
                computed = _complete(store, dataset, keys, longer, search, config.workers or cores(), progress)
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


def _complete(
    store: ProposalStore,
    dataset: Dataset,
    keys: Sequence[str],
    elsewhere: Mapping[str, Place],
    search: Any,
    workers: int,
    progress: bool,
) -> int:
    """Searches the images that are neither in the store nor elsewhere, equal images once, and adds them; returns their
    number.
    """
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    known = elsewhere | store.find(keys)
    todo = sorted(index for key, index in first.items() if key not in known)
    if known and todo:
        _log.info("%s: going on after %d of %d images", dataset.name, len(known), len(first))
    elif todo and (others := store.others()):
        text = "%s: searching with other settings than before (%s); the proposals of the earlier ones (%s) are kept"
        _log.info(text, dataset.name, store.folder.name, ", ".join(others))
    fresh: dict[str, Float[np.ndarray, "P 4"]] = {}
    written = time.monotonic()
    title = f"proposals of {dataset.name}"
    bar = Progress(total=len(first), initial=len(known), desc=title, unit="image", disable=not progress)
    try:
        with closing(_compute(dataset, todo, search, workers)) as results:
            for index, boxes in results:
                fresh[keys[index]] = boxes
                bar.update()
                if time.monotonic() - written >= _SECONDS_BETWEEN_SEGMENTS:
                    store.add(fresh)
                    fresh, written = {}, time.monotonic()
    finally:
        bar.close()
        store.add(fresh)
    return len(todo)


def _search(dataset: Dataset, index: int, **arguments: Any) -> Float[np.ndarray, "P 4"]:
    return selective_search(dataset.read_image(index), **arguments)


def _compute(
    dataset: Dataset, todo: Sequence[int], search: Any, workers: int
) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Position and boxes of each image, in order of completion.

    Threads suffice, as OpenCV releases the interpreter's lock. Unlike processes they end with a program that is
    killed, and do not import it again.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="proposals")
    running: dict[Future, int] = {}
    try:
        for index in todo:
            running[pool.submit(search, index)] = index
            if len(running) >= 2 * workers:
                yield from _collect(running, dataset)
        while running:
            yield from _collect(running, dataset)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _collect(running: dict[Future, int], dataset: Dataset) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Removes completed tasks from `running`; waits for at least one."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        index = running.pop(future)
        try:
            boxes = future.result()
        except (ValueError, cv2.error) as error:
            raise ValueError(f"{dataset.name}: image {dataset.image_ids[index]}: {error}") from error
        yield index, boxes


def select_proposals(
    arrays: Sequence[Float[np.ndarray, "P 4"]], config: ProposalConfig, source: str
) -> list[Float[np.ndarray, "P 4"]]:
    """At most `max_count` boxes of each image, without those below `min_side`; the number of skipped boxes is logged.

    The first ones are kept, as the best come first. But the original's files are sorted by position, from top to
    bottom: there every n-th box is kept, or the lower part of the image would have none.
    """
    return list(_select(arrays, config, source))


def _select(
    arrays: Iterable[Float[np.ndarray, "P 4"]], config: ProposalConfig, source: str
) -> Iterator[Float[np.ndarray, "P 4"]]:
    total = small = surplus = 0
    for boxes in arrays:
        large = boxes[(boxes[:, 2:] - boxes[:, :2] >= config.min_side).all(axis=1)]
        kept = _limit(large, config.max_count)
        total, small = total + len(boxes), small + len(boxes) - len(large)
        surplus += len(large) - len(kept)
        yield kept
    if small or surplus:
        _log.info("%s: of %d boxes, left out %d below min_side, %d beyond max_count", source, total, small, surplus)


def _limit(boxes: Float[np.ndarray, "P 4"], count: int) -> Float[np.ndarray, "D 4"]:
    if len(boxes) <= count:
        return boxes
    x1, y1, x2, y2 = boxes.T
    in_order = np.arange(len(boxes))
    if any(np.array_equal(np.lexsort(keys), in_order) for keys in ((x2, y2, x1, y1), (y2, x2, y1, x1))):
        return boxes[np.arange(count) * len(boxes) // count]
    return boxes[:count]
