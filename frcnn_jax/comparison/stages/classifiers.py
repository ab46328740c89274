"""SVMs and box regressors on stored features, each trained once."""

from functools import partial

import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.comparison.feature_store import FeatureStore
from frcnn_jax.comparison.mining import feature_scale, mine_svms
from frcnn_jax.comparison.overlaps import class_overlaps
from frcnn_jax.comparison.ridge import BoxRegressors, fit_box_regressors
from frcnn_jax.comparison.stages.features import Pairs
from frcnn_jax.comparison.stages.folder import load_arrays, save_arrays
from frcnn_jax.comparison.stages.run import Run
from frcnn_jax.comparison.svm import SOLVERS, LinearSvms
from frcnn_jax.comparison.windows import candidates

__all__ = ["load_regressors", "load_svms", "train_regressors", "train_svms"]

_SVMS, _REGRESSORS = "svms.npz", "regressors.npz"


def train_svms(run: Run, vectors: FeatureStore) -> LinearSvms:
    """SVMs on the vectors of every window (`windows.candidates`), with hard negatives; resumes after a kill."""
    path, settings = run.folder / _SVMS, run.comparison.svm
    if path.exists():
        return load_svms(run)
    num_classes = len(run.dataset.classes)

    def overlaps(index: int) -> Float[np.ndarray, "P K"]:
        truth = run.annotations[index]
        return class_overlaps(candidates(run.proposals[index], truth), truth, num_classes)

    def labels(index: int) -> Int[np.ndarray, " P"]:
        truth = run.annotations[index]
        objects = truth.labels[~truth.crowd]
        return np.concatenate([objects, np.zeros(len(run.proposals[index]), objects.dtype)])

    solver = partial(
        SOLVERS[settings.solver],
        c=settings.c,
        bias_multiplier=settings.bias_multiplier,
        positive_weight=settings.positive_weight,
    )
    with run.record.train("svms", share=run.share) as tick:
        svms = mine_svms(
            vectors,
            overlaps,
            labels,
            num_classes,
            solver=solver,
            scale=feature_scale(vectors, settings.feature_norm, seed=run.seed),
            negative_iou=settings.negative_iou,
            join=settings.join,
            leave=settings.leave,
            retrain_at=settings.retrain_at,
            state=run.folder / "mining.npz",
            tick=tick,
        )
    save_arrays(path, svms._asdict())
    return svms


def train_regressors(run: Run, pooled: FeatureStore, rows: Int[np.ndarray, " n"], pairs: Pairs) -> BoxRegressors | None:
    """Regressors on the pooled features of the pairs; None if box regression is disabled.

    Args:
        rows: row of the store for each pair.
    """
    path, settings = run.folder / _REGRESSORS, run.comparison.regression
    if settings.enabled and not path.exists():
        with run.record.train("regressors", share=run.share):
            regressors = fit_box_regressors(
                pooled.select(rows),
                pairs.labels,
                pairs.targets,
                num_classes=len(run.dataset.classes),
                regularization=settings.ridge,
            )
        save_arrays(path, regressors._asdict())
    return load_regressors(run)


def load_svms(run: Run) -> LinearSvms:
    """The trained SVMs.

    Raises:
        FileNotFoundError, ValueError: as `load_arrays`.
    """
    return LinearSvms(**load_arrays(run.folder / _SVMS))


def load_regressors(run: Run) -> BoxRegressors | None:
    """The trained regressors; None if box regression is disabled. Errors as `load_svms`."""
    return BoxRegressors(**load_arrays(run.folder / _REGRESSORS)) if run.comparison.regression.enabled else None
