"""Work of one thread beside the training: one piece at a time, whose error reaches the thread that asked for it."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["Background", "copy_to_host"]


class Background:
    """A thread for each piece of work; the next one begins when the one before has ended."""

    def __init__(self):
        self._ended = threading.Event()
        self._ended.set()
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` once the piece before has ended.

        Raises:
            Exception: the error of the piece before.
        """
        self.wait()
        self._ended.clear()
        # A daemon: a process that is ended at once does not wait for it.
        threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True).start()

    def wait(self) -> None:
        """Returns when nothing is being worked on.

        Raises:
            Exception: the error of the piece before, once.
        """
        # An interrupted `Thread.join` would return at once the next time (Python before 3.13).
        self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises the error of the piece before, once; waits for nothing."""
        if self._ended.is_set() and self._error is not None:  # nobody else writes it then
            error, self._error = self._error, None
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()


def copy_to_host(tree: Any) -> Any:
    """The arrays of a tree as NumPy arrays of their own, whatever becomes of those on the device."""
    # On a CPU `device_get` gives views of buffers that the next step may reuse.
    return jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(tree))
