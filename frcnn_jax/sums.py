"""Sizes and checksums of the files of checkpoints and prepared data, kept beside them in `checksums.json`.

The readers of these files do not notice every bit that changes on a disk or during a copy. `checksums.json` is written
once the folder is complete; it is missing if an earlier version wrote the folder, or if the process was killed before.
Files that are added later are not checked.
"""

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.machine import cores

__all__ = ["SUMS_FILE", "check_contents", "check_sizes", "write_sums"]

SUMS_FILE = "checksums.json"
_READ_BYTES = 1 << 22

Sums = dict[str, tuple[int, int]]  # size and CRC-32 of each file by its path


def write_sums(folder: Path) -> None:
    """Records the current files of a folder.

    Raises:
        OSError: the record cannot be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    sums = dict(zip((str(path.relative_to(folder)) for path in files), _sums(files), strict=True))
    write_text(folder / SUMS_FILE, json.dumps(sums, indent=1) + "\n", durable=True)


def check_sizes(folder: Path) -> None:
    """
    Raises:
        ValueError: a file is missing or has another size than when the folder was written; names it.
    """
    _check_sizes(folder, _read(folder))


def _check_sizes(folder: Path, noted: Sums) -> None:
    for name, (size, _) in noted.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise ValueError(f"{name} is missing" if found is None else f"{name} has {found} of {size} bytes")


def check_contents(folder: Path, below: str = "") -> None:
    """
    Args:
        below: only files whose path begins with this are read.

    Raises:
        ValueError: a file is missing or has another size than when the folder was written, or one that is read has
            another content; names it.
    """
    noted = _read(folder)
    _check_sizes(folder, noted)
    sums = {name: recorded for name, recorded in noted.items() if name.startswith(below)}
    for name, found in zip(sums, _sums([folder / name for name in sums]), strict=True):
        if found != sums[name]:
            raise ValueError(f"the content of {name} has changed")


def _sums(paths: Sequence[Path]) -> list[tuple[int, int]]:
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(_sum, paths))


def _sum(path: Path) -> tuple[int, int]:
    size = value = 0
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            size, value = size + len(part), zlib.crc32(part, value)
    return size, value


def _read(folder: Path) -> Sums:
    """The recorded sums; empty if there is no record."""
    path = folder / SUMS_FILE
    if not path.exists():
        return {}
    try:
        noted = {str(name): (int(size), int(value)) for name, (size, value) in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{SUMS_FILE} is damaged: {error}") from error
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in noted):
        raise ValueError(f"{SUMS_FILE} names files outside the folder")
    return noted
