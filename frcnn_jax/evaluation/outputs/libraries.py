"""Detections for other Python libraries: as table columns, and as a supervision record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frcnn_jax.evaluation.valid_records import check_class_names, valid_detections
from frcnn_jax.types import Detections

__all__ = ["detections_table", "to_supervision"]


def detections_table(
    detections: Mapping[str, Detections] | Detections, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Columns with a row per detection, for `pandas.DataFrame`, `polars.DataFrame` and `pyarrow.table`.

    Args:
        detections: detections of one image, or of several images by id; entries with mask False are skipped.
        class_names: names of labels 1 ... K.

    Returns:
        `image` (text, only with several images), `class` (text), `label` (int64), `score`, and `x1`, `y1`, `x2`, `y2`
        in pixels, 0-based and half-open (float32), all of equal length; in the order of images and detections.

    Raises:
        ValueError: detections are malformed, a label is outside 1 ... K, or class names are one text.
    """
    check_class_names(class_names, distinct=False)
    single = isinstance(detections, Detections)
    images = {"": detections} if single else dict(detections)
    where = "detections_table" if single else "image {!r}"
    parts = [valid_detections(found, where.format(image), len(class_names)) for image, found in images.items()]
    boxes = np.concatenate([np.zeros((0, 4)), *(part[0] for part in parts)]).astype(np.float32)
    scores = np.concatenate([np.zeros(0), *(part[1] for part in parts)]).astype(np.float32)
    labels = np.concatenate([np.zeros(0, np.int64), *(part[2] for part in parts)])
    names = np.array(class_names, dtype=object)
    columns = {
        "class": names[labels - 1],
        "label": labels,
        "score": scores,
        **dict(zip(("x1", "y1", "x2", "y2"), boxes.T.copy(), strict=True)),
    }
    if single:
        return columns
    return {"image": np.repeat(np.array(list(images), dtype=object), [len(part[1]) for part in parts]), **columns}


def to_supervision(detections: Detections, class_names: Sequence[str]) -> Any:
    """The detections of one image as `supervision.Detections`, for that library's drawing, tracking and counting.

    Args:
        detections: entries with mask False are skipped.
        class_names: names of labels 1 ... K.

    Returns:
        `xyxy` (float32, the same corners), `confidence` (float32), `class_id` (int64, label - 1: the position in
        `class_names`, as supervision counts from 0), and `data["class_name"]`.

    Raises:
        ImportError: supervision is not installed.
        ValueError: the detections are malformed, a label is outside 1 ... K, or class names are one text.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError(f"to_supervision needs supervision: pip install supervision ({error})") from error
    check_class_names(class_names, distinct=False)
    boxes, scores, labels = valid_detections(detections, "to_supervision", len(class_names))
    return supervision.Detections(
        xyxy=boxes.astype(np.float32),
        confidence=scores.astype(np.float32),
        class_id=labels - 1,
        data={"class_name": np.array(class_names)[labels - 1]},
    )
