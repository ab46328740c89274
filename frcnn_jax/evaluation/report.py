"""Files of an evaluation: metrics, pictures, curves, and a page that shows them. Each is written atomically."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.atomic import write_bytes, write_text
from frcnn_jax.config import EvalConfig
from frcnn_jax.data.images import check_pixels, encode_image
from frcnn_jax.evaluation.analysis.matches import MEANINGS
from frcnn_jax.evaluation.analysis.measures import SIZES
from frcnn_jax.evaluation.analysis.remarks import remarks
from frcnn_jax.evaluation.coco import format_coco
from frcnn_jax.evaluation.fonts import drawable_names
from frcnn_jax.evaluation.pages.earlier import gallery_files, listed_pictures, remove_pictures
from frcnn_jax.evaluation.pages.figures import plot_f1, plot_precision_recall
from frcnn_jax.evaluation.pages.render import render_page
from frcnn_jax.evaluation.voc_map import PrecisionRecall
from frcnn_jax.words import counted

__all__ = [
    "format_metrics",
    "write_image",
    "write_metrics",
    "write_report",
]


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Writes `metrics` as JSON.

    Raises:
        ValueError: JSON cannot hold a value, such as NaN or an array.
    """
    try:
        text = json.dumps(dict(metrics), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: metrics cannot be written as JSON: {error}") from None
    write_text(path, text + "\n")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """The AP of each class and their mean as lines to print; below them COCO's measures, if they were measured, and
    `remarks`."""
    names = [*metrics["ap"], "mean"]
    values = [*metrics["ap"].values(), metrics["map"]]
    width = max(len(name) for name in names)
    title = f"Average precision ({metrics['metric']}, {counted(metrics['images'], 'image')})"
    if "step" in metrics:
        title += f" of step {metrics['step']}"
    if "checkpoint" in metrics:
        title += f": {metrics['checkpoint']}"
    rows = [f"  {n:{width}}  {'no objects' if v is None else f'{v:.4f}'}" for n, v in zip(names, values, strict=True)]
    rows += format_coco(metrics["coco"]) if "coco" in metrics else []
    rows += [f"Note: {text}" for text in remarks(metrics)]
    return "\n".join([title, *rows])


def write_image(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB image in the format of the suffix of `path`; reduced if a side is longer than the format can hold
    (65,500 pixels in JPEG, 16,383 in WebP).

    Raises:
        ValueError: the image is not uint8 [H, W, 3], the format is unknown, or OpenCV cannot encode the image.
    """
    import cv2

    path = Path(path)
    check_pixels(image)
    if not cv2.haveImageWriter(path.name):
        raise ValueError(f"{path}: {path.suffix!r} names no image format that can be written")
    try:
        data = encode_image(image, path.suffix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    write_bytes(path, data)


def write_report(
    directory: str | Path,
    metrics: Mapping[str, Any],
    curves: Mapping[str, PrecisionRecall],
    *,
    title: str = "Evaluation",
    gallery: Mapping[str, Any] | None = None,
    pictures_off: bool = False,
) -> Path:
    """Writes `index.html`, `precision_recall.png` and, if measured, `f1.png`; returns the page's path. Pictures that an
    earlier page there listed and this one does not are removed.

    Args:
        metrics: as from `evaluate_voc`, and the number of `images`; the page shows the further ones of
            `write_evaluation` too, and lists other numbers and texts by their names.
        gallery: as from `write_gallery`; the page has no pictures without.
        pictures_off: say on the page that `evaluate.pictures` is 0, and how to draw some.

    Raises:
        ValueError: `metrics` lacks `map`, `ap`, `objects`, `detections` or `images`.
    """
    directory = Path(directory)
    for name in ("map", "ap", "objects", "detections", "images"):
        if name not in metrics:
            raise ValueError(f"{directory}: metrics without {name!r}")
    plot_precision_recall(curves, directory / "precision_recall.png", ap=metrics["ap"])
    best = metrics.get("best_f1")
    if best:
        plot_f1(curves, directory / "f1.png", best=best)
    bounds = {name: (low**0.5, high**0.5) for name, (low, high) in SIZES.items()}
    html = render_page(
        "report.html",
        title=title,
        metrics=metrics,
        facts=_facts(metrics),
        remarks=remarks(metrics),
        numbered={name: text for name, text in zip(curves, drawable_names(list(curves)), strict=True) if text != name},
        f1_figure=bool(best),
        kinds=MEANINGS,
        sizes={name: _range(*ends) for name, ends in bounds.items()},
        gallery=gallery,
        pictures_off=pictures_off,
        usual_pictures=EvalConfig().pictures,
    )
    earlier = listed_pictures(directory / "index.html")
    write_text(directory / "index.html", html)
    remove_pictures(directory, earlier, gallery_files(gallery))
    return directory / "index.html"


def _range(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:g}²"
    return f"{low:g}² to {high:g}²" if high < math.inf else f"{low:g}² and more"


_METRICS = {"voc07": "VOC 2007's AP at 11 points of recall", "voc10": "VOC 2010's AP, the area under the curve"}


def _facts(metrics: Mapping[str, Any]) -> str:
    """The head of the page as text: data, measure, checkpoint, and all other numbers and texts in `metrics`."""
    others = {name: value for name, value in metrics.items() if isinstance(value, (int, float, str))}
    for name in ("map", "run_steps", "recipe_steps", "trained_on"):  # shown elsewhere
        others.pop(name, None)
    parts = []
    if "images" in others:
        data = f" of {others.pop('dataset')}" if "dataset" in others else ""
        chosen = f", {others.pop('chosen')}" if "chosen" in others else ""
        parts.append(f"{counted(others.pop('images'), 'image')}{data}{chosen}")
    if "metric" in others:
        metric = others.pop("metric")
        iou = f", at an IoU of {others.pop('iou_threshold'):g}" if "iou_threshold" in others else ""
        parts.append(f"{_METRICS.get(metric, metric)}{iou}")
    if "step" in others:
        parts.append(f"after step {others.pop('step')}")
    if "checkpoint" in others:
        parts.append(f"the checkpoint is {others.pop('checkpoint')}")
    for name, value in others.items():
        parts.append(f"{name.replace('_', ' ')} {format(value, '.4g') if isinstance(value, float) else value}")
    return "; ".join(parts)
