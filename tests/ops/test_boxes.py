"""Box arithmetic: by hand, against plain loops, gradients, invariances, the degenerate."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.boxes import (
    LARGEST_LOG_RATIO,
    box_area,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    paired_giou,
    paired_intersection,
    pairwise_iou,
)
from tests.ops import reference

iou = jax.jit(pairwise_iou)
giou = jax.jit(paired_giou)
encode = jax.jit(encode_boxes)
decode = jax.jit(decode_boxes)

COUNT = 24


def random_boxes(seed, count=COUNT, smallest=1.0):
    generator = np.random.default_rng(seed)
    corners = generator.uniform(-20, 100, (count, 2))
    return np.concatenate([corners, corners + generator.uniform(smallest, 80, (count, 2))], axis=1).astype(np.float32)


def nasty_boxes(seed):
    """Whole numbers: nested, touching, equal, empty and reversed ones among them."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(-4, 6, (COUNT, 2))
    return np.concatenate([corners, corners + generator.integers(-2, 7, (COUNT, 2))], axis=1).astype(np.float32)


def test_area_literals():
    boxes = jnp.array([[1.0, 2, 4, 6], [0.0, 0, 0, 5], [3.0, 0, 1, 5], [3.0, 5, 1, 0], [-2.0, -1, 0, 1]])
    np.testing.assert_array_equal(box_area(boxes), [12, 0, 0, 0, 4])


