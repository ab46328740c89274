"""The image of each annotation among those with its name: in its own folder, and of one annotation only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

from frcnn_jax.data.formats.file_names import common_start, name_parts, normal_name, shared_names
from frcnn_jax.data.formats.tree import ImageFile

__all__ = ["Place", "in_own_folders", "nearness", "without_claimed"]

Place = tuple[str, tuple[str, ...], Sequence[ImageFile]]
"""Name of an image in an annotation, the annotation's folders below the root, and the images that it may mean."""


def in_own_folders(places: Sequence[Place], images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """The candidate images of each annotation, without namesakes in other folders.

    An annotation whose own image is missing must not get that of another folder. A namesake is dropped if

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
    known = {folders: tuple(map(normal_name, folders)) for folders in {file.folders for file in images}}
    if len(known) < 2:
        return found
    endings = {parts[start:] for parts in known.values() for start in range(len(parts))}
    folders = [tuple(name_parts(name)[:-1]) for name, _, _ in places]

    @cache
    def named(place_folders: tuple[str, ...], image_folders: tuple[str, ...]) -> int:
        return common_start(reversed(known[image_folders]), reversed(place_folders))

    @cache
    def wanted(place_folders: tuple[str, ...]) -> int:
        return next((n for n in range(len(place_folders), 0, -1) if place_folders[-n:] in endings), 0)

    near = cache(shared_names)
    numbers = range(len(places))
    exist = [i for i in numbers if wanted(folders[i])]
    if any(named(folders[i], file.folders) == wanted(folders[i]) for i in exist for file in found[i]):
        for i in exist:
            found[i] = [file for file in found[i] if named(folders[i], file.folders) >= wanted(folders[i])]
    else:
        exist = []
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i in sorted({*numbers} - {*exist}):
        if found[i]:
            groups[places[i][1]].append(i)
    for group, members in groups.items():
        best = sorted((max(near(file.folders, group) for file in found[i]) for i in members), reverse=True)
        least = best[(len(best) - 1) // 2]  # at least half of them are as near
        for i in members if least else ():
            found[i] = [file for file in found[i] if near(file.folders, group) >= least]
    fits: dict[ImageFile, int] = {}
    for i in (i for i in numbers if folders[i]):
        for file in found[i]:
            fits[file] = max(fits.get(file, 0), named(folders[i], file.folders))
    for i in (i for i in numbers if folders[i]):
        found[i] = [file for file in found[i] if named(folders[i], file.folders) >= fits[file]]
    return found


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
