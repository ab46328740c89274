"""Files and folders that appear complete or not at all: written beside the path under another name, then renamed."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["file_in_place", "new_folder", "remove_unfinished", "replacing", "write_bytes", "write_text"]

# The system raises these of an open file, without its name, when it is written.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_NUMPYS = re.compile(r"\d+ requested and \d+ written")  # its error has no number


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = False, follow: bool = False) -> Iterator[Path]:
    """Yields a temporary path to write a file to; leaving the block moves that file to `path`.

    An exception leaves `path` unchanged and removes the temporary file. Missing parent folders are created.

    Args:
        durable: flush the content to the disk before the move, so that it survives a power failure.
        follow: if `path` is a link, replace the file that it leads to. Else the link is replaced: a workdir from
            elsewhere may hold links to any file of the user.

    Raises:
        OSError: the file cannot be written; names `path`. Other errors of the block pass unchanged.
    """
    path = Path(path)
    target = _target(path) if follow else path
    temporary = _beside(target)
    _make_folder(target.parent, path)
    try:
        with _naming(path, temporary):
            yield temporary
            if durable:
                _flush(temporary)
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # it would hide the error before
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; leaving the block moves it to `path`, or to where `path` links to.

    An exception removes it. Missing parent folders are created.

    Raises:
        FileExistsError: `path` exists and is not an empty folder, or it is one that cannot be replaced: the current
            folder, or the root of a disk. Checked before anything is written.
        OSError: the folder cannot be written; names `path`. Other errors of the block pass unchanged.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} already exists")
    target = _target(path)
    if target.is_mount() or (target.exists() and target.samefile(os.curdir)):
        kind = "root of a disk" if target.is_mount() else "current folder"
        raise FileExistsError(f"{path} is the {kind}, which cannot be replaced: give a new folder")
    temporary = _beside(target)
    _make_folder(target.parent, path)
    try:
        with _naming(path, temporary):
            temporary.mkdir()
            yield temporary
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Writes a UTF-8 text file by `replacing`; bytes of names that are not UTF-8 are written as \\udcXX."""
    write_bytes(path, text.encode(errors="backslashreplace"), durable=durable)


def write_bytes(path: str | Path, content: bytes, *, durable: bool = False) -> None:
    """Writes a binary file by `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def remove_unfinished(folder: str | Path, min_age: float = 0.0) -> None:
    """Removes what killed processes have left unfinished in a folder.

    The caller holds the lock under which `replacing` and `new_folder` write there: what another process is writing
    would be removed too.

    Args:
        min_age: seconds since the last change of what is removed; above 0 where some write without the lock.
    """
    for path in Path(folder).iterdir():
        if _TEMPORARY.fullmatch(path.name) and _age(path) >= min_age:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _age(path: Path) -> float:
    """Seconds since the last change of a file; 0 if it is gone, or from the future by a server's clock."""
    try:
        return max(time.time() - path.lstat().st_mtime, 0.0)
    except OSError:
        return 0.0


def _make_folder(folder: Path, path: Path) -> None:
    """Creates the folder for `path`. An error about a file in its place names both."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = file_in_place(folder) or folder
        raise NotADirectoryError(f"{path} cannot be written: {file} is a file, not a folder") from None


def file_in_place(folder: Path) -> Path | None:
    """The file at the path of a folder or of one of its parents; None if there is none."""
    return next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), None)


def _target(path: Path) -> Path:
    """The absolute path without links."""
    return Path(os.path.realpath(path))  # Path.resolve raises an error where links form a circle


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.tmp")  # not made of the name, which may be as long as names can be


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Makes system errors about the temporary file name the final path; others pass."""
    try:
        yield
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if any(name.startswith(str(temporary)) for name in names) or (not names and error.errno in _OF_WRITING):
            raise OSError(error.errno, error.strerror, str(path)) from error
        if type(error) is OSError and error.errno is None and _NUMPYS.search(str(error)):
            raise OSError(f"{path} cannot be written: {error}") from error
        raise


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
