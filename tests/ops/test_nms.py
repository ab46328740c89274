"""Non-maximum suppression: by hand, against a plain greedy loop at many thresholds, invariances, the degenerate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import nms as suppression
from frcnn_jax.ops.nms import nms, nms_by_class
from tests.ops import reference

BOXES, CASES = 20, 60

suppress = jax.jit(nms, static_argnums=3)
suppress_by_class = jax.jit(nms_by_class, static_argnums=3)


def cases(seed):
    """Whole-number boxes on a small canvas: many overlaps, exact areas, duplicates, empty and reversed boxes, ties."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 12, (CASES, BOXES, 2))
    sizes = generator.integers(-1, 8, (CASES, BOXES, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=-1).astype(np.float32)
    boxes[:, BOXES // 2 :: 3] = boxes[:, : len(range(BOXES // 2, BOXES, 3))]
    scores = generator.integers(0, 8, (CASES, BOXES)).astype(np.float32) / 8
    scores[: CASES // 2] = generator.uniform(size=(CASES // 2, BOXES))
    return boxes, scores, generator.uniform(size=(CASES, BOXES)) < 0.8


def test_hand_worked_chain():
    # Ten wide, each shifted by 4: neighbours share 6 of 14 (0.43), the first and the third 2 of 18 (0.11). The middle
    # one goes, and what is gone suppresses nothing: the third stays.
    boxes = jnp.array([[0.0, 0, 10, 1], [4.0, 0, 14, 1], [8.0, 0, 18, 1]])
    everything = jnp.ones(3, bool)
    np.testing.assert_array_equal(suppress(boxes, jnp.array([0.9, 0.8, 0.7]), everything, 0.3), [True, False, True])
    np.testing.assert_array_equal(suppress(boxes, jnp.array([0.8, 0.9, 0.7]), everything, 0.3), [False, True, False])
    np.testing.assert_array_equal(suppress(boxes, jnp.array([0.9, 0.8, 0.7]), everything, 0.1), [True, False, False])
    np.testing.assert_array_equal(suppress(boxes, jnp.array([0.9, 0.8, 0.7]), everything, 0.5), [True, True, True])


def test_default_threshold_is_the_papers():
    boxes = jnp.array([[0.0, 0, 10, 1], [0.0, 0, 2, 1], [0.0, 0, 4, 1]])  # 0.2, 0.4 and 0.5 between the small ones
    np.testing.assert_array_equal(suppress(boxes, jnp.array([0.9, 0.8, 0.7]), jnp.ones(3, bool)), [True, True, False])


def test_a_box_stays_at_the_threshold_and_goes_above_it():
    boxes = jnp.array([[0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 5, 10, 10]])
    scores, everything = jnp.array([0.5, 0.9, 0.3]), jnp.ones(3, bool)
    np.testing.assert_array_equal(suppress(boxes, scores, everything, 0.5), [True, True, True])
    np.testing.assert_array_equal(suppress(boxes, scores, everything, 0.4999), [False, True, True])


def test_of_equal_scores_the_earlier_box_wins():
    boxes = jnp.tile(jnp.array([[0.0, 0, 10, 10]]), (3, 1))
    kept = suppress(boxes, jnp.array([0.5, 0.7, 0.7]), jnp.ones(3, bool), 0.3)
    np.testing.assert_array_equal(kept, [False, True, False])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_equals_plain_greedy_suppression(threshold):
    boxes, scores, mask = cases(0)
    kept = suppress_by_class(boxes, scores, mask, threshold)
    for got, *case in zip(np.asarray(kept), boxes, scores, mask, strict=True):
        np.testing.assert_array_equal(got, reference.nms(*case, threshold))
        assert not (got & ~case[2]).any()


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_crowd_of_hundreds_equals_plain_greedy_suppression(threshold):
    generator = np.random.default_rng(4)
    corners = np.repeat(generator.uniform(0, 300, (25, 2)), 16, axis=0) + generator.normal(0, 9, (400, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(20, 90, (400, 2))], axis=1).astype(np.float32)
    scores, mask = generator.uniform(size=400).astype(np.float32), generator.uniform(size=400) < 0.9
    kept = np.asarray(suppress(boxes, scores, mask, threshold))
    np.testing.assert_array_equal(kept, reference.nms(boxes, scores, mask, threshold))
    assert 40 < kept.sum() < 200


def greedy(boxes, scores, mask, threshold):
    """`reference.nms` with a row of overlaps at a time, for thousands of boxes."""
    x1, y1, x2, y2 = boxes.T
    areas = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    kept, waiting = np.zeros(len(boxes), bool), mask.copy()
    for i in np.argsort(-scores, kind="stable"):
        if not waiting[i]:
            continue
        kept[i] = True
        common = np.maximum(np.minimum(x2, x2[i]) - np.maximum(x1, x1[i]), 0)
        common = common * np.maximum(np.minimum(y2, y2[i]) - np.maximum(y1, y1[i]), 0)
        overlap = np.divide(common, areas + areas[i] - common, out=np.zeros_like(common), where=common > 0)
        waiting &= ~(overlap > np.float32(threshold))
        waiting[i] = False
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tile", [1, 3, 8])
def test_tiles_of_a_few_boxes_equal_plain_greedy_suppression(tile, threshold, monkeypatch):
    """With ties, duplicates, empty boxes and, in one class, nothing but masked ones."""
    monkeypatch.setattr("frcnn_jax.ops.nms._TILE", tile)
    boxes, scores, mask = cases(6)
    mask[0] = False
    kept = jax.jit(lambda *case: nms_by_class(*case, threshold))(boxes, scores, mask)
    for got, *case in zip(np.asarray(kept), boxes, scores, mask, strict=True):
        np.testing.assert_array_equal(got, reference.nms(*case, threshold))


def test_tiles_by_hand(monkeypatch):
    # Tiles of two: the best two are apart; the third goes for the second, the fourth for the first, so that the next
    # tile is the fifth and sixth, of which the sixth goes for the fifth; the last hangs on the sixth alone and stays.
    monkeypatch.setattr("frcnn_jax.ops.nms._TILE", 2)
    left = np.array([0, 40, 43, 3, 80, 84, 88], np.float32)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 1], axis=1)
    kept = nms(jnp.array(boxes), jnp.linspace(1, 0.1, 7), jnp.ones(7, bool), 0.3)
    np.testing.assert_array_equal(kept, [True, True, False, False, True, False, True])


def test_division_that_rounds_up_suppresses_no_equal_box_at_1(monkeypatch):
    """A GPU's division errs by up to two units in the last place."""
    exact = suppression.pairwise_iou
    monkeypatch.setattr(suppression, "pairwise_iou", lambda a, b: jnp.nextafter(exact(a, b), jnp.float32(2)))
    boxes, scores = jnp.tile(jnp.array([[1.0, 2, 5, 9]]), (3, 1)), jnp.array([0.5, 0.9, 0.7])
    assert nms(boxes, scores, jnp.ones(3, bool), 1.0).all()
    assert nms(boxes, scores, jnp.ones(3, bool), 0.999).tolist() == [False, True, False]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_thousands_of_boxes_equal_plain_greedy_suppression(threshold):
    generator = np.random.default_rng(7)
    corners = generator.integers(0, 400, (3, 1500, 2))
    boxes = np.concatenate([corners, corners + generator.integers(0, 60, (3, 1500, 2))], axis=2).astype(np.float32)
    boxes[:, ::5] = boxes[:, 1::5]
    scores = generator.integers(-40, 40, (3, 1500)).astype(np.float32) / 8  # many ties
    scores[1], scores[2] = generator.uniform(size=1500), -np.inf
    scores[0, scores[0] == 0] = generator.choice(np.array([0.0, -0.0], np.float32), (scores[0] == 0).sum())
    mask = generator.uniform(size=(3, 1500)) < [[1.0], [0.8], [0.5]]
    kept = np.asarray(suppress_by_class(boxes, scores, mask, threshold))
    for got, *case in zip(kept, boxes, scores, mask, strict=True):
        np.testing.assert_array_equal(got, greedy(*case, threshold))
        assert got.sum() > 50


def test_boxes_and_scores_that_are_no_numbers_neither_go_nor_suppress(monkeypatch):
    boxes, scores, mask = (array[:20] for array in cases(8))
    odd = np.random.default_rng(9).uniform(size=scores.shape) < 0.2
    expected = suppress_by_class(boxes, scores, mask & ~odd, 0.3) | (mask & odd)
    with_scores, with_boxes = np.where(odd, np.nan, scores), np.where(odd[..., None], np.nan, boxes)
    for tile in (64, 4):
        monkeypatch.setattr("frcnn_jax.ops.nms._TILE", tile)
        function = jax.jit(lambda *case: nms_by_class(*case, 0.3))
        np.testing.assert_array_equal(function(boxes, with_scores, mask), expected)
        np.testing.assert_array_equal(function(with_boxes, scores, mask), expected)


def test_memory_grows_with_the_number_of_boxes_and_not_with_its_square():
    def memory(count):
        case = jnp.zeros((2, count, 4)), jnp.zeros((2, count)), jnp.zeros((2, count), bool)
        return suppress_by_class.lower(*case, 0.3).compile().memory_analysis().temp_size_in_bytes

    small, large = memory(4000), memory(16000)
    assert large < 4.5 * small
    assert large < 2 * 16000**2 / 8


def test_a_long_chain_over_several_tiles():
    left = 5.0 * np.arange(600, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 1], axis=1)
    order = np.random.default_rng(5).permutation(600)
    np.testing.assert_array_equal(suppress(boxes[order], -left[order], np.ones(600, bool), 0.3), order % 2 == 0)


