"""Detecting over a whole test set, measuring, and writing what a person wants to see."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from frcnn_jax.config import EvalConfig, InputConfig
from frcnn_jax.data.pipeline import evaluation_source, iterate
from frcnn_jax.data.proposals import Proposals
from frcnn_jax.data.voc import VocDataset, decode_image
from frcnn_jax.evaluation.detect import detect_batch, trim
from frcnn_jax.evaluation.drawing import draw_detections
from frcnn_jax.evaluation.report import write_metrics, write_report
from frcnn_jax.evaluation.voc_map import precision_recall, summarize
from frcnn_jax.models.detector import FastRCNN
from frcnn_jax.types import BoxStatistics, Detections


def detect_dataset(
    model: FastRCNN,
    params: Any,
    statistics: BoxStatistics,
    dataset: VocDataset,
    proposals: Proposals,
    *,
    input_config: InputConfig,
    config: EvalConfig,
) -> dict[str, Detections]:
    """Detections of every image of a data set by its id, in the data set's order."""
    source = evaluation_source(dataset, proposals, input_config)
    run = partial(
        detect_batch,
        params,
        statistics,
        model=model,
        nms_iou=config.nms_iou,
        score_threshold=config.score_threshold,
        per_class=config.per_class,
    )
    found: dict[int, Detections] = {}
    progress = tqdm(total=len(dataset), desc="Detecting", unit="image")
    # One batch stays under way on the device while the host takes apart the one before.
    pending: list[tuple[Any, Detections]] = []
    for batch in _batches(source, input_config.workers):
        pending.append((batch, run(batch)))
        if len(pending) > 1:
            progress.update(_collect(*pending.pop(0), found))
    for item in pending:
        progress.update(_collect(*item, found))
    progress.close()
    return {dataset.image_ids[index]: found[index] for index in range(len(dataset))}


def _batches(source: Any, workers: int) -> Iterator[Any]:
    return iter(()) if len(source) == 0 else iterate(source, workers)


def _collect(batch: Any, detections: Detections, found: dict[int, Detections]) -> int:
    """Takes a batch's detections apart into `found` by image index; returns how many images were real."""
    detections = jax.device_get(detections)
    for i in np.flatnonzero(batch.image_mask):
        found[int(batch.image_index[i])] = trim(jax.tree.map(lambda x, i=i: x[i], detections))
    return int(batch.image_mask.sum())


def evaluate_dataset(
    model: FastRCNN,
    params: Any,
    statistics: BoxStatistics,
    dataset: VocDataset,
    proposals: Proposals,
    *,
    input_config: InputConfig,
    config: EvalConfig,
    directory: str | Path,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Detects, measures, and writes `metrics.json`, `index.html` and `images/` to `directory`.

    Returns:
        {"map": ..., "ap": {class: ...}, ...} as in `metrics.json`, with `extra` beside.
    """
    directory = Path(directory)
    detections = detect_dataset(model, params, statistics, dataset, proposals, input_config=input_config, config=config)
    ground_truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
    curves = precision_recall(detections, ground_truth, class_names=dataset.classes)
    metrics = {
        **summarize(curves, use_07_metric=config.metric == "voc07"),
        "images": len(dataset),
        "iou_threshold": 0.5,
        "dataset": dataset.name,
        **(extra or {}),
    }
    write_metrics(directory / "metrics.json", metrics)
    pictures = {}
    # Spread over the whole test set rather than its first images.
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(config.pictures, len(dataset))).astype(int)):
        example = dataset[int(index)]
        pictures[example.image_id] = draw_detections(
            decode_image(example.image),
            detections[example.image_id],
            dataset.classes,
            ground_truth=dataset.annotations[index],
            min_score=config.picture_score,
        )
    write_report(directory, metrics, pictures, curves, title=f"Fast R-CNN on {dataset.name}")
    return metrics
