"""Reader of folders in VOC format. Only this module and `annotation` know its 1-based, inclusive corners."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import Fault, Note
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.tree import composed
from frcnn_jax.data.formats.voc.annotation import (
    CORNERS,
    AnnotatedObject,
    Annotation,
    UnreadableAnnotation,
    read_annotation,
)
from frcnn_jax.data.formats.voc.folder import UNLISTED, VocFolder
from frcnn_jax.data.formats.voc.lists import SplitList, listed_ids, with_trainval
from frcnn_jax.data.formats.voc.places import in_voc_format, voc_part, voc_root
from frcnn_jax.data.records import BoxNotation, ImageRecord, ObjectRecord, SplitRecords
from frcnn_jax.progress import Progress

__all__ = ["VOC_CORNERS", "VocReader", "read_xml", "with_annotation"]

VOC_CORNERS = BoxNotation(CORNERS, (1.0, 1.0, 0.0, 0.0))


class VocReader(AnnotationReader):
    """JPEGImages, Annotations and the lists in ImageSets/Main, or else in ImageSets, beside it or in the given folder.
    An image is read once for all splits. Without lists, all annotated images form one split, `all`.
    """

    layout = "folder JPEGImages"

    def __init__(self, root: Path, config: DataConfig | None = None, *, annotated: bool | None = None):
        """
        Args:
            annotated: False if annotations were never published, so that images have no objects; the default is False
                if the folder Annotations is missing and `config.faults.missing_annotation` is "empty".
        """
        given, root = root, voc_root(root)
        if annotated is None:
            empty = config is not None and config.faults.missing_annotation == "empty"
            annotated = not empty or voc_part(root, "Annotations").is_dir()
        self.folder = VocFolder(root, annotated, given if given != root else None)
        self._records: dict[str, ImageRecord] = {}

    @staticmethod
    def fits(root: Path) -> bool:
        return in_voc_format(root)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.folder.class_files or self.folder.split_files) or (UNLISTED,)

    def read(self, split: str) -> SplitRecords:
        """The images of a list.

        Raises:
            FileNotFoundError: the list does not exist; names the existing ones.
            ValueError: a line is a path, or the text is not UTF-8.
        """
        lines = self.folder.read_split(split)
        repeats = [
            Fault("duplicate_id", lines.file, None, f"line {line}", image_id, "listed before")
            for line, image_id in lines.repeats
        ]
        ids = Progress(lines.ids, f"Reading {self.folder.root}", unit="image", leave=False, delay=2)
        return SplitRecords(tuple(map(self._record, ids)), tuple(repeats))

    def image_names(self, splits: Sequence[str]) -> list[str]:
        """Ids of the images of splits, which are paths without suffix."""
        return list(
            dict.fromkeys(f"{image_id}.jpg" for split in splits for image_id in self.folder.read_split(split).ids)
        )

    def places(self, split: str) -> tuple[str, ...]:
        """The lists of a split, below the root; for messages."""
        return self.folder.places(split)

    def content(self, splits: Sequence[str], hash_file: Callable[[Path], str]) -> list[Any]:
        """The lists, and hashes of each image and its annotation. Names of prepared folders depend on the form of this
        value.
        """
        lists: dict[str, SplitList] = with_trainval({name: self.folder.read_split(name) for name in splits})
        ids = sorted(listed_ids(lists))
        self.folder.images  # noqa: B018  - listed once, before the threads need it
        found = map_in_threads(partial(self._hashes, hash_file), ids)
        digests = list(Progress(found, f"Hashing {self.folder.root}", len(ids), unit="image", leave=False, delay=2))
        return [{name: (lines.ids, lines.repeats) for name, lines in lists.items()}, digests]

    def _record(self, image_id: str) -> ImageRecord:
        if image_id not in self._records:
            self._records[image_id] = _read_record(self.folder, image_id)
        return self._records[image_id]

    def _hashes(self, hash_file: Callable[[Path], str], image_id: str) -> list[str]:
        """Hashes of an image's annotation and of the image, and the names of others with its id."""
        annotation = self.folder.annotation_path(image_id)
        images = self.folder.image_paths(image_id, None)
        if len(images) != 1 and os.path.isfile(annotation):
            with contextlib.suppress(UnreadableAnnotation):
                images = self.folder.image_paths(image_id, read_annotation(annotation).filename)
        image, *others = images or (None,)
        names = [path.name for path in others]
        return [hash_file(annotation), image.name if image else "", hash_file(image) if image else "", *names]


def _read_record(folder: VocFolder, image_id: str) -> ImageRecord:
    path = folder.annotation_path(image_id)
    file = str(path.relative_to(folder.root))
    annotation, faults = read_xml(path, file) if folder.annotated else (None, [])
    paths = folder.image_paths(image_id, annotation.filename if annotation else None)
    place = f"JPEGImages/{image_id}"
    if not paths:
        faults.append(Fault("missing_image", place, None, "file", image_id, "there is no image with this id"))
    elif len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        faults.append(Fault("duplicate_id", place, None, "file", names, "several images of one id"))
    image = paths[0] if paths else None
    return with_annotation(ImageRecord(image_id, image, file, faults=tuple(faults), notation=VOC_CORNERS), annotation)


def read_xml(path: Path, file: str) -> tuple[Annotation | None, list[Fault]]:
    """The annotation in a file, or None with the faults."""
    try:
        return read_annotation(path), []
    except FileNotFoundError:
        return None, [Fault("missing_annotation", file, None, "file", path.name, "there is no such file")]
    except UnreadableAnnotation as error:
        return None, [Fault("unreadable_annotation", file, None, p.field, p.value, p.message) for p in error.problems]


def with_annotation(record: ImageRecord, annotation: Annotation | None) -> ImageRecord:
    """The record with size and objects from its annotation, and faults for skipped objects."""
    if annotation is None:
        return record
    faults = tuple(
        Fault("unreadable_annotation", record.file, p.object, p.field, p.value, p.message) for p in annotation.problems
    )
    return dataclasses.replace(
        record,
        size=(annotation.height, annotation.width),
        objects=tuple(map(_object_record, annotation.objects)),
        faults=record.faults + faults,
        notation=VOC_CORNERS,
        notes=(*record.notes, *_notes(record, annotation)),
    )


def _notes(record: ImageRecord, annotation: Annotation) -> Iterator[Note]:
    rotated = sum(item.rotated for item in annotation.objects)
    if rotated:
        yield Note("rotated", record.file, rotated)
    if annotation.parts:
        yield Note("part", record.file, annotation.parts)
    stem, named = _name(Path(record.file).stem), PureWindowsPath(annotation.filename or "")
    if record.path and _name(record.path.stem) != stem:
        yield Note("named", f"{record.file}: {named.name}")
    elif record.path and named.name and stem not in (_name(named.name), _name(named.stem)):
        yield Note("filename", f"{record.file}: {named.name}")


def _name(text: str) -> str:
    return composed(text).casefold()


def _object_record(item: AnnotatedObject) -> ObjectRecord:
    xmin, ymin, xmax, ymax = item.corners
    box = xmin - 1, ymin - 1, xmax, ymax
    return ObjectRecord(item.index, item.name, box, difficult=item.difficult, truncated=item.truncated, pose=item.pose)
