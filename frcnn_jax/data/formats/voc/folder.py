"""The layout of a folder in VOC format: JPEGImages, Annotations and the split lists in ImageSets/Main."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PureWindowsPath

from frcnn_jax.data.formats.layout import ALL, warn_once
from frcnn_jax.data.formats.split_lists import read_lists
from frcnn_jax.data.formats.tree import (
    USUAL_SUFFIXES,
    ImageTree,
    composed,
    files_below,
    lines_of,
    named_split,
)
from frcnn_jax.data.formats.voc.annotation import UnreadableAnnotation, read_annotation
from frcnn_jax.data.formats.voc.lists import SplitList, is_class_file, parent_of, read_split, with_mark
from frcnn_jax.data.formats.voc.places import find_annotation, texts_in, voc_part
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import STANDARD_SPLITS, canonical_split
from frcnn_jax.words import counted

__all__ = ["UNLISTED", "VocFolder"]

UNLISTED = ALL
"""The split of all annotated images, in a folder without lists."""


@dataclasses.dataclass(frozen=True)
class VocFolder:
    """A folder in VOC format. ImageSets/Main may be missing or empty. Ids of images in subfolders of JPEGImages and
    Annotations include the subfolder, as in `cats/000`.
    """

    root: Path
    annotated: bool = True  # False if annotations were never published: images have no objects
    above: Path | None = None  # a folder around it, whose lists count too

    def __post_init__(self) -> None:
        for name in ("JPEGImages", "Annotations" if self.annotated else "ImageSets/Main"):
            if not voc_part(self.root, name).is_dir():
                what = "has no folder" if self.root.is_dir() else "does not exist; it should have a folder"
                raise FileNotFoundError(f"{self.root} {what} {name} (VOC format){self._way_on(name)}")

    def _way_on(self, lacking: str) -> str:
        """Advice for annotations in another folder, as the end of a message."""
        found = find_annotation(self.root) if lacking == "Annotations" else None
        if found is None:
            return ""
        return f"; rename the folder of {found} to Annotations, or set --data.format labelimg"

    @cached_property
    def image_folder(self) -> Path:
        return voc_part(self.root, "JPEGImages")

    @cached_property
    def annotation_folder(self) -> Path:
        return voc_part(self.root, "Annotations")

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """File names below JPEGImages by their stems, in composed form."""
        found: dict[str, list[str]] = {}
        for name in _names_below(self.image_folder, IMAGE_SUFFIXES):
            found.setdefault(composed(os.path.splitext(name)[0]), []).append(name)
        # A copy in another format, such as a phone's .heic, may lie beside an image.
        usual = {stem: [n for n in names if Path(n).suffix.lower() in USUAL_SUFFIXES] for stem, names in found.items()}
        return {stem: usual[stem] or names for stem, names in found.items()}

    @cached_property
    def annotations(self) -> dict[str, str]:
        """File names below Annotations by their stems, in composed form."""
        names = _names_below(self.annotation_folder, (".xml",)) if self.annotated else ()
        return {composed(os.path.splitext(name)[0]): name for name in names}

    @cached_property
    def folders(self) -> frozenset[str]:
        """Subfolders of JPEGImages and Annotations that ids may include."""
        return frozenset(parent_of(name) for name in (*self.images, *self.annotations)) - {""}

    @cached_property
    def list_files(self) -> tuple[Path, ...]:
        """Text files in ImageSets/Main; if there are none, lists elsewhere that are named after a split."""
        main = texts_in(voc_part(self.root, "ImageSets/Main"))
        known = {"trainval", *(named_split(path.stem.lower()) for path in main)}
        for path in self._named if main else ():
            if named_split(path.stem) not in known:
                warn_once(f"{path} is not read: there are lists in {main[0].parent}")
        return tuple(main or self._named_lists)

    @cached_property
    def _named(self) -> list[Path]:
        """Text files named after a split in ImageSets, beside it or above, each name once."""
        folders = [voc_part(self.root, "ImageSets"), self.root, *([self.above] if self.above else [])]
        paths = [path for folder in folders for path in texts_in(folder) if named_split(path.stem)]
        return list({path.stem: path for path in reversed(paths)}.values())[::-1]

    @cached_property
    def _named_lists(self) -> dict[Path, SplitList]:
        """Lists elsewhere than in Main: of ids, or of paths of images."""
        plain = {path: self._read_ids(path) for path in self._named if self._begins(path)}
        others = (path for path in self._named if path not in plain)
        for lists in read_lists(others, ImageTree(self.image_folder)).values():
            for path, files in lists.items():
                ids = dict.fromkeys("/".join((*file.folders, file.stem)) for file in files)
                plain[path] = SplitList(os.path.relpath(path, self.root), tuple(ids))
        return plain

    def _begins(self, path: Path) -> bool:
        try:
            first = next(iter(self._read_ids(path).ids), "")
        except ValueError:  # not a list of ids
            return False
        return composed(first) in self.images or os.path.isfile(self.annotation_path(first))

    @cached_property
    def split_files(self) -> dict[str, Path]:
        """Lists by TFDS's split name, in upper or lower case (`Train.txt`); class files such as aeroplane_train.txt are
        ignored.
        """
        files = {path.stem: path for path in self.list_files}
        names = [name for name in files if not is_class_file(name, files)]
        alike = [name for name in ("val", "valid", "validation") if name in names]
        for name in alike[1:]:
            names.remove(name)
            warn_once(f"{files[name]} is not read, as {files[alike[0]]} is the list of the same split")
        plain = {canonical_split(name) for name in names}
        found: dict[str, Path] = {}
        for name in names:
            split = named_split(name.lower()) if name.isalpha() or files[name] in self._named else None
            found[split if split and split not in plain | set(found) else canonical_split(name)] = files[name]
        return found

    @cached_property
    def class_files(self) -> dict[str, list[Path]]:
        """Files such as aeroplane_train.txt by split, if VoTT wrote them without a train.txt: all lists are such files,
        and a split has the images in any of its files.
        """
        if set(self.split_files) & set(STANDARD_SPLITS):
            return {}
        found: dict[str, list[Path]] = {}
        for path in self.split_files.values():
            split = named_split(path.stem.rpartition("_")[2].lower()) if "_" in path.stem else None
            if split is None or not all(with_mark(line) for line in lines_of(path)):
                return {}
            found.setdefault(split, []).append(path)
        return {split: paths for split, paths in found.items() if any(map(lines_of, paths))}

    def annotation_path(self, image_id: str) -> Path:
        path = self.annotation_folder / f"{image_id}.xml"
        if not self.annotated or os.path.isfile(path):
            return path
        return self.annotation_folder / self.annotations.get(composed(image_id), f"{image_id}.xml")

    def image_paths(self, image_id: str, filename: str | None) -> list[Path]:
        """The image with that id, else the one named by the annotation. Empty if neither exists; several if files
        differ only in their suffix and the annotation names none of them. The id comes first, as tools that copy
        annotations often leave a wrong name in them.
        """
        named = PureWindowsPath(filename).name if filename else ""  # accepts both kinds of slash
        named = f"{parent_of(image_id)}/{named}".removeprefix("/") if named else ""
        candidates = self.images.get(composed(image_id), [])
        candidates = [name for name in candidates if os.path.splitext(name)[0] == image_id] or candidates
        if not candidates and Path(named).suffix:
            candidates = self.images.get(composed(os.path.splitext(named)[0]), [])
            candidates = [name for name in candidates if composed(name).lower() == composed(named).lower()]
        return [self.image_folder / name for name in ([named] if named in candidates else candidates)]

    def read_split(self, name: str) -> SplitList:
        """The list of a split, by split or file name.

        Raises:
            FileNotFoundError: the split does not exist; names the existing ones.
        """
        if name == UNLISTED and not self.split_files:
            return SplitList("Annotations", self._annotated_ids)
        if name in self.class_files:
            lists = [self._read(path) for path in self.class_files[name]]
            ids = dict.fromkeys(image_id for one_list in lists for image_id in one_list.ids)
            repeats = dict.fromkeys(repeat for one_list in lists for repeat in one_list.repeats)
            first = self.class_files[name][0].relative_to(self.root)
            file = first.with_name(f"*_{first.stem.rpartition('_')[2]}.txt")
            return SplitList(str(file), tuple(ids), tuple(repeats))
        path = self.split_files.get(name) or {path.stem: path for path in self.split_files.values()}.get(name)
        if path is None:
            existing = ", ".join(sorted(self.class_files or self.split_files)) or UNLISTED
            folder = self.list_files[0].parent if self.list_files else voc_part(self.root, "ImageSets/Main")
            raise FileNotFoundError(f"{folder} has no list of a split {name!r} (there: {existing})")
        return self._read(path)

    def places(self, name: str) -> tuple[str, ...]:
        """The files that define a split, below the root; the folder of annotations if there is no list."""
        if name == UNLISTED and not self.split_files:
            return (self.annotation_folder.name,)
        paths = self.class_files.get(name) or [path for split, path in self.split_files.items() if split == name]
        return tuple(os.path.relpath(path, self.root) for path in paths)

    def _read(self, path: Path) -> SplitList:
        return self._named_lists[path] if path in self._named else self._read_ids(path)

    def _read_ids(self, path: Path) -> SplitList:
        return read_split(path, os.path.relpath(path, self.root), self.images, self.folders)

    @cached_property
    def _annotated_ids(self) -> tuple[str, ...]:
        """Ids of all annotations; those in subfolders count only if all are in subfolders, else a line logs them."""
        if not self.annotated:
            return _in_no_folder(self.images)
        ids = _in_no_folder(self.annotations)
        used = {path for image_id in ids for path in self.image_paths(image_id, self._filename(image_id))}
        images = (self.image_folder / name for names in self.images.values() for name in names)
        skipped = [path for path in images if path not in used]
        if skipped:
            first = os.path.relpath(min(skipped), self.root)
            warn_once(
                f"{self.root}: left out {counted(len(skipped), 'image')} without annotation, in no list ({first})"
            )
        if len(ids) < len(self.annotations):
            first = next(name for name in self.annotations.values() if parent_of(name))
            count = len(self.annotations) - len(ids)
            warn_once(f"{self.root}: left out {counted(count, 'annotation')} in folders of Annotations ({first})")
        return ids

    def _filename(self, image_id: str) -> str | None:
        """The image name inside an annotation, if no image has the annotation's file name."""
        if image_id in self.images:
            return None
        with contextlib.suppress(UnreadableAnnotation):
            return read_annotation(self.annotation_path(image_id)).filename
        return None


def _in_no_folder(ids: Iterable[str]) -> tuple[str, ...]:
    """The ids outside subfolders; all ids if all are in subfolders."""
    return tuple(sorted([image_id for image_id in ids if not parent_of(image_id)] or ids))


def _names_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Names of files in a folder, then of those in its subfolders, with slashes."""
    return ("/".join((*folders, name)) for folders, name in files_below(folder, suffixes))
