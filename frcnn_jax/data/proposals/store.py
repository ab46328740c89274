"""Computed proposals on disk, stored per image and shared by the data sets of a directory.

Format, version 2. A store is a folder `frcnn_proposals/METHOD-KEY` (KEY stands for the settings) in the data sets'
shared directory, with
    settings.json   format, version and the settings of the search
    segment-*/      some images each; a segment appears complete and is never changed, only replaced by a larger one
        boxes.npy   float32 [T, 4]   boxes of its images, concatenated, `x1 y1 x2 y2`, 0-based and half-open, in
                                     pixels of the original image, best first within an image
        images.npz  fingerprints     bytes [N], `Dataset.image_fingerprint` of each image
                    offsets          int64 [N + 1], boxes of image i are boxes[offsets[i] : offsets[i + 1]]
                    checksum         uint32 [], CRC-32 of the boxes' bytes
    .lock           held by the process that adds to the store

Proposals depend only on the image and the settings, so they stay valid with other labels, classes, splits or
neighbouring images. Boxes are mapped into memory, not read, but for segments of less than 1 MiB, as each map keeps a
file open. A segment is checked before its first use. A damaged one is reported, removed by the next process that adds
to the store, and its images are searched again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.atomic import new_folder, remove_unfinished, write_text
from frcnn_jax.locks import folder_lock
from frcnn_jax.npz import open_npz

__all__ = ["Place", "ProposalStore", "Segment", "settings_key"]

_log = logging.getLogger(__name__)
_FORMAT, _VERSION = "frcnn_jax proposals", 2
_SEGMENT_BOXES = 1 << 22  # 64 MiB; smaller segments are merged
_MOST_SMALL = 100  # segments of a search before they are merged
_MAPPED_BYTES = 1 << 20  # files of boxes from this size on are mapped
_READ_BYTES = 1 << 20
_SETTINGS, _PREFIX = "settings.json", "segment-"


def settings_key(settings: Mapping[str, Any]) -> str:
    """Method and hash of the settings, for file names."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{settings['method']}-{digest}"


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Boxes of some images, mapped into memory."""

    path: Path
    boxes: Float[np.ndarray, "T 4"]
    fingerprints: tuple[str, ...]
    offsets: Int[np.ndarray, " N+1"]
    checksum: int

    def is_intact(self) -> bool:
        """True if the boxes are unchanged since they were written; reads them all.

        They are read from the file in parts, as reading through the map would count as this process's memory.
        """
        value = 0
        try:
            with open(self.path / "boxes.npy", "rb") as file:
                file.seek(-self.boxes.nbytes, os.SEEK_END)
                while part := file.read(_READ_BYTES):
                    value = zlib.crc32(part, value)
        except FileNotFoundError:  # merged meanwhile by another process; the map stays valid
            value = _checksum(self.boxes)
        return value == self.checksum


Place = tuple[Segment, int, int]
"""Where the boxes of an image are: a segment, and the first row and the end of the range there."""


class ProposalStore:
    """The proposals in one store.

    Args:
        directory: `Dataset.shared_directory`.
        settings: settings of the search, with its `method`.

    Raises:
        ValueError: the folder's settings are different, of another version, or damaged.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]):
        self._directory = Path(directory)
        self.folder = self._directory / "frcnn_proposals" / settings_key(settings)
        self._settings = {"format": _FORMAT, "version": _VERSION, "settings": dict(settings)}
        self._check_settings()
        self._segments: dict[Path, Segment] = {}
        self._intact: set[Path] = set()
        self._places: dict[str, Place] = {}
        self._added = 0  # segments since the last merge
        self.refresh()

    def lock(self) -> AbstractContextManager[None]:
        """The lock to hold while adding boxes; waits for another process that holds it."""
        return folder_lock(self.folder, purpose="searching proposals", wait=True)

    def refresh(self, *, locked: bool = False) -> None:
        """Loads segments that other processes have added.

        Args:
            locked: this process holds the lock, so damaged segments and unfinished ones of killed processes are
                removed.
        """
        if locked:
            remove_unfinished(self.folder)
            for path in self.folder.glob(f".{_PREFIX}*"):  # half removed
                shutil.rmtree(path, ignore_errors=True)
        segments = {}
        for path in sorted(self.folder.glob(f"{_PREFIX}*")):
            try:
                segment = self._segments.get(path) or _read_segment(path)
                if locked and not self._is_intact(segment):
                    raise ValueError(f"{path}: the boxes are not those that were written")
            except (FileNotFoundError, ValueError) as error:
                # Without the lock it may have been merged and removed meanwhile.
                if locked:
                    _log.warning("damaged proposals are removed and searched again: %s", error)
                    _remove(path)
                continue
            segments[path] = segment
        self._segments = segments
        self._places = {
            name: (segment, int(start), int(stop))
            for segment in segments.values()
            for name, start, stop in zip(segment.fingerprints, segment.offsets[:-1], segment.offsets[1:], strict=True)
        }

    def others(self) -> list[str]:
        """Names of stores with other settings beside this one; none once this one has segments."""
        if (self.folder / _SETTINGS).exists():
            return []
        return sorted(path.parent.name for path in self.folder.parent.glob(f"*/{_SETTINGS}"))

    def longer(self) -> list[ProposalStore]:
        """Stores beside this one with more boxes of each image, and otherwise the same settings."""
        count, found = self._settings["settings"]["max_count"], []
        for path in sorted(self.folder.parent.glob(f"*/{_SETTINGS}")):
            try:
                other = json.loads(path.read_text())
                same = {**other, "settings": {**other["settings"], "max_count": count}} == self._settings
                if same and other["settings"]["max_count"] > count:
                    found.append(ProposalStore(self._directory, other["settings"]))
            except (OSError, ValueError, KeyError, TypeError):  # damaged: named when it is opened for itself
                continue
        return found

    def find(self, fingerprints: Sequence[str]) -> dict[str, Place]:
        """Segment and range of the boxes of those images that are stored and intact."""
        found = {name: self._places[name] for name in fingerprints if name in self._places}
        return {name: place for name, place in found.items() if self._is_intact(place[0])}

    def add(self, rows: Mapping[str, Float[np.ndarray, "P 4"]]) -> None:
        """Stores the boxes of more images, by fingerprint, and merges many small segments; the lock must be held."""
        if not rows:
            return
        self._write(rows)
        self._added += 1
        if self._added >= _MOST_SMALL:
            self.merge()

    def _write(self, rows: Mapping[str, Float[np.ndarray, "P 4"]]) -> None:
        """Writes a segment."""
        if not (self.folder / _SETTINGS).exists():
            write_text(self.folder / _SETTINGS, json.dumps(self._settings, indent=1) + "\n")
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *rows.values()])
        offsets = np.cumsum([0, *map(len, rows.values())], dtype=np.int64)
        path = self.folder / f"{_PREFIX}{time.time_ns():020d}-{secrets.token_hex(3)}"
        with new_folder(path) as temporary:
            np.save(temporary / "boxes.npy", boxes)
            np.savez(
                temporary / "images.npz",
                fingerprints=np.array(list(rows), np.bytes_),
                offsets=offsets,
                checksum=np.uint32(_checksum(boxes)),
            )

    def merge(self) -> None:
        """Merges small segments into few large ones; the lock must be held."""
        self.refresh(locked=True)
        self._added = 0
        small = [segment for segment in self._segments.values() if len(segment.boxes) < _SEGMENT_BOXES]
        if len(small) < 2:
            return
        rows: dict[str, np.ndarray] = {}
        size = 0
        for segment in small:
            rows |= {
                name: segment.boxes[start:stop]
                for name, start, stop in zip(
                    segment.fingerprints, segment.offsets[:-1], segment.offsets[1:], strict=True
                )
            }
            size += len(segment.boxes)
            if size >= _SEGMENT_BOXES:
                self._write(rows)
                rows, size = {}, 0
        if rows:
            self._write(rows)
        for segment in small:  # removed last, so that every image is stored at any time
            _remove(segment.path)
        self.refresh(locked=True)

    def _is_intact(self, segment: Segment) -> bool:
        if segment.path not in self._intact and segment.is_intact():
            self._intact.add(segment.path)
        return segment.path in self._intact

    def _check_settings(self) -> None:
        path = self.folder / _SETTINGS
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            found, reason = None, f"not JSON, {error}"
        else:
            reason = "not an object"
        if not isinstance(found, dict):
            raise ValueError(f"{path}: damaged ({reason}); delete this file, the proposals beside it are kept")
        if found.get("version") != _VERSION:
            raise ValueError(f"{path}: format version {found.get('version')}; this program reads version {_VERSION}")
        if found != self._settings:
            raise ValueError(f"{path}: made with other settings ({found.get('settings')}); move or delete the folder")