def test_a_long_chain_in_any_order():
    # Each box overlaps only its neighbours, so whether one stays hangs on all before it: every second one does.
    left = 5.0 * np.arange(101, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 1], axis=1)
    kept = suppress(boxes, -left, np.ones(101, bool), 0.3)
    np.testing.assert_array_equal(kept, np.arange(101) % 2 == 0)
    order = np.random.default_rng(5).permutation(101)
    np.testing.assert_array_equal(suppress(boxes[order], -left[order], np.ones(101, bool), 0.3), order % 2 == 0)


def test_padding_and_order_do_not_matter_and_twice_is_once():
    boxes, scores, mask = cases(1)
    once = np.asarray(suppress_by_class(boxes, scores, mask, 0.3))
    np.testing.assert_array_equal(suppress_by_class(boxes, scores, once, 0.3), once)

    generator = np.random.default_rng(2)
    scores = generator.permuted(np.tile(np.arange(BOXES, dtype=np.float32), (CASES, 1)), axis=1)  # no ties
    kept = np.asarray(suppress_by_class(boxes, scores, mask, 0.3))
    order = generator.permutation(BOXES)
    shuffled = suppress_by_class(boxes[:, order], scores[:, order], mask[:, order], 0.3)
    np.testing.assert_array_equal(shuffled, kept[:, order])

    hidden = ~mask
    boxes[hidden] = [np.nan, -np.inf, np.inf, 1e30]
    scores[hidden] = generator.choice(np.array([np.nan, np.inf, -np.inf, 9], np.float32), hidden.sum())
    np.testing.assert_array_equal(suppress_by_class(boxes, scores, mask, 0.3), kept)


