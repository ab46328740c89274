"""Hashes of a folder's files, stored so that opening the folder again does not read the files.

The file `frcnn_files/NAME-KEY.npz` in the folder of prepared data sets (KEY stands for the folder's path) holds
    version  int64 []
    paths    uint8 [bytes]   JSON list of absolute paths, in UTF-8
    marks    int64 [N, 3]    size in bytes, time of the last change of the content and of the status in nanoseconds
    digests  uint8 [N, 32]   SHA-256 of the content

A file counts as unchanged if its size and both times are. The second time is set by the system and cannot be set back,
so a replaced file with an older time is noticed too. A file that was changed less than two seconds before reading is
not stored, as a further change might leave the same times. If this file is damaged or missing, all files are hashed
again.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import numpy as np

from frcnn_jax.atomic import replacing
from frcnn_jax.data.files import file_hash
from frcnn_jax.npz import open_npz

__all__ = ["FileHashes"]

_VERSION = 1
_SETTLED = 2_000_000_000  # nanoseconds; the coarsest times of files are FAT's, of two seconds
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

Mark = tuple[int, int, int]


class FileHashes:
    """`hashes(path)` equals `file_hash(path)`, from the store if the file is unchanged. Several threads may call it.

    Args:
        path: file with the stored hashes.
        verify: read every file, ignoring stored hashes.
    """

    def __init__(self, path: Path, *, verify: bool = False):
        self.path, self._verify = path, verify
        self._known = _load(path)
        self._new: dict[str, tuple[Mark, bytes]] = {}

    def __call__(self, path: Path) -> str:
        name = os.fspath(path)
        now = time.time_ns()
        try:
            mark = _mark(name)
        except OSError as error:
            return type(error).__name__
        if not self._verify and name in self._known and self._known[name][0] == mark:
            return self._known[name][1].hex()
        digest = file_hash(path)
        # Skips names of errors. A file that changes while it is read has another mark next time.
        if mark[2] <= now - _SETTLED and len(digest) == 64:
            self._new[name] = mark, bytes.fromhex(digest)
        return digest

    def save(self) -> None:
        """Stores the new hashes, without those of missing files; skipped if the folder is read-only."""
        if all(self._known.get(name) == entry for name, entry in self._new.items()):
            return
        entries = {name: entry for name, entry in (self._known | self._new).items() if os.path.lexists(name)}
        paths = json.dumps(list(entries), ensure_ascii=True).encode()
        try:
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                np.savez(
                    file,
                    version=_VERSION,
                    paths=np.frombuffer(paths, np.uint8),
                    marks=np.array([mark for mark, _ in entries.values()], np.int64).reshape(-1, 3),
                    digests=np.frombuffer(b"".join(digest for _, digest in entries.values()), np.uint8).reshape(-1, 32),
                )
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
        self._known, self._new = entries, {}


def _mark(name: str) -> Mark:
    status = os.stat(name)
    # On Windows st_ctime_ns is the time of creation, so only the other time is used.
    changed = status.st_ctime_ns if os.name == "posix" else max(status.st_mtime_ns, status.st_ctime_ns)
    return status.st_size, status.st_mtime_ns, changed


def _load(path: Path) -> dict[str, tuple[Mark, bytes]]:
    """The stored hashes; empty if the file is missing, damaged or of another version."""
    try:
        with open_npz(path) as arrays:
            if int(arrays["version"]) != _VERSION:
                return {}
            names, marks, digests = json.loads(arrays["paths"].tobytes()), arrays["marks"], arrays["digests"]
    except (OSError, ValueError, KeyError):
        return {}
    if marks.shape != (len(names), 3) or digests.shape != (len(names), 32):
        return {}
    return {
        name: (tuple(mark), digest.tobytes()) for name, mark, digest in zip(names, marks.tolist(), digests, strict=True)
    }
