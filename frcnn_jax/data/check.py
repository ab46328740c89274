"""The faults of a data set in VOC format: all found before anything is written, then reported together or dropped."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import DatasetFaultError, Fault
from frcnn_jax.data.formats.voc_folder import SplitList, VocFolder
from frcnn_jax.data.formats.voc_xml import CORNERS, AnnotatedObject, Annotation, UnreadableAnnotation, read_annotation
from frcnn_jax.data.images import check_image, exif_orientation
from frcnn_jax.machine import cores

__all__ = [
    "CheckedImage",
    "CheckedSplit",
    "LoadedImage",
    "check_splits",
    "find_classes",
    "load_images",
    "map_in_threads",
    "raise_or_report",
]

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-3  # pixels; other tools round when they turn fractions of the size into coordinates


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """What the files of one image id say."""

    image_id: str
    path: Path | None
    size: tuple[int, int] | None  # height, width of the image file
    annotation: Annotation | None
    faults: tuple[Fault, ...]
    turned: bool = False  # has an EXIF orientation


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """An image that may be used, with the objects that may be used."""

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]
    turned: bool = False  # has an EXIF orientation


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """The images of a split in the order of its list."""

    images: tuple[CheckedImage, ...]
    dropped: dict[str, int]  # images and objects dropped, by fault
    clipped: int  # boxes cut at the image's border


def load_images(folder: VocFolder, ids: Sequence[str], title: str) -> dict[str, LoadedImage]:
    """Reads and decodes every image and reads its annotation, with a progress bar."""
    folder.images  # noqa: B018 - listed once, before the threads ask for it
    found = map_in_threads(lambda image_id: _load_image(folder, image_id), ids)
    return {image.image_id: image for image in tqdm(found, f"Checking {title}", len(ids), unit="image")}


def map_in_threads(function: Callable[[str], Any], items: Sequence[str]) -> Iterator[Any]:
    """`function` of each item in order; an interrupt does not wait for the rest."""
    pool = ThreadPoolExecutor(cores())
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def find_classes(images: dict[str, LoadedImage]) -> tuple[str, ...]:
    """All class names in the annotations, sorted."""
    return tuple(sorted({o.name for image in images.values() if image.annotation for o in image.annotation.objects}))


def check_splits(
    images: dict[str, LoadedImage], splits: dict[str, SplitList], classes: Sequence[str], policy: FaultPolicy
) -> tuple[dict[str, CheckedSplit], list[Fault]]:
    """What remains of each split under the policy, and the faults that it forbids."""
    results = {image_id: _check_image(image, classes, policy) for image_id, image in images.items()}
    errors = [fault for result in results.values() for fault in result.faults if getattr(policy, fault.kind) == "error"]
    checked = {}
    for name, split in splits.items():
        parts = [results[image_id] for image_id in split.ids]
        dropped = sum((part.dropped for part in parts), Counter())
        if split.repeats:
            dropped["duplicate_id"] += len(split.repeats)
        if policy.duplicate_id == "error":
            errors += [
                Fault("duplicate_id", split.file, None, f"line {line}", image_id, "listed before")
                for line, image_id in split.repeats
            ]
        kept = tuple(part.image for part in parts if part.image is not None)
        checked[name] = CheckedSplit(kept, dict(sorted(dropped.items())), sum(part.clipped for part in parts))
    return checked, sorted(errors, key=lambda fault: (fault.file, fault.object or 0))


def raise_or_report(title: str, checked: dict[str, CheckedSplit], errors: Sequence[Fault]) -> None:
    """Ends the preparation with all faults that are not allowed; logs once what was dropped or clipped.

    Raises:
        DatasetFaultError: there are such faults.
        ValueError: nothing is left.
    """
    if errors:
        raise DatasetFaultError(title, errors)
    if not any(split.images for split in checked.values()):
        raise ValueError(f"{title}: no split has any image left")
    for name, split in checked.items():
        counts = [f"{count} for {kind}" for kind, count in split.dropped.items()]
        if counts:
            _log.warning("%s, split %s: dropped %s", title, name, ", ".join(counts))
        if split.clipped:
            _log.warning("%s, split %s: clipped %d boxes to the image", title, name, split.clipped)
        turned = [image.path.name for image in split.images if image.turned]
        if turned:
            _log.warning(
                "%s, split %s: %d images have an EXIF orientation, which is ignored: boxes are to be in pixels as they "
                "lie in the file (the first: %s)",
                *(title, name, len(turned), turned[0]),
            )


@dataclasses.dataclass
class _Result:
    image: CheckedImage | None
    faults: list[Fault]
    dropped: Counter[str]
    clipped: int = 0


def _load_image(folder: VocFolder, image_id: str) -> LoadedImage:
    faults: list[Fault] = []
    annotation = Annotation(None, 0, 0, (), ())
    if folder.annotated:
        path = folder.annotation_path(image_id)
        file = str(path.relative_to(folder.root))
        try:
            annotation = read_annotation(path)
        except FileNotFoundError:
            annotation = None
            faults.append(Fault("missing_annotation", file, None, "file", path.name, "there is no such file"))
        except UnreadableAnnotation as error:
            annotation = None
            faults += [Fault("unreadable_annotation", file, None, p.field, p.value, p.message) for p in error.problems]
    paths = folder.image_paths(image_id, annotation.filename if annotation else None)
    if not paths:
        file = f"JPEGImages/{image_id}"
        faults.append(Fault("missing_image", file, None, "file", image_id, "there is no .jpg, .jpeg or .png of it"))
        return LoadedImage(image_id, None, None, annotation, tuple(faults))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        faults.append(Fault("duplicate_id", f"JPEGImages/{image_id}", None, "file", names, "several images of one id"))
    path, size, orientation = paths[0], None, 1
    try:
        data = path.read_bytes()
        size, orientation = check_image(data), exif_orientation(data)
    except (ValueError, OSError) as error:
        file = str(path.relative_to(folder.root))
        faults.append(Fault("unreadable_image", file, None, "file", path.name, str(error)))
    if folder.annotated and annotation is not None:
        file = str(folder.annotation_path(image_id).relative_to(folder.root))
        if size is not None and size != (annotation.height, annotation.width):
            value = f"{annotation.width:g} x {annotation.height:g}"
            message = f"the image has {size[1]} x {size[0]} pixels (width x height)"
            if orientation != 1:
                message += f"; its EXIF orientation, {orientation}, is ignored"
            faults.append(Fault("size_mismatch", file, None, "size", value, message))
        faults += [
            Fault("unreadable_annotation", file, p.object, p.field, p.value, p.message) for p in annotation.problems
        ]
    return LoadedImage(image_id, path, size, annotation, tuple(faults), turned=orientation != 1)


def _check_image(image: LoadedImage, classes: Sequence[str], policy: FaultPolicy) -> _Result:
    """Faults of the image and of its objects, and what the policy leaves of them. What is dropped for one fault has
    no others."""
    kind = _dropped_for([fault for fault in image.faults if fault.object is None], policy)
    if kind:
        return _Result(None, [], Counter([kind]))
    result = _Result(None, list(image.faults), Counter())
    for kind in {fault.object: fault.kind for fault in image.faults if fault.object is not None}.values():
        result.dropped[kind] += 1
    objects = []
    if image.annotation is not None:
        size = image.size or (image.annotation.height, image.annotation.width)
        for item in image.annotation.objects:
            corners = _clip(item.corners, size)
            clip = policy.box_outside == "clip" and _is_outside(item.corners, corners)
            file = f"Annotations/{image.image_id}.xml"
            faults = _object_faults(item, corners if clip else item.corners, size, classes, file)
            kind = _dropped_for(faults, policy)
            if kind:
                result.dropped[kind] += 1
                continue
            result.faults += faults
            result.clipped += clip
            objects.append(dataclasses.replace(item, corners=corners))
    if image.path is not None and image.size is not None:
        result.image = CheckedImage(image.image_id, image.path, image.size, tuple(objects), image.turned)
    return result


def _dropped_for(faults: Sequence[Fault], policy: FaultPolicy) -> str | None:
    """The first kind of fault that the policy drops."""
    return next((fault.kind for fault in faults if getattr(policy, fault.kind) == "drop"), None)


def _is_outside(corners: Sequence[float], clipped: Sequence[float]) -> bool:
    return max(abs(a - b) for a, b in zip(corners, clipped, strict=True)) > _TOLERANCE


def _clip(corners: Sequence[float], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """Corners moved into the image, whose pixels are counted from 1."""
    height, width = size
    xmin, ymin, xmax, ymax = corners
    return max(xmin, 1.0), max(ymin, 1.0), min(xmax, float(width)), min(ymax, float(height))


def _object_faults(
    item: AnnotatedObject, corners: Sequence[float], size: tuple[float, float], classes: Sequence[str], file: str
) -> list[Fault]:
    """What is wrong with an object whose box has these corners, the kind that counts first."""
    faults = []
    if item.name not in classes:
        message = textwrap.shorten(f"not one of {', '.join(classes)}", 80, placeholder=" ...")
        faults.append(Fault("unknown_class", file, item.index, "name", item.name, message))
    height, width = size
    xmin, ymin, xmax, ymax = corners
    # Values are given as in the file, also where the check is of the clipped box.
    box = ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, item.corners, strict=True))
    if xmax <= xmin or ymax <= ymin:
        message = "reversed or empty" if tuple(corners) == item.corners else "nothing left of it inside the image"
        faults.append(Fault("degenerate_box", file, item.index, "bndbox", box, message))
    if _is_outside(corners, _clip(corners, size)):
        message = f"outside the image (xmin, ymin from 1, xmax to {width:g}, ymax to {height:g})"
        faults.append(Fault("box_outside", file, item.index, "bndbox", box, message))
    return faults
