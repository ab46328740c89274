"""Annotations and detections in COCO's JSON, for pycocotools and servers: boxes are x, y, width, height, 0-based."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.atomic import replacing, write_text
from frcnn_jax.config import DataConfig, expand_user
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.formats.coco.reader import CocoReader
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.prepared.names import RenamedReader
from frcnn_jax.evaluation.valid_records import valid_detections, valid_ground_truth
from frcnn_jax.types import Detections, GroundTruth

__all__ = [
    "CocoIds",
    "annotations_file",
    "coco_annotations",
    "coco_results",
    "file_ids",
    "own_ids",
    "write_coco_results",
]


@dataclasses.dataclass(frozen=True)
class CocoIds:
    """Ids of images and classes in COCO files."""

    images: Mapping[str, Any]  # by image ids of the data set
    categories: tuple[Any, ...]  # of labels 1 ... K


def own_ids(image_ids: Sequence[str], num_classes: int) -> CocoIds:
    """COCO ids for a data set without them: the numbers in its image ids if all are numbers of at most 2^53, else
    1, 2 ... in order. Categories are the labels 1 ... K.
    """
    numbers = [int(image) if image.isascii() and image.isdigit() else 0 for image in image_ids]
    # pycocotools keeps ids in arrays, where a mixture with larger ones becomes floats.
    if max(numbers, default=0) > 2**53 or len(set(numbers)) < len(numbers) or 0 in numbers:
        numbers = list(range(1, len(numbers) + 1))
    return CocoIds(dict(zip(image_ids, numbers, strict=True)), tuple(range(1, num_classes + 1)))


def file_ids(dataset: Dataset, config: DataConfig) -> CocoIds | None:
    """The ids in the COCO files that a data set was read from.

    None for other formats, and if ids are ambiguous: several for one image or class, or one for several, for example in
    joined files of several splits.
    """
    if not dataset.name.startswith("folder/") or config.root is None:
        return None
    _, reader = open_reader(expand_user(config.root).resolve(), config)
    if not isinstance(reader, CocoReader):
        return None
    names = RenamedReader(reader, config.rename).names
    found, of_name = reader.numbers()
    of_class: dict[str, set[Any]] = {}
    for name, numbers in of_name.items():
        of_class.setdefault(names.get(name, name), set()).update(numbers)
    images = [found.get(image, set()) for image in dataset.image_ids]
    categories = [of_class.get(name, set()) for name in dataset.classes]
    for parts in (images, categories):
        if any(len(numbers) != 1 for numbers in parts) or len(set.union(set(), *parts)) < len(parts):
            return None
    of_images, of_classes = ([next(iter(numbers)) for numbers in parts] for parts in (images, categories))
    return CocoIds(dict(zip(dataset.image_ids, of_images, strict=True)), tuple(of_classes))


def coco_annotations(
    ids: CocoIds,
    ground_truth: Mapping[str, GroundTruth],
    class_names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]] | None = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The objects in COCO's annotation format: `images`, `annotations` and `categories`.

    Ids of annotations begin with 1: pycocotools takes 0 for an object without a match. An area is that of the box. An
    object marked difficult becomes a crowd (`iscrowd` 1, and `ignore` 1): pycocotools has no other mark for ignored
    objects, and measures the overlap with one as the covered share of the detection.

    Args:
        sizes: height and width of each image, to write; measures do not need them.
        files: `file_name` of each image; its id if not given.

    Raises:
        ValueError: a record is malformed, or a label is outside 1 ... K.
    """
    images, annotations = [], []
    for image, truth in ground_truth.items():
        number = ids.images[image]
        height, width = (0, 0) if sizes is None else (int(side) for side in sizes[image])
        name = image if files is None else files[image]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        objects = valid_ground_truth(truth, f"image {image!r}", len(class_names))
        for box, label, difficult, crowd in zip(*objects, strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids.categories[label - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(difficult or crowd),
                    "ignore": int(difficult),
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip(ids.categories, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_results(ids: CocoIds, detections: Mapping[str, Detections]) -> list[dict[str, Any]]:
    """The detections in COCO's results format, in the order of images and detections, without masked ones.

    Raises:
        ValueError: detections are malformed, or a label is outside 1 ... K.
    """
    rows = []
    for image, found in detections.items():
        boxes, scores, labels = valid_detections(found, f"image {image!r}", len(ids.categories))
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores, labels, strict=True):
            rows.append(
                {
                    "image_id": ids.images[image],
                    "category_id": ids.categories[label - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    # The shortest text of the same float32, so that different scores stay different.
                    "score": float(str(np.float32(score))),
                }
            )
    return rows


def annotations_file(results: str | Path) -> Path:
    """The file of annotations with the same ids, beside a file of results."""
    return Path(results).with_suffix(".annotations.json")


def write_coco_results(
    path: str | Path,
    detections: Mapping[str, Detections],
    ids: CocoIds,
    annotations: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file of results, with boxes to a thousandth of a pixel, and beside it `annotations_file`.

    Args:
        annotations: annotations with the same ids; None if the data set has its own file: nothing is written or removed
            beside the results.

    Raises:
        ValueError: detections are malformed, or a label is outside 1 ... K. Nothing is written then.
    """
    rows = coco_results(ids, detections)
    for row in rows:
        row["bbox"] = [round(value, 3) for value in row["bbox"]]
    if annotations is not None:
        write_text(annotations_file(path), json.dumps(annotations) + "\n")
    with replacing(path, follow=True) as temporary:
        temporary.write_text(json.dumps(rows) + "\n")
