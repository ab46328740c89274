"""The checks of every format's records before they are used: images exist, boxes are of finite numbers, and file and
index identify an object.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

from frcnn_jax.data.faults import Fault
from frcnn_jax.data.records import ImageRecord, SplitRecords

__all__ = ["usable_records"]


def usable_records(splits: Sequence[SplitRecords]) -> list[SplitRecords]:
    """The records of splits, with a fault in place of an image that does not exist and of a box that is not finite, and
    with files that tell the objects of two images apart.

    A reader may have taken care of this itself; one of a plug-in may not.
    """
    shared, found = _shared_files(splits), []
    for split in splits:
        records = (_of_one_image(record) if record.file in shared else record for record in split.records)
        found.append(dataclasses.replace(split, records=tuple(map(_usable, records))))
    return found


def _shared_files(splits: Sequence[SplitRecords]) -> set[str]:
    """Files of several images that have objects of the same index, as where a reader counts those of each image."""
    images: dict[tuple[str, int], str] = {}
    shared = set()
    for record in (record for split in splits for record in split.records):
        indexes = {item.index for item in record.objects} | {fault.object for fault in record.faults} - {None}
        if any(images.setdefault((record.file, index), record.image_id) != record.image_id for index in indexes):
            shared.add(record.file)
    return shared


def _of_one_image(record: ImageRecord) -> ImageRecord:
    """The record with its image's id in the name of its file, and so in its faults."""
    file = f"{record.file} ({record.image_id})"
    faults = (dataclasses.replace(fault, file=file) if fault.file == record.file else fault for fault in record.faults)
    return dataclasses.replace(record, file=file, faults=tuple(faults))


def _usable(record: ImageRecord) -> ImageRecord:
    faults, path, objects = list(record.faults), record.path, record.objects
    if path is None or not os.path.exists(path):
        if all(fault.kind != "missing_image" for fault in faults):
            name = record.image_id if path is None else path.name
            message = f"there is no such file, in the record of {record.image_id}"
            faults.append(Fault("missing_image", record.file, None, "image", name, message))
        path = None
    if not all(math.isfinite(value) for item in objects for value in item.box):
        odd = [item for item in objects if not all(map(math.isfinite, item.box))]
        for item in odd:
            box = record.notation.describe(item.box)
            message = f"not finite, in the record of {record.image_id}"
            faults.append(Fault("unreadable_annotation", record.file, item.index, "box", box, message))
        objects = tuple(item for item in objects if item not in odd)
    if len(faults) == len(record.faults) and path == record.path:
        return record
    return dataclasses.replace(record, path=path, objects=objects, faults=tuple(faults))
