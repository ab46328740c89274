"""Work in a thread beside the training, one task at a time; its errors are raised in the thread that started it."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["Background", "copy_to_host"]


class Background:
    """A thread for each task; the next task begins when the previous one has ended."""

    def __init__(self):
        self._ended = threading.Event()
        self._ended.set()
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` when the previous task has ended; does it in this thread if no other can be started.

        Raises:
            Exception: the error of the previous task.
        """
        self.wait()
        self._ended.clear()
        # A daemon thread, as a process that must end at once cannot wait for it.
        thread = threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system has none left
            self._run(work)

    def wait(self) -> None:
        """Waits for the end of the task.

        Raises:
            Exception: its error, once.
        """
        # An interrupted `Thread.join` would return at once the next time (Python before 3.13).
        self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises the error of the previous task, once; does not wait."""
        if self._ended.is_set() and self._error is not None:  # no thread writes it any more
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
    """The arrays of a tree as NumPy arrays that share no memory with the device's."""
    # On a CPU `device_get` gives views of buffers that the next step may reuse.
    return jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(tree))
