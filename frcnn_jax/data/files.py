"""Many files at once: in as many threads as there are cores, and their hashes."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from frcnn_jax.machine import cores

__all__ = ["file_hash", "map_in_threads"]


def map_in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`function` of each item in order; an interrupt does not wait for the rest."""
    pool = ThreadPoolExecutor(cores())
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; the name of the error where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return type(error).__name__
