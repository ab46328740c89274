"""The loss through the whole network, its gradient, and the step on one device and on several."""

import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.ops import losses
from frcnn_jax.training import step as step_module
from frcnn_jax.training.losses import MultiTaskLoss, batch_loss
from frcnn_jax.training.losses.batch_loss import loss_fn, sample_batch
from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.training.step import make_train_step
from tests.training.cases import (
    CONFIG,
    SAMPLING,
    OneLayer,
    least_model,
    random_params,
    small_batch,
    small_model,
    small_params,
)

# The sum of several, so that each is a part of the gradient.
ALL_LOSSES = MultiTaskLoss(
    lambda *arrays: losses.cross_entropy(*arrays) + losses.focal(*arrays),
    lambda *arrays: losses.smooth_l1_localization(*arrays) + losses.giou_localization(*arrays),
    localization_weight=0.25,
)
KEY = jax.random.key(7)


@jax.jit
def value_and_gradient(params, batch):
    function = partial(loss_fn, key=KEY, model=small_model(), sampling=SAMPLING)
    return jax.value_and_grad(function, has_aux=True)(params, batch)


def test_gradient_equals_finite_differences_in_float64(x64):
    model = small_model(dtype=np.float64)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), small_params())
    # Heads start so near zero that a mistake in them would not show.
    params["head"] = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
                                  params["head"])  # fmt: skip
    batch, settings = small_batch(), {"model": model, "loss": ALL_LOSSES, "sampling": SAMPLING}
    function = jax.jit(jax.value_and_grad(lambda p: loss_fn(p, batch, KEY, **settings)[0]))
    _, gradient = function(params)
    random = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape)), params)
    expected = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    size = 1e-7
    ahead, behind = (
        function(jax.tree.map(lambda p, d, sign=sign: p + sign * size * d, params, direction))[0] for sign in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * size), expected, rtol=1e-4)
    assert abs(expected) > 1e-3


def test_each_head_learns_from_its_own_loss():
    """So that `bbox_pred` alone can be trained, or left out of training (section 5.1)."""

    @jax.jit
    def gradient(class_weight, box_weight):
        weighted = MultiTaskLoss(
            lambda *arrays: class_weight * losses.cross_entropy(*arrays),
            lambda *arrays: box_weight * losses.smooth_l1_localization(*arrays),
        )
        function = partial(loss_fn, model=small_model(), loss=weighted, sampling=SAMPLING)
        return jax.grad(lambda p: function(p, small_batch(), KEY)[0])(small_params())["head"]

    both, classes, boxes = (gradient(*weights) for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(boxes["bbox_pred"][name], both["bbox_pred"][name])
        np.testing.assert_array_equal(classes["cls_score"][name], both["cls_score"][name])
        np.testing.assert_array_equal(classes["bbox_pred"][name], 0)
        np.testing.assert_array_equal(boxes["cls_score"][name], 0)
        assert np.abs(both["bbox_pred"][name]).max() > 0


def test_vmap_of_grad_over_images_equals_a_loop():
    model = small_model().clone(backbone=OneLayer())
    params = random_params(model)
    function = partial(loss_fn, key=KEY, model=model, loss=ALL_LOSSES, sampling=SAMPLING)
    gradient = jax.jit(jax.grad(lambda p, b: function(p, b)[0]))
    images = jax.tree.map(lambda x: jnp.asarray(x)[:, None], small_batch())
    together = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(params, images)
    for i in range(2):
        alone = gradient(params, jax.tree.map(lambda x, i=i: x[i], images))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert jnp.isfinite(a).all()
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-5)


def test_the_mean_of_the_gradients_of_each_image_is_that_of_the_batch():
    """Each image draws the RoIs and the dropout of its place, and the images have different numbers of RoIs."""
    model = small_model(dropout=0.5).clone(backbone=OneLayer())
    params, batch = random_params(model), small_batch(3)
    mask = np.array(batch.proposal_mask)
    mask[0, 2:] = False
    batch = batch.replace(proposal_mask=mask)

    def loss_of(params, batch, axis_name=None):
        return loss_fn(params, batch, KEY, model=model, sampling=SAMPLING, axis_name=axis_name)[0]

    of_image = jax.grad(partial(loss_of, axis_name="image"))
    images = jax.tree.map(lambda x: jnp.asarray(x)[:, None], batch)
    by_image = jax.jit(jax.vmap(of_image, (None, 0), axis_name="image"))(params, images)
    expected = jax.jit(jax.grad(loss_of))(params, batch)
    for a, b in zip(jax.tree.leaves(by_image), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a.mean(0), b, rtol=1e-4, atol=1e-6)


