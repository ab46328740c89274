"""From a name such as voc/2007/trainval or folder/test to the folder of its prepared data set."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import DataConfig, FaultPolicy, expand_user
from frcnn_jax.data.files import file_hash, map_in_threads
from frcnn_jax.data.formats.table import AnnotationReader, open_reader
from frcnn_jax.data.prepared.check import CheckedSplit, check_splits, find_classes, load_images, raise_or_report
from frcnn_jax.data.prepared.names import RenamedReader, of_classes, spelt_alike
from frcnn_jax.data.prepared.splits import split_rule, without_tested
from frcnn_jax.data.records import STANDARD_SPLITS, SplitRecords, with_trainval
from frcnn_jax.locks import folder_lock

__all__ = ["prepare_folder", "prepare_voc"]

_log = logging.getLogger(__name__)
_FORMAT = 1  # raised when the same input would be prepared in another way


def prepare_voc(year: str, config: DataConfig) -> Path:
    """The prepared PASCAL VOC of a year, downloaded and checked if it does not exist yet.

    What passed the strictest policy has no faults, so it serves under any policy.

    Raises:
        DatasetFaultError: faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.prepared.builder import CheckedVoc, PreparedConfig

    root = _data_dir(config)
    strict = CheckedVoc(config=year, data_dir=root, file_format="array_record")
    builder = strict
    if config.faults != FaultPolicy() and not strict.data_path.exists():
        key = hashlib.sha256(_json([_FORMAT, dataclasses.asdict(config.faults)])).hexdigest()[:16]
        builder = _build(CheckedVoc, PreparedConfig(name=f"{year}-{key}", year=year, faults=config.faults), root)
    if not builder.data_path.exists():
        with _one_process(Path(root) / CheckedVoc.name, year):  # which downloads and unpacks for every policy
            _prepare(builder)
    return Path(builder.data_dir)


def prepare_folder(split: str, config: DataConfig) -> tuple[Path, str]:
    """The prepared data set of the folder `config.root`: all its standard splits, or the one other that is asked for;
    and the name that the split has in it, by the rule of splits.

    Its folder is named by a hash of what it was made from, so a change of the lists, annotations, images, classes or
    policy makes a new one. Of processes that prepare the same at once, one does and the others wait for it.

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
    rule = split_rule(split, reader, config, path)
    split, reader = rule.split, RenamedReader(rule.reader, config.rename) if config.rename else rule.reader
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
    content = [_FORMAT, *about, *_content(reader, wanted, path), config.classes, dataclasses.asdict(config.faults)]
    if "validation" in rule.tested:  # not trained on, where the name says nothing of it
        content.append(rule.tested)
    label = re.sub(r"[^A-Za-z0-9]+", "_", path.name).strip("_") or "root"
    name = f"{label}-{hashlib.sha256(_json(content)).hexdigest()[:16]}"
    root = _data_dir(config)
    prepared = Path(root) / builder_class.name / name / str(builder_class.VERSION)
    if not prepared.is_dir():
        with _one_process(Path(root) / builder_class.name, name):
            if not prepared.is_dir():
                classes, checked = _check_folder(path, reader, wanted, split, rule.tested, config)
                _prepare(_build(builder_class, PreparedConfig(name=name, classes=classes, checked=checked), root))
    return prepared, split


def _check_folder(
    path: Path,
    reader: AnnotationReader,
    wanted: Sequence[str],
    split: str,
    tested: Sequence[str],
    config: DataConfig,
) -> tuple[tuple[str, ...], dict[str, CheckedSplit]]:
    """Class names and checked splits of a folder."""
    tested = [name for name in tested if name in wanted]
    splits, lost = without_tested({name: reader.read(name) for name in wanted}, tested, path)
    splits, others = of_classes(with_trainval(splits), config.classes, path)
    if isinstance(reader, RenamedReader) and split in STANDARD_SPLITS:
        reader.check_used(path)
    if not splits[split].records and not lost[split]:
        raise ValueError(f"{path}: the list of split {split!r} is empty")
    images = load_images(splits.values(), path, str(path))
    classes = config.classes or find_classes(images)
    checked, errors = check_splits(images, splits, classes, config.faults)
    raise_or_report(str(path), checked, errors)
    if not splits[split].records:
        raise ValueError(f"{path}: the images of split {split!r} are all among those of the test")
    _warn_of_slips(str(path), classes)
    if not classes:
        raise ValueError(f"{path}: its annotations name no class; give the names in data.classes")
    for name, result in checked.items():
        other = others.count([image.image_id for image in result.images])
        dropped = Counter(result.dropped) + Counter({"unknown_class": other, "tested": lost[name]})
        checked[name] = dataclasses.replace(result, dropped=dict(sorted(dropped.items())))
    return classes, checked


def _standard_classes(reader: AnnotationReader, standard: Sequence[str]) -> tuple[str, ...] | None:
    """Class names in the standard splits, for another split, so that its labels agree with theirs; None without."""
    records = [record for name in standard for record in reader.read(name).records]
    return tuple(sorted({item.name for record in records for item in record.objects})) or None


def _warn_of_slips(title: str, classes: Sequence[str]) -> None:
    """Logs what is not a fault but may be a slip: classes that are spelt alike."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(spelt_alike(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            _log.warning("%s: classes of their own, but spelt alike: %s", title, ", ".join(map(repr, names)))


def _content(reader: AnnotationReader, splits: Sequence[str], root: Path) -> list[Any]:
    """Value for a hash that changes with the prepared splits: as the reader says, or of records and images."""
    content = getattr(reader, "content", None)
    if content is not None:
        return content(splits)
    lists = {name: reader.read(name) for name in splits}
    paths = sorted({record.path for split in lists.values() for record in split.records if record.path is not None})
    found = map_in_threads(file_hash, paths)
    digests = list(tqdm(found, f"Hashing {root}", len(paths), unit="image", leave=False, delay=2))
    names = [os.path.relpath(path, root) for path in paths]
    texts = {name: repr([_moved(split, root)]) for name, split in lists.items()}
    return [texts, list(zip(names, digests, strict=True))]


def _moved(split: SplitRecords, root: Path) -> SplitRecords:
    """The records with paths relative to the folder, so that the folder may lie elsewhere."""
    records = [
        record if record.path is None else dataclasses.replace(record, path=Path(os.path.relpath(record.path, root)))
        for record in split.records
    ]
    return dataclasses.replace(split, records=tuple(records))


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
