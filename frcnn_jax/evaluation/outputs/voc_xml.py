"""Detections as VOC's XML files, one per image: labelImg opens them, and a corrected folder is a data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from frcnn_jax.atomic import write_text
from frcnn_jax.evaluation.outputs.voc_results import LONGEST_NAME
from frcnn_jax.evaluation.valid_records import at_least, check_class_names, valid_detections
from frcnn_jax.types import Detections

__all__ = ["check_xml_files", "voc_xml", "write_voc_xml", "xml_file"]

Corners = tuple[int, int, int, int]


def xml_file(directory: str | Path, image_id: str) -> Path:
    """The XML file of an image, with the name that labelImg and the reader of data sets expect; an id `a/b` gives a
    folder.

    Raises:
        ValueError: the id leads out of the directory, or is too long for a file name.
    """
    parts = image_id.split("/")
    if not all(parts) or ".." in parts or "." in parts or "\\" in image_id:
        raise ValueError(f"{directory}: image id {image_id!r} cannot be the name of an XML file")
    if max(len(os.fsencode(part)) for part in (*parts[:-1], f"{parts[-1]}.xml")) > LONGEST_NAME:
        raise ValueError(
            f"{directory}: image id {image_id!r} is too long for the name of an XML file, of {LONGEST_NAME} bytes: "
            "leave out the XML files, or shorten the image's name"
        )
    return Path(directory).joinpath(*parts[:-1], f"{parts[-1]}.xml")


def check_xml_files(directory: str | Path, image_ids: Iterable[str], *, overwrite: bool = False) -> None:
    """Raises ValueError if an id cannot be a file name, and FileExistsError for existing files without `overwrite`:
    they may have been corrected by hand.
    """
    existing = [path for path in (xml_file(directory, image) for image in image_ids) if path.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} others" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]}{more} exist and may hold corrections: give --overwrite to replace them, or another folder"
        )


def write_voc_xml(
    directory: str | Path,
    image_id: str,
    filename: str,
    size: tuple[int, int],
    detections: Detections,
    class_names: Sequence[str],
    *,
    min_score: float = 0.5,
) -> Path:
    """Writes `voc_xml` of an image to its file; returns the path.

    Args:
        filename: file name of the image.
        size: height and width in the frame of the boxes.
        min_score: detections below this score are skipped.

    Raises:
        ValueError: the detections are malformed or of an unnamed class, or the id cannot be a file name.
    """
    path = xml_file(directory, image_id)
    check_class_names(class_names, distinct=False)
    boxes, scores, labels = valid_detections(detections, f"image {image_id!r}", len(class_names))
    kept = np.flatnonzero(at_least(scores, min_score))
    objects = [(class_names[labels[i] - 1], _corners(boxes[i], size)) for i in kept]
    write_text(path, voc_xml(filename, size, objects))
    return path


def voc_xml(filename: str, size: tuple[int, int], objects: Iterable[tuple[str, Corners]]) -> str:
    """An annotation in VOC's format.

    Args:
        size: height and width.
        objects: class name, and xmin ymin xmax ymax in whole pixels, 1-based and inclusive.
    """
    height, width = size
    lines = [
        "<annotation>",
        f"  <filename>{escape(filename)}</filename>",
        "  <source><database>Unknown</database></source>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for name, corners in objects:
        box = "".join(
            f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        lines += [
            "  <object>",
            f"    <name>{escape(name)}</name>",
            "    <pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _corners(box: np.ndarray, size: tuple[int, int]) -> Corners:
    """The whole pixels nearest to a half-open box, inside the image: 1-based, and at least two in each direction, as a
    box of one pixel is empty for readers with another convention.
    """
    x1, y1, x2, y2 = np.floor(box + 0.5).astype(int).tolist()
    (xmin, xmax), (ymin, ymax) = _ends(x1, x2, size[1]), _ends(y1, y2, size[0])
    return xmin, ymin, xmax, ymax


def _ends(start: int, stop: int, length: int) -> tuple[int, int]:
    """First and last pixel, from 1, of a half-open range in an image of that length."""
    first = min(max(start + 1, 1), max(length - 1, 1))
    return first, max(min(stop, length), min(first + 1, length))