def test_padding_changes_neither_loss_nor_gradient():
    batch = small_batch()
    pad = {"images": ((0, 0), (0, 32), (0, 16), (0, 0)), "proposals": ((0, 0), (0, 9), (0, 0)),
           "proposal_mask": ((0, 0), (0, 9)), "gt_boxes": ((0, 0), (0, 4), (0, 0)), "gt_labels": ((0, 0), (0, 4)),
           "gt_difficult": ((0, 0), (0, 4)), "gt_mask": ((0, 0), (0, 4))}  # fmt: skip
    # What is padding must not be read, so it holds noise.
    padded = batch.replace(**{
        name: np.pad(getattr(batch, name), widths, constant_values=77 if name in ("images", "proposals") else 0)
        for name, widths in pad.items()
    })  # fmt: skip
    (loss, _), gradient = value_and_gradient(small_params(), batch)
    (padded_loss, _), padded_gradient = value_and_gradient(small_params(), padded)
    np.testing.assert_allclose(loss, padded_loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(padded_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


def test_image_without_proposals_or_objects():
    batch = small_batch()
    nothing = np.zeros_like(batch.gt_mask)
    (loss, aux), gradient = value_and_gradient(small_params(), batch.replace(gt_mask=nothing))
    assert aux["foreground"] == 0
    assert aux["background"] == 16
    assert jnp.isfinite(loss)
    empty = batch.replace(gt_mask=nothing, proposal_mask=np.zeros_like(batch.proposal_mask))
    (loss, aux), gradient = value_and_gradient(small_params(), empty)
    assert loss == 0
    assert all((x == 0).all() for x in jax.tree.leaves(gradient))


def test_difficult_objects_are_a_setting():
    batch = small_batch()
    batch = batch.replace(gt_difficult=batch.gt_labels == 2)
    with_them = sample_batch(batch, KEY, config=SAMPLING)
    assert set(np.unique(with_them.labels)) == {0, 1, 2}
    without = sample_batch(batch, KEY, config=dataclasses.replace(SAMPLING, use_difficult=False))
    assert set(np.unique(without.labels)) == {0, 1}


def test_the_balance_of_foreground_is_a_setting():
    """Two of the eight RoIs are foreground: with a balance one of each class, without at times two of one."""
    draw = {
        name: jax.jit(partial(sample_batch, config=dataclasses.replace(SAMPLING, foreground_balance=name)))
        for name in ("none", "class")
    }
    labels = {name: [draw[name](small_batch(), jax.random.key(k)).labels[:, :2] for k in range(8)] for name in draw}
    assert (np.sort(labels["class"], axis=-1) == [1, 2]).all()
    assert not (np.sort(labels["none"], axis=-1) == [1, 2]).all()


def test_crowds_are_not_drawn_whether_difficult_or_not():
    batch = small_batch()
    want = sample_batch(batch, KEY, config=SAMPLING)
    no_crowd = batch.replace(gt_crowd=np.zeros_like(batch.gt_mask))
    jax.tree.map(np.testing.assert_array_equal, sample_batch(no_crowd, KEY, config=SAMPLING), want)
    crowd = batch.replace(gt_crowd=batch.gt_labels == 2, gt_difficult=batch.gt_labels == 2)
    for use_difficult in (True, False):
        sample = sample_batch(crowd, KEY, config=dataclasses.replace(SAMPLING, use_difficult=use_difficult))
        assert set(np.unique(sample.labels)) == {0, 1}
        x1, y1, x2, y2 = np.moveaxis(np.asarray(sample.rois)[np.asarray(sample.labels == 0) & sample.mask], -1, 0)
        cover = np.clip(np.minimum(x2, 90) - np.maximum(x1, 50), 0, None)
        cover *= np.clip(np.minimum(y2, 60) - np.maximum(y1, 20), 0, None)
        assert len(x1)
        assert (cover < (x2 - x1) * (y2 - y1) / 2).all()


def test_accuracy_of_less_than_an_roi_per_device():
    """One RoI in two images of a device each: the mean over devices is its accuracy, and not half of it."""
    batch = small_batch()
    gt_mask = np.zeros_like(batch.gt_mask)
    gt_mask[0, 0] = True
    batch = batch.replace(gt_mask=gt_mask, proposal_mask=np.zeros_like(batch.proposal_mask))
    batch = jax.tree.map(lambda x: x[:, None], batch)  # a device for each image
    options = {"model": small_model(), "sampling": SAMPLING, "axis_name": "data"}

    @jax.jit
    def accuracy(label):
        params = small_params() | {"head": dict(small_params()["head"])}
        scores = params["head"]["cls_score"]
        params["head"]["cls_score"] = scores | {"bias": 100.0 * jax.nn.one_hot(label, 3)}
        return jax.vmap(lambda one: loss_fn(params, one, KEY, **options)[1]["accuracy"], axis_name="data")(batch).mean()

    assert [float(accuracy(label)) for label in (1, 2)] == [1, 0]


def state_and_step(axis_name, dropout=0.0, steps=10):
    return state_and_step_of(small_model(dropout), small_params(dropout), axis_name, steps)


def least_state_and_step():
    """Of a trunk of one layer."""
    return state_and_step_of(least_model(), random_params(least_model()), "data")


def state_and_step_of(model, params, axis_name, steps=10):
    state = create_state(CONFIG, jax.tree.map(jnp.copy, params), identity_statistics(3))
    optimizer = create_optimizer(CONFIG.optimizer, params, steps)
    return state, make_train_step(model, optimizer, sampling=SAMPLING, axis_name=axis_name)


def test_steps_reduce_the_loss_and_are_repeatable():
    step = jax.jit(state_and_step(None, dropout=0.5)[1])

    def run():
        state, _ = state_and_step(None, dropout=0.5)
        history = []
        for _ in range(30):
            state, metrics = step(state, small_batch(), KEY)
            history.append(float(metrics["loss"]))
        return state, history

    (state, history), (again, _) = run(), run()
    assert state.step == 30
    assert np.mean(history[-5:]) < 0.7 * history[0]
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True))


