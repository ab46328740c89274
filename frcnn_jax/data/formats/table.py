"""The table of formats of annotated folders."""

from __future__ import annotations

from pathlib import Path

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.agreement import choose_format
from frcnn_jax.data.formats.coco.reader import CocoReader
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.csv_files.reader import CsvReader
from frcnn_jax.data.formats.foreign import annotations_beside, foreign_format
from frcnn_jax.data.formats.labelimg import LabelImgReader
from frcnn_jax.data.formats.log import warn_once
from frcnn_jax.data.formats.tree import files_below
from frcnn_jax.data.formats.voc.reader import VocReader
from frcnn_jax.data.formats.yolo.reader import YoloReader
from frcnn_jax.data.images import IMAGE_SUFFIXES
from frcnn_jax.words import counted, listed

__all__ = ["FORMATS", "AnnotationReader", "open_reader", "register_format"]

_TEXTS = (".csv", ".json", ".jsonl", ".tsv", ".txt", ".xml", ".yaml", ".yml")
_NAMED = 3  # files in a message

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
    known = FORMATS.get(name)
    if name == "auto" or (known is not None and reader not in (known, known.__bases__[0])):
        raise ValueError(f"format {name!r} already exists; known are {', '.join(sorted(FORMATS))}")
    empty = {part: getattr(AnnotationReader, part, None) for part in ("layout", "fits", "read")}
    lacking = [part for part, default in empty.items() if getattr(reader, part, None) in (None, default)]
    if not isinstance(reader, type) or lacking:
        lack = f" without {', '.join(lacking)}" if lacking else ""
        raise TypeError(
            f"format {name!r} must be a class with layout, fits, splits and read, as AnnotationReader says, "
            f"not {reader!r}{lack}"
        )
    complete = issubclass(reader, AnnotationReader)
    FORMATS[name] = reader if complete else type(reader.__name__, (reader, AnnotationReader), {})


def open_reader(root: Path, config: DataConfig) -> tuple[str, AnnotationReader]:
    """Name of a folder's format, given by `config.format` or detected, and the folder's reader.

    Raises:
        ValueError: the format is unknown, or several fit and differ.
        FileNotFoundError: no format fits, or a part of the folder or of a file is missing.
    """
    name = config.format
    if name not in ("auto", *FORMATS):
        raise ValueError(f"data.format = {name!r}: unknown; known are {', '.join(sorted(FORMATS))} and auto")
    if not root.is_dir():
        fault = "is a file" if root.is_file() else "does not exist"
        raise FileNotFoundError(f"data.root = {root} {fault}: give the folder of images and annotations by --data.root")
    names = [name] if name != "auto" else _fitting(root)
    if not names:
        names = [known for known, reader in FORMATS.items() if reader.may_fit(root)]
    if not names:
        lacks = (reader.lacking(root) for reader in FORMATS.values())
        almost = foreign_format(root) or next(filter(None, lacks), "")
        if almost:
            raise FileNotFoundError(f"data.root = {root}: {almost}")
        layouts = ", no ".join(f"{reader.layout} ({_title(known)})" for known, reader in FORMATS.items())
        images = counted(sum(1 for _ in files_below(root, IMAGE_SUFFIXES)), "image")
        texts = ["/".join((*folders, name)) for folders, name in files_below(root, _TEXTS)]
        have = f"{images} and {listed(texts, _NAMED)}" if texts else images
        beside = annotations_beside(root)
        parent = f"; if its annotations are {beside}, that is {root.parent}" if beside else ""
        raise FileNotFoundError(
            f"data.root = {root}: its format is not known. It has {have}, but no {layouts}. Give the folder "
            f"that has images and annotations by --data.root{parent}"
        )
    if len(names) > 1:
        return choose_format(root, config, {known: FORMATS[known] for known in names})
    return names[0], FORMATS[names[0]](root, config)


def _fitting(root: Path) -> list[str]:
    """The formats that fit. One that cannot be read does not stop another; a line of the log names it.

    Raises:
        ValueError: a format fits but for a fault of its files, and no other fits.
    """
    names, errors = [], {}
    for name, reader in FORMATS.items():
        try:
            names += [name] if reader.fits(root) else []
        except ValueError as error:
            errors[name] = error
    for name, error in errors.items():
        if not names:
            raise error
        warn_once(f"{root} is read as {names[0]} and not as {name}: {error}; --data.format {name} stops there")
    return names


def _title(name: str) -> str:
    return "VOC format" if name == "voc" else f"format {name}"
