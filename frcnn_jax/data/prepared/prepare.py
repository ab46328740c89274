"""From a name such as voc/2007/trainval or folder/test to the folder of its prepared data set."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import DataConfig, FaultPolicy, expand_user
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.table import AnnotationReader, open_reader
from frcnn_jax.data.prepared.check import Check, check_splits
from frcnn_jax.data.prepared.conventions import find_conventions, follow
from frcnn_jax.data.prepared.hashes import FileHashes
from frcnn_jax.data.prepared.load import find_classes, load_images
from frcnn_jax.data.prepared.report import raise_or_report
from frcnn_jax.data.records import STANDARD_SPLITS, SplitRecords, with_trainval
from frcnn_jax.locks import folder_lock

__all__ = ["prepare_folder", "prepare_voc"]

_log = logging.getLogger(__name__)
_FORMAT = 1  # raised when the same input would be prepared in another way


def prepare_voc(year: str, config: DataConfig) -> Path:
    """The prepared PASCAL VOC of a year, downloaded and checked if it does not exist yet.

    What passed the strictest policy has no faults, so it serves under any policy. No fault of these is tolerated, their
    corners are VOC's and their images are taken as they lie in the files.

    Raises:
        DatasetFaultError: faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.prepared.builder import CheckedVoc, PreparedConfig

    root = _data_dir(config)
    strict = CheckedVoc(config=year, data_dir=root, file_format="array_record")
    builder = strict
    faults = dataclasses.replace(config.faults, tolerance=0)
    if faults != FaultPolicy(tolerance=0) and not strict.data_path.exists():
        key = hashlib.sha256(_json([_FORMAT, _actions(faults)])).hexdigest()[:16]
        builder = _build(CheckedVoc, PreparedConfig(name=f"{year}-{key}", year=year, faults=faults), root)
    if not builder.data_path.exists():
        with _one_process(Path(root) / CheckedVoc.name, year):  # which downloads and unpacks for every policy
            _prepare(builder)
    return Path(builder.data_dir)


def prepare_folder(split: str, config: DataConfig) -> Path:
    """The prepared data set of the folder `config.root`: all its standard splits, or the one other that is asked for.

    Its folder is named by a hash of what it was made from, so a change of the lists, annotations, images, classes or
    policy makes a new one. Of processes that prepare the same at once, one does and the others wait for it.

    Files whose size and times are unchanged are not read to tell so, unless `config.verify` is set (see `hashes`).

    Raises:
        ValueError: no root is set, a split is empty, classes are repeated or there is none, or several formats fit.
        FileNotFoundError: the root is a folder in no known format, or has no such split.
        DatasetFaultError: faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.prepared.builder import FolderBuilder, PreparedConfig, VocFolderBuilder

    if config.root is None:
        raise ValueError(f"data set folder/{split}: data.root is not set; give a folder of annotated images")
    names = config.classes
    if names is not None and not (names and all(names) and len(set(names)) == len(names)):
        raise ValueError(f"data.classes = {names}: no name, an empty one or one twice")
    path = expand_user(config.root).resolve()
    format_name, reader = open_reader(path, config)
    standard = [name for name in STANDARD_SPLITS if name in reader.splits]
    wanted = standard if split in STANDARD_SPLITS else [split]
    if split not in wanted and not (split == "trainval" and {"train", "validation"} <= set(standard)):
        reader.read(split)  # which says what splits exist
    if config.classes is None and split not in STANDARD_SPLITS:
        config = dataclasses.replace(config, classes=_standard_classes(reader, standard))
    if format_name == "voc":
        builder_class, about = VocFolderBuilder, []
    else:
        builder_class, about = FolderBuilder, [format_name]
    label = re.sub(r"[^A-Za-z0-9]+", "_", path.name).strip("_") or "root"
    root = _data_dir(config)
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    hashes = FileHashes(Path(root) / "frcnn_files" / f"{label}-{key}.npz", verify=config.verify)
    depends = _content(reader, wanted, path, hashes)
    hashes.save()
    content = [_FORMAT, *about, *depends, config.classes, _actions(config.faults)]
    content += _changed_settings(config)
    # Without faults that are tolerated the tolerance does not matter, and the name is that of earlier versions.
    contents = content, [*content, {"tolerance": config.faults.tolerance}]
    names = [f"{label}-{hashlib.sha256(_json(value)).hexdigest()[:16]}" for value in contents]
    folder = Path(root) / builder_class.name
    places = [folder / name / str(builder_class.VERSION) for name in names]
    if not any(place.is_dir() for place in places):
        with _one_process(folder, names[0]):
            if not any(place.is_dir() for place in places):
                check = _check_folder(path, reader, wanted, split, config, folder / f"{names[0]}.faults.txt")
                settings = PreparedConfig(
                    name=names[bool(check.tolerated)], classes=check.classes, checked=check.splits
                )
                _prepare(_build(builder_class, settings, root))
    return next(place for place in places if place.is_dir())


def _check_folder(
    path: Path, reader: AnnotationReader, wanted: Sequence[str], split: str, config: DataConfig, report: Path
) -> Check:
    """The check of a folder with a fault that stops nothing; the list of its faults goes to the file `report`."""
    splits = with_trainval({name: reader.read(name) for name in wanted})
    if not splits[split].records:
        raise ValueError(f"{path}: the list of split {split!r} is empty")
    images = load_images(splits.values(), path, str(path))
    conventions = find_conventions(tuple(images.values()), config)
    images = {name: follow(image, conventions) for name, image in images.items()}
    classes = config.classes or find_classes(images)
    check = check_splits(images, splits, classes, config.faults)
    if conventions.faults:  # whichever way is set then, some images state the size of the other one
        way_on = None if check.way_on is None else {**check.way_on, "size_mismatch": "drop"}
        check = dataclasses.replace(check, errors=(*conventions.faults, *check.errors), way_on=way_on)
    raise_or_report(str(path), [check], config.faults, report, conventions.sentences)
    _warn_of_slips(str(path), classes, splits)
    if not classes:
        raise ValueError(f"{path}: its annotations name no class; give the names in data.classes")
    return check


def _standard_classes(reader: AnnotationReader, standard: Sequence[str]) -> tuple[str, ...] | None:
    """Class names in the standard splits, for another split, so that its labels agree with theirs; None without."""
    records = [record for name in standard for record in reader.read(name).records]
    return tuple(sorted({item.name for record in records for item in record.objects})) or None


def _warn_of_slips(title: str, classes: Sequence[str], splits: dict[str, SplitRecords]) -> None:
    """Logs slips that are not faults: classes that are spelt alike, and test images to train on."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            _log.warning("%s: classes of their own, but spelt alike: %s", title, ", ".join(map(repr, names)))
    name = "trainval" if "trainval" in splits else "train"
    if {name, "test"} <= set(splits):
        tested = set(splits["test"].ids)
        both = [image_id for image_id in splits[name].ids if image_id in tested]
        if both:
            _log.warning("%s: %d images are in %s and in test (the first: %s)", title, len(both), name, both[0])


