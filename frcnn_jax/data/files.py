"""Parallel work on many files, one thread per core, and hashes of files."""

import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from frcnn_jax.machine import cores

__all__ = ["file_hash", "map_in_threads"]

_CHUNK = 32  # most items per task: handing over one costs as much as looking up a file


def map_in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`function(item)` of each item in order, computed a few items ahead; an interrupt does not wait for the rest."""
    workers = cores()
    size = min(max(len(items) // (4 * workers), 1), _CHUNK)
    items = iter(items)
    pool = ThreadPoolExecutor(workers)
    running: deque[Future] = deque()
    stopped = threading.Event()

    def apply(chunk: list[Any]) -> list[Any]:
        return [function(item) for item in chunk if not stopped.is_set()]

    try:
        while True:
            while len(running) < 4 * workers and (chunk := list(itertools.islice(items, size))):
                running.append(pool.submit(apply, chunk))
            if not running:
                return
            yield from running.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; the name of the error if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return type(error).__name__
