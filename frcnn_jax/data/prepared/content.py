"""Names of prepared folders: hashes of everything their content depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.prepared.hashes import FileHashes
from frcnn_jax.data.records import SplitRecords
from frcnn_jax.progress import Progress

__all__ = ["folder_names", "policy_key", "source_of"]

_FORMAT = 1  # increased when the same input is prepared differently


def folder_names(
    reader: AnnotationReader,
    splits: Sequence[str],
    root: Path,
    hashes: FileHashes,
    config: DataConfig,
    *,
    format_name: str,
    tested: Sequence[str],
    others: Sequence[tuple[AnnotationReader, Sequence[str]]] = (),
) -> tuple[str, str]:
    """Hashes of the folder's splits and the settings: without the tolerance, and with it for tolerated faults.

    If all later settings are unset, the first hash is that of earlier versions, so that their prepared folders are
    still found.

    Args:
        tested: splits with images that the other splits must not have.
        others: readers and splits whose images decide what is prepared, but are not part of it.
    """
    content = [_FORMAT, *([] if format_name == "voc" else [format_name])]
    content += [*_content(reader, splits, root, hashes), config.classes, _answers(config.faults)]
    more = [[list(names), *_content(other, names, root, hashes)] for other, names in others]
    content += [{"others": more}] if more else []
    hashes.save()
    if "validation" in tested:  # validation images are not trained on, which the old name did not include
        content.append(list(tested))
    content += _changed_settings(config)
    return _key(content), _key([*content, {"tolerance": config.faults.tolerance}])


def policy_key(faults: FaultPolicy) -> str:
    """Hash of the answers to faults."""
    return _key([_FORMAT, _answers(faults)])


def source_of(root: Path, format_name: str, splits: Sequence[str], config: DataConfig) -> dict[str, str]:
    """Origin of a prepared folder without its content: two with the same origin differ by edits of its files."""
    settings = dataclasses.asdict(config)
    settings = {name: value for name, value in settings.items() if name not in ("root", "tfds_dir", "verify")}
    return {"root": str(root), "settings": _key([format_name, list(splits), settings])}


def _content(
    reader: AnnotationReader, splits: Sequence[str], root: Path, hash_file: Callable[[Path], str]
) -> list[Any]:
    """Value for a hash that changes with the prepared splits: from the reader, or of records and images."""
    content = reader.content(splits, hash_file)
    if content is not None:
        return content
    lists = {name: reader.read(name) for name in splits}
    found = {record.path for split in lists.values() for record in split.records if record.path is not None}
    paths = sorted(found, key=lambda path: path.parts)
    names = {path: _relative(path, root) for path in paths}
    hashes = map_in_threads(hash_file, paths)
    digests = Progress(hashes, f"Hashing {root}", len(paths), unit="image", leave=False, delay=2)
    images = list(zip(names.values(), digests, strict=True))
    texts = {name: repr([_moved(split, names)]) for name, split in lists.items()}
    records = (record for split in lists.values() for record in split.records)
    # Earlier versions skipped crowds and prepared such folders under the name without this entry.
    crowds = ["crowds"] if any(item.crowd for record in records for item in record.objects) else []
    return [texts, images, *crowds]


def _relative(path: Path, root: Path) -> str:
    """`os.path.relpath`, with a shortcut for paths inside."""
    text, start = os.fspath(path), os.path.join(root, "")
    return text[len(start) :] if text.startswith(start) and ".." not in path.parts else os.path.relpath(path, root)


def _moved(split: SplitRecords, names: dict[Path, str]) -> SplitRecords:
    """The records with paths relative to the folder, so that the folder can be moved."""
    records = [
        record if record.path is None else dataclasses.replace(record, path=Path(names[record.path]))
        for record in split.records
    ]
    return dataclasses.replace(split, records=tuple(records))


def _answers(faults: FaultPolicy) -> dict[str, str]:
    """Answers to each kind of fault, in the form of earlier versions, so that prepared folders keep their names."""
    return {name: value for name, value in dataclasses.asdict(faults).items() if name != "tolerance"}


def _changed_settings(config: DataConfig) -> list[Any]:
    """Settings that earlier versions did not have, unless they are defaults."""
    values = {"corners": config.corners, "orientation": config.orientation}
    changed = {name: value for name, value in values.items() if value != "auto"}
    if config.max_pixels != DataConfig.max_pixels:
        changed["max_pixels"] = config.max_pixels
    return [changed] if changed else []


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
