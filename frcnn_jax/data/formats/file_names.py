"""Names of folders and files: Unicode's form, prefixes, and the splits in them.

Names are compared in Unicode's composed form (NFC), because some systems write file names decomposed (NFD) and the
names inside files composed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = [
    "common_start",
    "composed",
    "name_parts",
    "named_split",
    "normal_name",
    "shared_names",
    "split_of",
    "without_prefix",
]

_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validset"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "holdout"), "test"),
    "trainval": "trainval",
}
# These count only in a name without another split: `test-dev` is a test.
_OTHERS = dict.fromkeys(("eval", "evaluation", "evalset", "dev", "devset"), "validation")


def composed(name: str) -> str:
    """The name in Unicode's composed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def normal_name(name: str) -> str:
    """The name in composed form, with slashes where Windows has backslashes."""
    return composed(name.replace("\\", "/"))


def without_prefix(name: str) -> str:
    """The name without the 8 hexadecimal digits and hyphen that Label Studio puts before it."""
    return re.sub(r"^[0-9a-f]{8}-", "", name)


def named_split(name: str) -> str | None:
    """The split in the name of a folder or file, such as `train_zip`, `instances_val2017` or `TestImages`; None if the
    name has none or several.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.split(r"[^a-z]+", re.sub(r"h[eo]ld[-_ ]out", "holdout", spaced.lower()))
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    found = found or {_OTHERS[word] for word in words if word in _OTHERS}
    if found == {"train", "validation"}:
        return "trainval"
    return found.pop() if len(found) == 1 else None


def split_of(folders: Iterable[str]) -> str | None:
    """The split in the name of the innermost folder that has one."""
    return next(filter(None, map(named_split, reversed(tuple(folders)))), None)


def name_parts(name: str) -> list[str]:
    """The folders in a name and its last part, in normal form; empty if the name is."""
    return [part for part in normal_name(name).split("/") if part not in ("", ".", "..")]


def shared_names(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Length of the longest common subsequence of names."""
    lengths = [0] * (len(other) + 1)
    for name in one:
        before = 0
        for place, folder in enumerate(other, 1):
            longest = before + 1 if name == folder else max(lengths[place], lengths[place - 1])
            before, lengths[place] = lengths[place], longest
    return lengths[-1]


def common_start(one: Iterable[str], other: Iterable[str]) -> int:
    """Number of equal items before the first difference."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
