"""Ctrl-C and SIGTERM, by which schedulers announce that a machine is taken away, wait for the end of a step."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from frcnn_jax.distributed.talk import is_first
from frcnn_jax.signals import set_unsaved

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nStopping after this step; again to stop at once\n"


def report_ignored_ctrl_c() -> None:
    """Says on stderr how to stop a process that ignores SIGINT, as shells and schedulers start it in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and is_first():
        print(
            f"Ctrl-C (SIGINT) is ignored, as this process was started so; stop it by SIGTERM: kill {os.getpid()}",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Holds SIGINT and SIGTERM back and yields a function that tells whether one has come.

    On leaving it has the effect that it would have had; if the process outlives that, KeyboardInterrupt is raised.
    A second signal is not held back. In the block work counts as unsaved, unless `set_unsaved` says otherwise. Signals
    that are ignored, or handled outside Python, are left alone, and so are all of them in other threads than the main
    one, which gets none.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    held = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    if threading.current_thread() is not threading.main_thread():
        held = {}

    def restore() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)

    def hold(number: int, _: object) -> None:
        restore()
        received.append(number)
        if is_first():  # of several processes, which all stop
            # A print could be interrupted by this very handler, which its buffer does not bear.
            os.write(2, _NOTICE)

    for number in held:
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
