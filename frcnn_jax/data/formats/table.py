"""The formats of annotated folders: the contract of a reader, and the table of known readers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.agreement import choose_format
from frcnn_jax.data.formats.coco import CocoReader
from frcnn_jax.data.formats.csv_rows import CsvReader
from frcnn_jax.data.formats.labelimg import LabelImgReader
from frcnn_jax.data.formats.tree import files_below
from frcnn_jax.data.formats.voc import VocReader
from frcnn_jax.data.formats.yolo import YoloReader
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.data.records import SplitRecords

__all__ = ["FORMATS", "AnnotationReader", "open_reader", "register_format"]


class AnnotationReader(Protocol):
    """A folder in one format, opened by `Reader(root, config)`.

    Optional methods:

    `content(splits: Sequence[str], hash_file)` returns a JSON value that changes whenever images or annotations of
    these splits change. With it, checking if a prepared folder is up to date reads no records; without it, records and
    image bytes are hashed. `hash_file(path)` is the hex SHA-256 of a file, which is read only if it has changed; the
    method may also take only the splits.

    `places(split) -> tuple[str, ...]` names the files or folders of a split, below the root, for the log.

    `may_fit(root)` is a static method like `fits`, called only if no format fits.
    """

    layout: str
    """Description of the format's layout, as in "file labels.csv", for the message that no format fits."""

    def __init__(self, root: Path, config: DataConfig):
        """
        Raises:
            FileNotFoundError: a part of the folder is missing.
        """

    @staticmethod
    def fits(root: Path) -> bool:
        """True for a folder that looks like this format. Must be quick."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; `train`, `validation`, `trainval` and `test` for the standard ones."""

    def read(self, split: str) -> SplitRecords:
        """The images of a split, each once, and the faults of its list.

        Raises:
            FileNotFoundError: the split does not exist; names the existing ones.
        """


FORMATS: dict[str, type[AnnotationReader]] = {
    "voc": VocReader,
    "labelimg": LabelImgReader,
    "coco": CocoReader,
    "yolo": YoloReader,
    "csv": CsvReader,
}
"""Reader of each format by name. A folder in VOC format does not fit `labelimg`, although the files are the same. The
other formats are distinct: a folder that fits two of them holds its annotations twice, or two sets of them.
"""


def register_format(name: str, reader: type[AnnotationReader]) -> None:
    """Adds a format: `open_dataset("folder/SPLIT", config)` then reads folders that fit it.

    Raises:
        TypeError: the name is not a text of at least one letter, or the reader lacks a part of the contract.
        ValueError: the name is already taken by another reader.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'register_format takes a name first, as in "my_csv", not {name!r}')
    if name == "auto" or FORMATS.get(name, reader) is not reader:
        raise ValueError(f"format {name!r} already exists; known are {', '.join(sorted(FORMATS))}")
    lacking = [part for part in ("layout", "fits", "read") if not hasattr(reader, part)]
    if not callable(reader) or lacking:
        lack = f" without {', '.join(lacking)}" if lacking else ""
        raise TypeError(
            f"format {name!r} must be a class with layout, fits, splits and read, as AnnotationReader says, "
            f"not {reader!r}{lack}"
        )
    FORMATS[name] = reader


def open_reader(root: Path, config: DataConfig) -> tuple[str, AnnotationReader]:
    """Name of a folder's format, given by `config.format` or detected, and the folder's reader.

    Raises:
        ValueError: the format is unknown, or several fit and differ.
        FileNotFoundError: no format fits, or a part of the folder is missing.
    """
    name = config.format
    if name not in ("auto", *FORMATS):
        raise ValueError(f"data.format = {name!r}: unknown; known are {', '.join(sorted(FORMATS))} and auto")
    if not root.is_dir():
        fault = "is a file" if root.is_file() else "does not exist"
        raise FileNotFoundError(f"data.root = {root} {fault}: give the folder of images and annotations by --data.root")
    names = [name] if name != "auto" else [known for known, reader in FORMATS.items() if reader.fits(root)]
    if not names:
        names = [known for known, reader in FORMATS.items() if getattr(reader, "may_fit", lambda root: False)(root)]
    if not names:
        layouts = ", no ".join(f"{reader.layout} ({_title(known)})" for known, reader in FORMATS.items())
        images = sum(1 for _ in files_below(root, IMAGE_SUFFIXES))
        raise FileNotFoundError(
            f"data.root = {root}: its format is not known. It has {images} images, but no {layouts}. Give the folder "
            f"that has images and annotations by --data.root; if the annotations are beside it, that is {root.parent}"
        )
    if len(names) > 1:
        names = [choose_format(root, config, {known: FORMATS[known] for known in names})]
    return names[0], FORMATS[names[0]](root, config)


def _title(name: str) -> str:
    return "VOC format" if name == "voc" else f"format {name}"
