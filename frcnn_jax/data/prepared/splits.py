"""The rule of splits: the meaning of a folder's `trainval` and `test`; no test image is trained on.

    test      the folder's test images; else its validation images; else a share of all, `data.split`
    trainval  the folder's training images, and its validation images if these are not the test

The share is chosen by a hash of the images' names: it is the same on every machine, and does not change when images are
added. Copies that Roboflow made of one image, NAME.rf.HASH, stay together. The lists of a folder in VOC format are used
unchanged if `data.test` names another data set.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.files import file_hash, map_in_threads
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.layout import LayoutReader
from frcnn_jax.data.formats.tree import composed
from frcnn_jax.data.formats.voc.reader import VocReader
from frcnn_jax.data.prepared.index import LAYOUT_FILE
from frcnn_jax.data.records import STANDARD_SPLITS, ImageRecord, SplitRecords, canonical_split

__all__ = ["PooledReader", "SplitRule", "split_rule", "used_splits", "without_tested"]

_log = logging.getLogger(__name__)
_NAMED = 5  # folders in a message


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """The images of a split name in a folder."""

    split: str  # to read with `reader`
    reader: AnnotationReader
    tested: tuple[str, ...] = ()  # splits with images that the others must not have
    why: str = ""  # how the test was chosen, if the folder has no test images
    unlabelled: int = 0  # test images without annotation, if that is why the folder has no test images

    def places(self) -> tuple[str, ...]:
        """Folders, lists or files of the split, below the root; empty if the reader does not know them."""
        places = getattr(self.reader, "places", lambda split: ())
        parts = (self.split,) if self.split in self.reader.splits else ("train", "validation")
        return tuple(dict.fromkeys(place for part in parts for place in places(part)))


def split_rule(split: str, reader: AnnotationReader, config: DataConfig) -> SplitRule:
    """The rule for `split`."""
    standard, other_splits = _standard(reader), [name for name in reader.splits if name not in STANDARD_SPLITS]
    in_folder = re.fullmatch(r"folder/(.+)", config.test)
    test = canonical_split(in_folder[1]) if in_folder else None
    measured = re.fullmatch(r"folder/(.+)", config.validation or "")
    validation = canonical_split(measured[1]) if measured else None
    listed = isinstance(reader, VocReader) and bool(reader.folder.split_files)
    tested = tuple(name for name in ("test", "validation") if name in standard and name in ("test", test, validation))
    if split not in STANDARD_SPLITS or (listed and not in_folder and split != "test"):
        return SplitRule(_only(split, [name for name in standard if name != validation]), reader, tested)
    if "test" in standard:
        if standard == ["test"] and other_splits:
            return SplitRule("test" if split == "test" else "train", PooledReader(reader, other_splits, 0.0), tested)
        return SplitRule(_only(split, [name for name in standard if name not in tested]), reader, tested)
    if not config.split or test in other_splits:
        pooled = reader if standard else PooledReader(reader, other_splits, 0.0)
        return SplitRule(_only(split, _standard(pooled)), pooled, tested)
    if "validation" in standard and len(standard) > 1:
        training = [name for name in standard if name != "validation"]
        found = "validation" if split == "test" else _only(split, training[:1])
        why = f"those to validate with, not trained on, as there are {_no_test(reader)}"
        return SplitRule(found, reader, ("validation",), *((why, _unlabelled(reader)) if split == "test" else ()))
    pooled = PooledReader(reader, standard or other_splits, config.split)
    drawn = f"each drawn by its name with a chance of {config.split:.6g} (data.split)"
    why = f"{drawn}, as there are {_no_test(reader)}{_other_folders(reader)}"
    chosen = (why, _unlabelled(reader)) if split == "test" else ()
    return SplitRule("train" if split == "trainval" else split, pooled, ("test",), *chosen)


def used_splits(split: str, reader: AnnotationReader, config: DataConfig) -> tuple[tuple[str, SplitRule], ...]:
    """Purpose and rule of each split in the settings; `split` too, if they do not name it."""
    named = [("train", name) for name in config.train]
    named += [("validation", config.validation or ""), ("test", config.test)]
    used = [(use, canonical_split(name[7:])) for use, name in named if name.startswith("folder/")]
    if split not in [name for _, name in used]:
        used.append((split, split))
    return tuple((use, split_rule(name, reader, config)) for use, name in dict.fromkeys(used))


def without_tested(
    splits: dict[str, SplitRecords], tested: Sequence[str], root: Path
) -> tuple[dict[str, SplitRecords], Counter[str]]:
    """The splits without images that a tested split has too (by content), and how many each has lost.

    A line in the log gives the numbers. If two tested splits overlap, the first keeps the images.
    """
    lost: Counter[str] = Counter()
    for name in tested:
        others = [other for other in splits if other not in tested[: tested.index(name) + 1]]
        same = _same_content(splits[name], [splits[other] for other in others])
        for other in others:
            kept = tuple(record for record in splits[other].records if not same(record))
            count = len(splits[other].records) - len(kept)
            if count:
                first = next(record.image_id for record in splits[other].records if same(record))
                splits = splits | {other: dataclasses.replace(splits[other], records=kept)}
                lost[other] += count
                _log.warning(
                    "%s: %d %s of %s %s in %s too, and left out of %s (the first: %s)",
                    *(root, count, "image" if count == 1 else "images", other, "is" if count == 1 else "are"),
                    *(name, other, first),
                )
    return splits, lost


class PooledReader:
    """Splits of another reader, pooled as `train`, with a share held out as `test`; a share of 0 keeps the reader's
    test.
    """

    def __init__(self, reader: AnnotationReader, pool: Sequence[str], share: float):
        self.layout, self.splits = reader.layout, ("train", "test")
        self._reader, self._pool, self._share = reader, tuple(pool), share
        if not share and "test" not in reader.splits:
            self.splits = ("train",)

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

    @cached_property
    def content(self) -> Callable[..., list[Any]] | None:
        """The other reader's value for a hash, with the share; None if it has none."""
        content = getattr(self._reader, "content", None)
        if content is None:
            return None
        others = [] if self._share else [name for name in self.splits if name != "train"]

        @functools.wraps(content)
        def with_share(splits: Sequence[str], *more: Any) -> list[Any]:
            return [["held out", self._share], *content([*self._pool, *others], *more)]

        return with_share

    def why_empty(self) -> str:
        """The end of a message: reason why no image is held out, and what to type."""
        name = self._pool[0]
        return (
            f"data.split = {self._share:.6g} keeps none of a single image; add images, or test on what is trained on: "
            f"--data.split 0 --data.test folder/{name}"
        )

    def places(self, split: str) -> tuple[str, ...]:
        """The places of the other reader's splits; none for the share."""
        places = getattr(self._reader, "places", lambda split: ())
        if split == "train":
            return tuple(dict.fromkeys(place for name in self._pool for place in places(name)))
        return () if self._share else places(split)

    def _share_with(self, image_ids: Collection[str]) -> float | None:
        """A share that puts one of these images into the test and another into `train`; None if there is none."""
        places = sorted({_place(record) for record in self._all.records if record.image_id in image_ids})
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
        places = {record.image_id: _place(record) for record in self._all.records}
        groups = {places[record.image_id] for record in self._all.records if record.path} or set(places.values())
        chosen = {place for place in groups if place < self._share}
        if self._share:
            chosen = chosen or {min(groups)}
            chosen -= {max(groups)} if chosen == groups else set()
        chosen |= {place for place in places.values() if place not in groups and place < self._share}
        return frozenset(image_id for image_id, place in places.items() if place in chosen)


