"""Detections in the form that other programs take: results files of the VOC server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from frcnn_jax.atomic import write_bytes
from frcnn_jax.evaluation.voc_map import valid_detections
from frcnn_jax.types import Detections

__all__ = ["voc_results_files", "write_voc_results"]


def voc_results_files(directory: str | Path, class_names: Sequence[str], split: str) -> list[Path]:
    """The results file of each class for the VOC server, `comp4_det_<split>_<class>.txt`.

    Raises:
        ValueError: a class name or `split` cannot be part of a file name, or a class is named twice.
    """
    for name in (split, *class_names):
        if not re.fullmatch(r"[\w.+ -]+", name):
            raise ValueError(f"{directory}: {name!r} cannot be part of the name of a results file")
    if len(set(class_names)) < len(class_names):
        raise ValueError(f"{directory}: a class is named twice in {list(class_names)}")
    return [Path(directory) / f"comp4_det_{split}_{name}.txt" for name in class_names]


def write_voc_results(
    directory: str | Path, detections: Mapping[str, Detections], class_names: Sequence[str], split: str
) -> list[Path]:
    """Write the `voc_results_files` of these detections, in place of any that are there.

    A line is `image_id score x1 y1 x2 y2`, the corners 1-based and inclusive, to a thousandth of a pixel. A class
    without detections has an empty file.

    Returns:
        The files, in the order of the classes.

    Raises:
        ValueError: an image id is empty or has white space in it, a class name or `split` cannot be part of a file
            name, a class is named twice, or detections are malformed. Nothing is written then.
    """
    paths = voc_results_files(directory, class_names, split)
    lines: list[list[str]] = [[] for _ in class_names]
    for image, found in detections.items():
        if not re.fullmatch(r"\S+", image):
            raise ValueError(
                f"{directory}: image id {image!r} is empty or has white space, which a results file forbids"
            )
        for box, score, label in zip(*valid_detections(found, f"image {image!r}", len(class_names)), strict=True):
            x1, y1, x2, y2 = np.add(box, (1, 1, 0, 0))
            # All digits of a float32, so that no two scores become equal.
            digits = np.format_float_positional(np.float32(score), trim="0")
            lines[label - 1].append(f"{image} {digits} {x1:.3f} {y1:.3f} {x2:.3f} {y2:.3f}\n")
    for path, text in zip(paths, lines, strict=True):
        write_bytes(path, "".join(text).encode())
    return paths
