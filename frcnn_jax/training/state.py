"""The state of a training: parameters, optimizer state and box statistics."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from frcnn_jax.config import Config, ParameterRule
from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.heads import output_layers
from frcnn_jax.training.optimizer import create_optimizer, merge, split_frozen
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import BoxStatistics

_log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrainState:
    """Everything a step changes, and the box statistics that normalise the model's deltas."""

    step: Array  # int32, number of updates made
    trainable: Any  # learned parameters; None in place of the others
    frozen: Any  # the others
    opt_state: Any
    statistics: BoxStatistics

    replace = dataclasses.replace

    @property
    def params(self) -> dict[str, Any]:
        """All parameters, for the model."""
        return merge(self.trainable, self.frozen)


def create_state(
    config: Config,
    params: Any,
    statistics: BoxStatistics | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        config: its `optimizer.rules` say which parameters are frozen.
        params: all parameters, as `init_params` and `load_weights` return them; the state shares their arrays.
        statistics: box-target statistics of the model's deltas, [K1, 4] each, as `box_statistics` measures them; mean 0
            and deviation 1 if None. They are copied, so that a step that donates the state leaves them.
        optimizer: any of optax, for the learned parameters; the one that `create_optimizer` builds from the same
            settings if None. Rates, decay and schedule of the config, and those of its rules, do not apply to it; a
            warning names a rule that has other ones than 1.

    Raises:
        ValueError: a parameter matches no rule, a rule matches no parameter, or all are frozen; or statistics are not
            given and the number of classes cannot be read from the parameters.
    """
    trainable, frozen = split_frozen(params, config.optimizer.rules)
    if optimizer is None:
        # The state does not depend on the length of the training, which may still be unknown.
        optimizer = create_optimizer(config.optimizer, params, config.train.steps or 1)
    else:
        _warn_of_factors(config.optimizer.rules)
    if statistics is None:
        statistics = identity_statistics(_count_classes(config, params))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        statistics=jax.tree.map(_copied, statistics),
    )
    return _without_repeats(state)


def _copied(array: Any) -> Any:
    """A copy of an array of JAX, which could be donated; others as they are."""
    return array.copy() if isinstance(array, jax.Array) else array


def _without_repeats(tree: Any) -> Any:
    """The tree with a copy of each array that occurs again in it.

    Some optimizers keep the first parameters, and no array can be donated twice.
    """
    found: set[int] = set()

    def once(array: Any) -> Any:
        repeated = id(array) in found
        found.add(id(array))
        return _copied(array) if repeated else array

    return jax.tree.map(once, tree)


def _warn_of_factors(rules: Sequence[ParameterRule]) -> None:
    """Warns of a rule whose factors an optimizer of one's own does not apply."""
    for rule in rules:
        if rule.learning_rate is not None and (rule.learning_rate, rule.weight_decay) != (1, 1):
            _log.warning(
                "optimizer.rules: learning_rate %g and weight_decay %g of %r do not apply to an optimizer of your own: "
                "give it rates by part, as with optax.multi_transform, and the rule 1 for both",
                *(rule.learning_rate, rule.weight_decay, rule.pattern),
            )
            return


def _count_classes(config: Config, params: Any) -> int:
    """Number of classes including background, from the score layer of the config's model, or from `cls_score`."""
    head = params.get("head", {})
    names = ["cls_score"]
    if config.model.name in ARCHITECTURES:
        names.insert(0, output_layers(create_model(config.model.name, 2).head)[0])
    for name in names:
        if name in head and "bias" in head[name]:
            return head[name]["bias"].shape[0]
    raise ValueError(
        f"the parameters have no head/{names[0]}/bias to count classes by: give create_state the box "
        "statistics, or set output_layers of the head"
    )
