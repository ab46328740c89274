"""Progress bars whose remaining time leaves out work that happens only once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["paused_clock"]


@contextmanager
def paused_clock(progress: tqdm, text: str) -> Iterator[None]:
    """Shows a text on a bar during the block, whose time does not count for the bar."""
    if progress.disable:  # a disabled bar has no clock
        yield
        return
    started, before = time.perf_counter(), progress.postfix or ""
    progress.set_postfix_str(text)
    yield
    progress.set_postfix_str(before, refresh=False)
    seconds = time.perf_counter() - started
    progress.start_t += seconds
    progress.last_print_t += seconds
