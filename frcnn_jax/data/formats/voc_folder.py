"""The layout of a folder in VOC format: JPEGImages, Annotations and the split lists in ImageSets/Main."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from functools import cached_property
from pathlib import Path, PureWindowsPath

from frcnn_jax.data.formats.layout import ALL, warn_once
from frcnn_jax.data.formats.tree import composed, files_below, named_split
from frcnn_jax.data.formats.voc_xml import UnreadableAnnotation, is_annotation, read_annotation
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import STANDARD_SPLITS, canonical_split

__all__ = [
    "UNLISTED",
    "SplitList",
    "VocFolder",
    "find_annotation",
    "in_voc_format",
    "listed_ids",
    "read_split",
    "voc_folders",
    "voc_root",
    "with_trainval",
]

UNLISTED = ALL
"""The split of all annotated images, in a folder without lists."""

_QUOTED = re.compile(r'"([^"]+)"(\s+(?:-1|0|1))?')
_MOST = 50  # XML files that are looked at to see whether they are VOC's
_USUAL = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class SplitList:
    """Image ids in the order of a split's text file, each once."""

    file: str  # relative to the folder, for messages
    ids: tuple[str, ...]
    repeats: tuple[tuple[int, str], ...] = ()  # line number and id of those listed before


@dataclasses.dataclass(frozen=True)
class VocFolder:
    """A folder in VOC format. ImageSets/Main may be missing or empty."""

    root: Path
    annotated: bool = True  # False where annotations were never published: images are taken to have no objects

    def __post_init__(self) -> None:
        for name in ("JPEGImages", "Annotations" if self.annotated else "ImageSets/Main"):
            if not (self.root / name).is_dir():
                what = "has no folder" if self.root.is_dir() else "does not exist; it should have a folder"
                raise FileNotFoundError(f"{self.root} {what} {name} (VOC format){self._way_on(name)}")

    def _way_on(self, lacking: str) -> str:
        """What to do where annotations lie elsewhere, as the rest of a message."""
        found = find_annotation(self.root) if lacking == "Annotations" else None
        if found is None:
            return ""
        return f"; rename the folder of {found} to Annotations, or read it without lists: --data.format labelimg"

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """File names in JPEGImages by their stem in composed form."""
        found: dict[str, list[str]] = {}
        for path in sorted((self.root / "JPEGImages").iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(composed(path.stem), []).append(path.name)
        # A copy in another form, as a phone's .heic, may lie beside an image.
        usual = {stem: [n for n in names if Path(n).suffix.lower() in _USUAL] for stem, names in found.items()}
        return {stem: usual[stem] or names for stem, names in found.items()}

    @cached_property
    def annotations(self) -> dict[str, str]:
        """File names in Annotations by their stem in composed form."""
        names = sorted((self.root / "Annotations").glob("*.xml")) if self.annotated else []
        return {composed(path.stem): path.name for path in names}

    @cached_property
    def split_files(self) -> dict[str, Path]:
        """Text files in ImageSets/Main by TFDS's split name, in whatever case they have it, as `Train.txt`; class files
        such as aeroplane_train.txt do not count."""
        files = {path.stem: path for path in sorted((self.root / "ImageSets/Main").glob("*.txt"))}
        names = [name for name in files if not _is_class_file(name, files)]
        alike = [name for name in ("val", "valid", "validation") if name in names]
        for name in alike[1:]:
            names.remove(name)
        plain = {canonical_split(name) for name in names}
        found: dict[str, Path] = {}
        for name in names:
            said = named_split(name.lower()) if name.isalpha() else None
            found[said if said and said not in plain | set(found) else canonical_split(name)] = files[name]
        return found

    @cached_property
    def class_files(self) -> dict[str, list[Path]]:
        """Files such as aeroplane_train.txt by the split that they end in, where VoTT wrote them without a train.txt:
        all lists are such files, and the images of a split are those of any of its files."""
        if set(self.split_files) & set(STANDARD_SPLITS):
            return {}
        found: dict[str, list[Path]] = {}
        for path in self.split_files.values():
            split = named_split(path.stem.rpartition("_")[2].lower()) if "_" in path.stem else None
            if split is None or not all(_with_mark(line) for line in _lines(path)):
                return {}
            found.setdefault(split, []).append(path)
        return {split: paths for split, paths in found.items() if any(map(_lines, paths))}

    def annotation_path(self, image_id: str) -> Path:
        path = self.root / "Annotations" / f"{image_id}.xml"
        if image_id.isascii() or path.is_file():
            return path
        return path.with_name(self.annotations.get(composed(image_id), path.name))

    def image_paths(self, image_id: str, filename: str | None) -> list[Path]:
        """The image of that id, else the one that the annotation names; none if neither exists, and several where
        files differ in their ending alone and the annotation names none of them.

        The id comes first, because tools that copy annotations often leave a wrong name in them."""
        named = PureWindowsPath(filename).name if filename else ""  # takes both kinds of slash
        candidates = self.images.get(composed(image_id), [])
        candidates = [name for name in candidates if Path(name).stem == image_id] or candidates
        if not candidates:
            candidates = [name for name in self.images.get(composed(Path(named).stem), []) if Path(named).suffix]
            candidates = [name for name in candidates if composed(name).lower() == composed(named).lower()]
        return [self.root / "JPEGImages" / name for name in ([named] if named in candidates else candidates)]

    def read_split(self, name: str) -> SplitList:
        """The list of a split, by its name or that of its file.

        Raises:
            FileNotFoundError: the split does not exist; names those that do.
        """
        if name == UNLISTED and not self.split_files:
            return SplitList("Annotations", self._annotated_ids)
        if name in self.class_files:
            lists = [read_split(path, "", self.images) for path in self.class_files[name]]
            ids = dict.fromkeys(image_id for its in lists for image_id in its.ids)
            repeats = dict.fromkeys(repeat for its in lists for repeat in its.repeats)
            ending = self.class_files[name][0].stem.rpartition("_")[2]
            return SplitList(f"ImageSets/Main/*_{ending}.txt", tuple(ids), tuple(repeats))
        path = self.split_files.get(name) or {path.stem: path for path in self.split_files.values()}.get(name)
        if path is None:
            existing = ", ".join(sorted(self.class_files or self.split_files)) or UNLISTED
            raise FileNotFoundError(f"{self.root}/ImageSets/Main has no list of a split {name!r} (there: {existing})")
        return read_split(path, str(path.relative_to(self.root)), self.images)

    @cached_property
    def _annotated_ids(self) -> tuple[str, ...]:
        """Ids of all annotations; the log says how many images have none."""
        if not self.annotated:
            return tuple(sorted(self.images))
        used = {path for image_id in self.annotations for path in self.image_paths(image_id, self._filename(image_id))}
        left = sum(map(len, self.images.values())) - len(used)
        if left:
            warn_once(f"{self.root}: {left} images without annotation are left out, for no list names them")
        return tuple(sorted(self.annotations))

    def _filename(self, image_id: str) -> str | None:
        """The name of the image in its annotation, where no image has the annotation's own name."""
        if image_id in self.images:
            return None
        with contextlib.suppress(UnreadableAnnotation):
            return read_annotation(self.annotation_path(image_id)).filename
        return None


def read_split(path: Path, name: str, known: dict[str, list[str]]) -> SplitList:
    """The ids in a split file: one a line, perhaps with a second column -1, 0 or 1.

    An id may contain spaces; a line that is as a whole a `known` id has no second column. The name of an image's file
    stands for its id, and quotes around it do not count, with which Datumaro writes ids that contain spaces.

    Raises:
        ValueError: a line is a path, or the text is not UTF-8.
    """
    ids: dict[str, None] = {}
    repeats = []
    for number, line in enumerate(_lines(path), 1):
        image_id = line.strip()
        if not image_id:
            continue
        parts = image_id.rsplit(maxsplit=1)
        quoted = _QUOTED.fullmatch(image_id)
        if quoted and composed(image_id) not in known:
            image_id = quoted[1].strip()
        elif composed(image_id) not in known and len(parts) == 2 and parts[1] in ("-1", "0", "1"):
            image_id = parts[0]
        if Path(image_id).name != image_id or PureWindowsPath(image_id).name != image_id:
            raise ValueError(f"{path}: line {number} = {image_id!r}: a path, where the id of an image is wanted")
        stem, suffix = Path(image_id).stem, Path(image_id).suffix
        if composed(image_id) not in known and composed(stem) in known and suffix.lower() in IMAGE_SUFFIXES:
            image_id = stem
        if image_id in ids:
            repeats.append((number, image_id))
        ids[image_id] = None
    return SplitList(name, tuple(ids), tuple(repeats))


def voc_folders(root: Path) -> list[Path]:
    """Folders in VOC format: `root`, or else those at most two folders below it.

    Several are those with lists; without lists they are one data set, whose splits their names give.
    """
    if (root / "JPEGImages").is_dir():
        return [root]
    found = sorted(path.parent for pattern in ("*/JPEGImages", "*/*/JPEGImages") for path in root.glob(pattern))
    return found if len(found) == 1 else [path for path in found if any(path.glob("ImageSets/Main/*.txt"))]


def in_voc_format(root: Path) -> bool:
    """True for folders JPEGImages, but not where their annotations lie elsewhere than in Annotations and no list names
    images: these are read as XML beside images."""
    found = voc_folders(root)
    known = any((path / "Annotations").is_dir() or any(path.glob("ImageSets/Main/*.txt")) for path in found)
    return known or bool(found and find_annotation(root) is None)


def find_annotation(root: Path) -> str | None:
    """An XML file of VOC's kind among the first few anywhere below a folder; None if there is none."""
    files = zip(range(_MOST), files_below(root, (".xml",)), strict=False)
    below = ("/".join((*folders, name)) for _, (folders, name) in files)
    return next((file for file in below if is_annotation(root / file)), None)


def voc_root(root: Path) -> Path:
    """The one folder in VOC format that `root` is or has below it; `root` where there is none.

    Raises:
        ValueError: there are several.
    """
    found = voc_folders(root) or [root]
    if len(found) > 1:
        raise ValueError(f"{root} has several data sets; give one of them as --data.root: {', '.join(map(str, found))}")
    return found[0]


def listed_ids(splits: dict[str, SplitList]) -> tuple[str, ...]:
    """All ids of the splits, each once."""
    return tuple(dict.fromkeys(image_id for split in splits.values() for image_id in split.ids))


def with_trainval(splits: dict[str, SplitList]) -> dict[str, SplitList]:
    """The splits, with train followed by validation as `trainval` if that is missing."""
    if "trainval" in splits or not {"train", "validation"} <= set(splits):
        return splits
    return splits | {"trainval": SplitList("", listed_ids({name: splits[name] for name in ("train", "validation")}))}


def _is_class_file(name: str, files: dict[str, Path]) -> bool:
    """True for a file CLASS_SPLIT.txt beside another file SPLIT.txt, with a column of -1, 0 and 1."""
    if not any(name.endswith(f"_{other}") for other in files):
        return False
    lines = [_QUOTED.sub(r"id\2", line).split() for line in _lines(files[name]) if line.strip()]
    return all(len(parts) == 2 and parts[1] in ("-1", "0", "1") for parts in lines)


def _with_mark(line: str) -> bool:
    """True for an empty line or one with a second column -1, 0 or 1."""
    return not line.strip() or (len(line.split()) > 1 and line.split()[-1] in ("-1", "0", "1"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, save it as that ({error})") from error
