"""SVMs and box regressors on stored features, each trained once for a network."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from frcnn_jax.comparison.feature_store import FeatureStore, fingerprint
from frcnn_jax.comparison.mining import feature_scale, mine_svms
from frcnn_jax.comparison.overlaps import class_overlaps
from frcnn_jax.comparison.ridge import BoxRegressors, fit_box_regressors
from frcnn_jax.comparison.stages.features import Pairs
from frcnn_jax.comparison.stages.folder import SVMS, load_arrays, save_arrays
from frcnn_jax.comparison.stages.liblinear import train_svms_by_liblinear
from frcnn_jax.comparison.stages.run import Run
from frcnn_jax.comparison.svm import LinearSvms, train_svms_on_host
from frcnn_jax.comparison.svm import train_svms as train_svms_on_device
from frcnn_jax.comparison.windows import candidates

__all__ = ["SOLVERS", "load_regressors", "load_svms", "train_regressors", "train_svms"]

SOLVERS = {"device": train_svms_on_device, "host": train_svms_on_host, "liblinear": train_svms_by_liblinear}
_REGRESSORS = "regressors.npz"
_NETWORK = "network"  # SHA-256 of the parameters by which features were made


def train_svms(run: Run, vectors: FeatureStore, params: Any) -> LinearSvms:
    """SVMs on the vectors of every window (`windows.candidates`), with hard negatives; resumes after a kill.

    Args:
        params: of the network that the vectors are made by.
    """
    path, settings = run.folder / SVMS, run.comparison.svm
    if path.exists():
        return load_svms(run, params)
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
    state = run.folder / "mining.npz"
    with run.record.train("svms", share=run.share, anew=not state.exists()) as tick:
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
            state=state,
            made_from={"network": fingerprint(params)},
            tick=tick,
        )
    _save(path, svms, params)
    return svms


def train_regressors(
    run: Run, pooled: FeatureStore, rows: Int[np.ndarray, " n"], pairs: Pairs, params: Any
) -> BoxRegressors | None:
    """Regressors on the pooled features of the pairs; None if box regression is disabled.

    Args:
        rows: row of the store for each pair.
        params: of the network that the features are made by.
    """
    path, settings = run.folder / _REGRESSORS, run.comparison.regression
    if settings.enabled and not path.exists():
        with run.record.train("regressors", share=run.share, anew=True):
            # Without pairs nothing is fitted, and the store may be empty.
            scaled = settings.feature_norm is not None and len(rows)
            scale = feature_scale(pooled, settings.feature_norm, seed=run.seed) if scaled else 1.0
            try:
                regressors = fit_box_regressors(
                    pooled.select(rows),
                    pairs.labels,
                    pairs.targets,
                    num_classes=len(run.dataset.classes),
                    regularization=settings.ridge,
                    scale=scale,
                )
            except np.linalg.LinAlgError as error:
                raise ValueError(
                    f"comparison.regression.ridge = {settings.ridge} is too small for the features of {path.parent}, "
                    f"{error}: give a larger one, in another --workdir"
                ) from error
        _save(path, regressors, params)
    return load_regressors(run, params)


def load_svms(run: Run, params: Any) -> LinearSvms:
    """SVMs that were trained on vectors of the network with `params`.

    Raises:
        FileNotFoundError: as `load_arrays`.
        ValueError: they were trained on those of another network; or as `load_arrays`.
    """
    return LinearSvms(**_load(run.folder / SVMS, params))


def load_regressors(run: Run, params: Any) -> BoxRegressors | None:
    """The trained regressors; None if box regression is disabled. Errors as `load_svms`."""
    return BoxRegressors(**_load(run.folder / _REGRESSORS, params)) if run.comparison.regression.enabled else None


def _save(path: Path, result: LinearSvms | BoxRegressors, params: Any) -> None:
    save_arrays(path, {**result._asdict(), _NETWORK: np.frombuffer(bytes.fromhex(fingerprint(params)), np.uint8)})


def _load(path: Path, params: Any) -> dict[str, Array]:
    arrays = load_arrays(path)
    network = arrays.pop(_NETWORK, None)  # files of earlier versions lack it
    if network is not None and np.asarray(network).tobytes().hex() != fingerprint(params):
        raise ValueError(f"{path} was trained on features of another network: delete it, and it is trained anew")
    return arrays
