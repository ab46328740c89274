"""Work on disk that one process does for all processes with the same disk."""

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frcnn_jax.distributed.talk import from_first, gather, is_first, process_count

__all__ = ["first_on_disk"]

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def first_on_disk(folder: str | Path) -> Iterator[None]:
    """Makes process 0 run the block before the other processes that see its `folder`, which then find its results
    there.

    Processes on hosts with their own disks do not wait: one per host does the work, by the locks of the block. None
    waits if process 0 cannot write to the folder, as all it needs must be there already. The block must not exchange
    messages.
    """
    if process_count() == 1:
        yield
        return
    folder = Path(folder)
    name = from_first(lambda: _mark(folder))
    if name is None:
        yield
        return
    mark = folder / name
    sees_it = mark.exists()
    gather(None)
    if is_first():
        mark.unlink(missing_ok=True)
        yield
        from_first(lambda: None)
        return
    if sees_it:
        from_first(lambda: None)
        yield
    else:
        yield
        from_first(lambda: None)


def _mark(folder: Path) -> str | None:
    """The name of a new file in the folder; None if it is read-only."""
    mark = folder / f".processes-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        if error.errno in _READ_ONLY:
            return None
        raise
    return mark.name
