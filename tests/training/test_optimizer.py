"""Caffe's SGD by hand, and the rules that must cover every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frcnn_jax.config import Config, OptimizerConfig, ParameterRule
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    learning_rates,
    merge,
    parameter_paths,
    split_frozen,
)

PARAMS = {"head": {"fc": {"kernel": jnp.array([2.0]), "bias": jnp.array([3.0])}}, "conv1": {"kernel": jnp.array([5.0])}}
RULES = (ParameterRule("^conv1/", None), ParameterRule("/bias$", 2.0, 0.0), ParameterRule("/kernel$"))


def run(config, gradients, steps=10):
    trainable, frozen = split_frozen(PARAMS, config.rules)
    optimizer = create_optimizer(config, PARAMS, steps)
    state = optimizer.init(trainable)
    for gradient in gradients:
        tree = jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), trainable)
        updates, state = optimizer.update(tree, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    return merge(trainable, frozen)


def test_two_steps_by_hand():
    config = OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.5, drops=(100,), rules=RULES)
    params = run(config, [1.0, 1.0])
    # kernel: v = 0.1 (1 + 0.5 * 2) = 0.2, w = 1.8; v = 0.9 * 0.2 + 0.1 (1 + 0.5 * 1.8) = 0.37, w = 1.43
    np.testing.assert_allclose(params["head"]["fc"]["kernel"], [1.43], rtol=1e-6)
    # bias: twice the rate, no decay. v = 0.2, b = 2.8; v = 0.18 + 0.2 = 0.38, b = 2.42
    np.testing.assert_allclose(params["head"]["fc"]["bias"], [2.42], rtol=1e-6)
    assert params["conv1"]["kernel"] == 5.0


def test_learning_rate_is_inside_the_momentum():
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, drops=(2,), drop_factor=0.1, rules=RULES)
    params = run(config, [1.0] * 4)
    # v = 1, w = 1; v = 1.9, w = -0.9; the rate drops: v = 1.71 + 0.1 = 1.81, w = -2.71; v = 1.729, w = -4.439.
    np.testing.assert_allclose(params["head"]["fc"]["kernel"], [-4.439], rtol=1e-5)
    # Twice the rate: v = 2, b = 1; v = 3.8, b = -2.8; v = 3.42 + 0.2 = 3.62, b = -6.42; v = 3.458, b = -9.878.
    np.testing.assert_allclose(params["head"]["fc"]["bias"], [-9.878], rtol=1e-5)
    # With the rate outside: v = 1, 1.9, 2.71, 3.439, and w = 2 - 1 - 1.9 - 0.271 - 0.3439 = -1.5149.
    outside = optax.sgd(learning_rate_schedule(config, 4), momentum=0.9)
    w, state = jnp.array([2.0]), outside.init(jnp.array([2.0]))
    for _ in range(4):
        update, state = outside.update(jnp.array([1.0]), state)
        w = optax.apply_updates(w, update)
    np.testing.assert_allclose(w, [-1.5149], rtol=1e-5)


def test_one_step_of_the_paper():
    config = resolve_rules(Config()).optimizer
    layer = {"kernel": jnp.array([4.0]), "bias": jnp.array([4.0])}
    params = {"backbone": dict.fromkeys(("conv1_1", "conv2_2", "conv3_1"), layer), "head": {"bbox_pred": layer}}
    trainable, frozen = split_frozen(params, config.rules)
    optimizer = create_optimizer(config, params, 40_000)
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 5.0), trainable)
    updates, _ = optimizer.update(gradient, optimizer.init(trainable), trainable)
    for learned in (updates["backbone"]["conv3_1"], updates["head"]["bbox_pred"]):
        # 0.001 (5 + 0.0005 * 4) and 0.002 * 5
        np.testing.assert_allclose(learned["kernel"], [-0.005002], rtol=1e-6)
        np.testing.assert_allclose(learned["bias"], [-0.01], rtol=1e-6)
    for name in ("conv1_1", "conv2_2"):
        assert updates["backbone"][name] == {"kernel": None, "bias": None}
        assert frozen["backbone"][name] == layer


def test_clip_bounds_the_norm_of_the_whole_gradient():
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, clip_norm=1.0, rules=RULES)
    params = run(config, [3.0])
    # Gradient (3, 3) has norm 4.2426 and becomes (0.7071, 0.7071).
    np.testing.assert_allclose(params["head"]["fc"]["kernel"], [2 - 0.70710678], rtol=1e-5)


def test_schedules():
    step = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, drops=(3, 5), warmup=2), 10)
    np.testing.assert_allclose([step(i) for i in range(7)], [0, 0.5, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    cosine = learning_rate_schedule(OptimizerConfig(learning_rate=2.0, schedule="cosine"), 4)
    np.testing.assert_allclose([cosine(i) for i in range(5)], [2, 1.70710678, 1, 0.29289322, 0], atol=1e-6)


def test_drops_inside_the_warmup_count_from_their_steps():
    step = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, drops=(1, 3, 6), drop_factor=0.5, warmup=4), 10)
    np.testing.assert_allclose([step(i) for i in range(8)],
                               [0, 0.125, 0.25, 0.1875, 0.25, 0.25, 0.125, 0.125], rtol=1e-6)  # fmt: skip


def test_frozen_parameters_have_no_optimizer_state():
    trainable, frozen = split_frozen(PARAMS, RULES)
    assert trainable["conv1"]["kernel"] is None
    assert len(jax.tree.leaves(frozen)) == 1
    merged = merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True))


def test_every_parameter_needs_a_rule_and_every_rule_a_parameter():
    with pytest.raises(ValueError, match="matches the parameters head/fc/bias"):
        split_frozen(PARAMS, (ParameterRule("/kernel$"),))
    with pytest.raises(ValueError, match=r"'\^conv9' in optimizer.rules match no parameter"):
        split_frozen(PARAMS, (ParameterRule("^conv9", None), *RULES))
    hidden = (
        r"pattern '\^head/' in .* has no effect, .* '/bias\$' matches head/fc/bias: put it before them, or leave it out"
    )
    with pytest.raises(ValueError, match=hidden):
        split_frozen(PARAMS, (*RULES, ParameterRule("^head/", None)))
    with pytest.raises(ValueError, match=r"'\^conv1/' in optimizer.rules has no effect"):  # the same rule twice
        split_frozen(PARAMS, (*RULES, RULES[0]))
    with pytest.raises(ValueError, match="freeze every parameter"):
        create_optimizer(OptimizerConfig(rules=(ParameterRule("", None),)), PARAMS, 1)


def test_parameters_in_lists_have_their_number_as_name():
    params = {"branches": [{"kernel": 1}, {"kernel": 2}], "scale": (3,)}
    paths = {"branches": [{"kernel": "branches/0/kernel"}, {"kernel": "branches/1/kernel"}], "scale": ("scale/0",)}
    assert parameter_paths(params) == paths


def test_drops_and_warmup_as_shares_of_the_training():
    shares = OptimizerConfig(learning_rate=1.0, warmup=0.1, drops=(0.5, 0.75))
    whole = OptimizerConfig(learning_rate=1.0, warmup=2, drops=(10, 15))
    by_share, by_steps = learning_rate_schedule(shares, 20), learning_rate_schedule(whole, 20)
    assert [float(by_share(step)) for step in range(20)] == [float(by_steps(step)) for step in range(20)]
    assert float(by_share(16)) == pytest.approx(0.01)
    cosine = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup=0.1, schedule="cosine"), 20)
    np.testing.assert_allclose([float(cosine(step)) for step in (1, 2, 11, 20)], [0.5, 1, 0.5, 0], atol=1e-6)


def test_two_drops_at_one_step_of_a_short_training_both_count():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, drops=(0.5, 0.6)), 4)
    np.testing.assert_allclose([float(schedule(step)) for step in (1, 2)], [1, 0.01], rtol=1e-5)


COSINE = OptimizerConfig(learning_rate=0.3, warmup=0.2, schedule="cosine", rules=RULES)


def test_a_rate_that_is_given_takes_the_place_of_the_schedule_to_the_same_bits():
    trainable, _ = split_frozen(PARAMS, RULES)
    optimizer = create_optimizer(COSINE, PARAMS, 10)

    @jax.jit
    def step(state, **given):
        return optimizer.update(jax.tree.map(jnp.ones_like, trainable), state, trainable, **given)

    by_schedule = by_rate = optimizer.init(trainable)
    for rate in learning_rates(COSINE, 10):
        expected, by_schedule = step(by_schedule)
        given, by_rate = step(by_rate, learning_rate=rate)
        jax.tree.map(np.testing.assert_array_equal, (given, by_rate), (expected, by_schedule))
    np.testing.assert_allclose(learning_rates(COSINE, 10)[:3], [0, 0.15, 0.3], rtol=1e-6)


def test_trainings_of_other_lengths_share_their_program():
    trainable, _ = split_frozen(PARAMS, RULES)

    def program(steps, **given):
        optimizer = create_optimizer(COSINE, PARAMS, steps)
        return str(jax.make_jaxpr(optimizer.update)(trainable, optimizer.init(trainable), trainable, **given))

    rate = np.float32(0.1)
    assert program(10, learning_rate=rate) == program(20, learning_rate=rate)
    assert program(10) != program(20)


def test_a_rate_that_depends_on_a_length_that_is_not_known_is_refused():
    assert float(learning_rate_schedule(OptimizerConfig(), None)(0)) == pytest.approx(1e-3)
    for settings in ({"schedule": "cosine"}, {"drops": (0.5,)}):
        with pytest.raises(ValueError, match=r"which train\.epochs leaves unknown .*with_steps\(config"):
            create_optimizer(OptimizerConfig(**settings, rules=RULES), PARAMS, None)


def test_the_largest_settings_are_computed():
    most = 2**31 - 1
    rates = learning_rates(OptimizerConfig(drops=(most,), warmup=most), 2)
    np.testing.assert_allclose(rates, [0, 1e-3 / most], atol=1e-9)
    assert jax.random.key_data(jax.random.key(2**32 - 1)).tolist() == [0, 2**32 - 1]


@pytest.mark.parametrize("steps", [0, -5, 2.5, True])
def test_a_length_that_is_none_is_refused(steps):
    with pytest.raises(ValueError, match=rf"steps must be a whole number of at least 1, not {steps}"):
        create_optimizer(OptimizerConfig(), {}, steps)
