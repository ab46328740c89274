"""The archives of PASCAL VOC: names, hashes and extraction."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from frcnn_jax.atomic import new_folder, remove_unfinished
from frcnn_jax.locks import folder_lock
from frcnn_jax.progress import Progress

__all__ = ["ARCHIVES", "Archive", "extract_archive"]

_NEEDED = frozenset({"JPEGImages", "Annotations", "Main"})
_CHUNK = 1 << 20
_SHOWN = 60  # characters of a name in a message


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download."""

    file: str
    bytes: int
    sha256: str


ARCHIVES = {
    "2007": {
        "trainval": Archive(
            "VOCtrainval_06-Nov-2007.tar",
            460032000,
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
        "test": Archive(
            "VOCtest_06-Nov-2007.tar",
            451020800,
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    },
    "2012": {
        "trainval": Archive(
            "VOCtrainval_11-May-2012.tar",
            1999639040,
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
        "test": Archive(
            "VOC2012test.tar",
            1850626560,
            "f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
        ),
    },
}


def extract_archive(path: Path) -> Path:
    """The folder with the images, annotations and split lists of a .tar file, beside it; extracted unless it exists.

    Only files below that folder are written; links, owners and modes in the archive are ignored. TFDS's own
    extraction needs TensorFlow. Waits for another process that unpacks there, and removes what a killed one left.

    Raises:
        ValueError: the archive is damaged, a member's path leads outside, or a member is not a file.
        OSError: the folder cannot be written.
    """
    folder = path.with_name(f"{path.name}.extracted")
    if folder.is_dir():
        return folder
    with folder_lock(folder.parent, ".unpacking.lock", purpose="unpacking", wait=True):
        remove_unfinished(folder.parent)
        if not folder.is_dir():
            _extract(path, folder)
    return folder


def _extract(path: Path, folder: Path) -> None:
    """Extracts the .tar file to a new folder; errors as above."""
    try:
        with new_folder(folder) as temporary:
            for member, content in Progress(_members(path), f"Unpacking {path.name}", unit="file"):
                target = temporary.joinpath(*member)
                (target if content is None else target.parent).mkdir(parents=True, exist_ok=True)
                if content is not None:
                    with target.open("wb") as file:
                        shutil.copyfileobj(content, file, _CHUNK)
    except tarfile.TarError as error:  # while copying a file
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ValueError(f"{path} cannot be unpacked: {reason}; delete it to download it again")


def _members(path: Path) -> Iterator[tuple[tuple[str, ...], IO[bytes] | None]]:
    """Path and content of each needed file; no content for a folder, which may be empty."""
    try:
        with tarfile.open(path, "r:") as archive:
            before = -1
            for member in archive:
                if archive.offset <= before or member.size < 0:  # early releases of Python 3.11 to 3.13 loop forever
                    raise ValueError(f"its member {member.name[:_SHOWN]!r} has no size")
                before = archive.offset
                parts = PurePosixPath(member.name).parts
                if not _NEEDED.intersection(parts[-2:]):
                    continue
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise ValueError(f"its member {member.name[:_SHOWN]!r} is not a file")
                if member.name.startswith("/") or ".." in parts or "\0" in member.name:
                    raise ValueError(f"its member {member.name[:_SHOWN]!r} has a path that leads out of the archive")
                yield parts, None if member.isdir() else archive.extractfile(member)
    except (OSError, GeneratorExit):
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise _unusable(path, error) from error
