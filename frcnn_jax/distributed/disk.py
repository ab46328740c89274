"""Work on disk that one process does for all processes with the same disk."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frcnn_jax.distributed.talk import from_first, gather, is_first, process_count

__all__ = ["first_on_disk"]


@contextmanager
def first_on_disk(folder: str | Path) -> Iterator[None]:
    """Makes process 0 run the block before the other processes that see its `folder`, which then find its results
    there.

    Processes on hosts with their own disks do not wait: one per host does the work, by the locks of the block. The
    block must not exchange messages.
    """
    if process_count() == 1:
        yield
        return
    folder = Path(folder)
    mark = folder / from_first(lambda: _mark(folder))
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


def _mark(folder: Path) -> str:
    """The name of a new file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".processes-{secrets.token_hex(8)}"
    mark.touch()
    return mark.name
