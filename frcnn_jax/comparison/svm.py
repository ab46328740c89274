"""Linear SVMs on features, one per class against the rest, trained on the device for all classes at once.

This and `stages/liblinear.py` minimise, for each class separately,

    w.w / 2 + (b / B)^2 / 2 + sum_i C_i max(0, 1 - y_i (w.x_i + b))

where y is +1 or -1, C_i is `c` for negatives and `c * positive_weight` for positives, and B is `bias_multiplier`: the
bias is the weight of one more feature that is always B, and so is regularised too.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = ["LinearSvms", "svm_objective", "train_svms", "train_svms_on_host"]

_log = logging.getLogger(__name__)

# Features of a block share one Gram matrix, which replaces passes over the features by passes over its columns.
_BLOCK = 128
_PASSES_BETWEEN_CHECKS = 4
_EXACT = lax.Precision.HIGHEST


class LinearSvms(NamedTuple):
    """Weights and biases of K classes."""

    weights: Float[Array, "K F"]
    biases: Float[Array, " K"]

    def score(self, features: Float[Array, "P F"]) -> Float[Array, "P K"]:
        """Signed margins; above 0 the class is predicted."""
        return jnp.matmul(features, self.weights.T, precision=_EXACT) + self.biases[None, :]


def svm_objective(
    weights: Float[np.ndarray, " F"],
    bias: float,
    features: Float[np.ndarray, "M F"],
    is_positive: Bool[np.ndarray, " M"],
    *,
    c: float = 0.001,
    bias_multiplier: float = 10.0,
    positive_weight: float = 2.0,
) -> float:
    """The minimised sum of one class, in float64."""
    weights = np.asarray(weights, np.float64)
    margins = np.where(is_positive, 1.0, -1.0) * (np.asarray(features, np.float64) @ weights + bias)
    costs = np.where(is_positive, c * positive_weight, c)
    regularisation = (weights @ weights + (bias / bias_multiplier) ** 2) / 2
    return float(regularisation + costs @ np.maximum(1 - margins, 0))


def train_svms(
    features: Float[np.ndarray, "M F"],
    is_positive: Bool[np.ndarray, "M K"],
    mask: Bool[np.ndarray, "M K"],
    *,
    c: float = 0.001,
    bias_multiplier: float = 10.0,
    positive_weight: float = 2.0,
    tolerance: float = 1e-4,
    max_passes: int = 10_000,
) -> LinearSvms:
    """SVMs of all classes at once on the device, by dual coordinate descent (Hsieh et al., ICML 2008) block by block.

    Each class has its own examples among the same features. Needs the memory of the features twice on the host and once
    on the device, in float32. Numbers of examples are rounded up, so that few programs are compiled.

    Args:
        mask: examples of each class; those with False are ignored. A class without examples gets zeros.
        tolerance: training ends when the duality gap over the objective is at most this for every class; the objective
            is then at most that far from its minimum.
        max_passes: most passes over the examples, in steps of 4 and at least 4; if reached, a warning is logged.

    Raises:
        ValueError: a class has no solution, as with features that are not finite.
    """
    checks = max(max_passes // _PASSES_BETWEEN_CHECKS, 1)
    count, length = features.shape
    padded = _padded_count(count)
    # Shuffled once, to spread the positives, which usually come first, over the blocks.
    order = np.random.default_rng(0).permutation(count)
    blocks = np.zeros((padded, length), np.float32)
    np.take(features, order, axis=0, out=blocks[:count])
    signs = np.full((padded, mask.shape[1]), -1.0, np.float32)
    signs[:count] = np.where(is_positive[order], 1.0, -1.0)
    caps = np.zeros_like(signs)
    caps[:count] = np.where(is_positive[order], c * positive_weight, c) * mask[order]
    weights, last, gaps = _descend(
        blocks.reshape(-1, _BLOCK, length),
        signs.reshape(-1, _BLOCK, signs.shape[1]),
        caps.reshape(-1, _BLOCK, caps.shape[1]),
        np.float32(bias_multiplier),
        np.float32(tolerance),
        checks,
    )
    gaps = np.asarray(gaps)
    if not np.isfinite(gaps).all():
        raise ValueError(
            f"SVMs: class {int((~np.isfinite(gaps)).argmax()) + 1} has no solution: features, c, bias_multiplier or "
            "positive_weight are not finite, or too large for float32"
        )
    if (gaps > tolerance).any():
        _log.warning(
            "SVMs: after %d passes class %d is within %.2g of its minimum, not %.2g",
            checks * _PASSES_BETWEEN_CHECKS, int(gaps.argmax()) + 1, gaps.max(), tolerance,
        )  # fmt: skip
    return LinearSvms(weights, last * np.float32(bias_multiplier))


def _padded_count(count: int) -> int:
    """At least `count`, in steps of a fifth, and a whole number of blocks."""
    step = math.ceil(math.log(max(count / _BLOCK, 1), 1.2) - 1e-9)
    return math.ceil(max(1.2**step * _BLOCK, count) / _BLOCK) * _BLOCK


class _State(NamedTuple):
    alphas: Float[Array, "n B K"]  # dual variables, 0 ... the example's cost
    weights: Float[Array, "K F"]
    last: Float[Array, " K"]  # weight of the constant feature `bias_multiplier`
    gaps: Float[Array, " K"]
    checks: Array


@partial(jax.jit, static_argnames="max_checks")
def _descend(
    blocks: Float[Array, "n B F"],
    signs: Float[Array, "n B K"],
    caps: Float[Array, "n B K"],
    bias_multiplier: Array,
    tolerance: Array,
    max_checks: int,
) -> tuple[Float[Array, "K F"], Float[Array, " K"], Float[Array, " K"]]:
    """Weights, last weights, and the duality gaps over the objectives."""
    grams = lax.map(lambda x: jnp.matmul(x, x.T, precision=_EXACT), blocks) + bias_multiplier**2

    def visit(block: Array, state: _State) -> _State:
        x, gram, y, cap, alphas = (part[block] for part in (blocks, grams, signs, caps, state.alphas))
        scores = jnp.matmul(x, state.weights.T, precision=_EXACT) + bias_multiplier * state.last[None, :]

        def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            scores, alphas = carry
            better = alphas[i] - (y[i] * scores[i] - 1) / jnp.maximum(gram[i, i], 1e-12)
            better = jnp.clip(better, 0, cap[i])
            change = (better - alphas[i]) * y[i]
            return scores + gram[:, i, None] * change[None, :], alphas.at[i].set(better)

        _, better = lax.fori_loop(0, x.shape[0], step, (scores, alphas))
        change = (better - alphas) * y
        return state._replace(
            alphas=state.alphas.at[block].set(better),
            weights=state.weights + jnp.matmul(change.T, x, precision=_EXACT),
            last=state.last + bias_multiplier * change.sum(0),
        )

    def passes(state: _State) -> _State:
        def one(number: Array, state: _State) -> _State:
            key = jax.random.fold_in(jax.random.key(0), state.checks * _PASSES_BETWEEN_CHECKS + number)
            order = jax.random.permutation(key, blocks.shape[0])
            return lax.fori_loop(0, blocks.shape[0], lambda i, state: visit(order[i], state), state)

        return check(lax.fori_loop(0, _PASSES_BETWEEN_CHECKS, one, state))

    def check(state: _State) -> _State:
        # Weights are summed up again, as rounding errors of many small changes accumulate.
        signed = state.alphas * signs
        weights = jnp.einsum("nbk,nbf->kf", signed, blocks, precision=_EXACT)
        last = bias_multiplier * signed.sum((0, 1))
        scores = jnp.einsum("nbf,kf->nbk", blocks, weights, precision=_EXACT) + bias_multiplier * last[None, None, :]
        hinge = (caps * jnp.maximum(1 - signs * scores, 0)).sum((0, 1))
        square = (weights**2).sum(1) + last**2
        primal = square / 2 + hinge
        gaps = (primal - (state.alphas.sum((0, 1)) - square / 2)) / jnp.maximum(primal, 1e-30)
        return state._replace(weights=weights, last=last, gaps=gaps, checks=state.checks + 1)

    classes, length = signs.shape[2], blocks.shape[2]
    start = _State(
        jnp.zeros_like(caps), jnp.zeros((classes, length)), jnp.zeros(classes), jnp.full(classes, jnp.inf), jnp.int32(0)
    )
    # A gap that is NaN stays so, and is no reason to go on.
    end = lax.while_loop(lambda state: (state.gaps > tolerance).any() & (state.checks < max_checks), passes, start)
    return end.weights, end.last, end.gaps


def train_svms_on_host(
    features: Float[np.ndarray, "M F"],
    is_positive: Bool[np.ndarray, "M K"],
    mask: Bool[np.ndarray, "M K"],
    **settings: float,
) -> LinearSvms:
    """`train_svms` on the processor, even beside an accelerator."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return LinearSvms(*jax.device_get(train_svms(features, is_positive, mask, **settings)))
