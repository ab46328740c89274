"""Categories of COCO files: ids in several notations, names, and notes on both."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from frcnn_jax.data.faults import Note
from frcnn_jax.words import joined

__all__ = ["category_names", "class_name", "class_notes", "id_key"]


def id_key(value: Any) -> Any:
    """An id as a key: some writers have 1 in one list and "1" or 1.0 in another."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) else None


def class_name(name: Any) -> str:
    """The class of a category's name: white space counts as one space."""
    return " ".join(str(name).split())


def category_names(path: Path, categories: list, used: Collection[Any]) -> dict[Any, Any]:
    """The name of each id.

    Args:
        used: ids of the objects.

    Raises:
        ValueError: an id of objects stands for two classes.
    """
    places: dict[Any, int] = {}
    names: dict[Any, Any] = {}
    for index, item in enumerate(categories):
        if not isinstance(item, dict):
            continue
        key, name = id_key(item.get("id")), item.get("name")
        first = names.setdefault(key, name)
        place = places.setdefault(key, index)
        if key in used and key is not None and class_name(first) != class_name(name):
            raise ValueError(
                f"{path}: categories[{place}], {first!r}, and categories[{index}], {name!r}, have one id, {key}: give "
                "one of them another, in its objects too"
            )
    return names


def class_notes(categories: dict[tuple[Any, Any], bool]) -> Iterator[Note]:
    """Notes on categories without a class of their own, and on the order of labels."""
    alike: dict[str, dict[str, None]] = defaultdict(dict)
    for (key, name), used in categories.items():
        if name is not None:
            yield Note("class", class_name(name))
        if used and key is not None and name is not None:
            alike[class_name(name)][key] = None
    for name, keys in alike.items():
        if len(keys) > 1:
            yield Note("", f"categories {joined(keys)} are one class, as their name is {name!r}")
    ids = sorted({int(key) for keys in alike.values() for key in keys if re.fullmatch(r"[0-9]{1,18}", key)})
    if ids and ids[-1] - ids[0] >= len(ids):
        classes = textwrap.shorten(", ".join(sorted(alike)), 80, placeholder=" ...")
        yield Note("", f"ids of categories have gaps ({_ranges(ids)}): labels follow the sorted names ({classes})")


def _ranges(ids: list[int]) -> str:
    """Numbers in order, as `1-11, 13-90`."""
    existing = set(ids)
    starts = [i for i in ids if i - 1 not in existing]
    ends = [i for i in ids if i + 1 not in existing]
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return textwrap.shorten(", ".join(texts), 60, placeholder=" ...")
