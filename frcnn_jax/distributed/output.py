"""Output of all processes except the first: nothing to stdout, and numbered lines to stderr."""

import atexit
import contextlib
import io
import logging
import os
import sys
from typing import TextIO

__all__ = ["NumberedLines", "end_output", "mark_output"]


class NumberedLines(io.TextIOBase):
    """A text stream that writes whole lines, each prefixed with a number, and drops progress bars.

    A progress bar is the text after a carriage return in one call of `write`; the next call may begin a message. Text
    after a carriage return and blanks, which erase a bar, is a message too. `close` and `end_line` write a line that
    has no break yet; the stream behind stays open.
    """

    drops_bars = True

    def __init__(self, stream: TextIO, number: int):
        self._stream, self._mark, self._line = stream, f"[{number}] ", ""
        self._redrawn = False  # the line began with a bar

    def write(self, text: str) -> int:
        if self.closed:
            raise ValueError("the stream is closed")
        *parts, rest = text.split("\n")
        shown = ""
        for part in parts:
            self._add(part.removesuffix("\r"))  # of a line that ends with both
            if self._line or not self._redrawn:
                shown += f"{self._mark}{self._line}\n"
            self._line, self._redrawn = "", False
        self._add(rest)
        if shown:
            self._stream.write(shown)
        return len(text)

    def _add(self, text: str) -> None:
        """Adds text without line breaks to the line; a carriage return erases what the line held."""
        *before, last = text.split("\r")
        if not before:
            self._line += last
            return
        self._redrawn = True
        self._line = last if before[-1].isspace() else ""

    def end_line(self) -> None:
        """Writes the text since the last line break as a line, if there is any."""
        if self._line:
            self.write("\n")
        self.flush()

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        if not self.closed:
            self.end_line()
        super().close()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str | None:
        return self._stream.encoding

    @property
    def errors(self) -> str | None:
        return self._stream.errors

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def mark_output(number: int) -> None:
    """Makes this process, unless it is the first, print nothing to stdout and only numbered lines to stderr."""
    if number == 0:
        return
    before, sys.stderr = sys.stderr, NumberedLines(sys.stderr, number)
    atexit.register(end_output)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)  # gloo prints to it
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    # Process 0 prints the common lines.
    logging.getLogger("frcnn_jax").setLevel(logging.WARNING)


def end_output() -> None:
    """Writes what is still to be written to stdout and stderr, if anything reads it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            if isinstance(stream, NumberedLines):
                stream.end_line()
            else:
                stream.flush()
