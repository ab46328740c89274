"""SVMs: by hand, one solver against the other on random and separable data, examples by class, the degenerate."""

import logging

import numpy as np
import pytest

from frcnn_jax.comparison.stages.liblinear import liblinear_bytes, train_svm
from frcnn_jax.comparison.svm import LinearSvms, svm_objective, train_svms

SETTINGS = {"c": 0.001, "bias_multiplier": 10.0, "positive_weight": 2.0}


def features(seed, count, length, norm=20.0):
    drawn = np.maximum(np.random.default_rng(seed).normal(size=(count, length)), 0).astype(np.float32)
    return drawn * np.float32(norm / np.linalg.norm(drawn, axis=1).mean())


def objectives(svms, x, positive, mask, settings):
    weights, biases = np.asarray(svms.weights), np.asarray(svms.biases)
    return [
        svm_objective(weights[k], biases[k], x[mask[:, k]], positive[mask[:, k], k], **settings)
        for k in range(len(biases))
    ]


def test_objective_by_hand():
    # Margins 2*2 + 1 = 5 and -(2*-1 + 1) = 1 cost nothing; a negative at 0.5 has margin -(1 + 1) = -2 and costs 3,
    # a positive at -0.25 has 0.5 and costs 0.5.
    x, positive = np.array([[2.0], [-1.0], [0.5], [-0.25]]), np.array([True, False, False, True])
    value = svm_objective(np.array([2.0]), 1.0, x, positive, c=0.1, bias_multiplier=10.0, positive_weight=2.0)
    assert value == pytest.approx((4 + 0.01) / 2 + 0.1 * 3 + 0.2 * 0.5)


def solve_both(x, positive, settings):
    weights, bias = train_svm(x, positive, **settings)
    svms = train_svms(x, positive[:, None], np.ones((len(x), 1), bool), **settings)
    return (weights, bias), (np.asarray(svms.weights)[0], float(svms.biases[0]))


def test_minimum_by_hand():
    # One positive at 1 and one negative at -1: w = 1 and b = 0 meet both margins.
    x, positive = np.array([[1.0], [-1.0]], np.float32), np.array([True, False])
    for weights, bias in solve_both(x, positive, {**SETTINGS, "c": 100.0, "bias_multiplier": 1.0}):
        assert weights == pytest.approx([1.0], abs=1e-3)
        assert bias == pytest.approx(0, abs=1e-3)
    # At a cost of 0.01 the negative's dual variable is at its bound, and the positive's meets its margin below its own
    # bound of 0.02: 101 a - 99 * 0.01 = 1.
    a = (1 + 99 * 0.01) / 101
    for weights, bias in solve_both(x, positive, {**SETTINGS, "c": 0.01}):
        assert weights == pytest.approx([a + 0.01], abs=1e-4)
        assert bias == pytest.approx(100 * (a - 0.01), abs=1e-3)


@pytest.mark.parametrize("settings", [SETTINGS, {"c": 0.01, "bias_multiplier": 1.0, "positive_weight": 5.0}])
@pytest.mark.parametrize("separable", [False, True])
def test_both_solvers_reach_the_same_objective(settings, separable):
    x = features(0, 300, 40)
    direction = np.random.default_rng(1).normal(size=40).astype(np.float32)
    positive = x @ direction > 3 if separable else np.random.default_rng(2).random(300) < 0.2
    found = solve_both(x, positive, settings)
    values = [svm_objective(weights, bias, x, positive, **settings) for weights, bias in found]
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    # No small step away is better.
    generator = np.random.default_rng(3)
    for weights, bias in found:
        for _ in range(20):
            other = weights + generator.normal(size=40) * 0.05 * np.abs(weights).mean()
            assert svm_objective(other, bias, x, positive, **settings) > min(values) * (1 - 1e-3)


def test_classes_have_examples_of_their_own():
    x = features(4, 400, 16)
    generator = np.random.default_rng(5)
    positive, mask = generator.random((400, 4)) < 0.3, generator.random((400, 4)) < 0.6
    mask[:, 3] = False
    svms = train_svms(x, positive, mask, **SETTINGS)
    values = objectives(svms, x, positive, mask, SETTINGS)
    for k in range(3):
        weights, bias = train_svm(x[mask[:, k]], positive[mask[:, k], k], **SETTINGS)
        alone = svm_objective(weights, bias, x[mask[:, k]], positive[mask[:, k], k], **SETTINGS)
        assert values[k] == pytest.approx(alone, rel=1e-3)
    assert not np.asarray(svms.weights)[3].any()
    assert float(svms.biases[3]) == 0


def test_scores():
    svms = LinearSvms(np.array([[1.0, 2.0], [0.0, -1.0]], np.float32), np.array([0.5, 1.0], np.float32))
    np.testing.assert_allclose(svms.score(np.array([[3.0, 4.0]], np.float32)), [[11.5, -3.0]])


def test_a_solution_that_is_not_reached_is_reported(caplog):
    x = features(6, 300, 40)
    positive = np.random.default_rng(7).random((300, 1)) < 0.5
    with caplog.at_level(logging.WARNING, "frcnn_jax"):
        train_svms(x, positive, np.ones_like(positive), c=10.0, max_passes=4)
    assert "after 4 passes class 1 is within" in caplog.text


def test_fewer_passes_than_a_check_makes(caplog):
    x, positive = features(8, 200, 10), np.random.default_rng(9).random((200, 1)) < 0.5
    few, four = (train_svms(x, positive, np.ones_like(positive), c=10.0, max_passes=n) for n in (1, 4))
    np.testing.assert_array_equal(few.weights, four.weights)
    assert np.any(few.weights)
    assert caplog.text.count("after 4 passes") == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_without_a_solution_are_refused(value):
    """Of two classes the second has such an example."""
    x, positive = features(8, 200, 10), np.random.default_rng(9).random((200, 2)) < 0.5
    x[5, 3] = value
    mask = np.ones_like(positive)
    mask[5, 0] = False
    with pytest.raises(ValueError, match=r"SVMs: class \d has no solution: features, c, .* are not finite"):
        train_svms(x, positive, mask)


@pytest.mark.parametrize("value", [True, False])
def test_one_sided_examples_are_refused(value):
    with pytest.raises(ValueError, match="needs positives and negatives, not"):
        train_svm(np.ones((3, 2), np.float32), np.full(3, value))


def test_memory():
    assert liblinear_bytes(20_000, 4096) == 20_000 * 4096 * 24
