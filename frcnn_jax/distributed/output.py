"""What processes but the first print: nothing to stdout, and lines with their number to stderr."""

import logging
import os
import sys
from typing import TextIO

__all__ = ["NumberedLines", "mark_output"]


class NumberedLines:
    """A text stream that writes whole lines with a number before each, and leaves progress bars out."""

    def __init__(self, stream: TextIO, number: int):
        self._stream, self._mark, self._line = stream, f"[{number}] ", ""
        self.encoding, self.errors = stream.encoding, stream.errors

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        # A progress bar begins at the left again and again.
        shown = [line for line in lines if "\r" not in line]
        if shown:
            self._stream.write("".join(f"{self._mark}{line}\n" for line in shown))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def mark_output(number: int) -> None:
    """Has this process, unless it is the first, print nothing to stdout, and to stderr only lines with its number."""
    if number == 0:
        return
    before, sys.stderr = sys.stderr, NumberedLines(sys.stderr, number)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)  # gloo prints to it
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    # Process 0 says what they have in common.
    logging.getLogger("frcnn_jax").setLevel(logging.WARNING)
