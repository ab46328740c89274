"""A reader that pools splits of another and holds out a share of their images."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.tree import composed
from frcnn_jax.data.prepared.index import LAYOUT_FILE
from frcnn_jax.data.records import ImageRecord, SplitRecords

__all__ = ["PooledReader"]

_FEW = 20  # names; of fewer, a share is far from what is asked for
_OFTEN = 10  # places of each name; with fewer, as in two folders for two cameras, images of one name stay together


class PooledReader(AnnotationReader):
    """Splits of another reader, pooled as `train`, with a share held out as `test`; a share of 0 keeps the reader's
    test.

    The share is drawn by the images' names. Where a few names recur in many folders, as `rgb.jpg` in each, it is drawn
    by their paths below `root`.
    """

    def __init__(self, reader: AnnotationReader, pool: Sequence[str], share: float, root: Path):
        self._root = root
        self.layout, self.splits = reader.layout, ("train", "test")
        self._reader, self._pool, self._share = reader, tuple(pool), share
        if not share and "test" not in reader.splits:
            self.splits = ("train",)

    @property
    def pool(self) -> tuple[str, ...]:
        """The pooled splits."""
        return self._pool

    @property
    def chosen(self) -> bool:
        """True if the test is a share of all images."""
        return bool(self._share)

    def read(self, split: str) -> SplitRecords:
        """Images of `train` or `test`; other splits as in the other reader."""
        if split == "train":
            kept = tuple(record for record in self._all.records if record.image_id not in self._held_out)
            return SplitRecords(kept, self._all.faults, self._all.notes)
        if split == "test" and self._share:
            return SplitRecords(tuple(record for record in self._all.records if record.image_id in self._held_out))
        return self._reader.read(split)

    def content(self, splits: Sequence[str], hash_file: Callable[[Path], str]) -> list[Any] | None:
        """The other reader's value for a hash of all its splits, with the share; None if it has none."""
        others = [] if self._share else [name for name in self.splits if name != "train"]
        content = self._reader.content([*self._pool, *others], hash_file)
        paths = ["paths"] if self._share and self._recurring else []  # unset, the name of earlier versions
        return None if content is None else [["held out", self._share, *paths], *content]

    def why_empty(self) -> str:
        """The end of a message: reason why no image is held out, and what to type."""
        name = self._pool[0]
        return (
            f"data.split = {self._share:.6g} keeps none of a single image; add images, or test on what is trained on: "
            f"--data.split 0 --data.test folder/{name}"
        )

    def places(self, split: str) -> tuple[str, ...]:
        """The places of the other reader's splits; none for the share."""
        if split == "train":
            return tuple(dict.fromkeys(place for name in self._pool for place in self._reader.places(name)))
        return () if self._share else self._reader.places(split)

    def _share_with(self, image_ids: Collection[str]) -> float | None:
        """A share that puts one of these images into the test and another into `train`; None if there is none."""
        places = sorted({self._place(record) for record in self._all.records if record.image_id in image_ids})
        shares = ((math.floor(places[0] * scale) + 1) / scale for scale in (100, 10_000, 1_000_000) if places)
        return next((share for share in shares if share < 1 and share <= places[-1]), None)

    def check_objects(self, images: Mapping[str, bool], root: Path) -> None:
        """Checks that the test has objects.

        Args:
            images: ids of all remaining images; True for images with objects.

        Raises:
            ValueError: no image chosen for the test has an object, and another share, which it names, would help.
        """
        tested = [image_id for image_id in images if image_id in self._held_out]
        with_objects = [image_id for image_id, objects in images.items() if objects]
        share = None if any(images[image_id] for image_id in tested) else self._share_with(with_objects)
        if tested and share:
            what = f"none of the images chosen for the test ({len(tested)}) has an object"
            raise ValueError(f"{root}: {what}; set another share, as with --data.split {share:.6g}")

    def check_tested(self, folder: Path, root: Path) -> None:
        """Checks that the test has images.

        Args:
            folder: the prepared data set.

        Raises:
            ValueError: all images chosen for the test were dropped for their faults; names a share to set.
        """
        layout = json.loads((folder / LAYOUT_FILE).read_text("utf-8"))
        if not self._share or "test" in layout:
            return
        share = self._share_with(set(layout.get("train", {"ids": ()})["ids"]))
        set_it = f"set another share, as with --data.split {share:.6g}" if share else "put them right, or add images"
        count = len(self._held_out)
        raise ValueError(f"{root}: the images chosen for the test ({count}) were all dropped for faults; {set_it}")

    @cached_property
    def _all(self) -> SplitRecords:
        splits = [self._reader.read(name) for name in self._pool]
        records = {record.image_id: record for split in splits for record in split.records}
        faults = tuple(fault for split in splits for fault in split.faults)
        notes = dict.fromkeys(note for split in splits for note in split.notes)
        return SplitRecords(tuple(records.values()), faults, tuple(notes))

    @cached_property
    def _held_out(self) -> frozenset[str]:
        """Ids of the test images: at least one and not all; none if there is only one image."""
        places = {record.image_id: self._place(record) for record in self._all.records}
        groups = {places[record.image_id] for record in self._all.records if record.path} or set(places.values())
        chosen = {place for place in groups if place < self._share}
        if self._share:
            chosen = chosen or {min(groups)}
            chosen -= {max(groups)} if chosen == groups else set()
        chosen |= {place for place in places.values() if place not in groups and place < self._share}
        return frozenset(image_id for image_id, place in places.items() if place in chosen)

    @cached_property
    def _recurring(self) -> bool:
        """True if there are too few different names to draw by."""
        paths = self._reader.image_names(self._pool)
        places = {(os.path.dirname(path), _stem(path)) for path in paths}  # once for Roboflow's copies
        stems = {stem for _, stem in places}
        return len(stems) < _FEW and len(places) >= _OFTEN * len(stems)

    def _place(self, record: ImageRecord) -> float:
        """A number from 0 to 1 that depends only on the image's name, or on its path below the root."""
        name = os.fspath(record.path or record.image_id)
        if not self._recurring:
            return _number_of(_stem(name))
        below = os.path.relpath(name, self._root) if record.path else name
        return _number_of(f"{composed(Path(below).parent.as_posix())}/{_stem(name)}")


def _stem(path: str) -> str:
    """The file's name without suffix and without Roboflow's hash."""
    return re.sub(r"\.rf\.\w+$", "", composed(Path(path).stem))


def _number_of(name: str) -> float:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:7]) / (1 << 56)
