"""Box regressors of R-CNN and SPPnet: ridge regression from pooled features to whitened box offsets, by class.

For each class, with one more feature that is always 1 and is regularised like the others,

    minimise  |X w - Y|^2 + regularization |w|^2,    Y = (targets - mean) T,    T = V diag(1 / sqrt(D + 0.001)) V^T

where V D V^T is the covariance of the targets, and the features X are scaled. Whitening and scale are undone in the
result, which predicts the offsets themselves from the original features.

The smaller of two equations is solved, for n pairs with F features: X^T X, [F + 1, F + 1], summed over batches of rows;
or, with fewer pairs than features, X X^T, [n, n]. Both are float64; features are read in batches.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jaxtyping import Array, Float, Int

__all__ = ["BoxRegressors", "FeatureRows", "Whitening", "fit_box_regressors", "ridge_bytes", "whitening"]

_LEAST_VARIANCE = 0.001
_BATCH_BYTES = 64 << 20


class FeatureRows(Protocol):
    """Rows of features [n, F] that are read on access: an array, a memory map, `FeatureStore.select`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m F"]: ...


class BoxRegressors(NamedTuple):
    """Linear maps from features to the offsets of `encode_boxes`, for K classes."""

    weights: Float[Array, "K F 4"]
    biases: Float[Array, "K 4"]

    def predict(self, features: Float[Array, "P F"]) -> Float[Array, "P K 4"]:
        """Offsets of each row for each class."""
        product = jnp.einsum("pf,kfd->pkd", features, self.weights, precision=lax.Precision.HIGHEST)
        return product + self.biases[None, :, :]


class Whitening(NamedTuple):
    """`(targets - mean) @ forward` is uncorrelated with a variance of about 1; `backward` inverts `forward`."""

    mean: Float[np.ndarray, " 4"]
    forward: Float[np.ndarray, "4 4"]
    backward: Float[np.ndarray, "4 4"]


def whitening(targets: Float[np.ndarray, "n 4"]) -> Whitening:
    """The whitening of at least one target."""
    targets = np.asarray(targets, np.float64)
    mean = targets.mean(axis=0)
    values, vectors = np.linalg.eigh((targets - mean).T @ (targets - mean) / len(targets))
    root = np.sqrt(np.maximum(values, 0) + _LEAST_VARIANCE)
    return Whitening(mean, (vectors / root) @ vectors.T, (vectors * root) @ vectors.T)


def ridge_bytes(pairs: int, features: int) -> int:
    """Memory to fit a class with `pairs` pairs: the equation and a batch."""
    return 8 * min(pairs, features + 1) ** 2 + 3 * _BATCH_BYTES


def fit_box_regressors(
    features: FeatureRows,
    labels: Int[np.ndarray, " n"],
    targets: Float[np.ndarray, "n 4"],
    *,
    num_classes: int,
    regularization: float = 1000.0,
    scale: float = 1.0,
) -> BoxRegressors:
    """Regressors of all classes, fitted one after the other; needs `ridge_bytes` of memory.

    Args:
        features: row i belongs to pair i. They are read once, or several times for a class with fewer pairs than
            features that exceed a batch.
        labels: class of each pair, 1 ... K.
        targets: offsets of each pair.
        scale: factor of the features (`feature_scale`), which the regularization is relative to.

    Returns:
        float32, for the original features, without the factor. A class without pairs has zeros: its boxes do not move.

    Raises:
        ValueError: features, labels and targets differ in length.
    """
    if not features.shape[0] == len(labels) == len(targets):
        raise ValueError(
            f"box regressors: {features.shape[0]} rows of features, {len(labels)} labels and {len(targets)} targets: "
            "give one of each for a pair"
        )
    length = features.shape[1]
    weights, biases = np.zeros((num_classes, length, 4), np.float32), np.zeros((num_classes, 4), np.float32)
    for label in range(1, num_classes + 1):
        rows = np.flatnonzero(labels == label)
        if not len(rows):
            continue
        white = whitening(targets[rows])
        whitened = (targets[rows] - white.mean) @ white.forward
        solution = _ridge(features, rows, whitened, regularization, scale) @ white.backward
        weights[label - 1], biases[label - 1] = scale * solution[:-1], solution[-1] + white.mean
    return BoxRegressors(jnp.asarray(weights), jnp.asarray(biases))


def _ridge(
    features: FeatureRows,
    rows: Int[np.ndarray, " n"],
    targets: Float[np.ndarray, "n 4"],
    regularization: float,
    scale: float,
) -> Float[np.ndarray, "F1 4"]:
    """Weights of the scaled features, followed by that of the constant feature."""
    count, length = len(rows), features.shape[1]
    size = max(_BATCH_BYTES // (8 * (length + 1)), 1)
    parts = [slice(start, start + size) for start in range(0, count, size)]

    def read(part: slice) -> Float[np.ndarray, "m F1"]:
        batch = np.empty((len(rows[part]), length + 1))
        batch[:, :-1], batch[:, -1] = features[rows[part]], 1
        batch[:, :-1] *= scale
        return batch

    if count > length:
        equation, right = np.zeros((length + 1, length + 1), order="F"), np.zeros((length + 1, 4))
        for part in parts:
            batch = read(part)
            # Adds batch^T batch to the upper triangle in place, in half the time of a full product.
            equation = scipy.linalg.blas.dsyrk(1.0, batch.T, beta=1.0, c=equation, overwrite_c=True)
            right += batch.T @ targets[part]
        return _solve(equation, right, regularization)
    equation = np.zeros((count, count), order="F")
    for i, second in enumerate(parts):
        batch = read(second)
        for first in parts[: i + 1]:
            equation[first, second] = (batch if first == second else read(first)) @ batch.T
    dual = _solve(equation, targets, regularization)
    return sum(read(part).T @ dual[part] for part in parts)


def _solve(equation: Float[np.ndarray, "m m"], right: Float[np.ndarray, "m 4"], regularization: float) -> np.ndarray:
    """The solution by Cholesky's decomposition, which reads the upper triangle of `equation` and overwrites it."""
    equation[np.diag_indices(len(equation))] += regularization
    factor = scipy.linalg.cho_factor(equation, lower=False, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, right, check_finite=False)
