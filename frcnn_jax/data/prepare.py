"""From a name such as voc/2007/trainval or folder/test to the folder of its prepared data set."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.check import (
    check_splits,
    find_classes,
    load_images,
    map_in_threads,
    raise_or_report,
)
from frcnn_jax.data.formats.voc_folder import STANDARD_SPLITS, SplitList, VocFolder, listed_ids, with_trainval
from frcnn_jax.data.formats.voc_xml import UnreadableAnnotation, read_annotation

__all__ = ["prepare_folder", "prepare_voc"]

_log = logging.getLogger(__name__)
_FORMAT = 1  # raised when the same input would be prepared in another way


def prepare_voc(year: str, config: DataConfig) -> Path:
    """The prepared PASCAL VOC of a year, downloaded and checked if it is not there yet.

    What passed the strictest policy has no faults, so it serves under any policy.

    Raises:
        DatasetFaultError: faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.builder import CheckedVoc, VocConfig

    root = _data_dir(config)
    strict = CheckedVoc(config=year, data_dir=root, file_format="array_record")
    if config.faults == FaultPolicy() or strict.data_path.exists():
        return _prepare(strict)
    key = hashlib.sha256(_json([_FORMAT, dataclasses.asdict(config.faults)])).hexdigest()[:16]
    return _prepare(_build(CheckedVoc, VocConfig(name=f"{year}-{key}", year=year, faults=config.faults), root))


def prepare_folder(split: str, config: DataConfig) -> Path:
    """The prepared data set of the folder `config.root`: all its standard splits, or the one other that is asked for.

    Its folder is named by a hash of what it was made from, so a change of the lists, annotations, images, classes or
    policy makes a new one.

    Raises:
        ValueError: no root is set, a split is empty, classes are repeated or there is none.
        FileNotFoundError: the root is no folder in VOC format, or has no such split.
        DatasetFaultError: faults that `config.faults` does not allow.
    """
    if config.root is None:
        raise ValueError(f"data set folder/{split}: data.root is not set; give a folder in VOC format")
    names = config.classes
    if names is not None and not (names and all(names) and len(set(names)) == len(names)):
        raise ValueError(f"data.classes = {names}: no name, an empty one or one twice")
    path = Path(config.root).expanduser().resolve()
    annotated = config.faults.missing_annotation != "empty" or (path / "Annotations").is_dir()
    folder = VocFolder(path, annotated)
    splits = _splits(folder, split)
    if config.classes is None and split not in STANDARD_SPLITS:
        config = dataclasses.replace(config, classes=_standard_classes(folder))
    label = re.sub(r"[^A-Za-z0-9]+", "_", folder.root.name).strip("_") or "root"
    name = f"{label}-{_content_hash(folder, splits, config)[:16]}"

    from frcnn_jax.data.builder import VocConfig, VocFolderBuilder

    root = _data_dir(config)
    prepared = Path(root) / VocFolderBuilder.name / name / str(VocFolderBuilder.VERSION)
    if prepared.is_dir():
        return prepared
    images = load_images(folder, listed_ids(splits), str(folder.root))
    classes = config.classes or find_classes(images)
    checked, errors = check_splits(images, splits, classes, config.faults)
    raise_or_report(str(folder.root), checked, errors)
    _warn_of_slips(str(folder.root), classes, splits)
    if not classes:
        raise ValueError(f"{folder.root}: its annotations name no class; give the names in data.classes")
    return _prepare(_build(VocFolderBuilder, VocConfig(name=name, classes=classes, checked=checked), root))


def _splits(folder: VocFolder, split: str) -> dict[str, SplitList]:
    """The lists to prepare for a split: all the standard ones, or one other."""
    names = [name for name in STANDARD_SPLITS if name in folder.split_files] if split in STANDARD_SPLITS else [split]
    splits = with_trainval({name: folder.read_split(name) for name in names})
    lines = splits[split] if split in splits else folder.read_split(split)  # which says what there is
    if not lines.ids:
        raise ValueError(f"{folder.root}: the list of split {split!r} is empty")
    return splits


def _standard_classes(folder: VocFolder) -> tuple[str, ...] | None:
    """Class names in the standard splits, for another split, so that its labels agree with theirs; None without."""
    standard = {name: folder.read_split(name) for name in STANDARD_SPLITS if name in folder.split_files}
    names = {name for image_id in listed_ids(standard) for name in _object_names(folder.annotation_path(image_id))}
    return tuple(sorted(names)) or None


def _warn_of_slips(title: str, classes: Sequence[str], splits: dict[str, SplitList]) -> None:
    """Logs what is no fault but seldom meant: classes that are spelt alike, and test images to train on."""
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


def _object_names(path: Path) -> list[str]:
    try:
        return [item.name for item in read_annotation(path).objects]
    except (FileNotFoundError, UnreadableAnnotation):
        return []


def _content_hash(folder: VocFolder, splits: dict[str, SplitList], config: DataConfig) -> str:
    """Hash of all that the prepared data set depends on."""
    ids = sorted({image_id for split in splits.values() for image_id in split.ids})
    folder.images  # noqa: B018 - listed once, before the threads ask for it
    found = map_in_threads(lambda image_id: _image_hash(folder, image_id), ids)
    digests = list(tqdm(found, f"Hashing {folder.root}", len(ids), unit="image", leave=False, delay=2))
    lists = {name: (split.ids, split.repeats) for name, split in splits.items()}
    return hashlib.sha256(
        _json([_FORMAT, lists, digests, config.classes, dataclasses.asdict(config.faults)])
    ).hexdigest()


def _image_hash(folder: VocFolder, image_id: str) -> list[str]:
    """Hashes of an image's annotation and of the image."""
    annotation = folder.annotation_path(image_id)
    filename = None
    if image_id not in folder.images and annotation.is_file():
        try:
            filename = read_annotation(annotation).filename
        except UnreadableAnnotation:
            filename = None
    image = next(iter(folder.image_paths(image_id, filename)), None)
    return [_file_hash(annotation), image.name if image else "", _file_hash(image) if image else ""]


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return type(error).__name__


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _data_dir(config: DataConfig) -> str:
    from tensorflow_datasets.core import constants

    return str(Path(config.tfds_dir or constants.DATA_DIR).expanduser().resolve())


def _build(kind: Any, settings: Any, root: str) -> Any:
    """A builder of that kind with a configuration of its own; TFDS warns of one that the class does not list."""

    class Builder(kind, skip_registration=True):
        name = kind.name
        BUILDER_CONFIGS = [settings]  # noqa: RUF012

    return Builder(config=settings, data_dir=root, file_format="array_record")


def _prepare(builder: Any) -> Path:
    import tensorflow_datasets as tfds

    with contextlib.redirect_stdout(sys.stderr):  # what a script prints is for its own results
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)
