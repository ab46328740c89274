"""Errors of Orbax and TensorStore in the system's own words."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

_LONGEST = 160  # characters of a reason


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Leaves out tracebacks that Orbax's and TensorStore's threads print of an error that is raised as well."""

    def keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)

    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Of writes that end after the one that failed.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    sys.unraisablehook = hook
    try:
        yield
        # After an error it stays: such writes may end at any time until the process does.
        sys.unraisablehook = before
    finally:
        logger.removeFilter(keep)


def system_code(error: BaseException) -> int | None:
    """The system's number of an error of Orbax or TensorStore."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore writes it
    return int(code[1]) if code else None


def reason(error: BaseException) -> str:
    """The system's own words for an error of Orbax or TensorStore, or its first line without a listing."""
    code = system_code(error)
    if code is not None:
        return os.strerror(code)
    if isinstance(error, KeyError):
        return f"its metadata has no {error}"
    if type(error) is Exception and error.__cause__ is not None:
        return reason(error.__cause__)
    line = str(error).strip().partition("\n")[0]
    line = re.split(r" \[(?:source locations|\w+=)", line)[0]  # as TensorStore begins its listings
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...") or type(error).__name__
