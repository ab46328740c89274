"""Losses: by hand, against a plain loop, gradients, masks, the degenerate."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from frcnn_jax.ops.losses import (
    cross_entropy,
    focal,
    giou_localization,
    multi_task_loss,
    smooth_l1,
    smooth_l1_localization,
)
from tests.ops import reference

ROIS, CLASSES = 12, 4  # classes with background

total = jax.jit(multi_task_loss, static_argnames=("classification", "localization", "localization_weight"))
VARIANTS = [
    {},
    {"classification": focal},
    {"localization": giou_localization},
    {"classification": focal, "localization": giou_localization, "localization_weight": 0.5},
]


def sample(seed, dtype=np.float32):
    """Arguments of `multi_task_loss` by position; a third of the RoIs background, a quarter masked."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 50, (ROIS, 2))
    rois = np.concatenate([corners, corners + generator.uniform(10, 60, (ROIS, 2))], axis=1)
    labels = np.where(np.arange(ROIS) % 3 == 0, 0, generator.integers(1, CLASSES, ROIS))
    mask = np.arange(ROIS) % 4 != 1
    arrays = [
        2 * generator.normal(size=(ROIS, CLASSES)),
        1.5 * generator.normal(size=(ROIS, CLASSES, 4)),
        rois,
        labels,
        rois + generator.uniform(-4, 4, (ROIS, 4)),
        mask,
        generator.normal(0, 0.1, (CLASSES, 4)),
        generator.uniform(0.1, 0.3, (CLASSES, 4)),
    ]
    return [jnp.array(a, dtype if a.dtype == np.float64 else None) for a in arrays]


def unchecked(function):
    """The function past the shape checker of the tests, as users call it."""
    return inspect.unwrap(function)


def test_cross_entropy_literals():
    # Softmax of (log 1, log 2, log 5) is 1/8, 2/8, 5/8; three equal logits give 1/3 each.
    logits = jnp.array(
        [[0.0, math.log(2), math.log(5)]] * 3 + [[7.0, 7.0, 7.0], [1000.0, 0.0, 0.0], [1000.0, 0.0, 0.0]]
    )
    want = [math.log(8), math.log(4), math.log(8 / 5), math.log(3), 0, 1000]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0, 1, 2, 1, 0, 2])), want, rtol=1e-6)


def test_focal_literals():
    # p = 1/4: (3/4)^2 log 4; gamma 0 is the cross-entropy; gamma 1/2 takes the root.
    logits, labels = jnp.array([[0.0, math.log(3)]]), jnp.array([0])
    np.testing.assert_allclose(focal(logits, labels), [9 / 16 * math.log(4)], rtol=1e-6)
    np.testing.assert_allclose(focal(logits, labels, gamma=0.0), [math.log(4)], rtol=1e-6)
    np.testing.assert_allclose(focal(logits, labels, gamma=0.5), [math.sqrt(3 / 4) * math.log(4)], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_is_finite_at_probabilities_of_one_and_zero(gamma):
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0], [1e30, 0.0], [0.0, 0.0]])
    value, slope = jax.value_and_grad(lambda x: focal(x, jnp.zeros(4, jnp.int32), gamma=gamma).sum())(logits)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    # Surely wrong: the loss is -log p and its slope is that of the cross-entropy.
    np.testing.assert_allclose(slope[1], [-1, 1], rtol=1e-5)


def test_smooth_l1_literals():
    errors = jnp.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0])
    np.testing.assert_array_equal(smooth_l1(errors), [0, 0.125, 0.125, 0.5, 0.5, 1.5, 2.5])
    slopes = jax.vmap(jax.grad(smooth_l1))(errors)
    np.testing.assert_array_equal(slopes, [0, 0.5, -0.5, 1, -1, 1, -1])


def test_localization_literals():
    # From 10 x 20 at centre (5, 10) to 20 x 20 at (15, 10): targets (1, 0, log 2, 0). With mean (0.5, 0, 0, 0) and
    # std (0.25, 1, 1, 1) they become (2, 0, log 2, 0); deltas (0, 0.5, log 2, 3) are off by 2, 0.5, 0 and 3.
    rois, boxes = jnp.array([[0.0, 0, 10, 20]]), jnp.array([[5.0, 0, 25, 20]])
    mean, std = jnp.array([[0.5, 0, 0, 0]]), jnp.array([[0.25, 1, 1, 1]])
    deltas = jnp.array([[0, 0.5, math.log(2), 3]])
    np.testing.assert_allclose(smooth_l1_localization(deltas, rois, boxes, mean, std), [1.5 + 0.125 + 2.5], rtol=1e-6)
    # The right deltas decode to the box; zeros with this mean to (5, 0, 15, 20), which is half of it, hull the same.
    right = jnp.array([[2, 0, math.log(2), 0]])
    np.testing.assert_allclose(giou_localization(right, rois, boxes, mean, std), [0], atol=1e-6)
    np.testing.assert_allclose(giou_localization(jnp.zeros((1, 4)), rois, boxes, mean, std), [0.5], rtol=1e-6)


