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
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` once the piece before has ended.

        Raises:
            Exception: the error of the piece before.
        """
        self.wait()
        # A daemon: a process that is ended at once does not wait for it.
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when nothing is being worked on.

        Raises:
            Exception: the error of the piece before, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises the error of the piece before, once; waits for nothing."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


def copy_to_host(tree: Any) -> Any:
    """The arrays of a tree as NumPy arrays of their own, whatever becomes of those on the device."""
    # On a CPU `device_get` gives views of buffers that the next step may reuse.
    return jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(tree))
