"""Box regressors: whitening by hand, ridge against float64's closed form, both equations, batches, the degenerate."""

import numpy as np
import pytest

from frcnn_jax.comparison import ridge
from frcnn_jax.comparison.ridge import BoxRegressors, fit_box_regressors, ridge_bytes, whitening


def closed_form(x, targets, regularization):
    """Weights [F + 1, 4] of whitened targets with the whitening undone, and their mean."""
    y = targets - targets.mean(0)
    values, vectors = np.linalg.eig(np.cov(y.T, bias=True))
    forward = vectors @ np.diag((values + 0.001) ** -0.5) @ np.linalg.inv(vectors)
    x = np.c_[x, np.ones(len(x))]
    solution = np.linalg.lstsq(
        np.r_[x, np.sqrt(regularization) * np.eye(x.shape[1])], np.r_[y @ forward, np.zeros((x.shape[1], 4))]
    )[0]
    return solution @ np.linalg.inv(forward), targets.mean(0)


def data(count, length, seed=0):
    generator = np.random.default_rng(seed)
    x = np.maximum(generator.normal(size=(count, length)), 0).astype(np.float32)
    noise = generator.normal(size=(count, 4)) * 0.05
    return x, (x[:, :4] @ generator.normal(size=(4, 4)) * 0.2 + noise + [0.1, 0.2, 0.3, 0.4]).astype(np.float32)


def test_whitening_by_hand():
    # Variances of 0.003, 0.008 and 0 beside a mean; the third and fourth go together: (1, 1) has 0.03, (1, -1) none.
    spread = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt([0.003, 0.008])
    targets = np.c_[spread, np.sqrt(0.015) * np.array([[1, 1], [-1, -1], [-1, -1], [1, 1]])] + [1, 2, 3, 4]
    mean, forward, backward = whitening(targets)
    np.testing.assert_allclose(mean, [1, 2, 3, 4])
    a, b = 1 / np.sqrt(0.031), 1 / np.sqrt(0.001)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 1] = 1 / np.sqrt(0.004), 1 / np.sqrt(0.009)
    expected[2:, 2:] = [[(a + b) / 2, (a - b) / 2], [(a - b) / 2, (a + b) / 2]]
    np.testing.assert_allclose(forward, expected, atol=1e-9)
    np.testing.assert_allclose(forward @ backward, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("count", [10, 21, 22, 90])  # fewer pairs than features, as many with the bias, more
@pytest.mark.parametrize("batch", [None, 7])
def test_equals_the_closed_form(count, batch, monkeypatch):
    if batch:
        monkeypatch.setattr(ridge, "_BATCH_BYTES", 8 * 22 * batch)
    x, targets = data(count, 21)
    labels = np.ones(count, np.int64)
    found = fit_box_regressors(x, labels, targets, num_classes=1, regularization=3.0)
    solution, mean = closed_form(x.astype(np.float64), targets.astype(np.float64), 3.0)
    np.testing.assert_allclose(found.weights[0], solution[:-1], atol=2e-6)
    np.testing.assert_allclose(found.biases[0], solution[-1] + mean, atol=2e-6)


@pytest.mark.parametrize("count", [10, 90])
def test_regularization_is_relative_to_the_scaled_features(count):
    x, targets = data(count, 21)
    labels = np.ones(count, np.int64)
    found = fit_box_regressors(x, labels, targets, num_classes=1, regularization=3.0, scale=0.25)
    solution, mean = closed_form(x.astype(np.float64) / 4, targets.astype(np.float64), 3.0)
    predicted = x @ (solution[:-1] / 4) + solution[-1] + mean
    np.testing.assert_allclose(found.predict(x)[:, 0], predicted, atol=2e-6)
    raw = fit_box_regressors(x, labels, targets, num_classes=1, regularization=3.0)
    assert np.abs(np.asarray(raw.predict(x))[:, 0] - predicted).max() > 0.01


def test_classes_are_fitted_by_themselves_and_one_without_pairs_moves_nothing():
    x, targets = data(60, 12)
    labels = np.where(np.arange(60) % 3 == 0, 1, 3)
    found = fit_box_regressors(x, labels, targets, num_classes=3, regularization=5.0)
    for label in (1, 3):
        alone = fit_box_regressors(
            x[labels == label], np.ones((labels == label).sum(), int), targets[labels == label],
            num_classes=1, regularization=5.0,
        )  # fmt: skip
        np.testing.assert_allclose(found.weights[label - 1], alone.weights[0], atol=1e-7)
        np.testing.assert_allclose(found.biases[label - 1], alone.biases[0], atol=1e-7)
    assert not np.asarray(found.predict(x))[:, 1].any()


def test_one_pair_is_its_mean():
    x, targets = data(1, 5)
    found = fit_box_regressors(x, np.array([1]), targets, num_classes=1)
    np.testing.assert_allclose(found.predict(x)[0, 0], targets[0], rtol=1e-6)


def test_prediction_is_linear():
    weights = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    regressors = BoxRegressors(weights, np.ones((2, 4), np.float32))
    found = regressors.predict(np.array([[1, 0], [0, 2]], np.float32))
    np.testing.assert_array_equal(found[0, 1], weights[1, 0] + 1)
    np.testing.assert_array_equal(found[1, 0], 2 * weights[0, 1] + 1)


def test_only_a_batch_of_features_is_read_at_a_time():
    x, targets = data(500, 9)
    read = []

    class Rows:
        shape = x.shape

        def __getitem__(self, rows):
            read.append(len(rows))
            return x[rows]

    before, ridge._BATCH_BYTES = ridge._BATCH_BYTES, 8 * 10 * 64
    try:
        fit_box_regressors(Rows(), np.ones(500, np.int64), targets, num_classes=1)
    finally:
        ridge._BATCH_BYTES = before
    assert max(read) == 64
    assert sum(read) == 500


def test_arrays_of_different_pairs_are_refused():
    x, targets = data(5, 4)
    with pytest.raises(ValueError, match="5 rows of features, 4 labels and 5 targets"):
        fit_box_regressors(x, np.ones(4, int), targets, num_classes=1)


def test_memory():
    assert ridge_bytes(100_000, 9216) == 8 * 9217**2 + 3 * 2**26
    assert ridge_bytes(1000, 25088) == 8 * 1000**2 + 3 * 2**26
