"""The error about a damaged prepared folder, which says what to do."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

__all__ = ["damage_named"]


@contextlib.contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Converts errors in the block to one that names the damaged folder and says what to do.

    Raises:
        ValueError: in one line.
    """
    try:
        yield
    # On a partly copied folder or a failing disk, TFDS and ArrayRecord may raise anything.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{folder} is damaged ({reason}): remove this folder, and it is prepared again: "
            f"rm -r {shlex.quote(str(folder))}"
        ) from error
