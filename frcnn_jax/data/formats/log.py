"""Lines of the log about a folder."""

from __future__ import annotations

import functools
import logging

__all__ = ["warn_once"]

_log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1000)
def warn_once(text: str, level: int = logging.WARNING) -> None:
    """Logs a line once per process, even if the folder is opened again."""
    _log.log(level, "%s", text)