def test_multi_task_loss_literals():
    # Four RoIs, one masked. Even logits cost log 2 each. The first is background, so its offsets do not count; the
    # second is off by 2 in one coordinate of its own class (1.5); the third is right. All over three RoIs.
    rois = jnp.tile(jnp.array([[0.0, 0, 10, 10]]), (4, 1))
    deltas = jnp.zeros((4, 2, 4)).at[0].set(9).at[1, 1, 2].set(-2).at[1, 0].set(7).at[3].set(5)
    labels, mask = jnp.array([0, 1, 1, 1]), jnp.array([True, True, True, False])
    arguments = (jnp.zeros((4, 2)), deltas, rois, labels, rois, mask, jnp.zeros((2, 4)), jnp.ones((2, 4)))
    loss, parts = total(*arguments, localization_weight=2.0)
    np.testing.assert_allclose(parts["classification"], math.log(2), rtol=1e-6)
    np.testing.assert_allclose(parts["localization"], 1.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(loss, math.log(2) + 2 * 1.5 / 3, rtol=1e-6)
    # A data-parallel step divides by the mean count of all devices, which may be below one.
    loss, _ = total(*arguments, localization_weight=2.0, count=jnp.float32(0.5))
    np.testing.assert_allclose(loss, (3 * math.log(2) + 2 * 1.5) / 0.5, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_plain_loop(seed):
    arguments = sample(seed)
    loss, parts = total(*arguments, localization_weight=0.7)
    want = reference.multi_task_loss(*map(np.asarray, arguments), weight=0.7)
    np.testing.assert_allclose([loss, parts["classification"], parts["localization"]], want, rtol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_finite_differences(options, x64):
    logits, deltas, *rest = sample(5, np.float64)
    check_grads(
        jax.jit(lambda x, t: multi_task_loss(x, t, *rest, **options)[0]),
        (logits, deltas),
        order=1,
        modes=["rev"],
        atol=1e-5,
        rtol=1e-5,
    )


@partial(jax.jit, static_argnums=2)
def value_and_gradient(arguments, count, options):
    def loss(logits, deltas, rois, gt_boxes):
        labels, mask, mean, std = (arguments[i] for i in (3, 5, 6, 7))
        arrays = (logits, deltas, rois, labels, gt_boxes, mask, mean, std)
        return multi_task_loss(*arrays, count=count, **dict(options))[0]

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*(arguments[i] for i in (0, 1, 2, 4)))


@pytest.mark.parametrize("options", VARIANTS)
def test_masked_rows_count_for_nothing_whatever_is_in_them(options):
    options = tuple(options.items())
    clean = sample(6)
    value, slopes = value_and_gradient(clean, None, options)
    masked = ~np.asarray(clean[5])
    background = masked | (np.asarray(clean[3]) == 0)
    for bad in (np.nan, np.inf, -np.inf, 1e38):
        dirty = [np.array(a) for a in clean]
        dirty[0][masked] = bad
        dirty[1][background] = bad  # offsets and boxes of background count as little
        dirty[2][masked] = dirty[4][background] = bad
        dirty[3][masked] = [0, -1, 99]
        got, got_slopes = value_and_gradient([jnp.array(a) for a in dirty], None, options)
        np.testing.assert_array_equal(got, value)
        for got_slope, slope in zip(got_slopes, slopes, strict=True):
            np.testing.assert_array_equal(got_slope, slope)
    assert (np.asarray(slopes[0])[masked] == 0).all()
    assert (np.asarray(slopes[1])[background] == 0).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_an_offset_that_is_nan_makes_the_loss_nan(options):
    arguments = sample(6)
    first = np.flatnonzero(np.asarray(arguments[5]) & (np.asarray(arguments[3]) > 0))[0]
    dirty = (arguments[0], arguments[1].at[first].set(jnp.nan), *arguments[2:])
    assert np.isnan(value_and_gradient(dirty, None, tuple(options.items()))[0])


@pytest.mark.parametrize("options", VARIANTS)
def test_only_an_rois_own_class_is_drawn(options):
    arguments = sample(7)
    _, (_, slopes, *_) = value_and_gradient(arguments, None, tuple(options.items()))
    foreground = np.asarray(arguments[5] & (arguments[3] > 0))
    own = np.arange(CLASSES) == np.asarray(arguments[3])[:, None]
    drawn = (np.asarray(slopes) != 0).any(-1)
    np.testing.assert_array_equal(drawn, own & foreground[:, None])


@pytest.mark.parametrize(("options", "count"), [*((options, None) for options in VARIANTS), ({}, 0.0)])
def test_nothing_real_gives_zero_and_zero_gradient(options, count):
    arguments = sample(8)
    arguments[5] = jnp.zeros(ROIS, bool)
    count = None if count is None else jnp.float32(count)
    value, slopes = value_and_gradient(arguments, count, tuple(options.items()))
    assert float(value) == 0
    for slope in slopes:
        np.testing.assert_array_equal(slope, np.zeros(slope.shape))


def test_padding_and_order_do_not_matter():
    arguments = sample(9)
    loss, _ = total(*arguments)
    order = np.random.default_rng(10).permutation(ROIS)
    shuffled = [a[order] if a.shape[0] == ROIS else a for a in arguments]
    np.testing.assert_allclose(total(*shuffled)[0], loss, rtol=1e-6)
    padded = [jnp.concatenate([a, jnp.zeros_like(a)]) if a.shape[0] == ROIS else a for a in arguments]
    np.testing.assert_allclose(total(*padded)[0], loss, rtol=1e-6)


def test_vmap_equals_a_loop_and_jit_equals_eager():
    first, second = sample(11), sample(12)
    batched = jax.jit(jax.vmap(lambda *a: multi_task_loss(*a)[0]))(
        *(jnp.stack(p) for p in zip(first, second, strict=True))
    )
    np.testing.assert_allclose(batched, [total(*first)[0], total(*second)[0]], rtol=1e-6)
    np.testing.assert_allclose(multi_task_loss(*first)[0], batched[0], rtol=1e-6)


def test_degenerate_boxes_give_finite_losses_and_gradients():
    arguments = sample(13)
    arguments[2] = arguments[2].at[:4].set(jnp.array([[5.0, 5, 5, 5], [9, 9, 1, 1], [0, 0, 0, 9], [3, 3, 4, 4]]))
    arguments[4] = (
        arguments[4].at[2:6].set(jnp.array([[5.0, 5, 5, 5], [9, 9, 1, 1], [0, 0, 0, 9], [1e4, 1e4, 2e4, 2e4]]))
    )
    arguments[5] = jnp.ones(ROIS, bool)
    for options in VARIANTS:
        value, slopes = value_and_gradient(arguments, None, tuple(options.items()))
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_no_rois():
    arguments = [a[:0] if a.shape[0] == ROIS else a for a in sample(14)]
    assert float(multi_task_loss(*arguments)[0]) == 0


def mean_entropy(logits, labels):
    return cross_entropy(logits, labels).mean()


def unsummed(deltas, rois, gt_boxes, mean, std):
    return smooth_l1(deltas)


def column(*boxes):
    return smooth_l1_localization(*boxes)[:, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": mean_entropy}, r"the classification loss .* for each RoI, \[12\], not \[\]"),
        ({"localization": column}, r"the localization loss .* for each RoI, \[12\], not \[12, 1\]"),
        ({"localization": unsummed}, r"the localization loss .* for each RoI, \[12\], not \[12, 4\]"),
    ],
)
def test_a_loss_of_ones_own_gives_a_value_for_each_roi(options, message):
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=message):  # as users have it
        multi_task_loss(*sample(16), **options)


