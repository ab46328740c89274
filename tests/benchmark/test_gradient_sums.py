"""scripts/gradient_sums.py: the steps that it times make the same update; its table, and what is no time."""

import jax
import numpy as np
import pytest

from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.training.step import make_train_step
from tests.benchmark.conftest import one_layer_model


def both_steps(name, images):
    """State and metrics after a step with the gradient summed at once, and as the script's function has it."""
    import gradient_sums
    from bench.scene import make_batch, training_config
    from bench.sizes import QUICK

    from frcnn_jax.models.fast_rcnn import init_params

    model, config = one_layer_model(QUICK.num_classes), training_config("tiny", QUICK)
    state = create_state(config, init_params(model, jax.random.key(0)), identity_statistics(QUICK.num_classes))
    optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
    steps = (
        make_train_step(model, optimizer, sampling=config.sampling, axis_name=None),
        getattr(gradient_sums, name)(model, optimizer, config.sampling),
    )
    return [jax.jit(step)(state, make_batch(QUICK, images), jax.random.key(1)) for step in steps]


def assert_same_state(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-12)


@pytest.mark.long
def test_images_beside_each_other_make_the_same_update():
    (state, metrics), (other, found) = both_steps("images_beside", 2)
    assert metrics["foreground"] == found["foreground"]
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    assert_same_state(other, state)


@pytest.mark.long
def test_one_image_makes_the_same_update_alone():
    (state, metrics), (other, found) = both_steps("images_one_by_one", 1)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    assert_same_state(other, state)


@pytest.fixture
def runs(monkeypatch):
    """Losses of the steps by the name of the function that makes them, in place of steps."""
    import gradient_sums

    losses = {"make_train_step": 2.0, "images_beside": 2.01, "images_one_by_one": 3.0}

    def training_run(name, sizes, devices, make):
        return lambda: (None, {"loss": losses[getattr(make, "func", make).__name__]}), 1000

    monkeypatch.setattr(gradient_sums, "_training_run", training_run)
    return losses


def test_a_table_has_each_way_and_its_time_over_the_first(runs, monkeypatch, capsys):
    import gradient_sums

    monkeypatch.setattr(jax, "device_count", lambda: 4)
    gradient_sums.main(["--quick", "--models", "tiny", "--images", "3"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gradients: ")]
    ways = ["at once", "images beside each other", "images one by one", "at once", "in the order of the devices"]
    assert [row.partition("images, ")[2].partition("  ")[0] for row in rows] == ways
    assert [row.split(",")[1] for row in rows] == [" 1 x 3 images"] * 3 + [" 4 x 3 images"] * 2
    assert [" of at once" in row for row in rows] == [False, True, True, False, True]


@pytest.mark.parametrize(("name", "loss"), [("images_beside", 2.1), ("images_one_by_one", float("nan"))])
def test_a_loss_that_is_another_one_is_no_time(name, loss, runs):
    import gradient_sums
    from bench.sizes import QUICK

    runs[name] = loss
    with pytest.raises(FloatingPointError, match=rf"tiny, images .*: the loss is {loss}, at once 2.0; the time says"):
        gradient_sums.measure_sums("tiny", QUICK, 1)
