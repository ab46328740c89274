"""Hard-negative mining: the order of events by hand with a scripted solver, the scale, going on after a kill."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.comparison import mining
from frcnn_jax.comparison.feature_store import FeatureStore, write_features
from frcnn_jax.comparison.mining import feature_scale, mine_svms
from frcnn_jax.comparison.stages.classifiers import SOLVERS
from frcnn_jax.comparison.svm import LinearSvms, svm_objective


def stored(folder, images):
    """A store of features [P, F] of each image."""
    with write_features(folder, list(map(len, images)), images[0].shape[1], made_from={}) as store:
        for index, rows in enumerate(images):
            store.write(index, rows)
    return FeatureStore.open(folder, {})


# One number a row. The first row of images 0 and 2 is an object of class 1, the second of image 1 one of class 2.
IMAGES = [
    np.array([[9.0], [1.0], [2.0], [3.0], [-5.0]], np.float32),
    np.array([[-2.0], [8.0], [0.5], [-0.5]], np.float32),
    np.array([[7.0], [4.0], [-1.0]], np.float32),
]
LABELS = [np.array([1, 0, 0, 0, 0]), np.array([0, 2, 0, 0]), np.array([1, 0, 0])]
# IoU with class 1: row 3 of image 0 is at 0.3 and no negative, row 1 of image 2 overlaps its object.
FIRST = [[1, 0.29, 0, 0.3, 0], [0, 0, 0, 0], [1, 0.5, 0]]
SECOND = [[0, 0, 0, 0, 0], [0.1, 1, 0.4, 0.2], [0, 0, 0]]


def overlaps(index):
    return np.array([FIRST[index], SECOND[index]], np.float32).T


class Script:
    """A solver that returns what it is told, and notes the features of each class that it was asked for."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), []

    def __call__(self, features, is_positive, mask):
        self.calls.append(
            {
                k + 1: (features[mask[:, k] & is_positive[:, k], 0].tolist(),
                        features[mask[:, k] & ~is_positive[:, k], 0].tolist())
                for k in np.flatnonzero(mask.any(axis=0))
            }
        )  # fmt: skip
        weights, biases = self.answers.pop(0)
        return LinearSvms(jnp.array(weights)[:, None], jnp.array(biases))


def test_the_order_of_events(tmp_path):
    # After image 0, class 1 scores x - 3, class 2 scores -x.
    script = Script(([1.0, -1.0], [-3.0, 0.0]), ([1.0, 1.0], [-2.5, 0.0]), ([2.0, 3.0], [4.0, 5.0]))
    svms = mine_svms(stored(tmp_path, IMAGES), overlaps, LABELS.__getitem__, 2, solver=script, retrain_at=1)
    assert script.calls == [
        # All negatives of the first image, at once with all positives of all images; of class 2 too, for which the
        # object of class 1 is a negative.
        {1: ([9, 7], [1, 2, -5]), 2: ([8], [9, 1, 2, 3, -5])},
        # Of class 1, -5 and 1 left, with -8 and -2; 2 stays with -1. In image 1 all score x - 3: only 8, the object of
        # class 2, is above -1.0001, and one new negative is not more than one. Of class 2, 9, 2, 3 left, with -9, -2
        # and -3; 1 stays with -1, -5 with 5. In image 1, -2 and -0.5 join with 2 and 0.5, where 0.5 overlaps too much.
        {2: ([8], [1, -5, -2, -0.5])},
        # Class 2 now scores x, so that -5 and -2 left. In the last image 7, 4 and -1 join; both are trained. Of class 1
        # 4 overlaps too much and -1 scores -4.
        {1: ([9, 7], [2, 8]), 2: ([8], [1, -0.5, 7, 4, -1])},
    ]
    np.testing.assert_array_equal(svms.weights, [[2], [3]])
    np.testing.assert_array_equal(svms.biases, [4, 5])