def test_two_devices_equal_one_and_pmap_equals_shard_map():
    """In a process of its own, since the number of devices is fixed when JAX starts."""
    root = Path(__file__).parents[2]
    code = "from tests.training.two_devices import main; main()"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 devices agree" in result.stdout


def test_gradients_are_each_devices_own_under_strict_shard_map(monkeypatch):
    """Not sums over devices, of which the mean would be as many times too large. Nothing is computed."""
    seen, mean = [], step_module.mean_over_devices

    def record(tree, axis_name, **options):
        seen.append({jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)})
        return mean(tree, axis_name, **options)

    for module in (step_module, batch_loss):
        monkeypatch.setattr(module, "mean_over_devices", record)
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: init_params(least_model(), KEY)))
    step = make_train_step(least_model(), create_optimizer(CONFIG.optimizer, params, 10), sampling=SAMPLING)
    everywhere, by_image = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        lambda *arguments: step(*arguments)[0],
        mesh=AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(everywhere, by_image, everywhere),
        out_specs=everywhere,
        check_vma=True,
    )
    jax.eval_shape(mapped, create_state(CONFIG, params), small_batch(), KEY)
    assert seen == [{frozenset({"data"})}] * 2


@pytest.mark.usefixtures("unchecked_types")
def test_masks_of_numbers_count_by_value():
    """Two and one have no bit in common, and are both True; neither is a position."""
    batch = small_batch(3).replace(gt_difficult=np.tile([True, False, False], (3, 1)), gt_crowd=np.zeros((3, 3), bool))
    names = ("gt_mask", "gt_difficult", "gt_crowd", "proposal_mask")
    numbers = batch.replace(image_mask=np.ones(3, np.int32), **{name: 2 * getattr(batch, name) for name in names})
    config = dataclasses.replace(SAMPLING, use_difficult=False)
    want, found = (sample_batch(x, KEY, config=config) for x in (batch, numbers))
    assert set(np.unique(want.labels)) == {0, 2}
    jax.tree.map(np.testing.assert_array_equal, found, want)
    wrong = numbers.replace(gt_labels=np.array([[1, 2, 0], [1, 2, 0], [1, 9, 0]]))
    with pytest.raises(ValueError, match=r"9 is not of 1 \.\.\. 2"):
        loss_fn({}, wrong, KEY, model=least_model())
