"""The end of a command by Ctrl-C or SIGTERM, also while its main thread is in compiled code.

SIGTERM interrupts a command like Ctrl-C, so that unfinished files are removed. XLA compiles a large network for
minutes, and Python's signal handlers wait that long. A thread learns of the signals from the system and ends the
process if the main thread does not.

The last words may have no reader any more: in `frcnn ... 2>&1 | tee log`, Ctrl-C ends `tee` too.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

__all__ = [
    "REPEATED",
    "Terminated",
    "ended_by_signals",
    "exit_status",
    "print_if_read",
    "say",
    "set_unsaved",
    "watched_signals",
]

GRACE = 20.0  # seconds from a signal to the end of a process that has nothing to lose
AGAIN = 1.0  # the same after a second signal
REPEATED = 0.5  # sooner than this, a second signal counts as the first: GNU timeout sends its signal twice
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_unsaved = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM, which interrupts a command like Ctrl-C."""


def exit_status(error: KeyboardInterrupt) -> int:
    """Exit status of a command that was interrupted: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def say(text: str) -> None:
    """Writes a text to stderr if that can be written; for handlers and threads, where `print` may be under way."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def print_if_read(text: str) -> None:
    """Prints a line to stderr; if nothing reads it any more, stderr is dropped from then on."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Python would flush it once more at the end, and change the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def set_unsaved(unsaved: bool) -> None:
    """Sets whether the process has unsaved work; if so, the first signal does not end it."""
    if unsaved:
        _unsaved.set()
    else:
        _unsaved.clear()


@contextlib.contextmanager
def ended_by_signals(last_words: str) -> Iterator[None]:
    """A block in which SIGTERM raises `Terminated`, and a signal ends the process, with status 128 + its number, if its
    handler in Python does not; see `watched_signals`.

    In other threads than the main one, and in programs that watch signals themselves, the block changes nothing. A
    handler that the program has set for SIGTERM stays.

    Args:
        last_words: text for stderr before such an end.
    """
    if threading.current_thread() is not threading.main_thread() or _are_watched():
        yield
        return
    terminates = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with watched_signals(partial(_exit, last_words), GRACE):
        if terminates:
            signal.signal(signal.SIGTERM, _terminate)
        try:
            yield
        finally:
            if terminates:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def watched_signals(end: Callable[[int], NoReturn], grace: float) -> Iterator[None]:
    """A block, in the main thread, in which a signal ends the process if its handler in Python does not.

    The handler has `grace` seconds after the first signal, without a limit while work is unsaved, and `AGAIN` seconds
    after the second. Replaces another watcher until the block is left.

    Args:
        end: ends the process; called in a thread, with the number of the last signal.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    thread = threading.Thread(target=_watch, args=(read, end, grace), name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        write.close()
        thread.join()
        read.close()


def _watch(read: socket.socket, end: Callable[[int], NoReturn], grace: float) -> None:
    seen, first, deadline = [], 0.0, None
    while True:
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0)
        if not select.select([read], [], [], remaining)[0]:
            if len(seen) == 1 and _unsaved.is_set():  # work that has begun since
                deadline = None
                continue
            end(seen[-1])
        numbers = read.recv(64)
        if not numbers:  # the block is left
            return
        now, numbers = time.monotonic(), [number for number in numbers if number in _SIGNALS]
        if numbers and not seen:
            seen, first = numbers[:1], now
            deadline = None if _unsaved.is_set() else now + grace
        elif numbers and now - first >= REPEATED:
            seen += numbers
            deadline = now + AGAIN


def _are_watched() -> bool:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    return before != -1


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _exit(last_words: str, number: int) -> NoReturn:
    try:
        say(last_words)
    finally:
        os._exit(128 + number)
