"""Errors of a checkpoint that cannot be read: it is damaged, was removed meanwhile, or the system refuses."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from frcnn_jax.checkpoint.errors import is_missing_elsewhere, quiet_orbax, reason, system_code
from frcnn_jax.sums import check_contents

__all__ = ["CheckpointRemovedError", "check_files", "damage_named"]


class CheckpointRemovedError(FileNotFoundError):
    """A checkpoint was removed while it was read, as by a training that keeps only the newest ones."""


@contextlib.contextmanager
def damage_named(folder: Path, contents: str | None, advice: Callable[[], str]) -> Iterator[None]:
    """Converts reading errors in the block to an error that names the checkpoint in `folder`.

    Args:
        contents: start of the paths of files whose contents are checked first; sizes are checked for all files.
            None checks nothing, as after an earlier block.
        advice: returns the way on without this checkpoint.

    Raises:
        ValueError: it is damaged; one line.
        CheckpointRemovedError: it is not there any more.
        OSError: the system cannot read it, or a path outside it is missing.
    """
    try:
        if contents is not None:
            check_files(folder, contents)
        with quiet_orbax():
            yield
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax raises a bare Exception for a truncated array
        if is_missing_elsewhere(error, folder):
            raise
        code = system_code(error)
        if code not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR) and not _is_removed(folder):
            raise OSError(f"{folder} cannot be read: {os.strerror(code)}") from error
        way_on = advice()  # before the next look, as a removal that has begun ends while other checkpoints are read
        if _is_removed(folder):
            raise CheckpointRemovedError(
                f"{folder} was removed while it was read, as by a training that keeps only the newest: start again"
            ) from error
        raise ValueError(f"{folder} is damaged ({reason(error)}): {way_on}") from error


def check_files(folder: Path, contents: str = "") -> None:
    """Raises an error if a part of the checkpoint is missing, or has another size than when it was written.

    Args:
        contents: start of the paths of files whose contents are checked too.
    """
    absent = [name for name in ("metadata", "arrays") if not (folder / name).is_dir()]
    if absent:
        raise FileNotFoundError(f"it has no {' and no '.join(absent)}")
    check_contents(folder, contents)


def _is_removed(folder: Path) -> bool:
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:  # it cannot be known
        pass
    return False
