"""Progress bars whose remaining time is that of the work, without what happens once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["none_of_its_time"]


@contextmanager
def none_of_its_time(progress: tqdm, doing: str) -> Iterator[None]:
    """Shows on a bar what is done meanwhile, and leaves the time that it takes out of the bar's own."""
    if progress.disable:  # such a bar has no times
        yield
        return
    started, before = time.perf_counter(), progress.postfix or ""
    progress.set_postfix_str(doing)
    yield
    progress.set_postfix_str(before, refresh=False)
    seconds = time.perf_counter() - started
    progress.start_t += seconds
    progress.last_print_t += seconds
