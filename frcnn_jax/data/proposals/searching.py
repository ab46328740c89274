"""The search for proposals in many images at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.proposals.selective_search import selective_search
from frcnn_jax.machine import cores

__all__ = ["search_images"]


def search_images(
    dataset: Dataset, indices: Sequence[int], arguments: Mapping[str, Any], workers: int = 0
) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Index and proposals of each of the images `indices` of a data set, in order of completion.

    Threads suffice, as OpenCV releases the interpreter's lock. Unlike processes they end with a program that is
    killed, and do not import it again.

    Args:
        arguments: of `selective_search`.
        workers: number of threads; 0 is all cores.

    Raises:
        ValueError: an image cannot be decoded; names it.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    workers = workers or cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="proposals")
    running: dict[Future, int] = {}
    try:
        for index in indices:
            running[pool.submit(_search, dataset, index, arguments)] = index
            if len(running) >= 2 * workers:
                yield from _collect(running, dataset)
        while running:
            yield from _collect(running, dataset)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _search(dataset: Dataset, index: int, arguments: Mapping[str, Any]) -> Float[np.ndarray, "P 4"]:
    return selective_search(dataset.read_image(index), **arguments)


def _collect(running: dict[Future, int], dataset: Dataset) -> Iterator[tuple[int, Float[np.ndarray, "P 4"]]]:
    """Removes completed tasks from `running`; waits for at least one."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        index = running.pop(future)
        try:
            boxes = future.result()
        except (ValueError, cv2.error) as error:
            raise ValueError(f"{dataset.name}: image {dataset.image_ids[index]}: {error}") from error
        yield index, boxes