def one_hot_entropy(logits, labels):
    return -(jax.nn.one_hot(labels, logits.shape[1]) * jax.nn.log_softmax(logits)).sum(1)


@pytest.mark.parametrize("label", [-CLASSES - 1, -CLASSES, -1, CLASSES, CLASSES + 1])
def test_a_label_of_no_class_makes_the_loss_nan(label):
    arguments = sample(17)
    place = int(np.flatnonzero(arguments[5])[0])
    arguments[3] = arguments[3].at[place].set(label)
    for loss in (cross_entropy, focal):
        np.testing.assert_array_equal(jnp.isnan(loss(arguments[0], arguments[3])), np.arange(ROIS) == place)
        assert jnp.isnan(multi_task_loss(*arguments, classification=loss)[0])
    # A loss of one's own may take such a label for none of the classes.
    assert jnp.isnan(multi_task_loss(*arguments, classification=one_hot_entropy)[0])


def test_misshapen_input_is_refused():
    logits, deltas, rois, labels, gt_boxes, mask, mean, std = sample(15)
    for function in (cross_entropy, focal):
        with pytest.raises(ValueError, match=r"takes labels \[R\] = \[12\], not \[11\]"):
            unchecked(function)(logits, labels[:-1])
        with pytest.raises(ValueError, match=r"takes labels \[R\] = \[12\], not \[12, 1\]"):
            unchecked(function)(logits, labels[:, None])
    for function in (smooth_l1_localization, giou_localization):
        with pytest.raises(ValueError, match=r"takes deltas \[R, 4\].*, not \[12, 1\]"):
            unchecked(function)(rois[:, :1], rois, gt_boxes, rois, rois)
        with pytest.raises(ValueError, match=r"takes gt_boxes \[R, 4\] = \[12, 4\], not \[1, 4\]"):
            unchecked(function)(rois, rois, gt_boxes[:1], rois, rois)
    run = unchecked(multi_task_loss)
    with pytest.raises(ValueError, match=r"takes deltas \[R, K1, 4\] = \[12, 4, 4\], not \[12, 16\]"):
        run(logits, deltas.reshape(ROIS, -1), rois, labels, gt_boxes, mask, mean, std)
    good = (logits, deltas, rois, labels, gt_boxes, mask, mean, std)
    wrong = {2: rois[:1], 4: gt_boxes[:1], 5: mask[:1], 6: mean[:1], 7: std[:1]}
    for position, array in wrong.items():
        with pytest.raises(ValueError, match="multi_task_loss takes "):
            run(*good[:position], array, *good[position + 1 :])
