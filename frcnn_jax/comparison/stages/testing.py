"""The test of a system: scores and offsets of each image's proposals, detections, mAP, and the time of each stage."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from frcnn_jax.comparison.feature_store import FeatureStore, fingerprint, write_features
from frcnn_jax.comparison.ridge import BoxRegressors
from frcnn_jax.comparison.scoring import CandidatePool, Candidates, select_candidates
from frcnn_jax.comparison.stages.features import Describe, Watch
from frcnn_jax.comparison.stages.run import Run
from frcnn_jax.comparison.svm import LinearSvms
from frcnn_jax.config import replace
from frcnn_jax.data.batch_plan import pad_rows, round_up
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE
from frcnn_jax.evaluation.evaluate import write_evaluation
from frcnn_jax.progress import Progress
from frcnn_jax.types import Detections

__all__ = ["Score", "detect_all", "score_by_svms", "test_system"]

Score = Callable[[Float[Array, "B F"], Float[Array, "B V"]], tuple[Float[Array, "B K"], Float[Array, "B K 4"] | None]]
"""Scores and offsets of boxes for each class, of their pooled features and vectors."""

_NONE = -1e30  # score of missing candidates on disk, as infinity is refused there


def score_by_svms(svms: LinearSvms, regressors: BoxRegressors | None) -> Score:
    """Scores by SVMs, offsets by regressors; no offsets without regressors."""

    @jax.jit
    def score(pooled: Array, vectors: Array) -> tuple[Array, Array | None]:
        return svms.score(vectors), None if regressors is None else regressors.predict(pooled)

    return score


def test_system(run: Run, describe: Describe, score: Score, made_from: Any) -> dict[str, Any]:
    """Detects in the test set, and writes metrics, page and pictures to `eval/` as for Fast R-CNN.

    Args:
        made_from: arrays that scores and offsets depend on.

    Returns:
        The content of `metrics.json`; empty with a share below 1, as such a training is cut short too.
    """
    detections = detect_all(run, describe, score, made_from)
    counts = [len(boxes) for boxes in run.proposals]
    run.record.set_test_images(len(run.dataset))
    run.record.set(
        proposals=float(np.mean(counts)) if counts else 0.0,
        device=jax.devices()[0].device_kind,
    )
    if run.comparison.share < 1:
        return {}
    metrics = write_evaluation(
        detections,
        run.dataset,
        # The score of an SVM is 0 at the decision boundary.
        config=replace(run.config.evaluate, picture_score=0.0),
        directory=run.folder / "eval",
        title=f"{run.record.content['system']} on {run.dataset.name}",
        proposals=run.proposals,
    )
    run.record.set(map=metrics["map"], ap=metrics["ap"])
    return metrics


def detect_all(run: Run, describe: Describe, score: Score, made_from: Any) -> dict[str, Detections]:
    """Detections of each image by id. Candidates are stored on disk per image, so that a killed test can be resumed."""
    settings, num_classes = run.comparison.selection, len(run.dataset.classes)
    boxes = [np.asarray(found, np.float32) for found in run.proposals]
    counts = [num_classes * min(settings.per_class, round_up(len(b), PROPOSAL_MULTIPLE)) for b in boxes]
    about = {
        "data": run.dataset.fingerprint,
        "proposals": fingerprint(boxes),
        "system": fingerprint(made_from),
        "per_class": settings.per_class,
    }
    folder = run.folder / "tested"
    watch, select = Watch(), partial(select_candidates, per_class=settings.per_class)
    with write_features(folder, counts, 9, made_from=about) as writer:
        missing = writer.missing()
        if not missing and boxes and not run.record.content["test"]:
            # Killed between the last image and the record of times: one image of usual size is timed again.
            missing = [int(np.argsort([len(b) for b in boxes], stable=True)[len(boxes) // 2])]
        for index in Progress(missing, desc="Testing", unit="image"):
            found = _candidates(run, index, boxes[index], describe, score, select, watch)
            rows = np.concatenate([found.boxes, found.regressed, found.scores[..., None]], axis=-1).reshape(-1, 9)
            writer.write(index, np.where(np.isfinite(rows), rows, _NONE))
    store = FeatureStore.open(folder, about)
    pool = CandidatePool(run.num_images, num_classes, average=settings.average)
    for index in range(run.num_images):
        rows = store[index].reshape(num_classes, -1, 9)
        scores = np.where(rows[..., 8] > _NONE / 2, rows[..., 8], -np.inf).astype(np.float32)
        pool.add(run.image_ids[index], Candidates(boxes=rows[..., :4], regressed=rows[..., 4:8], scores=scores))
    if not missing:
        return pool.detections(settings.nms_iou)
    detections = watch("suppression of all", pool.detections, settings.nms_iou)
    later = watch.seconds.pop("suppression of all") * len(missing) / run.num_images
    watch.seconds["suppression"] += later
    for stage, seconds in watch.seconds.items():
        run.record.add_test(stage, seconds, images=len(missing), share=run.share)
    return detections


def _candidates(
    run: Run,
    index: int,
    boxes: Float[np.ndarray, "P 4"],
    describe: Describe,
    score: Score,
    select: Callable[..., Candidates],
    watch: Watch,
) -> Candidates:
    """The candidates of one image, on the host."""
    count, num_classes = round_up(len(boxes), PROPOSAL_MULTIPLE), len(run.dataset.classes)
    scores, deltas = np.zeros((count, num_classes), np.float32), np.zeros((count, num_classes, 4), np.float32)
    for part in describe(run.images[index], boxes, watch):
        part_scores, part_deltas = watch("fc", score, part.pooled, part.vectors)
        scores[part.rows] = np.asarray(part_scores)[: len(part.rows)]
        if part_deltas is not None:
            deltas[part.rows] = np.asarray(part_deltas)[: len(part.rows)]
    padded = pad_rows(boxes.astype(np.float32), count)
    mask = np.arange(count) < len(boxes)
    size = np.asarray(run.sizes[index], np.int32)
    arguments = jax.tree.map(jnp.asarray, (scores, padded, mask, size, deltas))
    return jax.device_get(watch("suppression", select, *arguments))