def test_a_masked_box_never_suppresses_even_where_scores_are_minus_infinity():
    # Masked boxes come first in the array and have the same sort key as the others if masked scores sink to -inf.
    boxes = jnp.array([[0.0, 0, 10, 10]] * 4)
    kept = suppress(boxes, jnp.full(4, -jnp.inf), jnp.array([False, False, True, True]), 0.3)
    np.testing.assert_array_equal(kept, [False, False, True, False])


def test_by_class_equals_a_loop():
    boxes, scores, mask = (jnp.array(array) for array in cases(3))
    kept = suppress_by_class(boxes, scores, mask, 0.5)
    for k in range(CASES):
        np.testing.assert_array_equal(kept[k], suppress(boxes[k], scores[k], mask[k], 0.5))


def test_none_and_one_and_nothing_real():
    assert nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool)).shape == (0,)
    assert nms_by_class(jnp.zeros((3, 0, 4)), jnp.zeros((3, 0)), jnp.zeros((3, 0), bool)).shape == (3, 0)
    one = jnp.array([[0.0, 0, 1, 1]])
    for real in (True, False):
        np.testing.assert_array_equal(suppress(one, jnp.array([0.1]), jnp.array([real]), 0.3), [real])
    three = jnp.tile(one, (3, 1))
    np.testing.assert_array_equal(suppress(three, jnp.ones(3), jnp.zeros(3, bool), 0.3), [False] * 3)
