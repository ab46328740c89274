"""The layout of a folder in VOC format: JPEGImages, Annotations and the split lists in ImageSets/Main."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath

from frcnn_jax.data.formats.layout import ALL, warn_once
from frcnn_jax.data.formats.tree import composed, files_below, inner_folder, is_hidden, lines_of, named_split
from frcnn_jax.data.formats.voc.annotation import UnreadableAnnotation, is_annotation, read_annotation
from frcnn_jax.data.formats.voc.lists import SplitList, is_class_file, parent_of, read_split, with_mark
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import STANDARD_SPLITS, canonical_split

__all__ = ["UNLISTED", "VocFolder", "find_annotation", "in_voc_format", "voc_folders", "voc_part", "voc_root"]

UNLISTED = ALL
"""The split of all annotated images, in a folder without lists."""

_MOST = 50  # XML files that are checked for VOC's format
_USUAL = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class VocFolder:
    """A folder in VOC format. ImageSets/Main may be missing or empty. Ids of images in subfolders of JPEGImages and
    Annotations include the subfolder, as in `cats/000`.
    """

    root: Path
    annotated: bool = True  # False if annotations were never published: images have no objects

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
        return f"; rename the folder of {found} to Annotations, or read it without lists: --data.format labelimg"

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
        usual = {stem: [n for n in names if Path(n).suffix.lower() in _USUAL] for stem, names in found.items()}
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
        """Text files in ImageSets/Main; if there are none, files in ImageSets that are named after a split and begin
        with an image id.
        """
        others = (path for path in _texts_in(voc_part(self.root, "ImageSets")) if named_split(path.stem.lower()))
        return tuple(_texts_in(voc_part(self.root, "ImageSets/Main")) or filter(self._begins, others))

    def _begins(self, path: Path) -> bool:
        try:
            first = next(iter(self._read(path).ids), "")
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
        plain = {canonical_split(name) for name in names}
        found: dict[str, Path] = {}
        for name in names:
            split = named_split(name.lower()) if name.isalpha() else None
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
        return tuple(str(path.relative_to(self.root)) for path in paths)

    def _read(self, path: Path) -> SplitList:
        return read_split(path, str(path.relative_to(self.root)), self.images, self.folders)

    @cached_property
    def _annotated_ids(self) -> tuple[str, ...]:
        """Ids of all annotations; those in subfolders count only if all are in subfolders, else a line logs them."""
        if not self.annotated:
            return _in_no_folder(self.images)
        ids = _in_no_folder(self.annotations)
        used = {path for image_id in ids for path in self.image_paths(image_id, self._filename(image_id))}
        skipped = sum(map(len, self.images.values())) - len(used)
        if skipped:
            warn_once(f"{self.root}: {skipped} images without annotation are left out, for no list names them")
        if len(ids) < len(self.annotations):
            first = next(name for name in self.annotations.values() if parent_of(name))
            count = len(self.annotations) - len(ids)
            warn_once(f"{self.root}: {count} annotations in folders of Annotations are left out ({first})")
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


def _texts_in(folder: Path) -> list[Path]:
    """Text files in a folder, sorted; none if it does not exist."""
    return [folder / name for _, name in files_below(folder, (".txt",), depth=0)]


def voc_part(root: Path, name: str) -> Path:
    """A folder of VOC's layout; also in another case (`jpegimages`) if there are lists; images also in `Images`."""
    return next((path for path in (root / name, *_in_another_case(root, name)) if path.is_dir()), root / name)


def _in_another_case(root: Path, name: str) -> Iterator[Path]:
    """Folders below `root` with that name in another case, if `ImageSets` holds a list of images."""
    lists = [path for path in _named(root, ("imagesets", "main")) if _texts_in(path)]
    if lists:
        yield from _named(root, name.lower().split("/"))
        images = _named(root, ("images",)) if name == "JPEGImages" else ()
        yield from (path for path in images if any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir()))


def _named(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Folders at a path, ignoring case."""
    if not parts:
        yield root
    elif root.is_dir():
        for path in sorted(root.iterdir()):
            if path.name.lower() == parts[0] and path.is_dir():
                yield from _named(path, parts[1:])


def voc_folders(root: Path) -> list[Path]:
    """Folders in VOC format: `root`, or else those at most two levels below it, or the single innermost folder.

    Several folders must have lists; without lists they are one data set, with splits by folder names.
    """
    if voc_part(root, "JPEGImages").is_dir() and (
        (root / "JPEGImages").is_dir() or voc_part(root, "Annotations").is_dir()
    ):
        return [root]
    images = (path for pattern in ("*/JPEGImages", "*/*/JPEGImages") for path in root.glob(pattern))
    found = sorted(path.parent for path in images if not any(map(is_hidden, path.relative_to(root).parts)))
    inner = inner_folder(root)
    if not found and inner != root:
        return voc_folders(inner)
    return found if len(found) == 1 else [path for path in found if _texts_in(path / "ImageSets/Main")]


def in_voc_format(root: Path) -> bool:
    """True for a folder with JPEGImages, unless annotations are outside Annotations and no list names images: that is
    read as XML beside images.
    """
    found = voc_folders(root)
    known = any(voc_part(path, "Annotations").is_dir() or _texts_in(voc_part(path, "ImageSets/Main")) for path in found)
    return known or bool(found and find_annotation(root) is None)


def find_annotation(root: Path) -> str | None:
    """A VOC XML file among the first few XML files below a folder; None if there is none."""
    files = zip(range(_MOST), files_below(root, (".xml",)), strict=False)
    below = ("/".join((*folders, name)) for _, (folders, name) in files)
    return next((file for file in below if is_annotation(root / file)), None)


def voc_root(root: Path) -> Path:
    """The folder in VOC format at or below `root`; `root` if there is none.

    Raises:
        ValueError: there are several.
    """
    found = voc_folders(root) or [root]
    if len(found) > 1:
        raise ValueError(f"{root} has several data sets; give one of them as --data.root: {', '.join(map(str, found))}")
    return found[0]
