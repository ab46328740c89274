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

Place = tuple[str, tuple[str, ...], Sequence[ImageFile]]
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
    numbers = _with_namesakes(places, images)
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
