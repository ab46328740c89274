"""Linear SVMs by scikit-learn's liblinear, one class after the other; `comparison/svm.py` has what they minimise."""

from __future__ import annotations

import importlib.util
import logging

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from frcnn_jax.comparison.svm import LinearSvms

__all__ = ["check_scikit_learn", "liblinear_bytes", "train_svm", "train_svms_by_liblinear"]

_log = logging.getLogger(__name__)


def check_scikit_learn() -> None:
    """Raises ImportError if scikit-learn is not installed; does not import it."""
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError(
            "SVMs by liblinear need scikit-learn: pip install 'frcnn_jax[comparison]', or give "
            "--comparison.svm.solver device"
        )


def liblinear_bytes(examples: int, features: int) -> int:
    """Most memory of `train_svm` besides its arguments: a float64 copy, and 16 bytes per number that is not 0."""
    return examples * features * (8 + 16)


def train_svm(
    features: Float[np.ndarray, "M F"],
    is_positive: Bool[np.ndarray, " M"],
    *,
    c: float = 0.001,
    bias_multiplier: float = 10.0,
    positive_weight: float = 2.0,
) -> tuple[Float[np.ndarray, " F"], float]:
    """Weights and bias of one class by scikit-learn's liblinear (the extra `comparison`).

    It needs `liblinear_bytes` of memory: 2 GB for 20 000 examples of 4096 features, less if many are 0.

    Raises:
        ImportError: as `check_scikit_learn`.
        ValueError: there are no positives or no negatives.
    """
    check_scikit_learn()
    from sklearn.svm import LinearSVC

    is_positive = np.asarray(is_positive, bool)
    if is_positive.all() or not is_positive.any():
        raise ValueError(
            f"an SVM needs positives and negatives, not {is_positive.sum()} and {(~is_positive).sum()}: "
            "leave the class out, or give more images"
        )
    solver = LinearSVC(
        loss="hinge",
        C=c,
        intercept_scaling=bias_multiplier,
        class_weight={True: positive_weight, False: 1.0},
        tol=1e-3,
        max_iter=100_000,
        random_state=0,
    )
    solver.fit(features, is_positive)
    return solver.coef_[0].astype(np.float32), float(solver.intercept_[0])


def train_svms_by_liblinear(
    features: Float[np.ndarray, "M F"],
    is_positive: Bool[np.ndarray, "M K"],
    mask: Bool[np.ndarray, "M K"],
    **settings: float,
) -> LinearSvms:
    """`train_svm` for each class in turn, with the arguments of `train_svms`; the log states the memory needed."""
    most = liblinear_bytes(int(mask.sum(axis=0).max(initial=0)), features.shape[1])
    _log.info("liblinear: up to %.2g GB for %d features of one class's examples", most / 1e9, features.shape[1])
    weights, biases = np.zeros((mask.shape[1], features.shape[1]), np.float32), np.zeros(mask.shape[1], np.float32)
    for k in np.flatnonzero(mask.any(axis=0)):
        weights[k], biases[k] = train_svm(features[mask[:, k]], is_positive[mask[:, k], k], **settings)
    return LinearSvms(jnp.asarray(weights), jnp.asarray(biases))
