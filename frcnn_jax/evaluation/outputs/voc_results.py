"""Results files of the PASCAL VOC evaluation server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from frcnn_jax.atomic import write_text
from frcnn_jax.evaluation.valid_records import check_class_names, valid_detections
from frcnn_jax.types import Detections

__all__ = ["LONGEST_NAME", "check_image_ids", "voc_results_files", "voc_split", "write_voc_results"]

LONGEST_NAME = 255
"""Bytes of a file's name that file systems allow."""


def voc_results_files(directory: str | Path, class_names: Sequence[str], split: str) -> list[Path]:
    """The results file of each class for the VOC server, `comp4_det_<split>_<class>.txt`.

    Raises:
        ValueError: a class name or `split` cannot be part of a file name or makes it too long, or a class name occurs
            twice.
    """
    check_class_names(class_names, f"{directory}: class_names")
    for name in (split, *class_names):
        if not re.fullmatch(r"[\w.+ -]+", name):
            raise ValueError(f"{directory}: {name!r} cannot be part of the name of a results file")
    names = [f"comp4_det_{split}_{name}.txt" for name in class_names]
    for name in names:
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise ValueError(f"{directory}: {name} is longer than the {LONGEST_NAME} bytes of a file's name")
    return [Path(directory) / name for name in names]


def check_image_ids(directory: str | Path, image_ids: Iterable[str]) -> None:
    """Checks that results files in `directory` can hold the ids: columns are separated by white space.

    Raises:
        ValueError: ids are empty or have white space; names the first and gives their number.
    """
    image_ids = list(image_ids)
    bad = [image for image in image_ids if not re.fullmatch(r"\S+", image)]
    if bad:
        raise ValueError(
            f"{directory}: image id {bad[0]!r} is empty or has white space, which a results file forbids"
            f" ({len(bad)} of {len(image_ids)} ids are or have); rename the images, or write --coco-results"
        )


def voc_split(name: str) -> str:
    """The VOC development kit's name for the split of a data set: `val` for `voc/2012/validation`."""
    split = name.rpartition("/")[2]
    return "val" if split == "validation" else split


def write_voc_results(
    directory: str | Path, detections: Mapping[str, Detections], class_names: Sequence[str], split: str
) -> list[Path]:
    """Writes the `voc_results_files` of these detections, replacing existing ones.

    A line is `image_id score x1 y1 x2 y2`, with 1-based, inclusive corners to a thousandth of a pixel. A class
    without detections has an empty file.

    Returns:
        The files, in the order of the classes.

    Raises:
        ValueError: an image id is empty or has white space in it, a class name or `split` cannot be part of a file
            name, a class is named twice, or detections are malformed. Nothing is written then.
    """
    paths = voc_results_files(directory, class_names, split)
    check_image_ids(directory, detections)
    lines: list[list[str]] = [[] for _ in class_names]
    for image, found in detections.items():
        for box, score, label in zip(*valid_detections(found, f"image {image!r}", len(class_names)), strict=True):
            x1, y1, x2, y2 = np.add(box, (1, 1, 0, 0))
            # All digits of a float32, so that different scores stay different.
            digits = np.format_float_positional(np.float32(score), trim="0")
            lines[label - 1].append(f"{image} {digits} {x1:.3f} {y1:.3f} {x2:.3f} {y2:.3f}\n")
    for path, text in zip(paths, lines, strict=True):
        write_text(path, "".join(text))
    return paths