def test_a_state_is_not_saved_for_a_class_without_objects(tmp_path, monkeypatch):
    """Its rows all score above the margin for ever, and none joins."""
    saved = []
    monkeypatch.setattr(mining._Mining, "save", lambda self, path, settings, following: saved.append(following))
    labels = [np.where(found == 1, 1, 0) for found in LABELS]
    script = Script(*[([1.0, 0.0], [-100.0, 0.0])] * 2)
    arguments = {"solver": script, "state": tmp_path / "state.npz", "seconds_between_saves": 0.0}
    mine_svms(stored(tmp_path / "store", IMAGES), overlaps, labels.__getitem__, 2, **arguments)
    assert saved == [1, 3]  # the first image, whose negatives join, and the last one


def test_thresholds(tmp_path):
    images = [np.array([[5.0], [0.0]], np.float32), np.array([[-1.0001], [-1.0], [-1.2], [-1.25]], np.float32)]
    labels = [np.array([1, 0]), np.zeros(4, int)]
    none = [np.array([[1.0], [0.0]]), np.zeros((4, 1))]
    for retrain_at, leave, expected in ((2000, -1.2, [0, -1]), (0, -1.2, [0, -1]), (2000, 0.5, [-1])):
        script = Script(([1.0], [0.0]), ([1.0], [0.0]))
        features = stored(tmp_path / f"{retrain_at} {leave}", images)
        mine_svms(features, none.__getitem__, labels.__getitem__, 1, solver=script, retrain_at=retrain_at, leave=leave)
        # The negative 0 leaves below 0.5; of the others -1 alone is above -1.0001.
        assert [call[1][1] for call in script.calls] == [[0], expected]


def test_at_the_lower_threshold_a_negative_stays(tmp_path):
    images = [np.array([[5.0], [-1.25], [-1.5]], np.float32), np.zeros((0, 1), np.float32)]
    labels = [np.array([1, 0, 0]), np.zeros(0, int)]
    none = [np.array([[1.0], [0.0], [0.0]]), np.zeros((0, 1))]
    script = Script(([1.0], [0.0]), ([1.0], [0.0]))
    mine_svms(stored(tmp_path, images), none.__getitem__, labels.__getitem__, 1, solver=script, leave=-1.25)
    assert [call[1][1] for call in script.calls] == [[-1.25, -1.5], [-1.25]]


def test_a_class_is_trained_as_soon_as_it_has_negatives(tmp_path, caplog):
    # Image 0 has none, and class 2 has no object.
    images = [np.array([[5.0]], np.float32), np.array([[1.0], [2.0]], np.float32), np.array([[0.0]], np.float32)]
    labels = [np.array([1]), np.zeros(2, int), np.zeros(1, int)]
    found = [np.array([[1.0, 0]]), np.zeros((2, 2)), np.zeros((1, 2))]
    script = Script(([1.0, 9.0], [0.0, 9.0]), ([1.0, 9.0], [0.0, 9.0]))
    svms = mine_svms(stored(tmp_path, images), found.__getitem__, labels.__getitem__, 2, solver=script)
    assert script.calls == [{1: ([5], [1, 2])}, {1: ([5], [1, 2, 0])}]
    assert (svms.weights[1].tolist(), float(svms.biases[1])) == ([0], -1)
    assert "no SVM for lack of objects or of negatives: classes 2" in caplog.text


def test_scale_by_hand(tmp_path):
    # Norms 5, 0 and 10: their mean is 5.
    features = stored(tmp_path / "a", [np.array([[3.0, 4], [0, 0]], np.float32), np.array([[6.0, 8]], np.float32)])
    assert feature_scale(features) == pytest.approx(4)
    assert feature_scale(features, 1.0) == pytest.approx(0.2)
    # Two images of three rows each: the mean of what is drawn is 1 or 2.
    rows = np.array([[1.0], [1.0], [1.0]], np.float32)
    features = stored(tmp_path / "b", [rows, 2 * rows])
    assert {feature_scale(features, images=1, seed=seed) for seed in range(9)} == {20, 10}
    features = stored(tmp_path / "c", [np.array([[1.0], [2.0], [3.0]], np.float32)])
    assert {round(20 / feature_scale(features, rows=1, seed=seed)) for seed in range(20)} == {1, 2, 3}
    with pytest.raises(ValueError, match="all features are 0: give the weights of a trained network"):
        feature_scale(stored(tmp_path / "d", [0 * rows]))


