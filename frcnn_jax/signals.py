"""The end of a command by Ctrl-C or SIGTERM while its main thread is in compiled code.

XLA compiles a large network for minutes, and Python's signal handlers wait that long. A thread learns of the signals
from the system and ends the process if the main thread does not.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["REPEATED", "ended_by_signals", "set_unsaved"]

GRACE = 20.0  # seconds from a signal to the end of a process that has nothing to lose
AGAIN = 1.0  # the same after a second signal
REPEATED = 0.5  # sooner than this, a second signal counts as the first: GNU timeout sends its signal twice
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_unsaved = threading.Event()


def set_unsaved(unsaved: bool) -> None:
    """Sets whether the process has unsaved work; if so, `ended_by_signals` does not end it at the first signal."""
    if unsaved:
        _unsaved.set()
    else:
        _unsaved.clear()


@contextlib.contextmanager
def ended_by_signals(last_words: str) -> Iterator[None]:
    """A block in which a signal ends the process, with status 128 + its number, if its handler in Python does not.

    The handler has `GRACE` seconds after the first signal, without a limit while work is unsaved, and `AGAIN` seconds
    after the second. In other threads than the main one, and in programs that watch signals themselves, the block
    changes nothing.

    Args:
        last_words: text for stderr before such an end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = socket.socketpair()
    write.setblocking(False)
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
    thread = threading.Thread(target=_watch, args=(read, last_words.encode()), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        write.close()
        thread.join()
        read.close()


def _watch(read: socket.socket, last_words: bytes) -> None:
    seen, first, deadline = [], 0.0, None
    while True:
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0)
        if not select.select([read], [], [], remaining)[0]:
            os.write(2, last_words)
            os._exit(128 + seen[-1])
        numbers = read.recv(64)
        if not numbers:  # the block is left
            return
        now, numbers = time.monotonic(), [number for number in numbers if number in _SIGNALS]
        if numbers and not seen:
            seen, first = numbers[:1], now
            deadline = None if _unsaved.is_set() else now + GRACE
        elif numbers and now - first >= REPEATED:
            seen += numbers
            deadline = now + AGAIN
