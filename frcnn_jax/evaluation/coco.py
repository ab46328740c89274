"""COCO's measures of detections, computed by pycocotools from the JSON of `outputs.coco_json`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from frcnn_jax.evaluation.outputs.coco_json import coco_annotations, coco_results, own_ids
from frcnn_jax.evaluation.valid_records import check_class_names, paired_records
from frcnn_jax.types import Detections, GroundTruth

__all__ = ["check_pycocotools", "coco_measures", "evaluate_coco", "format_coco"]

# In the order of pycocotools' summary.
_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def check_pycocotools() -> None:
    """Raises ImportError if pycocotools is not installed; does not import it."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ImportError("COCO's measures (evaluate.coco) need pycocotools: pip install pycocotools")


def evaluate_coco(
    detections: Mapping[str, Detections] | Sequence[Detections],
    ground_truth: Mapping[str, GroundTruth] | Sequence[GroundTruth],
    *,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """COCO's measures of detections of all images, by pycocotools.

    At most 100 detections of a class count in an image. Crowds and objects marked difficult are ignored. Sizes of
    objects are areas of their boxes. COCO's own annotations have the area of an outline, so for COCO's data the
    measures by size differ from the server's.

    Args:
        detections: detections of each image, by image id or in the order of `ground_truth`; entries with mask False
            are skipped.
        ground_truth: objects of the same images.
        class_names: names of labels 1 ... K.

    Returns:
        `AP` (mean over IoU .50, .55 ... .95 and classes), `AP50`, `AP75`, `AP_small` (areas below 32 x 32 pixels),
        `AP_medium`, `AP_large` (above 96 x 96); `AR_1`, `AR_10`, `AR_100` (recall with so many detections of a class
        in an image), `AR_small`, `AR_medium`, `AR_large`; `ap` and `ap50` by class. None without objects.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: the images of the two differ, a record is malformed, a label is outside 1 ... K, or class names are
            one text or not distinct.
    """
    check_pycocotools()
    check_class_names(class_names)
    paired_records(detections, ground_truth)  # raises if the images differ
    if not isinstance(ground_truth, Mapping):
        detections, ground_truth = ({str(i): x for i, x in enumerate(each)} for each in (detections, ground_truth))
    ids = own_ids(list(ground_truth), len(class_names))
    return coco_measures(coco_annotations(ids, ground_truth, class_names), coco_results(ids, detections))


def coco_measures(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of `evaluate_coco` from annotations and results in COCO's format."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # As in `COCO.loadRes`, which does not accept an empty list.
    rows = [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        # Copies, as pycocotools adds marks to them.
        for side, objects in ((truth, [dict(item) for item in annotations["annotations"]]), (found, rows)):
            side.dataset = {**annotations, "annotations": objects}
            side.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # IoU, recall, class, range of areas, number of detections
    names = {item["id"]: item["name"] for item in annotations["categories"]}
    classes = [names[number] for number in evaluation.params.catIds]
    return {
        **{name: _measured(value) for name, value in zip(_NAMES, evaluation.stats, strict=True)},
        "ap": {name: _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(classes)},
        "ap50": {name: _mean(precision[:1, :, k, 0, -1]) for k, name in enumerate(classes)},
    }


def format_coco(measures: Mapping[str, Any]) -> list[str]:
    """The measures over all classes as lines to print."""
    texts = [f"{name} {'-' if measures[name] is None else format(measures[name], '.4f')}" for name in _NAMES]
    return ["COCO's measures", *("  " + "  ".join(texts[i : i + 3]) for i in range(0, len(texts), 3))]


def _measured(value: float) -> float | None:
    """The value; None for pycocotools' -1 (no objects)."""
    return None if value < 0 else float(value)


def _mean(precision: Float[np.ndarray, "T R"]) -> float | None:
    return float(precision[precision > -1].mean()) if (precision > -1).any() else None
