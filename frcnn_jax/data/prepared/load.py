"""Reading, decoding and checking the images of records, each once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from frcnn_jax.data.encoded.bmp import is_bmp
from frcnn_jax.data.encoded.jpeg import is_jpeg
from frcnn_jax.data.encoded.png import is_png
from frcnn_jax.data.encoded.tiff import is_tiff
from frcnn_jax.data.encoded.webp import is_webp
from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.images import check_image, exif_orientation, has_16_bits, largest_of_16_bits
from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.progress import Progress

__all__ = ["LoadedImage", "find_classes", "load_images", "stated_size"]

_DARK = 1 << 14  # of 16 bits; below it 8-bit values stay below 64
_IS_FORMAT = {  # is the content in the format of the suffix
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".jpe"), is_jpeg),
    **dict.fromkeys((".tif", ".tiff"), is_tiff),
    ".png": is_png,
    ".webp": is_webp,
    ".bmp": is_bmp,
}


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """A record with facts from its image file."""

    record: ImageRecord
    size: tuple[int, int] | None  # height, width of the image file, turned by `orientation`
    faults: tuple[Fault, ...]  # of the record and of the image
    mark: int = 1  # EXIF orientation, 1 ... 8
    orientation: int = 1  # applied EXIF orientation: the mark, or 1 if it is ignored
    notes: tuple[Note, ...] = ()  # of the record and of the image


def load_images(
    splits: Iterable[SplitRecords],
    root: Path,
    title: str,
    check_file: Callable[[bytes], tuple[int, int]] = check_image,
    *,
    decode: bool = True,
) -> dict[str, LoadedImage]:
    """Reads and checks the image of every record, with a progress bar.

    Args:
        check_file: returns the size of an encoded image, or raises ValueError if it is unusable; `check_image` decodes
            it.
        decode: of images of 16 bits, note those that become dark, which decodes them; else note all.

    Raises:
        ValueError: two images have the same id.
    """
    records: dict[str, ImageRecord] = {}
    for record in (record for split in splits for record in split.records):
        other = records.setdefault(record.image_id, record)
        if other.path != record.path:
            raise ValueError(f"{root}: the id {record.image_id!r} stands for {other.path} and for {record.path}")
    found = map_in_threads(lambda record: _load_image(record, root, check_file, decode), list(records.values()))
    return {image.record.image_id: image for image in Progress(found, f"Checking {title}", len(records), unit="image")}


def find_classes(images: dict[str, LoadedImage]) -> tuple[str, ...]:
    """All class names in the records, sorted."""
    return tuple(sorted({item.name for image in images.values() for item in image.record.objects}))


def stated_size(record: ImageRecord) -> tuple[float, float] | None:
    """Height and width in the annotation; None if they are missing or 0, as some tools write."""
    return record.size if record.size is not None and min(record.size) > 0 else None


def _load_image(
    record: ImageRecord, root: Path, check_file: Callable[[bytes], tuple[int, int]], decode: bool
) -> LoadedImage:
    faults = [fault for fault in record.faults if fault.object is None]
    size, mark, notes = None, 1, record.notes
    if record.path is not None:
        try:
            data = record.path.read_bytes()
            size, mark = check_file(data), exif_orientation(data)
            if not _IS_FORMAT.get(record.path.suffix.lower(), bool)(data):
                notes = (*notes, Note("ending", os.path.relpath(record.path, root)))
            if not decode and has_16_bits(data):
                notes = (*notes, Note("deep", os.path.relpath(record.path, root)))
            largest = largest_of_16_bits(data) if decode else None
            if largest is not None and largest < _DARK:
                notes = (*notes, Note("dark", os.path.relpath(record.path, root), value=largest))
        except (ValueError, OSError) as error:
            file = os.path.relpath(record.path, root)
            faults.append(Fault("unreadable_image", file, None, "file", record.path.name, str(error)))
    faults += [fault for fault in record.faults if fault.object is not None]
    return LoadedImage(record, size, tuple(faults), mark, notes=notes)