def test_iou_literals():
    # Half-open boxes: 2 x 2 ones shifted by one each way share 1 of 7; touching ones share nothing.
    a = jnp.array([[0.0, 0, 2, 2], [0.0, 0, 4, 4], [1.0, 1, 1, 1]])
    b = jnp.array([[1.0, 1, 3, 3], [2.0, 0, 4, 2], [0.0, 0, 2, 2], [2.0, 2, 0, 0]])
    want = [[1 / 7, 0, 1, 0], [4 / 16, 4 / 16, 4 / 16, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(iou(a, b), want, rtol=1e-7)
    np.testing.assert_array_equal(paired_intersection(a, b[:3]), [1, 4, 0])


def test_giou_literals():
    # Disjoint by one: union 2, hull 3. Corner to corner: union 7, hull 9. Equal; nested: 4 of 16, and the hull is the
    # union; touching: the hull is the union; both empty.
    a = jnp.array([[0.0, 0, 1, 1], [0.0, 0, 2, 2], [1.0, 2, 3, 4], [0.0, 0, 4, 4], [0.0, 0, 1, 1], [1.0, 1, 1, 1]])
    b = jnp.array([[2.0, 0, 3, 1], [1.0, 1, 3, 3], [1.0, 2, 3, 4], [1.0, 1, 3, 3], [1.0, 0, 2, 1], [5.0, 5, 5, 5]])
    np.testing.assert_allclose(giou(a, b), [-1 / 3, 1 / 7 - 2 / 9, 1, 1 / 4, 0, 0], rtol=1e-6)


def test_encode_and_decode_literals():
    # From centre (5, 10), size 10 x 20, to centre (15, 15), size 20 x 10.
    roi, box = jnp.array([[0.0, 0, 10, 20]]), jnp.array([[5.0, 10, 25, 20]])
    want = [[1, 0.25, math.log(2), -math.log(2)]]
    np.testing.assert_allclose(encode_boxes(roi, box), want, rtol=1e-6)
    np.testing.assert_allclose(decode_boxes(roi, jnp.array(want)), box, rtol=1e-6)


def test_a_size_changes_by_the_largest_ratio_at_most():
    roi = jnp.array([[0.0, 0, 16, 16]])
    assert math.exp(LARGEST_LOG_RATIO) == pytest.approx(1000 / 16)
    large = decode_boxes(roi, jnp.array([[0.0, 0, 50, 1e30]]))
    np.testing.assert_allclose(large, [[8 - 500, 8 - 500, 8 + 500, 8 + 500]], rtol=1e-5)
    small = decode_boxes(roi, jnp.array([[0.0, 0, -50, -jnp.inf]]))
    np.testing.assert_allclose(small[:, 2:] - small[:, :2], [[0.256, 0.256]], rtol=1e-4)


def test_clip_literals():
    boxes = jnp.array([[-5.0, -6, 3, 4], [1.0, 2, 30, 40], [50.0, 60, 70, 80], [9.0, 9, -1, -1]])
    want = [[0, 0, 3, 4], [1, 2, 20, 10], [20, 10, 20, 10], [9, 9, 0, 0]]
    np.testing.assert_array_equal(clip_boxes(boxes, jnp.array([10, 20])), want)
    by_class = clip_boxes(jnp.tile(boxes[:, None], (1, 3, 1)), jnp.array([10, 20]))
    np.testing.assert_array_equal(by_class[:, 2], want)


@pytest.mark.parametrize("kind", [random_boxes, nasty_boxes])
def test_iou_equals_a_plain_loop(kind):
    a, b = kind(0), kind(1)
    want = np.array([[reference.iou(x, y) for y in b] for x in a])
    # Whole numbers are exact, and so is a CPU's division; otherwise the compiler may fuse a multiplication and a
    # subtraction. A GPU's division errs by up to two units in the last place.
    exact = 0 if jax.default_backend() == "cpu" else 2.5e-7
    np.testing.assert_allclose(iou(a, b), want, rtol=exact if kind is nasty_boxes else 1e-5, atol=0)


def test_giou_equals_a_plain_loop():
    a, b = random_boxes(2), random_boxes(3)
    np.testing.assert_allclose(giou(a, b), [reference.giou(*pair) for pair in zip(a, b, strict=True)], atol=1e-5)


def test_encode_equals_a_plain_loop():
    a, b = random_boxes(4), random_boxes(5)
    want = [reference.encode(*pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(encode(a, b), want, rtol=1e-4, atol=1e-5)


def test_finite_differences(x64):
    a, b = (jnp.array(random_boxes(seed, 6), jnp.float64) for seed in (6, 7))
    b = b.at[1].set(a[0] + jnp.array([0.5, 0.7, -0.5, -0.9]))  # nested
    offsets = jnp.array(np.random.default_rng(8).normal(0, 0.5, (6, 4)))
    for function, arguments in ((encode_boxes, (a, b)), (decode_boxes, (a, offsets)), (paired_giou, (a, b))):
        check_grads(jax.jit(function), arguments, order=1, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4)


def test_giou_has_a_finite_gradient_everywhere():
    # Disjoint far and near, equal, nested, touching at a side and a corner, one empty, both empty, reversed.
    a = jnp.array([[0.0, 0, 4, 4]] * 7 + [[2.0, 2, 2, 2], [3.0, 3, 0, 0]])
    b = jnp.array(
        [
            [1e6, 1e6, 2e6, 2e6],
            [5, 0, 9, 4],
            [0, 0, 4, 4],
            [1, 1, 3, 3],
            [4, 0, 8, 4],
            [4, 4, 8, 8],
            [1, 1, 1, 1],
            [2, 2, 2, 2],
            [5, 5, 1, 1],
        ]
    )
    values, pull = jax.vjp(giou, a, b)
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 1).all()
    for side in pull(jnp.ones(len(a))):
        assert np.isfinite(side).all()
    # Boxes that do not meet are still drawn together.
    assert (pull(jnp.ones(len(a)))[0][1] != 0).any()


def test_decode_undoes_encode_and_encode_undoes_decode():
    a, b = random_boxes(9), random_boxes(10, smallest=2)
    np.testing.assert_allclose(decode(a, encode(a, b)), b, atol=2e-4)
    offsets = np.random.default_rng(11).normal(0, 0.4, (COUNT, 4)).astype(np.float32)
    a = random_boxes(9, smallest=10)
    np.testing.assert_allclose(encode(a, decode(a, offsets)), offsets, atol=2e-4)


def test_overlap_is_symmetric_and_does_not_depend_on_place_or_scale():
    a, b = nasty_boxes(12), nasty_boxes(13)
    base = np.asarray(iou(a, b))
    assert ((base >= 0) & (base <= 1)).all()
    np.testing.assert_array_equal(iou(b, a), base.T)
    np.testing.assert_array_equal(iou(a * 4 + 64, b * 4 + 64), base)
    a, b = random_boxes(12), random_boxes(13)
    np.testing.assert_allclose(giou(b, a), giou(a, b), atol=1e-6)
    assert (np.asarray(giou(a, b)) <= np.diag(iou(a, b)) + 1e-6).all()


def test_mirroring_negates_tx_alone():
    a, b = random_boxes(14), random_boxes(15)
    mirror = lambda boxes: np.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], axis=1)  # noqa: E731
    np.testing.assert_allclose(encode(mirror(a), mirror(b)), encode(a, b) * np.array([[-1, 1, 1, 1]]), atol=1e-4)
    np.testing.assert_allclose(np.diag(iou(mirror(a), mirror(b))), np.diag(iou(a, b)), atol=1e-5)


def test_vmap_equals_a_loop_and_jit_equals_eager():
    a, b = (jnp.array([kind(seed) for seed in (16, 17)]) for kind in (random_boxes, nasty_boxes))
    for function in (pairwise_iou, paired_giou, encode_boxes, decode_boxes):
        batched = jax.jit(jax.vmap(function))(a, b)
        np.testing.assert_allclose(batched[1], function(a[1], b[1]), rtol=2e-5, atol=1e-5)


def test_degenerate_boxes_give_finite_offsets():
    a, b = nasty_boxes(18), nasty_boxes(19)
    assert np.isfinite(encode(a, b)).all()
    assert np.isfinite(decode(a, encode(a, b))).all()
    # A size counts as a thousandth of a pixel at least.
    empty, pixel = jnp.zeros((1, 4)), jnp.array([[0.0, 0, 1, 1]])
    np.testing.assert_allclose(encode_boxes(empty, pixel), [[500, 500, math.log(1000), math.log(1000)]], rtol=1e-5)


def test_boxes_that_are_not_numbers_overlap_nothing():
    """Their area is not known, and neither is what depends on it."""
    b = jnp.array([[0.0, 0, 4, 4]])
    for bad in ([jnp.nan] * 4, [0, 0, jnp.nan, 4], [-jnp.inf, -jnp.inf, jnp.inf, jnp.inf], [0, 0, jnp.inf, 4]):
        a = jnp.array([bad], jnp.float32)
        np.testing.assert_array_equal(iou(a, b), [[0]])
        for unknown in (box_area(a), giou(a, b), giou(b, a), paired_intersection(a, b)):
            np.testing.assert_array_equal(unknown, [jnp.nan])


def test_no_boxes():
    none, one = jnp.zeros((0, 4)), jnp.ones((1, 4))
    assert pairwise_iou(none, one).shape == (0, 1)
    assert pairwise_iou(one, none).shape == (1, 0)
    assert encode_boxes(none, none).shape == decode_boxes(none, none).shape == (0, 4)
    assert clip_boxes(none, jnp.array([3, 4])).shape == (0, 4)
    assert paired_giou(none, none).shape == box_area(none).shape == (0,)
