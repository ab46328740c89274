"""The rule of splits: the meaning of a folder's `trainval` and `test`; no test image is trained on.

    test      the folder's test images; else its validation images; else a share of all, `data.split`
    trainval  the folder's training images, and its validation images if these are not the test

A split of another name that is tested or validated with (`data.test`, `data.validation`) takes its images from all that
are trained on, and one that is trained on loses those of the test. If the settings neither test nor validate on the
folder, all of it is trained on.

The share is chosen by a hash of the images' names, or of their paths where a few names recur in many folders: it is the
same on every machine, and does not change when images are added. Copies that Roboflow made of one image, NAME.rf.HASH,
stay together. The lists of a folder in VOC format are used unchanged if `data.test` names another data set.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from frcnn_jax.config import DataConfig, expand_user
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.layout import LayoutReader
from frcnn_jax.data.formats.voc.reader import VocReader
from frcnn_jax.data.prepared.splits.pooled import PooledReader
from frcnn_jax.data.records import STANDARD_SPLITS, canonical_split
from frcnn_jax.words import counted, listed

__all__ = ["SplitRule", "held_splits", "resolved_split", "split_rule", "used_splits"]

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
        parts = (self.split,) if self.split in self.reader.splits else ("train", "validation")
        return tuple(dict.fromkeys(place for part in parts for place in self.reader.places(part)))


def split_rule(split: str, reader: AnnotationReader, config: DataConfig) -> SplitRule:
    """The rule for `split`, a name as from `resolved_split`."""
    standard, other_splits = _standard(reader), [name for name in reader.splits if name not in STANDARD_SPLITS]
    test, validation = _in_folder(config.test, reader), _in_folder(config.validation, reader)
    pool = [name for name in other_splits if name not in (test, validation)] or other_splits
    root = expand_user(config.root or ".").resolve()
    listed = isinstance(reader, VocReader) and bool(reader.folder.split_files)
    tested = tuple(name for name in ("test", "validation") if name in standard and name in ("test", test, validation))
    if split not in STANDARD_SPLITS or (listed and test is None and split != "test"):
        return SplitRule(_only(split, [name for name in standard if name != validation]), reader, tested)
    if "test" in standard:
        if standard == ["test"] and other_splits:
            return SplitRule("test" if split == "test" else "train", PooledReader(reader, pool, 0.0, root), tested)
        return SplitRule(_only(split, [name for name in standard if name not in tested]), reader, tested)
    wanted = split == "test" or bool(test or validation)
    if not config.split or test in other_splits or not wanted:
        pooled = reader if standard else PooledReader(reader, pool, 0.0, root)
        return SplitRule(_only(split, _standard(pooled)), pooled, tested)
    if "validation" in standard and len(standard) > 1:
        training = [name for name in standard if name != "validation"]
        found = "validation" if split == "test" else _only(split, training[:1])
        why = f"those to validate with, not trained on, as there {_no_test(reader)}"
        return SplitRule(found, reader, ("validation",), *((why, _unlabelled(reader)) if split == "test" else ()))
    pooled = PooledReader(reader, standard or pool, config.split, root)
    drawn = f"each drawn by its name with a chance of {config.split:.6g} (data.split)"
    why = f"{drawn}, as there {_no_test(reader)}{_other_folders(reader)}"
    chosen = (why, _unlabelled(reader)) if split == "test" else ()
    return SplitRule("train" if split == "trainval" else split, pooled, ("test",), *chosen)


def held_splits(split: str, reader: AnnotationReader, config: DataConfig) -> tuple[SplitRule, ...]:
    """The rules of splits whose images `split` must not have, beside those prepared with it: those to test and to
    validate with, one of which has a name of its own. None for a split that is itself one of them, or of which they are
    all images.
    """
    names = [name for name in (_in_folder(config.test, reader), _in_folder(config.validation, reader)) if name]
    if split in STANDARD_SPLITS:
        pooled = split_rule(split, reader, config).reader
        held = [name for name in names if name not in STANDARD_SPLITS]
        held = [name for name in held if not (isinstance(pooled, PooledReader) and name in pooled.pool)]
    elif split in (_in_folder(name, reader) for name in config.train) and split not in names:
        held = [name for name in names if name not in ("train", "trainval")]
    else:
        held = []
    rules = (split_rule(name, reader, config) for name in dict.fromkeys(held))
    return tuple({rule.split: rule for rule in rules if rule.split in rule.reader.splits}.values())


def used_splits(split: str, reader: AnnotationReader, config: DataConfig) -> tuple[tuple[str, SplitRule], ...]:
    """Purpose and rule of each split in the settings; `split` too, if they do not name it."""
    named = [("train", name) for name in config.train]
    named += [("validation", config.validation), ("test", config.test)]
    used = [(use, found) for use, name in named if (found := _in_folder(name, reader))]
    if split not in [name for _, name in used]:
        used.append((split, split))
    return tuple((use, split_rule(name, reader, config)) for use, name in dict.fromkeys(used))


def resolved_split(name: str, reader: AnnotationReader) -> str:
    """The name by which the reader has a split: `train` for `Train`, or for the list of a VOC folder of that name."""
    if name in reader.splits:
        return name
    files = reader.folder.split_files if isinstance(reader, VocReader) else {}
    of_file = next((split for split, path in files.items() if path.stem == name), None)
    standard = canonical_split(name.lower())
    return of_file or (standard if standard in STANDARD_SPLITS else name)


def _in_folder(name: str | None, reader: AnnotationReader) -> str | None:
    """The split of a data set named `folder/SPLIT`; None for another."""
    found = re.fullmatch(r"folder/(.+)", name or "")
    return resolved_split(canonical_split(found[1]), reader) if found else None


def _no_test(reader: AnnotationReader) -> str:
    """The reason why there are no test images, as part of a message: a verb and more."""
    count = _unlabelled(reader)
    are = "is" if count == 1 else "are"
    images = counted(count, "test image")
    return f"{are} {images} without annotation, which {are} left out" if count else "are no test images"


def _other_folders(reader: AnnotationReader) -> str:
    """Image folders that are named after no split, as the end of a message; empty if all images lie in one folder."""
    if isinstance(reader, LayoutReader):
        folders = {"/".join(image.folders): image.split for image in reader.images}
    else:
        folders = dict.fromkeys(reader.folder.folders) if isinstance(reader, VocReader) else {}
    others = sorted(name for name, split in folders.items() if name and split is None)
    if len(folders) < 2 or not others:
        return ""
    return f"; named after no split: {listed(others, _NAMED)}"


def _unlabelled(reader: AnnotationReader) -> int:
    """Number of test images without annotation."""
    return reader.left_out("test") if isinstance(reader, LayoutReader) else 0


def _standard(reader: AnnotationReader) -> list[str]:
    return [name for name in STANDARD_SPLITS if name in reader.splits]


def _only(split: str, splits: Sequence[str]) -> str:
    """The split itself; for `trainval`, the training split if there is only one."""
    training = [name for name in splits if name != "test"]
    return training[0] if split == "trainval" and len(training) == 1 else split
