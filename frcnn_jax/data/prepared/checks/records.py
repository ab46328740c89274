"""The checks of every format's records before they are used: images exist, and boxes are of finite numbers."""

from __future__ import annotations

import dataclasses
import math
import os

from frcnn_jax.data.faults import Fault
from frcnn_jax.data.records import ImageRecord, SplitRecords

__all__ = ["usable_records"]


def usable_records(split: SplitRecords) -> SplitRecords:
    """The records of a split, with a fault in place of an image that does not exist and of a box that is not finite.

    A reader may have found these faults itself; one of a plug-in may not.
    """
    return dataclasses.replace(split, records=tuple(map(_usable, split.records)))


def _usable(record: ImageRecord) -> ImageRecord:
    faults, path, objects = list(record.faults), record.path, record.objects
    if path is not None and not os.path.exists(path):
        message = f"there is no such file, in the record of {record.image_id}"
        faults.append(Fault("missing_image", record.file, None, "image", path.name, message))
        path = None
    if not all(math.isfinite(value) for item in objects for value in item.box):
        odd = [item for item in objects if not all(map(math.isfinite, item.box))]
        for item in odd:
            box = record.notation.describe(item.box)
            message = f"not finite, in the record of {record.image_id}"
            faults.append(Fault("unreadable_annotation", record.file, item.index, "box", box, message))
        objects = tuple(item for item in objects if item not in odd)
    if len(faults) == len(record.faults):
        return record
    return dataclasses.replace(record, path=path, objects=objects, faults=tuple(faults))
