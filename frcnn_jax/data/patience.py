"""A timeout for batches: a read from a disk or network that no longer answers neither returns nor fails."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from frcnn_jax.words import listed

__all__ = ["PatientIterator"]

_SHOWN = 5  # images in a message


class PatientIterator:
    """Wraps an iterator with a timeout for each item.

    Args:
        iterator: `get_state` and `set_state` are passed on to it.
        seconds: the timeout.
        being_read: returns the names of the images that are being read at that moment.

    Raises:
        TimeoutError: an item took longer; names the images. The reading thread keeps running, so the iterator cannot be
            used any more.
    """

    def __init__(self, iterator: Any, seconds: float, being_read: Callable[[], Sequence[str]]):
        self._iterator, self._seconds, self._being_read = iterator, seconds, being_read
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="batches", daemon=True).start()

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        self._requests.put(True)
        try:
            item, error = self._results.get(timeout=self._seconds)
        except queue.Empty:
            names = list(self._being_read())
            images = listed(names, _SHOWN) or "no image"
            raise TimeoutError(
                f"no batch came within {self._seconds:g} s (input.read_timeout); being read: {images}. Checkpoints are "
                "unchanged. Check that the disk or the network answers, and start the same command again"
            ) from None
        if error is not None:
            raise error
        return item

    def get_state(self) -> Any:
        return self._iterator.get_state()

    def set_state(self, state: Any) -> None:
        self._iterator.set_state(state)

    def close(self) -> None:
        """Ends the thread, unless it is in a read."""
        self._requests.put(False)

    def _serve(self) -> None:
        while self._requests.get():
            try:
                self._results.put((next(self._iterator), None))
            except BaseException as error:
                self._results.put((None, error))
