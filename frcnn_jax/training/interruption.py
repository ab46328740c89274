"""Ctrl-C and SIGTERM, the notice of schedulers that a machine is taken away, wait for the end of a step."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from frcnn_jax.distributed.talk import is_first
from frcnn_jax.signals import REPEATED, set_unsaved

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nStopping after this step; again to stop at once\n"


def report_ignored_ctrl_c() -> None:
    """Says on stderr how to stop a process that ignores SIGINT, as background processes of shells and schedulers do."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and is_first():
        print(
            f"Ctrl-C (SIGINT) is ignored, as this process was started so; stop it by SIGTERM: kill {os.getpid()}",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Holds SIGINT and SIGTERM back and yields a function that is true once one has arrived.

    On leaving it has the effect that it would have had; if the process outlives that, KeyboardInterrupt is raised. A
    second signal, half a second or more after it, is not held back. In the block work counts as unsaved, unless
    `set_unsaved` says otherwise. Signals that are ignored, or handled outside Python, are left alone, and so are all of
    them in other threads than the main one, which gets none.
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
        if is_first():  # of several processes, which all stop
            # A print is not reentrant: this handler could interrupt one.
            os.write(2, _NOTICE)

    for number in deferred:
        signal.signal(number, hold)
    set_unsaved(True)
    try:
        yield lambda: bool(received)
    finally:
        set_unsaved(False)
        restore()
    if received:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.raise_signal(received[0])
        raise KeyboardInterrupt
