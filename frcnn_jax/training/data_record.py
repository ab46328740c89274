"""Record of a run's training data, 32 bytes per image, to tell what has changed when the run is resumed.

`data.npz` in the workdir is written with the first checkpoint trained on these data:

    fingerprint     str []              `Dataset.fingerprint`
    proposal_files  str [F]             SHA-256 of each file of `proposals.train_files`
    classes         uint8 [bytes]       JSON list of names, in UTF-8
    image_ids       uint8 [bytes]       JSON list of ids, in UTF-8
    digests         uint8 [N, 4, 8]     BLAKE2b of each image, and of its boxes, labels and marks
"""

import dataclasses
import hashlib
import json
import logging
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.atomic import replacing
from frcnn_jax.checkpoint import CheckpointMetadata
from frcnn_jax.config import expand_user
from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.npz import open_npz
from frcnn_jax.words import counted, listed

_log = logging.getLogger(__name__)
_FILE = "data.npz"
_SHOWN, _NAMED = 3, 8  # images and classes in a message


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """The data of a run, image by image."""

    fingerprint: str
    proposal_files: tuple[str, ...]
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    digests: UInt8[np.ndarray, "N 4 8"]  # of image, boxes, labels, marks


def record_data(dataset: Any, proposal_files: Iterable[str | Path | None]) -> DataRecord:
    """The record of a `Dataset` and its proposal files; None stands for computed proposals.

    Raises:
        FileNotFoundError: a file of proposals does not exist.
    """
    rows = [
        [
            _digest(dataset.image_fingerprint(index).encode()),
            _digest(np.asarray(truth.boxes, np.float32).tobytes()),
            _digest(np.asarray(truth.labels, np.int32).tobytes()),
            _digest(_marks(truth)),
        ]
        for index, truth in enumerate(dataset.annotations)
    ]
    return DataRecord(
        fingerprint=dataset.fingerprint,
        proposal_files=tuple(_file_digest(path) for path in proposal_files if path is not None),
        classes=tuple(dataset.classes),
        image_ids=tuple(dataset.image_ids),
        digests=np.array(rows, np.uint8).reshape(-1, 4, 8),
    )


def _marks(truth: Any) -> bytes:
    """The difficult marks, followed by the crowd marks if any."""
    crowd = np.asarray(truth.crowd, bool)
    return np.asarray(truth.difficult, bool).tobytes() + (crowd.tobytes() if crowd.any() else b"")


def check_labels(dataset: Any) -> None:
    """Raises ValueError if a label of a `Dataset` is not one of its classes; names the first such image."""
    for image_id, truth in zip(dataset.image_ids, dataset.annotations, strict=True):
        outside = [int(label) for label in truth.labels if not 1 <= label <= len(dataset.classes)]
        if outside:
            raise ValueError(
                f"{dataset.name}: image {image_id} has the label {outside[0]}, but labels go from 1 to "
                f"{len(dataset.classes)}, the number of its classes ({', '.join(dataset.classes)})"
            )


def write_record(workdir: Path, record: DataRecord) -> None:
    """Writes the record into `workdir`, unless it already holds the same."""
    before = read_record(workdir)
    if before is not None and _identity(before) == _identity(record):
        return
    with replacing(workdir / _FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            fingerprint=np.array(record.fingerprint),
            proposal_files=np.array(record.proposal_files, np.str_),
            classes=_text(record.classes),
            image_ids=_text(record.image_ids),
            digests=record.digests,
        )


def read_record(workdir: Path) -> DataRecord | None:
    """The record in `workdir`; None if it is missing or damaged."""
    try:
        with open_npz(workdir / _FILE) as file:
            return DataRecord(
                fingerprint=str(file["fingerprint"]),
                proposal_files=tuple(map(str, file["proposal_files"])),
                classes=tuple(json.loads(file["classes"].tobytes())),
                image_ids=tuple(json.loads(file["image_ids"].tobytes())),
                digests=file["digests"],
            )
    except (OSError, ValueError, KeyError):
        return None


def count_trained(workdir: Path, dataset: Any) -> int:
    """Number of images of a `Dataset` that the run in `workdir` was trained on, by content, whatever their names; 0 if
    the run has no record.
    """
    record = read_record(workdir)
    if record is None:
        return 0
    trained = set(map(tuple, record.digests[:, 0].tolist()))
    digests = (_digest(dataset.image_fingerprint(index).encode()) for index in range(len(dataset)))
    return sum(tuple(digest) in trained for digest in digests)


