"""Progress bars on a terminal, lines in a file, and remaining times without work that happens only once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "paused_clock"]

_SECONDS = 10.0  # between two lines
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Progress(tqdm):
    """A bar of tqdm. Where stderr is a file or a pipe, such as the log of a batch job, it writes lines instead: the
    first and the last, a text of `paused_clock`, and one every 10 seconds in between.

    A bar that is to disappear (`leave=False`) has lines only while it runs. One that cannot be written ends no work.
    """

    def __init__(self, *args: Any, **settings: Any):
        stream = settings.get("file") or sys.stderr
        self._lines = not _redraws(stream)
        self._written, self._last = -_SECONDS, ""  # the time and text of the last line
        self.paused: float | None = None  # since when, by `paused_clock`
        if self._lines:
            settings = {"bar_format": _LINE} | settings | {"mininterval": _SECONDS, "maxinterval": _SECONDS}
        super().__init__(*args, **settings | {"file": None if stream is None else _Unfailing(stream)})

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = super().format_dict
        if self.paused is not None and (seconds := time.perf_counter() - self.paused) >= 1:
            facts["elapsed"] -= seconds
            facts["postfix"] = f"{facts['postfix']} ({seconds:.0f} s)"
        return facts

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self._lines:
            return super().display(msg, pos)
        text = str(self) if msg is None else msg
        if text and text != self._last:
            self.fp.write(f"{text}\n")
            self.fp.flush()
            self._written, self._last = time.monotonic(), text
        return False

    def refresh(self, *args: Any, **settings: Any) -> None:
        # Not all of it: the time since the last line was written is a moment shorter than since tqdm measured it.
        if not self._lines or time.monotonic() - self._written >= 0.9 * _SECONDS:
            super().refresh(*args, **settings)

    def clear(self, *args: Any, **settings: Any) -> None:
        if not self._lines:
            super().clear(*args, **settings)

    def close(self) -> None:
        if self._lines and not getattr(self, "disable", True) and self.leave and self._last:
            self.display()
            self.leave = False  # else an empty line follows
        super().close()


class _Unfailing:
    """A stream whose errors are dropped: Ctrl-C ends the reader of `frcnn ... 2>&1 | tee log` too, and work that is to
    be saved then goes on without a bar.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm clears the bar before a message to the same stream
        return self._stream == getattr(other, "_stream", other)

    __hash__ = None


def _redraws(stream: Any) -> bool:
    """True for a terminal, a notebook's output, and a stream that drops what is redrawn."""
    notebook = type(stream).__module__.startswith("ipykernel")
    return notebook or getattr(stream, "drops_bars", False) or bool(getattr(stream, "isatty", bool)())


@contextmanager
def paused_clock(progress: Progress, text: str) -> Iterator[None]:
    """Shows a text on a bar during the block, whose time does not count for the bar but stands behind the text."""
    if progress.disable:  # a disabled bar has no clock
        yield
        return
    before, progress.paused = progress.postfix or "", time.perf_counter()
    progress.set_postfix_str(text, refresh=False)
    progress.display()
    yield
    progress.set_postfix_str(before, refresh=False)
    seconds, progress.paused = time.perf_counter() - progress.paused, None
    progress.start_t += seconds
    progress.last_print_t += seconds
