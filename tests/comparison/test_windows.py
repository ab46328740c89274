"""Windows of a data set and the batches drawn of them, by hand."""

import numpy as np
import pytest

from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.stages.batches import WindowBatches, batches
from frcnn_jax.comparison.windows import candidates, draw_batch, keep_windows, label_windows, split_images
from frcnn_jax.types import GroundTruth

TRUTH = GroundTruth(
    boxes=np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]),
    labels=np.array([2, 1, 1]),
    difficult=np.array([True, False, False]),
    crowd=np.array([False, False, True]),
)
EMPTY = GroundTruth(boxes=np.zeros((0, 4)), labels=np.zeros(0, int), difficult=np.zeros(0, bool))
PROPOSALS = np.array(
    [[0.0, 0, 10, 5], [0, 0, 10, 20], [21, 0, 31, 10], [40, 40, 50, 50], [0, 20, 10, 26], [0, 8, 10, 22]]
)


def windows():
    return label_windows([np.zeros((0, 4)), PROPOSALS, PROPOSALS[:1]], [EMPTY, TRUTH, EMPTY])


def test_objects_come_first_and_crowds_are_none():
    np.testing.assert_array_equal(candidates(PROPOSALS, TRUTH)[:3], [[0, 0, 10, 10], [20, 0, 30, 10], PROPOSALS[0]])
    assert candidates(PROPOSALS[:0], TRUTH).shape == (2, 4)


def test_labels_by_hand():
    found = windows()
    np.testing.assert_array_equal(found.images, [1] * 8 + [2])
    np.testing.assert_array_equal(found.counts(3), [0, 8, 1])
    # Objects themselves, half of the first, twice the first, the second moved by a pixel of ten (9 of 11), nothing, on
    # the crowd, and a fifth of the crowd with a fifth of the first: 20 of 220.
    np.testing.assert_allclose(found.overlaps, [1, 1, 0.5, 0.5, 9 / 11, 0, 0, 20 / 220, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.labels, [2, 1, 2, 2, 1, 0, 0, 2, 0])
    np.testing.assert_array_equal(np.flatnonzero(found.on_crowd), [6])


def test_the_papers_batches():
    """32 windows at an IoU of 0.5 or more, 96 below, of all images, ground truth among them."""
    source = WindowBatches(windows(), np.arange(3), FineTuningConfig(), lambda rows: rows, steps=5, seed=(0,))
    assert len(source) == 5
    rows, labels, flips = source[3]
    assert set(rows[:32]) == {0, 1, 2, 3, 4}
    assert set(rows[32:]) == {5, 7, 8}
    np.testing.assert_array_equal(labels[:32], windows().labels[rows[:32]])
    np.testing.assert_array_equal(labels[32:], 0)
    assert 40 < flips.sum() < 88
    for again, part in zip(source[3], (rows, labels, flips), strict=True):
        np.testing.assert_array_equal(again, part)
    assert not np.array_equal(source[4][0], rows)


def test_windows_are_drawn_uniformly_over_all_images():
    source = WindowBatches(windows(), np.arange(3), FineTuningConfig(), lambda rows: rows, steps=100, seed=(1,))
    rows = np.concatenate([source[i][0] for i in range(100)])
    share = np.bincount(rows, minlength=9) / 100
    np.testing.assert_allclose(share[[0, 1, 2, 3, 4]], 32 / 5, atol=0.8)
    np.testing.assert_allclose(share[[5, 7, 8]], 96 / 3, atol=2)


def test_a_range_of_background():
    settings = FineTuningConfig(background_iou=(0.05, 0.5))
    rows, _, _ = WindowBatches(windows(), np.arange(3), settings, lambda rows: rows, steps=1, seed=(0,))[0]
    assert set(rows[32:]) == {7}


def test_where_a_kind_is_missing_the_other_takes_its_places():
    random = np.random.default_rng(0)
    rows, labels, _ = draw_batch(windows(), np.array([0, 1]), np.zeros(0, int), (3, 5), random)
    assert set(rows) == {0, 1}
    np.testing.assert_array_equal(labels, np.array([2, 1])[rows])
    rows, labels, _ = draw_batch(windows(), np.zeros(0, int), np.array([0, 5]), (3, 5), random)
    assert set(rows) == {0, 5}
    np.testing.assert_array_equal(labels, 0)


def test_without_any_kind():
    with pytest.raises(ValueError, match=r"no window of 1 images .* fine_tuning.background_iou \(0, \.\.\.\)"):
        WindowBatches(windows(), np.array([0]), FineTuningConfig(), lambda rows: rows, steps=1, seed=(0,))


def test_windows_at_the_limit_are_kept():
    # IoUs 1, 1, .5, .5, .82, 0, 0, .09 in image 1 and 0 in image 2.
    places = [places.tolist() for places in keep_windows(windows(), 3, 0.5).places]
    assert places == [[], [0, 1, 2, 3, 4, -1, -1, -1], [-1]]


@pytest.mark.parametrize(("steps", "share", "made"), [(10, 1.0, 10), (10, 0.25, 4), (10, 0.01, 2), (0, 0.5, 0)])
def test_steps_of_a_share(steps, share, made):
    """A share is rounded up, and has one step more, which is not timed."""
    source, _ = batches(windows(), 3, FineTuningConfig(steps=steps), lambda rows: rows, share=share, seed=3)
    assert len(source) == made


def test_images_are_held_out_whole():
    learned, held_out = split_images(10, 0.3, seed=0)
    assert len(held_out) == 3
    np.testing.assert_array_equal(np.sort(np.concatenate([learned, held_out])), np.arange(10))
    assert [len(part) for part in split_images(2, 0.9, 0)] == [1, 1]
    assert [len(part) for part in split_images(2, 0.01, 0)] == [1, 1]
    assert [len(part) for part in split_images(4, 0.0, 0)] == [4, 0]

    settings = FineTuningConfig(held_out=0.5)
    source, measured = batches(windows(), 3, settings, lambda rows: rows, share=1.0, seed=3)
    drawn, kept = (set(windows().images[part[0][0]]) for part in (source, measured))
    assert drawn
    assert kept
    assert not drawn & kept
    with pytest.raises(ValueError, match=r"fine_tuning.held_out = 0.5: the only image cannot be held out, set it to 0"):
        batches(windows(), 1, settings, lambda rows: rows, share=1.0, seed=3)
