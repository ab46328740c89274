"""The image of each annotation among those with its name: in its own folder, and of one annotation only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from frcnn_jax.data.formats.file_names import common_start, name_parts, normal_name, shared_names
from frcnn_jax.data.formats.tree import ImageFile

__all__ = ["Place", "in_own_folders", "nearness", "without_claimed"]

_MANY = 0.1  # share of names

Folders = tuple[str, ...]
"""Folders one in the other, the outermost first."""

Place = tuple[str, Folders, Sequence[ImageFile]]
"""Name of an image in an annotation, the annotation's folders below the root, and the images that it may mean."""


def in_own_folders(places: Sequence[Place], images: Collection[ImageFile]) -> list[list[ImageFile]]:
    """The candidate images of each annotation, without namesakes in other folders.

    Where names recur in several folders, an annotation whose own image is missing must not get that of another folder;
    a name that occurs once names its image wherever it lies. A namesake is dropped if

        the name has folders that exist in the tree, and it lies elsewhere: `scene2/4.jpg` does not mean
        `scene1/4.jpg`. Folders of another machine, of which no name has its image, do not count.
        the name has no such folders, and at least half of the annotations of the same folder have images nearer to
        it: `dogs/000.xml` does not mean `cats/000.jpg` where the other XML files of `dogs` have theirs there.
        another name with folders fits it better: `scene1/4.jpg`, where there is no folder `scene2`.

    Args:
        places: what the annotations name.
        images: all images of the tree.
    """
    found = [list(candidates) for _, _, candidates in places]
    tree = _Tree(images)
    if tree.folders < 2:
        return found
    written = [tuple(name_parts(name)[:-1]) for name, _, _ in places]
    unclear = _with_namesakes(places, images)
    named = _keep_named(found, unclear, written, tree)
    _keep_near(found, [i for i in unclear if i not in named], [folders for _, folders, _ in places])
    _keep_best_named(found, [i for i in unclear if written[i]], written, tree)
    return found


class _Tree:
    """The folders of images, to compare with folders that names in annotations have."""

    def __init__(self, images: Collection[ImageFile]):
        self._known = {folders: tuple(map(normal_name, folders)) for folders in {file.folders for file in images}}
        self._endings = {parts[start:] for parts in self._known.values() for start in range(len(parts))}
        # Many annotations have the same folders.
        self.existing, self.shared = cache(self._count_existing), cache(self._count_shared)

    @property
    def folders(self) -> int:
        return len(self._known)

    def _count_existing(self, written: Folders) -> int:
        """Number of the last folders of a name that exist as they are written, one in the other."""
        return next((count for count in range(len(written), 0, -1) if written[-count:] in self._endings), 0)

    def _count_shared(self, written: Folders, folders: Folders) -> int:
        """Number of the last folders of a name that are those of an image."""
        return common_start(reversed(self._known[folders]), reversed(written))


def _keep_named(
    found: list[list[ImageFile]], unclear: Sequence[int], written: Sequence[Folders], tree: _Tree
) -> set[int]:
    """Drops the images outside the folders that names have, if these are folders of this tree; returns the positions of
    such names.
    """
    named = [i for i in unclear if tree.existing(written[i])]
    if not any(tree.shared(written[i], file.folders) == tree.existing(written[i]) for i in named for file in found[i]):
        return set()
    for i in named:
        found[i] = [file for file in found[i] if tree.shared(written[i], file.folders) >= tree.existing(written[i])]
    return set(named)


def _keep_near(found: list[list[ImageFile]], unclear: Sequence[int], folders: Sequence[Folders]) -> None:
    """Drops the images that lie farther from an annotation than those of half of the annotations in its folder."""
    near = cache(shared_names)
    groups: dict[Folders, list[int]] = defaultdict(list)
    for i in unclear:
        if found[i]:
            groups[folders[i]].append(i)
    for group, members in groups.items():
        best = sorted((max(near(file.folders, group) for file in found[i]) for i in members), reverse=True)
        least = best[(len(best) - 1) // 2]  # at least half of them are as near
        for i in members if least else ():
            found[i] = [file for file in found[i] if near(file.folders, group) >= least]


def _keep_best_named(
    found: list[list[ImageFile]], unclear: Sequence[int], written: Sequence[Folders], tree: _Tree
) -> None:
    """Drops the images that the folders of another name fit better."""
    fits: dict[ImageFile, int] = {}
    for i in unclear:
        for file in found[i]:
            fits[file] = max(fits.get(file, 0), tree.shared(written[i], file.folders))
    for i in unclear:
        found[i] = [file for file in found[i] if tree.shared(written[i], file.folders) >= fits[file]]


def _with_namesakes(places: Sequence[Place], images: Collection[ImageFile]) -> list[int]:
    """Positions of annotations whose name does not tell which image is meant: all if a tenth of the names recur in
    several folders, as in a folder for each scene; else those whose own name does.
    """
    of_images = Counter(normal_name(file.stem) for file in images)
    named = [normal_name(found[0].stem if found else Path(name).stem) for name, _, found in places]
    meant = {(name, tuple(name_parts(place[0])[:-1]), place[1]) for name, place in zip(named, places, strict=True)}
    of_places = Counter(name for name, _, _ in meant)
    recurring = {name for counts in (of_images, of_places) for name, count in counts.items() if count > 1}
    if len(recurring) >= _MANY * len(of_images.keys() | of_places.keys()):
        return list(range(len(places)))
    return [i for i, name in enumerate(named) if name in recurring]


def without_claimed(found: list[list[ImageFile]]) -> list[list[ImageFile]]:
    """The candidate images of each annotation, without images that are the only candidate of another annotation:
    `dogs/000.xml` gets the image beside it if `dogs/old/000.xml` has the one in its own folder.
    """
    while any(len(candidates) > 1 for candidates in found):
        matched = {candidates[0] for candidates in found if len(candidates) == 1}
        remaining = [
            (len(candidates) > 1 and [image for image in candidates if image not in matched]) or candidates
            for candidates in found
        ]
        if remaining == found:
            break
        found = remaining
    return found


def nearness(file: ImageFile, near: tuple[str, ...]) -> tuple[int, int]:
    """Number of parent folders that an image shares with the folders `near`, and of equal folder names."""
    return common_start(file.folders, near), shared_names(file.folders, near)