def compare_data(
    workdir: Path, before: CheckpointMetadata, now: DataRecord, dataset: Any, accept_changed: bool
) -> bool:
    """Compares the data by content with the data of the newest checkpoint.

    Args:
        before: description of the newest checkpoint.
        now: record of `dataset`.
        accept_changed: log the changes instead of refusing them.

    Returns:
        True if the data have changed and that is accepted.

    Raises:
        ValueError: the data have changed; lists the changes, with the first names. Another number of classes, or a
            class with another label, is always refused.
    """
    if len(before.classes) != len(now.classes):
        raise ValueError(
            f"{dataset.name} has {counted(len(now.classes), 'class', 'classes')} ({listed(now.classes, _NAMED)}) and "
            f"{workdir} was trained on {len(before.classes)} ({listed(before.classes, _NAMED)}), which its heads do "
            "not fit. Give another --workdir, and start from this one by --model.weights "
            f"{shlex.quote(str(workdir))} --model.new-heads"
        )
    _check_labels_kept(workdir, before.classes, now.classes, dataset.name)
    if before.format == 1:
        same = (before.classes, before.data) == (now.classes, legacy_fingerprint(dataset))
    else:
        same = (before.classes, before.data, before.proposal_files) == _identity(now)
    if same:
        if before.format == 1:
            _log.warning(
                "%s is of an earlier version, which kept no hash of boxes and labels: whether those of %s have changed "
                "is not known", workdir, dataset.name,
            )  # fmt: skip
        return False
    record = read_record(workdir)
    if record is not None and _identity(record) != (before.classes, before.data, before.proposal_files):
        record = None
    changes = "; ".join(_changes(before, record, now))
    if not accept_changed:
        raise ValueError(
            f"{dataset.name} has changed since {workdir} was trained on it: {changes}. "
            "Give another --workdir, or --accept-changed-data to go on with it as it is now"
        )
    _log.warning("continuing with changed data and the earlier box statistics: %s", changes)
    return True


def _check_labels_kept(workdir: Path, before: Sequence[str], now: Sequence[str], name: str) -> None:
    """Raises ValueError if a class has another label than before: the heads' outputs would be swapped."""
    moved = [new for old, new in zip(before, now, strict=True) if new != old and new in before]
    if not moved:
        return
    added = iter([new for new in now if new not in before])
    order = [old if old in now else next(added) for old in before]
    first = moved[0]
    raise ValueError(
        f"{name} has the class {first!r} at label {now.index(first) + 1}, which {workdir} has at label "
        f"{before.index(first) + 1}: its outputs would stand for other classes. Give the order of labels by "
        f"--data.classes {' '.join(map(shlex.quote, order))}, or another --workdir"
    )


def _identity(record: DataRecord) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    return record.classes, record.fingerprint, record.proposal_files


def _changes(before: CheckpointMetadata, record: DataRecord | None, now: DataRecord) -> list[str]:
    """The differences, one phrase each. Without a record, changed images cannot be named."""
    found = [
        f"class {label} is {new!r}, not {old!r}"
        for label, (old, new) in enumerate(zip(before.classes, now.classes, strict=True), 1)
        if old != new
    ]
    if before.format > 1 and before.proposal_files != now.proposal_files:
        found.append("other proposal files")
    if record is None:
        found.append(f"which images or objects is not known, as {_FILE} does not describe the newest checkpoint")
    else:
        found += _image_changes(record, now)
    return found


def _image_changes(before: DataRecord, now: DataRecord) -> list[str]:
    old, new = (dict(zip(record.image_ids, record.digests, strict=True)) for record in (before, now))
    common = [image_id for image_id in now.image_ids if image_id in old]
    differs = np.array([(old[i] != new[i]).any(axis=1) for i in common], bool).reshape(-1, 4)
    pixels, boxes, labels, marks = differs.T
    # An added or removed object changes labels and marks too: count one change.
    aspects = {"pixels": pixels, "boxes": boxes, "labels": labels & ~boxes, "difficult or crowd marks": marks & ~boxes}
    groups = {
        "added": [i for i in now.image_ids if i not in old],
        "removed": [i for i in before.image_ids if i not in new],
    } | {f"with other {name}": [common[k] for k in np.flatnonzero(rows)] for name, rows in aspects.items()}
    found = [
        f"{counted(len(names), 'image')} {kind} ({listed(names, _SHOWN)})" for kind, names in groups.items() if names
    ]
    if not found and before.image_ids != now.image_ids:
        found.append("the images are in another order")
    return found


def _digest(content: bytes) -> list[int]:
    return list(hashlib.blake2b(content, digest_size=8).digest())


def _file_digest(path: str | Path) -> str:
    path = expand_user(path)
    if not path.is_file():
        raise FileNotFoundError(f"no proposal file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(names: Sequence[str]) -> UInt8[np.ndarray, " bytes"]:
    return np.frombuffer(json.dumps(names).encode(), np.uint8)
