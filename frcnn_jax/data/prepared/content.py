"""Names of prepared folders: hashes of all that their content depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.table import AnnotationReader
from frcnn_jax.data.prepared.hashes import FileHashes
from frcnn_jax.data.records import SplitRecords

__all__ = ["folder_names", "policy_key"]

_FORMAT = 1  # raised when the same input would be prepared in another way


def folder_names(
    reader: AnnotationReader,
    splits: Sequence[str],
    root: Path,
    hashes: FileHashes,
    config: DataConfig,
    *,
    format_name: str,
    tested: Sequence[str],
) -> tuple[str, str]:
    """Hashes of the folder's splits and the settings: without and with the tolerance, where faults are tolerated.

    The first is that of earlier versions, whose prepared folders are still found, where all later settings are unset.

    Args:
        tested: splits whose images the others do not get.
    """
    content = [_FORMAT, *([] if format_name == "voc" else [format_name])]
    content += [*_content(reader, splits, root, hashes), config.classes, _answers(config.faults)]
    hashes.save()
    if "validation" in tested:  # is not trained on, where its name says nothing of it
        content.append(list(tested))
    content += _changed_settings(config)
    return _key(content), _key([*content, {"tolerance": config.faults.tolerance}])


def policy_key(faults: FaultPolicy) -> str:
    """Hash of the answers to faults."""
    return _key([_FORMAT, _answers(faults)])


def _content(
    reader: AnnotationReader, splits: Sequence[str], root: Path, hash_file: Callable[[Path], str]
) -> list[Any]:
    """Value for a hash that changes with the prepared splits: as the reader says, or of records and images."""
    content = getattr(reader, "content", None)
    if content is not None:
        takes_hashes = len(inspect.signature(content).parameters) > 1
        return content(splits, hash_file) if takes_hashes else content(splits)
    lists = {name: reader.read(name) for name in splits}
    found = {record.path for split in lists.values() for record in split.records if record.path is not None}
    paths = sorted(found, key=lambda path: path.parts)
    names = {path: _relative(path, root) for path in paths}
    digests = tqdm(map_in_threads(hash_file, paths), f"Hashing {root}", len(paths), unit="image", leave=False, delay=2)
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


def _answers(faults: FaultPolicy) -> dict[str, str]:
    """Answers to each kind of fault; the form is that of earlier versions, whose prepared folders keep their names."""
    return {name: value for name, value in dataclasses.asdict(faults).items() if name != "tolerance"}


def _changed_settings(config: DataConfig) -> list[Any]:
    """Settings that earlier versions did not have, where they are not the defaults."""
    values = {"corners": config.corners, "orientation": config.orientation}
    changed = {name: value for name, value in values.items() if value != "auto"}
    if config.max_pixels != DataConfig.max_pixels:
        changed["max_pixels"] = config.max_pixels
    return [changed] if changed else []


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
