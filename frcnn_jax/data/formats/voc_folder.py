"""The layout of a folder in VOC format: JPEGImages, Annotations and the split lists in ImageSets/Main."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path, PureWindowsPath

from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import canonical_split

__all__ = ["SplitList", "VocFolder", "listed_ids", "read_split", "with_trainval"]

_USUAL = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class SplitList:
    """Image ids in the order of a split's text file, each once."""

    file: str  # relative to the folder, for messages
    ids: tuple[str, ...]
    repeats: tuple[tuple[int, str], ...] = ()  # line number and id of those listed before


@dataclasses.dataclass(frozen=True)
class VocFolder:
    """A folder in VOC format."""

    root: Path
    annotated: bool = True  # False where annotations were never published: images are taken to have no objects

    def __post_init__(self) -> None:
        for name in ("JPEGImages", "ImageSets/Main", *(["Annotations"] if self.annotated else [])):
            if not (self.root / name).is_dir():
                what = "has no folder" if self.root.is_dir() else "does not exist; it should have a folder"
                raise FileNotFoundError(f"{self.root} {what} {name} (VOC format)")

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """File names in JPEGImages by their stem."""
        found: dict[str, list[str]] = {}
        for path in sorted((self.root / "JPEGImages").iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(path.stem, []).append(path.name)
        # A copy in another form, as a phone's .heic, may lie beside an image.
        usual = {stem: [n for n in names if Path(n).suffix.lower() in _USUAL] for stem, names in found.items()}
        return {stem: usual[stem] or names for stem, names in found.items()}

    @cached_property
    def split_files(self) -> dict[str, Path]:
        """Text files in ImageSets/Main by TFDS's split name; class files such as aeroplane_train.txt do not count."""
        files = {path.stem: path for path in sorted((self.root / "ImageSets/Main").glob("*.txt"))}
        names = [name for name in files if not _is_class_file(name, files)]
        if {"val", "validation"} <= set(names):
            names.remove("validation")
        return {canonical_split(name): files[name] for name in names}

    def annotation_path(self, image_id: str) -> Path:
        return self.root / "Annotations" / f"{image_id}.xml"

    def image_paths(self, image_id: str, filename: str | None) -> list[Path]:
        """The image of that id, else the one that the annotation names; none if neither exists, and several where
        files differ in their ending alone and the annotation names none of them.

        The id comes first, because tools that copy annotations often leave a wrong name in them."""
        named = PureWindowsPath(filename).name if filename else ""  # takes both kinds of slash
        candidates = self.images.get(image_id, [])
        if not candidates:
            candidates = [name for name in self.images.get(Path(named).stem, []) if Path(named).suffix]
            candidates = [name for name in candidates if name.lower() == named.lower()]
        return [self.root / "JPEGImages" / name for name in ([named] if named in candidates else candidates)]

    def read_split(self, name: str) -> SplitList:
        """The list of a split.

        Raises:
            FileNotFoundError: the split does not exist; names those that do.
        """
        if name not in self.split_files:
            existing = ", ".join(sorted(self.split_files)) or "none"
            raise FileNotFoundError(f"{self.root}/ImageSets/Main has no list of a split {name!r} (there: {existing})")
        path = self.split_files[name]
        return read_split(path, str(path.relative_to(self.root)), self.images)


def read_split(path: Path, name: str, known: dict[str, list[str]]) -> SplitList:
    """The ids in a split file: one a line, perhaps with a second column -1, 0 or 1.

    An id may contain spaces; a line that is as a whole a `known` id has no second column.

    Raises:
        ValueError: a line is a path or the name of a file, or the text is not UTF-8.
    """
    ids: dict[str, None] = {}
    repeats = []
    for number, line in enumerate(_lines(path), 1):
        image_id = line.strip()
        if not image_id:
            continue
        parts = image_id.rsplit(maxsplit=1)
        if image_id not in known and len(parts) == 2 and parts[1] in ("-1", "0", "1"):
            image_id = parts[0]
        if Path(image_id).name != image_id or PureWindowsPath(image_id).name != image_id:
            raise ValueError(f"{path}: line {number} = {image_id!r}: a path, where the id of an image is wanted")
        stem, suffix = Path(image_id).stem, Path(image_id).suffix
        if image_id not in known and stem in known and suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"{path}: line {number} = {image_id!r}: a file, where its id is wanted: {stem}")
        if image_id in ids:
            repeats.append((number, image_id))
        ids[image_id] = None
    return SplitList(name, tuple(ids), tuple(repeats))


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
    lines = [line.split() for line in _lines(files[name]) if line.strip()]
    return all(len(parts) == 2 and parts[1] in ("-1", "0", "1") for parts in lines)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, save it as that ({error})") from error
