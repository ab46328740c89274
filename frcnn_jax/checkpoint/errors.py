"""Error messages of Orbax and TensorStore reduced to the system's message."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LONGEST = 160  # characters of a reason


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppresses tracebacks from threads of Orbax and TensorStore for errors that are raised as well."""

    def keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)

    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # From writes that end after the failed one.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    sys.unraisablehook = hook
    try:
        yield
        # Stays installed after an error, as such writes may end at any time.
        sys.unraisablehook = before
    finally:
        logger.removeFilter(keep)


def system_code(error: BaseException) -> int | None:
    """The system's error number for an error of Orbax or TensorStore."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's notation
    return int(code[1]) if code else None


def is_missing_elsewhere(error: BaseException, folder: Path) -> bool:
    """True for an error of a missing path that is neither the folder nor inside it."""
    if not isinstance(error, FileNotFoundError):
        return False
    named = re.search(r" at (/.*?)\.?$", str(error))  # Orbax's sentence
    path = error.filename or (named and named[1])
    return isinstance(path, str) and not Path(path).is_relative_to(folder)


def reason(error: BaseException) -> str:
    """The system's message for an error of Orbax or TensorStore, or the error's first line without listings."""
    code = system_code(error)
    if code is not None:
        return os.strerror(code)
    if isinstance(error, KeyError):
        return f"its metadata has no {error}"
    if type(error) is Exception and error.__cause__ is not None:
        return reason(error.__cause__)
    line = str(error).strip().partition("\n")[0]
    line = re.split(r" \[(?:source locations|\w+=)", line)[0]  # start of TensorStore's listings
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...") or type(error).__name__
