"""Detections of a whole test set, their measures, and the files of an evaluation."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax.config import EvalConfig, InputConfig
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.patience import PatientIterator
from frcnn_jax.data.pipeline import iterate
from frcnn_jax.data.proposals.source import Proposals
from frcnn_jax.detection.detect import trim
from frcnn_jax.detection.pyramid import Pyramid
from frcnn_jax.detection.settings import detection_settings
from frcnn_jax.detection.source import PyramidSource
from frcnn_jax.detection.stages import detect_pyramid
from frcnn_jax.distributed.talk import from_first, gather, is_first, process_count
from frcnn_jax.evaluation.analysis.error_kinds import error_kinds
from frcnn_jax.evaluation.analysis.matches import match_dataset
from frcnn_jax.evaluation.analysis.measures import best_f1, object_overlaps, proposal_ceiling, recall_by_size
from frcnn_jax.evaluation.analysis.remarks import uncounted
from frcnn_jax.evaluation.coco import check_pycocotools, evaluate_coco
from frcnn_jax.evaluation.outputs.files import ResultFiles, check_report_folder
from frcnn_jax.evaluation.pages.gallery import write_gallery
from frcnn_jax.evaluation.report import write_metrics, write_report
from frcnn_jax.evaluation.sharing import Share, of_all_processes
from frcnn_jax.evaluation.voc_map import PrecisionRecall, precision_recall, summarize
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.progress import Progress, paused_clock
from frcnn_jax.types import BoxStatistics, Detections


class EvaluationInterrupted(Exception):
    """The evaluation was interrupted before its end."""


def detect_dataset(
    model: FastRCNN,
    params: Any,
    statistics: BoxStatistics,
    dataset: Dataset,
    proposals: Proposals,
    *,
    input_config: InputConfig,
    config: EvalConfig,
    interrupted: Callable[[], bool] | None = None,
) -> dict[str, Detections]:
    """Detections of every image of a data set by its id, in the data set's order.

    While the device computes, threads read, decode and resize the next images, and the previous batch is unpacked.
    Several processes share the batches, each on one device, and all return the detections of all images.

    Args:
        interrupted: called before each batch; with it, the progress bar disappears at the end.

    Raises:
        EvaluationInterrupted: `interrupted` returned true in one of the processes.
        TimeoutError: a batch took longer than `input.read_timeout`; names the images.
        ValueError: an image cannot be read; names it.
    """
    sharing = {"flip": config.flip, "shared": model.shares_rois}
    source = Share(PyramidSource(dataset, proposals, input_config, model.spatial_scale, **sharing))
    run = partial(detect_pyramid, params, statistics, model=model, settings=detection_settings(config))
    found: dict[int, Detections] = {}
    total = source.images if process_count() > 1 else len(dataset)
    progress = Progress(total=total, desc="Detecting", unit="image", leave=interrupted is None, disable=not is_first())
    started, shapes = time.perf_counter(), set()
    batches = _Clocked(_read(source, input_config) if len(source) else ())
    # The device computes one batch while the host unpacks the previous one.
    pending: list[tuple[Pyramid, Detections]] = []
    finished = True
    for batch in batches:
        if interrupted is not None and interrupted():
            finished = False
            break
        with _compiling(batch, shapes, progress):
            detections = run(jax.device_put(batch))
        for part in jax.tree.leaves(detections):
            part.copy_to_host_async()
        pending.append((batch, detections))
        if len(pending) > 1:
            progress.update(_collect(*pending.pop(0), found))
    if not all(gather(finished)):
        progress.close()
        raise EvaluationInterrupted
    for item in pending:
        progress.update(_collect(*item, found))
    share = batches.waited / (time.perf_counter() - started)
    progress.set_postfix_str(f"{share:.0%} of the time waiting for images", refresh=False)  # `close` shows it
    progress.close()
    found = of_all_processes(found)
    return {dataset.image_ids[index]: found[index] for index in range(len(dataset))}


def _compiling(batch: Pyramid, shapes: set[tuple], progress: Progress) -> AbstractContextManager[None]:
    """Shows on the bar that detection compiles, if the batch's shape is not in `shapes` yet; adds it."""
    shape = tuple(part.shape for part in jax.tree.leaves(batch))
    if shape in shapes:
        return nullcontext()
    shapes.add(shape)
    return paused_clock(progress, "compiling for images of this size")


def _read(source: Share, config: InputConfig) -> Iterator[Pyramid]:
    """The batches, each with the timeout `input.read_timeout`."""
    batches = PatientIterator(iterate(source, config.workers), config.read_timeout, source.being_read)
    with closing(batches):
        yield from batches


class _Clocked:
    """An iterator that measures the seconds spent waiting for its items."""

    def __init__(self, items: Iterable[Any]):
        self._items, self.waited = iter(items), 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.waited += time.perf_counter() - started


def _collect(batch: Pyramid, detections: Detections, found: dict[int, Detections]) -> int:
    """Adds a batch's detections to `found` by image index; returns the number of real images."""
    detections = jax.device_get(detections)
    for i in np.flatnonzero(batch.image_mask):
        found[int(batch.image_index[i])] = trim(jax.tree.map(lambda x, i=i: x[i], detections))
    return int(batch.image_mask.sum())


