"""Stages by hand: settings that reach the SVMs and regressors, the watch, shares, padded sides."""

from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.comparison.feature_store import FeatureStore, write_features
from frcnn_jax.comparison.mining import feature_scale
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import RegressionConfig, SvmConfig
from frcnn_jax.comparison.stages import classifiers
from frcnn_jax.comparison.stages.features import Pairs, Watch, regression_pairs
from frcnn_jax.comparison.stages.frames import pad_image, padded_side
from frcnn_jax.comparison.stages.share import Chosen, part_of, spread
from frcnn_jax.comparison.svm import LinearSvms
from frcnn_jax.types import GroundTruth

# A cat, a difficult dog and a crowd of dogs; the proposals are half of the cat, most of it, the crowd, and nothing.
TRUTH = GroundTruth(
    boxes=np.array([[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 90, 40]], np.float32),
    labels=np.array([1, 2, 2], np.int32),
    difficult=np.array([False, True, False]),
    crowd=np.array([False, False, True]),
)
PROPOSALS = np.array([[0, 0, 10, 5], [0, 0, 10, 8], [50, 0, 90, 40], [0, 60, 9, 69]], np.float32)


@pytest.fixture
def opened(tmp_path):
    """The fields of a run that the stages read, with one image and settings that are not the defaults."""
    return SimpleNamespace(
        folder=tmp_path,
        share=1.0,
        seed=3,
        annotations=[TRUTH],
        proposals=[PROPOSALS],
        dataset=SimpleNamespace(classes=("cat", "dog")),
        record=Record(tmp_path / "record.json", system="rcnn", model="tiny"),
        comparison=SimpleNamespace(
            svm=SvmConfig(
                "liblinear", c=0.5, bias_multiplier=3.0, positive_weight=4.0, negative_iou=0.4, feature_norm=7.0,
                join=-0.5, leave=-2.0, retrain_at=11,
            ),
            regression=RegressionConfig(ridge=25.0, feature_norm=9.0, min_iou=0.45),
        ),
    )  # fmt: skip


def store(folder, rows):
    with write_features(folder, [len(rows)], rows.shape[1], made_from={}) as writer:
        writer.write(0, rows)
    return FeatureStore.open(folder, {})


