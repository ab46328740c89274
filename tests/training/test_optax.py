"""Optimizers of optax in a state and in the step that donates it; the loss is that of a few numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from frcnn_jax.config import ParameterRule
from frcnn_jax.training import step as step_module
from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.training.step import make_train_step
from tests.training.cases import CONFIG

FROZEN_TRUNK = (ParameterRule("^backbone/", None), ParameterRule("^head/"))
KEEP_THE_START = {
    "prodigy": contrib.prodigy,
    "dog": contrib.dog,
    "dowg": contrib.dowg,
    "madgrad": lambda: contrib.madgrad(0.1),
    "sam": lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "mechanize": lambda: contrib.mechanize(optax.sgd(0.1)),
    "schedule_free": lambda: contrib.schedule_free_sgd(0.1),
}
TAKE_THE_LOSS = {
    "polyak_sgd": optax.polyak_sgd,
    "momo": contrib.momo,
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau()),
    "accumulated": lambda: optax.MultiSteps(optax.polyak_sgd(), every_k_schedule=2),
}
TAKE_NOTHING = {"lion": lambda: optax.lion(0.1), "plain": lambda: optax.GradientTransformation(*optax.sgd(0.1))}


def config_of(*rules):
    return dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, rules=rules))


def parameters():
    return {"backbone": {"kernel": jnp.full(2, 3.0)}, "head": {"kernel": jnp.full(4, 2.0), "bias": jnp.ones(3)}}


def state_of(optimizer, *rules):
    return create_state(config_of(*rules), parameters(), identity_statistics(3), optimizer)


@pytest.fixture
def step_of(monkeypatch):
    """The step with an optimizer on the sum of the parameters' squares, jitted and with a donated state."""

    def squares(params, batch, key, **_):
        loss = sum(jnp.vdot(x, x) for x in jax.tree.leaves(params))
        return loss, dict.fromkeys(("loss", "foreground", "background"), loss)

    monkeypatch.setattr(step_module, "loss_fn", squares)
    return lambda optimizer: jax.jit(make_train_step(None, optimizer, axis_name=None), donate_argnums=0)


@pytest.mark.parametrize("name", [*KEEP_THE_START, *TAKE_THE_LOSS, *TAKE_NOTHING])
def test_steps_with_an_optimizer_of_optax(step_of, name):
    optimizer = (KEEP_THE_START | TAKE_THE_LOSS | TAKE_NOTHING)[name]()
    state, step = state_of(optimizer, *FROZEN_TRUNK), step_of(optimizer)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(optimizer.init(state.trainable))
    for _ in range(4):
        state, metrics = step(state, None, jax.random.key(0))
    assert np.isfinite(metrics["loss"])
    assert state.params["backbone"]["kernel"].tolist() == [3, 3]
    assert float(jnp.abs(state.params["head"]["kernel"] - 2).min()) > 0


def test_the_loss_that_an_optimizer_takes_is_that_of_the_batch(step_of):
    """The first step of `polyak_sgd` is loss / |gradient|^2: (18 + 16 + 3) / (4 (16 + 3)) of the gradient."""
    optimizer = optax.polyak_sgd()
    state, _ = step_of(optimizer)(state_of(optimizer, *FROZEN_TRUNK), None, jax.random.key(0))
    np.testing.assert_allclose(state.params["head"]["bias"], 1 - 2 * 37 / (4 * 19), rtol=1e-5)


def test_parameters_to_detect_with_of_a_schedule_free_optimizer(step_of):
    optimizer = contrib.schedule_free_sgd(0.1)
    state, step = state_of(optimizer, *FROZEN_TRUNK), step_of(optimizer)
    for _ in range(3):
        state, _ = step(state, None, jax.random.key(0))
    averaged = contrib.schedule_free_eval_params(state.opt_state, state.trainable)
    params = state.replace(trainable=averaged).params
    assert params["backbone"]["kernel"].tolist() == [3, 3]
    assert float(jnp.abs(params["head"]["bias"] - state.params["head"]["bias"]).min()) > 1e-3


def test_statistics_and_arrays_that_occur_twice_survive_a_donated_state(step_of):
    params, statistics = parameters(), identity_statistics(3)
    params["head"]["again"] = params["head"]["kernel"]
    config = config_of(*FROZEN_TRUNK)
    step = step_of(create_optimizer(config.optimizer, params, 10))
    state, _ = step(create_state(config, params, statistics), None, jax.random.key(0))
    assert float(statistics.std.min()) == 1
    np.testing.assert_array_equal(state.params["head"]["again"], state.params["head"]["kernel"])


@pytest.mark.parametrize("factors", [(0.1, 1.0), (1.0, 0.0), (2.0, 0.0)])
def test_factors_of_rules_that_do_not_apply_are_named(factors, caplog):
    rules = (ParameterRule("^backbone/", None, 0.0), ParameterRule("/bias$", *factors), ParameterRule("/kernel$"))
    state_of(None, *rules)
    assert not caplog.records
    state_of(optax.sgd(0.1), *rules)
    rate, decay = factors
    assert f"learning_rate {rate:g} and weight_decay {decay:g} of '/bias$' do not apply" in caplog.text
    assert len(caplog.records) == 1


def test_rules_without_factors_are_used_silently(caplog):
    state_of(optax.sgd(0.1), *FROZEN_TRUNK)
    assert not caplog.records
