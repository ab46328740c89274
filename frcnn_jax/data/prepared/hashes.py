"""Hashes of a folder's files, remembered so that opening the folder again does not read them.

The file `frcnn_files/NAME-KEY.npz` in the folder of prepared data sets (KEY stands for the folder's path) holds
    version  int64 []
    paths    uint8 [bytes]   JSON list of absolute paths, in UTF-8
    marks    int64 [N, 3]    size in bytes, time of the last change of the content and of the status in nanoseconds
    digests  uint8 [N, 32]   SHA-256 of the content

A file is trusted to be as it was while its size and both times are. The second is the system's own and cannot be set
back, so that a copy with an older time in place of the file is noticed too. What was changed less than two seconds
before it was read is not remembered, as a further change might leave the same times. Damaged or missing, all is hashed
again.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from frcnn_jax.atomic import replacing
from frcnn_jax.data.files import file_hash

__all__ = ["FileHashes"]

_VERSION = 1
_SETTLED = 2_000_000_000  # nanoseconds; the coarsest times of files are FAT's, of two seconds
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

Mark = tuple[int, int, int]


class FileHashes:
    """`hashes(path)` is what `file_hash(path)` is: from memory if the file is unchanged. Several threads may call it.

    Args:
        path: file that remembers.
        verify: read every file, whatever is remembered.
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
        # Not the name of an error in place of a hash. What changes while it is read has another mark the next time.
        if mark[2] <= now - _SETTLED and len(digest) == 64:
            self._new[name] = mark, bytes.fromhex(digest)
        return digest

    def save(self) -> None:
        """Remembers what was read. Files that are gone are forgotten; where the folder is read-only, all are."""
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
    # Where st_ctime_ns is the time of creation, as on Windows, the other one has to do.
    changed = status.st_ctime_ns if os.name == "posix" else max(status.st_mtime_ns, status.st_ctime_ns)
    return status.st_size, status.st_mtime_ns, changed


def _load(path: Path) -> dict[str, tuple[Mark, bytes]]:
    """The remembered hashes; none where the file is missing, damaged or of another version."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays["version"]) != _VERSION:
                return {}
            names, marks, digests = json.loads(arrays["paths"].tobytes()), arrays["marks"], arrays["digests"]
    except (OSError, ValueError, KeyError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error):
        return {}
    if marks.shape != (len(names), 3) or digests.shape != (len(names), 32):
        return {}
    return {
        name: (tuple(mark), digest.tobytes()) for name, mark, digest in zip(names, marks.tolist(), digests, strict=True)
    }