def _content(reader: AnnotationReader, splits: Sequence[str], root: Path, hashes: FileHashes) -> list[Any]:
    """Value for a hash that changes with the prepared splits: as the reader says, or of records and images."""
    content = getattr(reader, "content", None)
    if content is not None:
        takes_hashes = len(inspect.signature(content).parameters) > 1
        return content(splits, hashes) if takes_hashes else content(splits)
    lists = {name: reader.read(name) for name in splits}
    found = {record.path for split in lists.values() for record in split.records if record.path is not None}
    paths = sorted(found, key=lambda path: path.parts)
    names = {path: _relative(path, root) for path in paths}
    digests = tqdm(map_in_threads(hashes, paths), f"Hashing {root}", len(paths), unit="image", leave=False, delay=2)
    images = list(zip(names.values(), digests, strict=True))
    texts = {name: repr([_moved(split, names)]) for name, split in lists.items()}
    records = (record for split in lists.values() for record in split.records)
    # Earlier versions left crowds out, and prepared such a folder under the name without this.
    crowds = ["crowds"] if any(item.crowd for record in records for item in record.objects) else []
    return [texts, images, *crowds]


def _relative(path: Path, root: Path) -> str:
    """`os.path.relpath`, at once for what is plainly inside."""
    text, start = os.fspath(path), os.path.join(root, "")
    return text[len(start) :] if text.startswith(start) and ".." not in path.parts else os.path.relpath(path, root)


def _moved(split: SplitRecords, names: dict[Path, str]) -> SplitRecords:
    """The records with paths relative to the folder, so that the folder may lie elsewhere."""
    records = [
        record if record.path is None else dataclasses.replace(record, path=Path(names[record.path]))
        for record in split.records
    ]
    return dataclasses.replace(split, records=tuple(records))


def _actions(faults: FaultPolicy) -> dict[str, str]:
    """Answers to each kind of fault; the form is that of earlier versions, whose prepared folders keep their names."""
    return {name: value for name, value in dataclasses.asdict(faults).items() if name != "tolerance"}


def _changed_settings(config: DataConfig) -> list[Any]:
    """Settings that earlier versions did not have, where they are not the defaults."""
    values = {"corners": config.corners, "orientation": config.orientation}
    changed = {name: value for name, value in values.items() if value != "auto"}
    return [changed] if changed else []


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _data_dir(config: DataConfig) -> str:
    """Folder of all prepared data sets."""
    from tensorflow_datasets.core import constants

    return str(expand_user(config.tfds_dir or constants.DATA_DIR).resolve())


def _build(kind: Any, settings: Any, root: str) -> Any:
    """A builder of that kind with a configuration of its own; TFDS warns of one that the class does not list."""

    class Builder(kind, skip_registration=True):
        name = kind.name
        BUILDER_CONFIGS = [settings]  # noqa: RUF012

    return Builder(config=settings, data_dir=root, file_format="array_record")


def _one_process(folder: Path, name: str) -> Any:
    """A lock beside the folder to prepare, which TFDS makes under another name and then renames."""
    return folder_lock(folder, f".{name}.lock", purpose=f"preparing {name}", wait=True)


def _prepare(builder: Any) -> None:
    """Prepares what is not prepared yet."""
    import tensorflow_datasets as tfds

    with contextlib.redirect_stdout(sys.stderr):  # a script's stdout is for its results
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
