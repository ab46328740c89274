"""Ids of images, and of images that are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from frcnn_jax.data.formats.file_names import normal_name
from frcnn_jax.data.formats.tree import ImageFile

__all__ = ["missing_ids", "unique_ids"]


def unique_ids(files: Iterable[ImageFile]) -> dict[ImageFile, str]:
    """An id for each image: its name without suffix; with its folders if several images have that name, and with its
    suffix if only that distinguishes them.
    """
    files = list(dict.fromkeys(files))

    def names(file: ImageFile) -> tuple[str, ...]:
        stem = normal_name(file.stem)
        return stem, normal_name("/".join((*file.folders, stem))), normal_name(file.below), file.below

    named = {file: names(file) for file in files}
    counts = [Counter(options[level] for options in named.values()) for level in range(2)]
    levels = {
        file: next((level for level in range(2) if counts[level][options[level]] == 1), 2)
        for file, options in named.items()
    }
    while True:  # the id of a.jpg beside a.png is the name of a.jpg.png without suffix
        ids = {file: options[levels[file]] for file, options in named.items()}
        uses = Counter(ids.values())
        repeated = [file for file in files if uses[ids[file]] > 1 and levels[file] < 3]
        if not repeated:
            return ids
        levels |= {file: levels[file] + 1 for file in repeated}


def missing_ids(
    images: Iterable[tuple[str, tuple[str, ...]]], known: Iterable[str]
) -> dict[tuple[str, tuple[str, ...]], str]:
    """An id for each missing image that is not one of an image: its name; with the annotation's folders if that is the
    id of an image or if several folders lack an image of that name.

    Args:
        images: name of each missing image, and folders of its annotation.
        known: ids of the images.
    """
    images, known = set(images), set(known)
    uses = Counter(normal_name(name) for name, _ in images)

    def chosen(name: str, folders: tuple[str, ...]) -> str:
        if name in known or uses[name] > 1:
            name = normal_name("/".join((*folders, name)))
        while name in known:
            name += " (missing)"
        return name

    return {(name, folders): chosen(normal_name(name), folders) for name, folders in images}
