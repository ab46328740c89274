"""Region proposals of a data set: computed in all cores and kept beside it, or read from a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.data.proposals.selective_search import search_settings, selective_search
from frcnn_jax.data.proposals.store import StoreKey, read_parts, read_store, remove_parts, write_part, write_store
from frcnn_jax.machine import cores

__all__ = ["Proposals", "open_proposals", "proposal_files", "select_proposals"]

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_PARTS = 5.0


class Proposals(Sequence):
    """Boxes [P, 4] of each image of a data set, in its order."""

    def __init__(self, boxes: Float[np.ndarray, "T 4"], offsets: Int[np.ndarray, " N+1"], computed: int = 0):
        """`boxes[offsets[i] : offsets[i + 1]]` belong to image i; `computed` images were not on disk before."""
        self._boxes, self._offsets, self.computed = boxes, offsets, computed

    @classmethod
    def from_arrays(cls, arrays: Sequence[Float[np.ndarray, "P 4"]], computed: int = 0) -> Proposals:
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays], dtype=np.int64)])
        return cls(np.concatenate([np.zeros((0, 4), np.float32), *arrays]), offsets.astype(np.int64), computed)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Float[np.ndarray, "P 4"]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Float[np.ndarray, "P 4"]]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._boxes[self._offsets[position] : self._offsets[position + 1]]


def proposal_files(config: ProposalConfig, train: Sequence[str]) -> tuple[tuple[str | None, ...], str | None]:
    """The files of the training sets `train` and of the test set; None for each with a method that computes.

    Raises:
        ValueError: with method `file`, there is not one for each.
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


def open_proposals(
    dataset: Any, config: ProposalConfig, file: str | None = None, *, progress: bool = True
) -> Proposals:
    """The proposals of all images of `dataset`.

    They are read from `file` with method `file`; else taken from the store beside the data set, or computed in all
    cores and stored there. Interrupted or killed, the computation goes on with the images that are missing.

    Args:
        dataset: a `VocDataset`.
        progress: show a progress bar.

    Raises:
        ValueError: the file does not fit the data set or holds invalid boxes, or the stored proposals were made from
            other data.
    """
    if config.method == "file":
        if file is None:
            raise ValueError(f"proposals.method is 'file', but no file is given for the data set {dataset.name}")
        arrays = read_proposal_file(file, dataset.image_ids, dataset.sizes, config.invalid)
        return Proposals.from_arrays(select_proposals(arrays, config, file))

    settings = search_settings(config)
    key = StoreKey(dataset.name, legacy_fingerprint(dataset), {"method": config.method, **settings})
    path = key.path(dataset.directory)
    if path.exists():
        return _load(path, key, dataset)
    search = partial(_search, **settings)
    done = read_parts(path, key)
    if done:
        _log.info("%s: going on after %d of %d images", dataset.name, len(done), len(dataset))
    todo = [index for index in range(len(dataset)) if index not in done]
    fresh: dict[int, Float[np.ndarray, "P 4"]] = {}
    written = time.monotonic()
    title = f"proposals of {dataset.name}"
    bar = tqdm(total=len(dataset), initial=len(done), desc=title, unit="image", disable=not progress)
    try:
        with closing(_compute(dataset, todo, search, config.workers or cores())) as results:
            for index, boxes in results:
                fresh[index] = boxes
                bar.update()
                if time.monotonic() - written >= _SECONDS_BETWEEN_PARTS:
                    write_part(path, key, fresh, dataset.image_ids)
                    done, fresh, written = done | fresh, {}, time.monotonic()
    finally:
        bar.close()
        if fresh:
            write_part(path, key, fresh, dataset.image_ids)
    done |= fresh
    write_store(path, key, done, dataset.image_ids)
    remove_parts(path)
    return Proposals.from_arrays([done[index] for index in range(len(dataset))], computed=len(todo))


def _search(data: bytes, **arguments: Any) -> Float[np.ndarray, "P 4"]:
    return selective_search(decode_image(data), **arguments)


def _compute(
    dataset: Any, todo: Sequence[int], search: Any, workers: int
) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Position and boxes of each image, as they get done.

    Threads do: OpenCV lets go of the interpreter's lock while it searches. They leave nothing behind when the process
    is killed, and need no second interpreter that imports the program.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="proposals")
    running: dict[Future, int] = {}
    try:
        for index in todo:
            # The data set is read here, in one thread, and only a little ahead.
            running[pool.submit(search, dataset[index].image)] = index
            if len(running) >= 2 * workers:
                yield from _collect(running, dataset)
        while running:
            yield from _collect(running, dataset)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _collect(running: dict[Future, int], dataset: Any) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Takes what is done out of `running`; waits for the first."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        index = running.pop(future)
        try:
            boxes = future.result()
        except (ValueError, cv2.error) as error:
            raise ValueError(f"{dataset.name}: image {dataset.image_ids[index]}: {error}") from error
        yield index, boxes


def _load(path: Path, key: StoreKey, dataset: Any) -> Proposals:
    """The complete file, checked against the data set."""
    store = read_store(path)
    key.check(store, path)
    if store.image_ids != tuple(dataset.image_ids):
        raise ValueError(f"{path}: holds other images than {dataset.name}; move or delete it to compute them anew")
    remove_parts(path)
    return Proposals(store.boxes, store.offsets)


def select_proposals(
    arrays: Sequence[Float[np.ndarray, "P 4"]], config: ProposalConfig, source: str
) -> list[Float[np.ndarray, "P 4"]]:
    """At most `max_count` boxes of each image that are large enough; what was left out goes to the log.

    They are the first, as the best come first. The original's files, however, are sorted by position, from top to
    bottom: where boxes are, every n-th is taken, or none would be left of what is low in the image.
    """
    large = [boxes[(boxes[:, 2:] - boxes[:, :2] >= config.min_side).all(axis=1)] for boxes in arrays]
    kept = [_limit(boxes, config.max_count) for boxes in large]
    total, enough, final = (sum(map(len, step)) for step in (arrays, large, kept))
    if final < total:
        small, late = total - enough, enough - final
        _log.info("%s: of %d boxes, left out %d below min_side, %d beyond max_count", source, total, small, late)
    return kept


def _limit(boxes: Float[np.ndarray, "P 4"], count: int) -> Float[np.ndarray, "D 4"]:
    if len(boxes) <= count:
        return boxes
    x1, y1, x2, y2 = boxes.T
    in_order = np.arange(len(boxes))
    if any(np.array_equal(np.lexsort(keys), in_order) for keys in ((x2, y2, x1, y1), (y2, x2, y1, x1))):
        return boxes[np.arange(count) * len(boxes) // count]
    return boxes[:count]
