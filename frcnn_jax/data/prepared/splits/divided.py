"""Images in several splits with other objects in each, as in a table that was divided by row and not by image."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from frcnn_jax.config import DataConfig
from frcnn_jax.data.files import file_hash
from frcnn_jax.data.formats.agreement import has_all
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.table import FORMATS
from frcnn_jax.data.prepared.names import RenamedReader
from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.words import counted

__all__ = ["divided_images"]

Pair = tuple[ImageRecord, ImageRecord]


def divided_images(
    read: Mapping[str, SplitRecords],
    kept: Mapping[str, SplitRecords],
    tested: Sequence[str],
    root: Path,
    config: DataConfig,
    format_name: str,
) -> list[str]:
    """A sentence about each two splits that have an image in common with other objects in each of them.

    Args:
        read: the splits as read.
        kept: the same without images that are tested.
        tested: names of the tested splits, which keep their images.
        format_name: format of the folder; another one that has all objects of these images is named.
    """
    found = {}
    for one, other in itertools.combinations(read, 2):
        pairs = [*_same_file(read[one], read[other])]
        if one in tested or other in tested:
            pairs += _same_bytes(*((read[name], kept.get(name, read[name])) for name in (one, other)))
        divided = [(a, b) for a, b in pairs if not _equal(a, b)]
        if divided:
            found[one, other] = divided
    if not found:
        return []
    whole = _whole_format(root, config, format_name, [pair for pairs in found.values() for pair in pairs])
    way = f", or read them from other files by --data.format {whole}" if whole else ""
    return [
        f"{counted(len(pairs), 'image has', 'images have')} other objects in {one} than in {other} (the first: "
        f"{pairs[0][0].image_id}, {len(pairs[0][0].objects)} and {len(pairs[0][1].objects)}): only those in "
        f"{next((name for name in tested if name in (one, other)), other)} are used. Give all objects of an image in "
        f"one split, dividing a table by image and not by row{way}"
        for (one, other), pairs in found.items()
    ]


def _same_file(one: SplitRecords, other: SplitRecords) -> Iterator[Pair]:
    """The records of one image file in two splits."""
    of_path = {record.path: record for record in one.records if record.path is not None}
    return ((of_path[record.path], record) for record in other.records if record.path in of_path)


def _same_bytes(one: tuple[SplitRecords, SplitRecords], other: tuple[SplitRecords, SplitRecords]) -> Iterator[Pair]:
    """The records of files with equal bytes in two splits, each as read and as kept: one of them has lost the image."""
    for (read, kept), (partner, _), in_order in ((one, other, True), (other, one, False)):
        remaining = {*kept.ids, *partner.ids}
        lost = [record for record in read.records if record.path is not None and record.image_id not in remaining]
        of_size: dict[int, list[ImageRecord]] = {}
        for record in partner.records if lost else ():
            if record.path is not None:
                of_size.setdefault(record.path.stat().st_size, []).append(record)
        for record in lost:
            alike = of_size.get(record.path.stat().st_size, ())
            copy = next((item for item in alike if file_hash(item.path) == file_hash(record.path)), None)
            if copy is not None:
                yield (record, copy) if in_order else (copy, record)


def _equal(one: ImageRecord, other: ImageRecord) -> bool:
    return one.objects == other.objects or (
        len(one.objects) == len(other.objects) and has_all(one.objects, other.objects)
    )


def _whole_format(root: Path, config: DataConfig, format_name: str, pairs: Sequence[Pair]) -> str:
    """Another format of the folder that has the objects of both records of each pair; empty if there is none."""
    for name, kind in FORMATS.items():
        if name != format_name:
            with contextlib.suppress(ValueError, OSError):
                if kind.fits(root) and _has_pairs(kind(root, config), config, pairs):
                    return name
    return ""


def _has_pairs(reader: AnnotationReader, config: DataConfig, pairs: Sequence[Pair]) -> bool:
    """True if each image of the pairs has the objects of both records in every split of the reader with the image."""
    reader = RenamedReader(reader, config.rename) if config.rename else reader
    wanted = {record.path: pair for pair in pairs for record in pair}
    records = [r for split in reader.splits for r in reader.read(split).records if r.path in wanted]
    whole = all(has_all(record.objects, part.objects) for record in records for part in wanted[record.path])
    return whole and wanted.keys() <= {record.path for record in records}
