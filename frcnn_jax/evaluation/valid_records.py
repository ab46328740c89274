"""Checks of detections and ground truth from callers: pairs of records per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.types import Detections, GroundTruth
from frcnn_jax.words import counted

__all__ = ["at_least", "check_class_names", "paired_records", "valid_detections", "valid_ground_truth"]

# The dtype of an empty field, and NumPy's letters of those that fit.
_KINDS = {"bools": (np.bool_, "b"), "integers": (np.int64, "iu"), "numbers": (np.float64, "fiu")}


def at_least(scores: Float[np.ndarray, " D"], least: float) -> Bool[np.ndarray, " D"]:
    """The scores that are not below `least`, compared as float32: a score of 0.3 from the network is not below 0.3."""
    return np.asarray(scores, np.float32) >= np.float32(least)


def check_class_names(class_names: Sequence[str], where: str = "class_names", *, distinct: bool = True) -> None:
    """Raises ValueError if the names of labels 1 ... K are one text, whose letters would be the names, or with
    `distinct` if a name occurs twice.
    """
    if isinstance(class_names, str):
        raise ValueError(
            f"{where}: {class_names!r} is one text, expected a sequence of names such as [{class_names!r}]"
        )
    twice = [name for name, count in Counter(class_names).items() if count > 1]
    if distinct and twice:
        raise ValueError(f"{where}: {twice[0]!r} occurs twice in {list(class_names)}")


def paired_records(detections: Any, ground_truth: Any) -> Iterator[tuple[str, Detections, GroundTruth]]:
    """Pairs of the two records of each image, with a name for messages, in the order of `detections`."""
    if isinstance(detections, Mapping) != isinstance(ground_truth, Mapping):
        raise ValueError("detections and ground_truth must both be mappings by image id or both be sequences")
    if isinstance(detections, Mapping):
        unknown = [image for image in detections if image not in ground_truth]
        missing = [image for image in ground_truth if image not in detections]
        if unknown:
            raise ValueError(
                f"ground_truth: no entry for {counted(len(unknown), 'image')} with detections, as {unknown[0]!r}"
            )
        if missing:
            raise ValueError(
                f"detections: no entry, not even an empty one, for {counted(len(missing), 'image')}, as {missing[0]!r}"
            )
        return ((f"image {image!r}", found, ground_truth[image]) for image, found in detections.items())
    if len(detections) != len(ground_truth):
        raise ValueError(f"detections of {counted(len(detections), 'image')}, ground truth of {len(ground_truth)}")
    pairs = zip(detections, ground_truth, strict=True)
    return ((f"image {i}", found, truth) for i, (found, truth) in enumerate(pairs))


def valid_detections(
    detections: Detections, where: str, num_classes: int | None = None
) -> tuple[Float[np.ndarray, "D 4"], Float[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """Checked boxes, scores and labels of the entries that are not masked: float64, float64 and int64.

    Args:
        where: name of the image for messages.
        num_classes: K; if None, any positive label is allowed.

    Raises:
        ValueError: a shape or dtype is wrong, a score or coordinate is not finite, a box is reversed, or a label is
            outside 1 ... K.
    """
    where = f"{where}: detections"
    mask = _entries(detections.mask, None, "bools", f"{where}.mask")
    boxes = _entries(detections.boxes, (len(mask), 4), "numbers", f"{where}.boxes")
    scores = _entries(detections.scores, (len(mask),), "numbers", f"{where}.scores")
    labels = _entries(detections.labels, (len(mask),), "integers", f"{where}.labels")
    # Integers and half precision too, as their differences and areas would wrap or be infinite.
    boxes, scores, labels = boxes[mask].astype(np.float64), scores[mask].astype(np.float64), labels[mask]
    if not np.isfinite(scores).all():
        raise ValueError(f"{where}.scores: {scores[~np.isfinite(scores)][0]} is not finite")
    _check_boxes(boxes, f"{where}.boxes")
    _check_labels(labels, num_classes, f"{where}.labels")
    return boxes, scores, labels.astype(np.int64)


def valid_ground_truth(
    truth: GroundTruth, where: str, num_classes: int | None
) -> tuple[Float[np.ndarray, "G 4"], Int[np.ndarray, " G"], Bool[np.ndarray, " G"], Bool[np.ndarray, " G"]]:
    """Checked boxes, labels, difficult marks and crowds of an image's objects, as in `valid_detections`."""
    where = f"{where}: ground truth"
    difficult = _entries(truth.difficult, None, "bools", f"{where}.difficult")
    boxes = _entries(truth.boxes, (len(difficult), 4), "numbers", f"{where}.boxes").astype(np.float64)
    labels = _entries(truth.labels, (len(difficult),), "integers", f"{where}.labels")
    crowd = _entries(truth.crowd, (len(difficult),), "bools", f"{where}.crowd")
    _check_boxes(boxes, f"{where}.boxes")
    _check_labels(labels, num_classes, f"{where}.labels")
    return boxes, labels.astype(np.int64), difficult, crowd


def _entries(values: Any, shape: tuple[int, ...] | None, kind: str, where: str) -> np.ndarray:
    """The array of a field, of a shape or of any length, and of a kind; an empty list has none and gets it."""
    array = np.asarray(values)
    shape = (array.shape or (0,))[:1] if shape is None else shape
    empty, letters = _KINDS[kind]
    if array.shape in (shape, (0,)) and shape[0] == 0:
        return np.zeros(shape, empty)
    if array.shape != shape:
        raise ValueError(f"{where}: shape {array.shape}, expected {shape}")
    # bfloat16 is unknown to NumPy.
    if ("f" if array.dtype.name == "bfloat16" else array.dtype.kind) not in letters:
        raise ValueError(f"{where}: wrong dtype {array.dtype}, expected {kind}")
    return array


def _check_boxes(boxes: np.ndarray, where: str) -> None:
    bad = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1))
    if bad.any():
        raise ValueError(f"{where}: {boxes[bad][0].tolist()} is reversed or not finite")


def _check_labels(labels: np.ndarray, num_classes: int | None, where: str) -> None:
    bad = labels < 1 if num_classes is None else (labels < 1) | (labels > num_classes)
    if bad.any():
        raise ValueError(f"{where}: {labels[bad][0]} is outside 1 ... {'K' if num_classes is None else num_classes}")