def test_svms_are_trained_with_the_settings(opened, tmp_path, monkeypatch):
    given = {}

    def mine(features, overlaps, labels, num_classes, **named):
        given.update(named, overlaps=overlaps(0), labels=labels(0), num_classes=num_classes)
        return LinearSvms(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))

    solved = {}
    monkeypatch.setattr(classifiers, "mine_svms", mine)
    monkeypatch.setitem(classifiers.SOLVERS, "liblinear", lambda *_, **named: solved.update(named))
    vectors = store(tmp_path / "vectors", np.arange(18, dtype=np.float32).reshape(6, 3))
    classifiers.train_svms(opened, vectors, {"weights": np.ones(2)})
    given["solver"](None, None, None)
    assert solved == {"c": 0.5, "bias_multiplier": 3.0, "positive_weight": 4.0}
    assert {name: given[name] for name in ("negative_iou", "join", "leave", "retrain_at", "num_classes")} == {
        "negative_iou": 0.4, "join": -0.5, "leave": -2.0, "retrain_at": 11, "num_classes": 2,
    }  # fmt: skip
    assert given["scale"] == feature_scale(vectors, 7.0, seed=3)
    # Objects first, the difficult one among them and the crowd not; the crowd's proposal is no negative of dogs.
    assert given["labels"].tolist() == [1, 2, 0, 0, 0, 0]
    expected = [[1, 0], [0, 1], [0.5, 0], [0.8, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(given["overlaps"], expected, rtol=1e-6)
    assert opened.record.content["train"]["svms"]["share"] == 1


@pytest.mark.parametrize("resumed", [True, False])
def test_svms_that_are_trained_anew_are_timed_anew(opened, tmp_path, monkeypatch, resumed):
    nothing = LinearSvms(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    monkeypatch.setattr(classifiers, "mine_svms", lambda *_, **__: nothing)
    opened.record.set_train("svms", 1000)
    if resumed:
        (opened.folder / "mining.npz").write_text("")
    vectors = store(tmp_path / "vectors", np.arange(18, dtype=np.float32).reshape(6, 3))
    classifiers.train_svms(opened, vectors, {"weights": np.ones(2)})
    assert (opened.record.content["train"]["svms"]["seconds"] >= 1000) == resumed


def test_regressors_are_fitted_with_the_settings(opened, tmp_path, monkeypatch):
    pairs = regression_pairs(opened)
    # The objects themselves, half of the cat, and most of it.
    assert [rows.tolist() for rows in pairs.rows] == [[0, 1, 2, 3]]
    assert pairs.labels.tolist() == [1, 2, 1, 1]
    np.testing.assert_allclose(pairs.targets[3], [0, 1 / 8, 0, np.log(10 / 8)], atol=1e-6)
    given, fit = {}, classifiers.fit_box_regressors

    def fitted(features, labels, targets, **named):
        given.update(named, features=features[:], labels=labels, targets=targets)
        return fit(features, labels, targets, **named)

    monkeypatch.setattr(classifiers, "fit_box_regressors", fitted)
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    pooled = store(tmp_path / "pooled", rows)
    classifiers.train_regressors(opened, pooled, np.array([0, 1, 3, 5]), pairs, {"weights": np.ones(2)})
    np.testing.assert_array_equal(given["features"], rows[[0, 1, 3, 5]])
    assert (given["regularization"], given["num_classes"]) == (25.0, 2)
    assert given["scale"] == feature_scale(pooled, 9.0, seed=3)
    np.testing.assert_array_equal(given["labels"], pairs.labels)
    np.testing.assert_array_equal(given["targets"], pairs.targets)


@pytest.mark.parametrize(("norm", "rows"), [(None, [0, 1, 3, 5]), (9.0, [])])
def test_features_of_regressors_are_not_scaled(opened, tmp_path, monkeypatch, norm, rows):
    """Without a norm, or without pairs, where the store may be empty."""
    given, pairs = {}, regression_pairs(opened)
    pairs = Pairs(pairs.rows, pairs.labels[: len(rows)], pairs.targets[: len(rows)])
    opened.comparison.regression = RegressionConfig(feature_norm=norm)
    fit = classifiers.fit_box_regressors
    monkeypatch.setattr(classifiers, "fit_box_regressors", lambda *a, **named: given.update(named) or fit(*a, **named))
    pooled = store(tmp_path / "pooled", np.ones((6, 2) if rows else (0, 2), np.float32))
    classifiers.train_regressors(opened, pooled, np.array(rows, np.int64), pairs, {"weights": np.ones(2)})
    assert given["scale"] == 1


def test_a_ridge_that_is_too_small_is_named(opened, tmp_path):
    pairs = regression_pairs(opened)
    opened.comparison.regression = RegressionConfig(ridge=1e-300, min_iou=0.45)
    pooled = store(tmp_path / "pooled", np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match=r"comparison.regression.ridge = 1e-300 is too small .*: give a larger one"):
        classifiers.train_regressors(opened, pooled, np.array([0, 1, 3, 5]), pairs, {"weights": np.ones(2)})


def test_without_regression_there_are_no_pairs(opened):
    opened.comparison.regression = RegressionConfig(enabled=False)
    assert isinstance(regression_pairs(opened), Pairs)
    assert len(regression_pairs(opened).labels) == 0
    assert classifiers.train_regressors(opened, None, None, None, {}) is None


def test_the_watch_leaves_compiling_out():
    """A function is run once more for new shapes, dtypes or static arguments, and is not timed then."""
    calls = []

    def function(array, **static):
        calls.append(static)
        return array

    watch = Watch()
    arguments = [
        (np.zeros(2), {}),
        (np.ones(2), {}),
        (np.zeros(3), {}),
        (np.zeros(3, int), {}),
        (np.zeros(3), {"n": 1}),
    ]
    counts = []
    for array, static in arguments:
        watch("fc", function, array, **static)
        counts.append(len(calls))
    assert counts == [2, 3, 5, 7, 9]
    assert list(watch.seconds) == ["fc"]


def test_shares_and_sides():
    shares = [(10, 0.01), (10, 0.11), (10, 1.0), (3, 0.5), (0, 0.5)]
    assert [part_of(*share) for share in shares] == [1, 2, 10, 2, 0]
    assert [spread(*share).tolist() for share in shares] == [[0], [0, 9], list(range(10)), [0, 2], []]
    chosen = Chosen("abcdef", spread(6, 0.5))
    assert [*chosen, chosen[-1], chosen[1:]] == ["a", "c", "f", "f", ["c", "f"]]
    assert [padded_side(length) for length in (1, 128, 129, 192, 193, 257, 500)] == [128, 128, 192, 192, 256, 384, 512]
    padded = pad_image(np.ones((2, 3, 3), np.uint8), (4, 5))
    assert padded[:2, :3].all()
    assert (padded.shape, padded.sum()) == ((4, 5, 3), 18)
