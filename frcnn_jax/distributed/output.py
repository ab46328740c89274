"""Output of all processes except the first: nothing to stdout, and numbered lines to stderr."""

import logging
import os
import sys
from typing import TextIO

__all__ = ["NumberedLines", "mark_output"]


class NumberedLines:
    """A text stream that writes whole lines, each prefixed with a number, and drops progress bars.

    A progress bar is the text after a carriage return in one call of `write`; the next call may begin a message. Text
    after a carriage return and blanks, which erase a bar, is a message too.
    """

    def __init__(self, stream: TextIO, number: int):
        self._stream, self._mark, self._line = stream, f"[{number}] ", ""
        self._redrawn = False  # the line began with a bar
        self.encoding, self.errors = stream.encoding, stream.errors

    def write(self, text: str) -> int:
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

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def mark_output(number: int) -> None:
    """Makes this process, unless it is the first, print nothing to stdout and only numbered lines to stderr."""
    if number == 0:
        return
    before, sys.stderr = sys.stderr, NumberedLines(sys.stderr, number)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)  # gloo prints to it
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    # Process 0 prints the common lines.
    logging.getLogger("frcnn_jax").setLevel(logging.WARNING)
