"""Caffe's SGD, with a rule for every parameter (section 2.3, "SGD hyper-parameters").

Caffe keeps the learning rate inside the momentum buffer, v <- m v + lr (g + decay w), w <- w - v, so that a drop of the
rate acts on new gradients only; `optax.sgd` multiplies the buffer by the rate, and the drop acts on the past too.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from frcnn_jax.config import OptimizerConfig, ParameterRule, in_steps
from frcnn_jax.ops.arguments import is_whole
from frcnn_jax.ops.names import path_name


def parameter_paths(params: Any) -> Any:
    """The same tree with each array replaced by its path, as in "backbone/conv1_1/kernel"."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)


def match_rules(params: Any, rules: Sequence[ParameterRule]) -> Any:
    """The same tree with the first rule whose pattern is found in each parameter's path.

    Raises:
        ValueError: a parameter matches no rule, or a rule is the first of no parameter, as it matches none or earlier
            rules match all of its own (parameters that were meant to be frozen would otherwise be trained).
    """
    paths = parameter_paths(params)
    leaves = jax.tree.leaves(paths)
    matching = {path: [i for i, rule in enumerate(rules) if re.search(rule.pattern, path)] for path in leaves}
    unmatched = [path for path in leaves if not matching[path]]
    if unmatched:
        if not rules:
            raise ValueError("optimizer.rules is empty: frcnn_jax.resolve_rules(config) has the architecture's own")
        raise ValueError(f"no rule in optimizer.rules matches the parameters {', '.join(unmatched)}")
    used = {i for found in matching.values() for i in found}
    unused = [rule.pattern for i, rule in enumerate(rules) if i not in used]
    if unused:
        raise ValueError(
            f"the patterns {', '.join(map(repr, unused))} in optimizer.rules match no parameter; "
            f"there are {', '.join(leaves)}"
        )
    hidden = sorted(used - {found[0] for found in matching.values()})
    if hidden:
        pattern = rules[hidden[0]].pattern
        path = next(path for path, found in matching.items() if hidden[0] in found)
        before = rules[matching[path][0]].pattern
        raise ValueError(
            f"the pattern {pattern!r} in optimizer.rules has no effect, as earlier rules match all of its parameters, "
            f"for example {before!r} matches {path}: put it before them, or leave it out"
        )
    return jax.tree.map(lambda path: rules[matching[path][0]], paths)


def split_frozen(params: Any, rules: Sequence[ParameterRule]) -> tuple[Any, Any]:
    """(trainable, frozen): two trees of the same structure, each with None in place of the other's parameters."""
    matched = match_rules(params, rules)
    trainable = jax.tree.map(lambda p, rule: None if rule.learning_rate is None else p, params, matched)
    frozen = jax.tree.map(lambda p, rule: p if rule.learning_rate is None else None, params, matched)
    return trainable, frozen


def merge(trainable: Any, frozen: Any) -> Any:
    """The complete tree from the two halves of `split_frozen`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None)


def learning_rate_schedule(config: OptimizerConfig, steps: int | None) -> optax.Schedule:
    """Learning rate by step: constant with drops, or a cosine to zero at `steps`; warmed up linearly from zero.

    A drop counts from its step on, inside the warm-up too.

    Raises:
        ValueError: the rate depends on `steps`, and it is None (`train.epochs` is set and images are not counted yet).
    """
    if steps is None and config.follows_length:
        raise ValueError(
            "the learning rate depends on the number of steps, which train.epochs leaves unknown until the images are "
            "counted: give it, as frcnn_jax.config.with_steps(config, images).train.steps"
        )
    warmup = in_steps(config.warmup, steps)
    drops: dict[int, float] = {}
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(steps - warmup, 1))
    else:
        for drop in config.drops:
            step = in_steps(drop, steps)
            drops[step] = drops.get(step, 1.0) * config.drop_factor  # with few steps, shares can be the same step
        shifted = {step - warmup: factor for step, factor in drops.items()}
        after = optax.piecewise_constant_schedule(config.learning_rate, shifted)
    if warmup:
        before = optax.linear_schedule(0.0, config.learning_rate, warmup)
        if any(step < warmup for step in drops):
            before = _product(before, optax.piecewise_constant_schedule(1.0, drops))
        after = optax.join_schedules([before, after], [warmup])
    # Optax multiplies integer steps by floats, which strict dtype promotion refuses.
    return lambda step: after(jnp.asarray(step, float))


def _product(*schedules: optax.Schedule) -> optax.Schedule:
    return lambda step: math.prod(schedule(step) for schedule in schedules)


def learning_rates(config: OptimizerConfig, steps: int) -> Float[np.ndarray, " S"]:
    """The learning rate of every step of a training, by `learning_rate_schedule`."""
    return np.asarray(jax.jit(jax.vmap(learning_rate_schedule(config, steps)))(jnp.arange(steps)))


def create_optimizer(config: OptimizerConfig, params: Any, steps: int | None) -> optax.GradientTransformation:
    """Caffe's SGD for the parameters that `config.rules` do not freeze.

    Args:
        config: learning rate and its schedule, momentum, weight decay, bound on the gradient's norm, and a rule for
            every parameter (section 2.3).
        params: all parameters, frozen ones too; only their paths are used.
        steps: length of the training, at which a cosine schedule ends; None if the rate does not depend on it.

    Returns:
        A transformation of the tree in which frozen parameters are None, `TrainState.trainable`. Its updates are
        steps to add, the learning rate included: the schedule's, or the argument `learning_rate` of `update`.

    Raises:
        ValueError: a parameter matches no rule, a rule matches no parameter or only those of earlier rules, all are
            frozen, `steps` is not a whole number of at least 1, or the rate depends on `steps` and it is None.
    """
    if steps is not None and not (is_whole(steps) and steps >= 1):
        raise ValueError(f"steps must be a whole number of at least 1, not {steps!r}")
    matched = match_rules(params, config.rules)
    trainable = [rule for rule in jax.tree.leaves(matched) if rule.learning_rate is not None]
    if not trainable:
        raise ValueError("optimizer.rules freeze every parameter")

    def by_rule(scale: Any) -> Any:
        return jax.tree.map(lambda rule: None if rule.learning_rate is None else scale(rule), matched)

    decays = by_rule(lambda rule: config.weight_decay * rule.weight_decay)
    rates = by_rule(lambda rule: rule.learning_rate)
    return optax.chain(
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        _stateless(lambda update, param, decay: update + decay * param, decays),
        _stateless(lambda update, _, rate: update * rate, rates),
        _scale_by_learning_rate(learning_rate_schedule(config, steps)),
        optax.trace(decay=config.momentum),
    )


def _scale_by_learning_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales by the schedule, or by the argument `learning_rate` of `update` instead."""

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: Any = None, **_: Any) -> Any:
        rate = schedule if learning_rate is None else lambda _: learning_rate
        return optax.scale_by_learning_rate(rate).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(optax.scale_by_learning_rate(schedule).init, update)


def _stateless(function: Any, factors: Any) -> optax.GradientTransformation:
    """Applies `function(update, param, factor)` to every parameter with its factor."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates, params, factors))
