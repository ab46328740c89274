"""The output of a command where nothing reads it any more, as in `frcnn ... | head`, or where it cannot be encoded."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

_CLOSED_OUTPUT = 141  # exit status of a process that SIGPIPE ends, as a shell states it


@contextlib.contextmanager
def ended_by_closed_output() -> Iterator[None]:
    """A block after which the process ends without a message if nothing reads its standard output any more, as in
    `frcnn ... | head`.
    """
    try:
        yield
    except BrokenPipeError:
        if not _is_closed(sys.stdout):  # it is of another pipe
            raise
        sys.exit(_CLOSED_OUTPUT)
    finally:
        _flush(sys.stdout)
        _flush(sys.stderr)


def _is_closed(stream: TextIO | None) -> bool:
    """True if nothing reads a stream any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, AttributeError):  # without a file of the system
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _flush(stream: TextIO | None) -> None:
    """Flushes a stream; if nothing reads it any more, its output is dropped from then on."""
    try:
        if stream is not None:  # None: the process was started without it
            stream.flush()
    except BrokenPipeError:
        # Python would flush it once more at the end, and report the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_stdout() -> None:
    """Makes stdout escape what its encoding lacks, as a file name that is not UTF-8, and write each line at once: in a
    log they stay in order with those of stderr, which does both already.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        errors = "backslashreplace" if sys.stdout.errors == "strict" else sys.stdout.errors
        sys.stdout.reconfigure(errors=errors, line_buffering=True)