def drawn(folder, images=8, length=16, classes=3):
    """Images with an object of each class among rows that it can be told from."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(classes, length)) * 2
    features, labels = [], []
    for _ in range(images):
        label = np.r_[1 : classes + 1, np.zeros(40, int)]
        rows = generator.normal(size=(len(label), length))
        rows[:classes] += centres
        features.append(rows.astype(np.float32))
        labels.append(label)
    store = stored(folder, features)
    found = [(label[:, None] == np.arange(1, classes + 1)).astype(np.float32) for label in labels]
    return store, found.__getitem__, labels.__getitem__, classes


@pytest.mark.parametrize("kind", SOLVERS)
def test_with_real_solvers_hard_negatives_come_near_the_whole(tmp_path, kind):
    store, found, labels, classes = drawn(tmp_path)
    scale = feature_scale(store)
    svms = mine_svms(store, found, labels, classes, solver=SOLVERS[kind], scale=scale, retrain_at=25)
    x = store.select(np.arange(store.shape[0]))[:] * np.float32(scale)
    positive = np.concatenate([found(i) for i in range(len(store))]) > 0
    best = SOLVERS["liblinear"](x, positive, np.ones_like(positive))
    for k in range(classes):
        value = svm_objective(np.asarray(svms.weights)[k] / scale, float(svms.biases[k]), x, positive[:, k])
        least = svm_objective(np.asarray(best.weights)[k], float(best.biases[k]), x, positive[:, k])
        assert least * 0.999 < value < least * 1.1
    # Scores are of features as they are.
    expected = x[:43] @ (np.asarray(svms.weights).T / scale) + np.asarray(svms.biases)
    np.testing.assert_allclose(svms.score(store[0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("killed_at", [1, 6])
def test_a_killed_run_goes_on_to_the_same_svms(tmp_path, killed_at):
    store, found, labels, classes = drawn(tmp_path / "features")
    trained, seen = [], []

    def solver(features, is_positive, mask):
        """Weights that depend on every example."""
        trained.append(mask.sum(axis=0).tolist())
        signed = np.where(mask, np.where(is_positive, 1, -0.1), 0).astype(np.float32)
        return LinearSvms(jnp.asarray(signed.T @ features / 40), jnp.asarray(signed.sum(axis=0) / 40))

    def dying(index):
        seen.append(index)
        if index == killed_at and seen.count(index) == 1:
            raise KeyboardInterrupt
        return found(index)

    options = {"solver": solver, "scale": 1.5, "retrain_at": 30, "made_from": {"weights": "abc"}}
    whole = mine_svms(store, found, labels, classes, **options)
    in_one_go = trained.copy()
    assert len(in_one_go) > 3
    trained.clear()
    run = partial(mine_svms, store, dying, labels, classes, **options, state=tmp_path / "svms.npz")
    with pytest.raises(KeyboardInterrupt):
        run(seconds_between_saves=0)
    svms = run()
    assert seen == [*range(killed_at + 1), *range(killed_at, len(store))]
    assert trained == in_one_go
    np.testing.assert_array_equal(svms.weights, whole.weights)
    np.testing.assert_array_equal(svms.biases, whole.biases)
    # What is done is not done again.
    seen.clear()
    np.testing.assert_array_equal(run().weights, whole.weights)
    assert not seen


def test_a_state_of_something_else_is_refused(tmp_path):
    store, found, labels, classes = drawn(tmp_path / "features", images=2)
    run = partial(mine_svms, store, found, labels, classes, solver=SOLVERS["device"], state=tmp_path / "svms.npz")
    run(made_from={"weights": "abc"})
    with pytest.raises(ValueError, match=r"SVMs of other weights: 'abc' there and 'xyz' here. Delete it"):
        run(made_from={"weights": "xyz"})
    with pytest.raises(ValueError, match=r"SVMs of other leave: -1.2 there and -1.1 here"):
        run(made_from={"weights": "abc"}, leave=-1.1)
    (tmp_path / "svms.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"svms.npz: damaged \(.*\): delete it, and the SVMs are trained anew"):
        run()
