"""Locks between processes: only one may write in a folder.

A lock is `flock` on a file in the folder, so the system releases it when its holder ends for any reason. The file names
the holder, who empties it on a normal exit. An entry left by a killed process of this host is replaced. An entry left
by a process of another host is reported and never removed: not every network file system supports `flock` across hosts,
so only that host can tell whether the holder is alive. A container often has a new host name at each start; the
variable FRCNN_HOST gives it one that stays.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn_jax.atomic import file_in_place

__all__ = ["FolderInUseError", "brief_lock", "folder_lock"]

LOCK_FILE = ".lock"
_HOST = "FRCNN_HOST"  # the variable with the host's name, in place of the system's


class FolderInUseError(OSError):
    """Another process holds the lock of a folder."""


@contextlib.contextmanager
def folder_lock(folder: str | Path, name: str = LOCK_FILE, *, purpose: str, wait: bool = False) -> Iterator[None]:
    """Holds the lock of `folder`, which is created if missing, until the block is left.

    Args:
        name: name of the lock file in the folder; different names are different locks.
        purpose: what the folder is used for, in messages: "training", "preparing".
        wait: wait for the holder instead of raising; a line on stderr says so once.

    Raises:
        FolderInUseError: another process holds the lock; names the process, its host and the start time. Also raised
            with `wait` if the holder is on another host.
        OSError: the folder cannot be written, or its disk has no locks; names the lock file.
    """
    path = Path(folder) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = file_in_place(path.parent) or path.parent
        raise NotADirectoryError(f"{file} is a file, not a folder: give another folder for {purpose}") from None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with _naming(path):
            _acquire(descriptor, path, purpose, wait)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # releases the lock


@contextlib.contextmanager
def brief_lock(path: str | Path) -> Iterator[None]:
    """Holds `flock` on a file, which is created if missing, for a change that takes a moment; waits for others.

    Names no holder. On a disk without locks nothing is held.

    Raises:
        OSError: the file cannot be opened.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes system errors name the lock file, and say what to do about a disk without locks."""
    try:
        yield
    except FolderInUseError:
        raise
    except OSError as error:
        without = error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
        advice = " (its disk supports no locks: give a folder on another one)" if without else ""
        raise OSError(error.errno, error.strerror + advice, str(path)) from error


def _acquire(descriptor: int, path: Path, purpose: str, wait: bool) -> None:
    locked = _try_lock(descriptor)
    if not locked and wait:
        print(f"{path.parent}: waiting for {_describe(_read_holder(descriptor))}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        locked = True
    holder = _read_holder(descriptor)
    if not locked:
        raise FolderInUseError(f"{path.parent} is in use by {_describe(holder)}. Wait for it, or use another folder")
    if holder and holder.get("host") != _host():
        raise FolderInUseError(
            f"{path.parent} is in use by {_describe(holder)}. If that process has ended, delete {path} and start "
            f"again; in containers, whose host names change, set {_HOST} to a fixed name"
        )
    _write_holder(descriptor, purpose)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read_holder(descriptor: int) -> dict[str, Any]:
    """The last holder that did not release the lock; empty if there is none, or the file is not readable."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _write_holder(descriptor: int, purpose: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    holder = {"process": os.getpid(), "host": _host(), "since": now, "purpose": purpose}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _host() -> str:
    return os.environ.get(_HOST) or socket.gethostname()


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return "process {process} on {host} since {since} ({purpose})".format_map(
        {name: holder.get(name, "unknown") for name in ("process", "host", "since", "purpose")}
    )