def _place(record: ImageRecord) -> float:
    """A number from 0 to 1 that depends only on the image's name, without Roboflow's hash."""
    name = composed(record.path.stem if record.path else Path(record.image_id).stem)
    digest = hashlib.sha256(re.sub(r"\.rf\.\w+$", "", name).encode()).digest()
    return int.from_bytes(digest[:7]) / (1 << 56)


def _no_test(reader: AnnotationReader) -> str:
    """The reason why there are no test images, as part of a message."""
    count = _unlabelled(reader)
    return f"{count} test images without annotation, which are left out" if count else "no test images"


def _other_folders(reader: AnnotationReader) -> str:
    """Image folders that are named after no split, as the end of a message; empty if all images lie in one folder."""
    if isinstance(reader, LayoutReader):
        folders = {"/".join(image.folders): image.split for image in reader.images}
    else:
        folders = dict.fromkeys(reader.folder.folders) if isinstance(reader, VocReader) else {}
    others = sorted(name for name, split in folders.items() if name and split is None)
    if len(folders) < 2 or not others:
        return ""
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"; named after no split: {', '.join(others[:_NAMED])}{more}"


def _unlabelled(reader: AnnotationReader) -> int:
    """Number of test images without annotation."""
    return reader.left_out("test") if isinstance(reader, LayoutReader) else 0


def _standard(reader: AnnotationReader) -> list[str]:
    return [name for name in STANDARD_SPLITS if name in reader.splits]


def _only(split: str, splits: Sequence[str]) -> str:
    """The split itself; for `trainval`, the training split if there is only one."""
    training = [name for name in splits if name != "test"]
    return training[0] if split == "trainval" and len(training) == 1 else split


def _same_content(tested: SplitRecords, others: Sequence[SplitRecords]) -> Callable[[ImageRecord], bool]:
    """True for an image with the same bytes as a tested one. Only files of equal size are read."""
    sizes = {record.path: record.path.stat().st_size for split in (tested, *others) for record in _with_path(split)}
    of_tested = {sizes[record.path] for record in _with_path(tested)}
    of_others = {sizes[record.path] for split in others for record in _with_path(split)}
    paths = [path for path, size in sizes.items() if size in of_tested & of_others]
    hashes = dict(zip(paths, map_in_threads(file_hash, paths), strict=True))
    wanted = {hashes[record.path] for record in _with_path(tested) if record.path in hashes}
    return lambda record: record.path in hashes and hashes[record.path] in wanted


def _with_path(split: SplitRecords) -> list[ImageRecord]:
    return [record for record in split.records if record.path is not None]