def _read_segment(path: Path) -> Segment:
    """
    Raises:
        OSError: a file is missing, or cannot be read.
        ValueError: a file is damaged.
        MemoryError: there is too little memory.
    """
    try:
        with open_npz(path / "images.npz") as images:
            names, offsets, checksum = images["fingerprints"], images["offsets"], int(images["checksum"])
        file = path / "boxes.npy"
        boxes = np.load(file, mmap_mode="r" if file.stat().st_size >= _MAPPED_BYTES else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy may raise anything on a damaged file
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            raise MemoryError(f"{path} cannot be read") from error  # not damaged, and not to be removed
        raise ValueError(f"{path}: cannot be read ({error})") from error
    whole = len(offsets) == len(names) + 1 and boxes.dtype == np.float32 and boxes.shape == (offsets[-1], 4)
    if not whole or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path}: the arrays do not fit together")
    # A plain array is sliced faster than a `memmap`, and keeps the map alive.
    return Segment(path, boxes.view(np.ndarray), tuple(name.decode() for name in names.tolist()), offsets, checksum)


def _remove(path: Path) -> None:
    """Removes a segment atomically: it is complete until it disappears."""
    trash = path.with_name(f".{path.name}.removed")
    os.replace(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _checksum(boxes: Float[np.ndarray, "T 4"]) -> int:
    return zlib.crc32(np.ascontiguousarray(boxes).reshape(-1).view(np.uint8))
