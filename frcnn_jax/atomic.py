"""Files and folders that appear complete or not at all: written beside the path under another name, then renamed."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["new_folder", "replacing", "write_bytes", "write_text"]

_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)  # writing has no file name in its errors
_OF_NUMPY = re.compile(r"\d+ requested and \d+ written")


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path to write a file to; leaving the block moves that file to `path`.

    An exception leaves `path` unchanged and removes the temporary file. Missing parent folders are created.

    Args:
        durable: flush the content to the disk before the move, so that it survives a power failure.

    Raises:
        OSError: the file cannot be written; names `path`.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with _naming(path, temporary):
            _make_folder_of(path)
            yield temporary
            if durable:
                _flush(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it would hide the error before
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; leaving the block moves it to `path`.

    An exception removes it. Missing parent folders are created.

    Raises:
        FileExistsError: `path` exists and is not an empty folder; checked before anything is written.
        OSError: the folder cannot be written; names `path`.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} already exists")
    temporary = _beside(path)
    try:
        with _naming(path, temporary):
            _make_folder_of(path)
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Writes a UTF-8 text file by `replacing`."""
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: str | Path, content: bytes, *, durable: bool = False) -> None:
    """Writes a binary file by `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def _make_folder_of(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next((folder for folder in path.parents if folder.is_file()), path.parent)
        raise NotADirectoryError(f"{path} cannot be written: {file} is a file, not a folder") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}")


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Makes errors about the temporary file name the final path; the caller's other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if type(error) is OSError and error.errno is None and _OF_NUMPY.fullmatch(str(error)):
            raise OSError(f"{path} cannot be written: {error}") from error
        nameless = not names and error.errno in _OF_DISK
        if not nameless and not any(name.startswith(str(temporary)) for name in names):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