def measure_dataset(
    model: FastRCNN,
    params: Any,
    statistics: BoxStatistics,
    dataset: Dataset,
    proposals: Proposals,
    *,
    input_config: InputConfig,
    config: EvalConfig,
    interrupted: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Detects and measures as `evaluate_dataset`, without writing files: {"map": ..., "ap": {class: ...}, ...}.

    Raises:
        EvaluationInterrupted: `interrupted`, which is called before each batch, returned true.
    """
    detections = detect_dataset(
        model, params, statistics, dataset, proposals, input_config=input_config, config=config, interrupted=interrupted
    )
    return summarize(_curves(detections, dataset), use_07_metric=config.metric == "voc07")


def _curves(detections: dict[str, Detections], dataset: Dataset) -> dict[str, PrecisionRecall]:
    ground_truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
    return precision_recall(detections, ground_truth, class_names=dataset.classes)


def evaluate_dataset(
    model: FastRCNN,
    params: Any,
    statistics: BoxStatistics,
    dataset: Dataset,
    proposals: Proposals,
    *,
    input_config: InputConfig,
    config: EvalConfig,
    directory: str | Path,
    title: str | None = None,
    extra: dict[str, Any] | None = None,
    files: ResultFiles | None = None,
) -> dict[str, Any]:
    """Detects, measures, and writes `metrics.json`, `index.html`, figures and pictures to `directory`.

    Args:
        title: of the page; names the data set if None.
        extra: further entries of `metrics.json`.
        files: files with the detections for other programs.

    Returns:
        {"map": ..., "ap": {class: ...}, ...} as in `metrics.json`, including `extra`.

    Raises:
        ImportError: `config.coco` is set and pycocotools is not installed.
        ValueError: files cannot hold the data set's classes or image ids.
        OSError: a file exists, `directory` has files of others where its own would be, or it cannot be written.
            Raised, like the others, before the first image.
    """
    if is_first():  # only process 0 writes
        check_report_folder(Path(directory))
        if config.coco:
            check_pycocotools()
    if files is not None:
        files.check(dataset)
    detections = detect_dataset(model, params, statistics, dataset, proposals, input_config=input_config, config=config)

    def write() -> dict[str, Any]:
        return write_evaluation(
            detections,
            dataset,
            config=config,
            directory=directory,
            title=title or f"Fast R-CNN on {dataset.name}",
            proposals=proposals,
            extra=extra,
            files=files,
        )

    return from_first(write)


def write_evaluation(
    detections: dict[str, Detections],
    dataset: Dataset,
    *,
    config: EvalConfig,
    directory: str | Path,
    title: str,
    proposals: Sequence[np.ndarray] | None = None,
    extra: dict[str, Any] | None = None,
    files: ResultFiles | None = None,
) -> dict[str, Any]:
    """Measures the detections of a data set, and writes `metrics.json`, `index.html` and pictures to `directory`.

    Args:
        title: title of the page.
        proposals: boxes of each image, for the ceiling of the recall.
        extra: further entries of `metrics.json`.
        files: files with the detections for other programs; written after `metrics.json` and before the pictures, so
            that an error in one of them loses as little as possible.

    Returns:
        The content of `metrics.json`.
    """
    directory = Path(directory)
    curves = _curves(detections, dataset)
    truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
    in_order = {image_id: detections[image_id] for image_id in truth}
    matches = match_dataset(in_order, truth, num_classes=len(dataset.classes))
    use_07_metric = config.metric == "voc07"
    overlaps = None if proposals is None else object_overlaps(proposals, dataset.annotations)
    errors = error_kinds(matches, dataset.classes, use_07_metric=use_07_metric)
    metrics = {
        **summarize(curves, use_07_metric=use_07_metric),
        "images": len(dataset),
        "iou_threshold": 0.5,
        "dataset": dataset.name,
        "uncounted": uncounted(dataset.annotations),
        "best_f1": {name: best_f1(curve) for name, curve in curves.items()},
        "errors": errors["kinds"],
        "errors_by_class": errors["classes"],
        "recall_by_size": recall_by_size(matches, overlaps),
        **(extra or {}),
    }
    if config.coco:
        metrics["coco"] = evaluate_coco(detections, truth, class_names=dataset.classes)
    if overlaps is not None:
        per_image = sum(map(len, proposals)) / max(len(dataset), 1)
        metrics["proposals"] = {"per_image": per_image, **proposal_ceiling(matches, overlaps, dataset.classes)}
    write_metrics(directory / "metrics.json", metrics)
    if files is not None:
        files.write(detections, dataset, min_score=config.picture_score)
    gallery = write_gallery(
        directory, dataset, detections, matches, pictures=config.pictures, min_score=config.picture_score
    )
    write_report(directory, metrics, curves, title=title, gallery=gallery, pictures_off=config.pictures == 0)
    return metrics
