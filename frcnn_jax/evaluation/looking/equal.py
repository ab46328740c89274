"""Images with the same bytes, and folders that hold the same images."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from frcnn_jax.data.files import file_hash, map_in_threads
from frcnn_jax.data.formats.tree import split_of
from frcnn_jax.data.records import SplitRecords

__all__ = ["equal_files", "equal_images", "twin_folders"]

_FOLDERS = 8  # compared; an image in more of them, as one without content, tells nothing
_LEAST = 2  # images of such a folder
_MOST = 0.5  # more than this share of the images of a folder are most of them


def equal_files(splits: Mapping[str, SplitRecords]) -> list[list[Path]]:
    """Groups of image files with the same bytes. Only files of equal size are read."""
    by_size: dict[int, list[Path]] = {}
    for path in dict.fromkeys(path for split in splits.values() for path in _paths(split)):
        by_size.setdefault(path.stat().st_size, []).append(path)
    by_size.pop(0, None)  # empty files are faults of their own
    alike = list(itertools.chain.from_iterable(paths for paths in by_size.values() if len(paths) > 1))
    groups: dict[str, list[Path]] = {}
    for path, digest in zip(alike, map_in_threads(file_hash, alike), strict=True):
        groups.setdefault(digest if len(digest) == 64 else str(path), []).append(path)  # else the name of an error
    return [paths for paths in groups.values() if len(paths) > 1]


def equal_images(
    splits: Mapping[str, SplitRecords], files: Sequence[Sequence[Path]] | None = None
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Groups of images with the same bytes, groups across splits first; each image as split and id.

    Args:
        files: output of `equal_files`, if it is known.
    """
    places: dict[Path, list[tuple[str, str]]] = {}
    for name, split in splits.items():
        for record in split.records:
            if record.path is not None:
                places.setdefault(record.path, []).append((name, record.image_id))
    files = equal_files(splits) if files is None else files
    alone = [[path] for path in places.keys() - set(itertools.chain.from_iterable(files))]
    found = [tuple(place for path in paths for place in places[path]) for paths in (*files, *alone)]
    equal = sorted(group for group in found if len(group) > 1)
    return tuple(sorted(equal, key=lambda group: len({split for split, _ in group}) == 1))


def twin_folders(splits: Mapping[str, SplitRecords], files: Sequence[Sequence[Path]], root: Path) -> list[str]:
    """A sentence about each two folders of which one has most images of the other, as an archive that was unpacked
    twice. Folders of different splits are none.

    Args:
        files: output of `equal_files`.
    """
    annotations = {record.path: record.file for split in splits.values() for record in split.records if record.path}
    shared: Counter[tuple[Path, Path]] = Counter()
    for paths in files:
        folders = sorted({path.relative_to(root).parent for path in paths})
        pairs = itertools.combinations(folders if len(folders) <= _FOLDERS else (), 2)
        shared.update({_tops(*pair) for pair in pairs if split_of(pair[0].parts) == split_of(pair[1].parts)})
    sentences = []
    for (one, other), count in shared.most_common(_FOLDERS):
        outer = one in other.parents  # sorted, so that no `other` holds `one`
        in_other = {path for path in annotations if root / other in path.parents}
        in_one = {path for path in annotations if root / one in path.parents} - in_other
        first = outer or (len(in_one), -len(one.parts)) >= (len(in_other), -len(other.parts))
        kept, copy, total = (one, other, len(in_other)) if first else (other, one, len(in_one))
        if total < _LEAST or count <= _MOST * total:
            continue
        of_kept = in_one if first else in_other
        whole = not outer and all(kept in Path(annotations[path]).parents for path in of_kept)
        give = f"give one of them, as by --data.root {shlex.quote(str(root / kept))}, or " if whole else ""
        sentences.append(
            f"{min(count, total)} of the {total} images of {copy} are in {kept if kept.parts else 'the folder itself'} "
            f"too, with the same bytes, so that they count twice: {give}move {copy} out of {root}"
        )
    return sentences


def _tops(one: Path, other: Path) -> tuple[Path, Path]:
    """The folders without their equal last names, as `a` and `b/a` of `a/images` and `b/a/images`."""
    while one.name == other.name and len(one.parts) > 1 and len(other.parts) > 1:
        one, other = one.parent, other.parent
    return min(one, other), max(one, other)


def _paths(split: SplitRecords) -> Iterator[Path]:
    return (record.path for record in split.records if record.path is not None)
