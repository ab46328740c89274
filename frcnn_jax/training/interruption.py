"""Ctrl-C and SIGTERM, by which schedulers stop a job: they take effect at the end of a training step."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from frcnn_jax.distributed.talk import is_first
from frcnn_jax.signals import REPEATED, print_if_read, say, set_unsaved

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = "\nStopping after this step; again to stop at once\n"


def report_ignored_ctrl_c() -> None:
    """Prints to stderr how to stop a process that ignores SIGINT, such as a background process of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and is_first():
        print_if_read(
            f"Ctrl-C (SIGINT) is ignored, as this process was started so; stop it by SIGTERM: kill {os.getpid()}"
        )


def say_stopped(step: int, steps: int) -> None:
    """Prints to stderr the step that a stopped training has made and saved last."""
    if is_first():
        print_if_read(
            f"Stopped after step {step} of {steps}; its checkpoint is written, and the same command resumes from it"
        )


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Holds SIGINT and SIGTERM back and yields a function that is true once one has arrived.

    The signal takes its usual effect when the block is left; if the process survives that, KeyboardInterrupt is raised.
    A second signal, at least half a second after the first, takes effect at once. In the block work counts as unsaved,
    unless `set_unsaved` says otherwise. Signals that are ignored, or handled outside Python, are not held back, and
    none is in other threads than the main one, which receive no signals.
    """
    received: list[int] = []
    since = 0.0
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    deferred = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    if threading.current_thread() is not threading.main_thread():
        deferred = {}

    def restore() -> None:
        for number, handler in deferred.items():
            signal.signal(number, handler)

    def hold(number: int, _: object) -> None:
        nonlocal since
        if received:
            if time.monotonic() - since >= REPEATED:
                restore()
                signal.raise_signal(number)
            return
        since = time.monotonic()
        received.append(number)
        if is_first():  # one line for all processes, as they stop together
            say(_NOTICE)

    for number in deferred:
        signal.signal(number, hold)
    set_unsaved(True)
    try:
        yield lambda: bool(received)
    finally:
        set_unsaved(False)
        restore()
    if received:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # its reader may have ended by the same signal
                stream.flush()
        signal.raise_signal(received[0])
        raise KeyboardInterrupt
