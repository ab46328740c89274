"""The state of a run, and the model, parameters and optimizer that a config describes."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from frcnn_jax.config import Config
from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.heads import output_layers
from frcnn_jax.models.pixels import CENTERED_PIXELS, PixelNormalization
from frcnn_jax.training.optimizer import create_optimizer, merge, split_frozen
from frcnn_jax.training.statistics import box_statistics, identity_statistics
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.load import load_start, read_pixels

_log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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


def build_model(config: Config, num_classes: int, pixels: PixelNormalization | None = None) -> FastRCNN:
    """The model that a config describes.

    Args:
        num_classes: background included.
        pixels: normalization that the weights expect; if None, that of `model.weights` or of the architecture.
    """
    if pixels is None:
        pixels = read_start_pixels(config)
    return create_model(
        config.model.name,
        num_classes,
        dropout=config.model.dropout,
        dtype=jnp.dtype(config.model.dtype),
        pixels=pixels,
        fc6_rank=config.model.fc6_rank,
        fc7_rank=config.model.fc7_rank,
        roi_pooling=config.model.roi_pooling,
    )


def read_start_pixels(config: Config) -> PixelNormalization | None:
    """The normalization that `model.weights` expects; None if there are no weights or they do not state it.

    Raises:
        ValueError: `model.new_heads` is set without `model.weights`; or as `read_pixels`.
    """
    if config.model.weights is not None:
        return read_pixels(config.model.weights, config.model.name)
    if config.model.new_heads:
        raise ValueError(
            "model.new_heads replaces layers of model.weights, which is not set: give --model.weights too, or "
            "--model.no-new-heads"
        )
    return None


def initial_params(config: Config, model: FastRCNN, statistics: BoxStatistics, key: jax.Array) -> Any:
    """Parameters before the first step: random, or those of `model.weights`, with new heads if `model.new_heads`."""
    if config.model.weights is None:
        params = init_params(model, key)
        frozen = jax.tree.leaves(split_frozen(params, config.optimizer.rules)[1])
        if frozen:
            _log.warning("optimizer.rules freeze %d arrays that are random: set model.weights", len(frozen))
        return params
    return load_start(config.model.weights, model, statistics, key, new_heads=config.model.new_heads)


def first_state(config: Config, model: FastRCNN, dataset: Any, proposals: Any) -> tuple[TrainState, jax.Array]:
    """The state before the first step, and the key of the run."""
    statistics = box_statistics(
        proposals,
        dataset.annotations,
        len(dataset.classes) + 1,
        foreground_iou=config.sampling.foreground_iou,
        use_difficult=config.sampling.use_difficult,
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
    )
    init_key, key = jax.random.split(jax.random.key(config.train.seed))
    return create_state(config, initial_params(config, model, statistics, init_key), statistics), key


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
            and deviation 1 if None.
        optimizer: any of optax, for the learned parameters; the one that `create_optimizer` builds from the same
            settings if None. Rates, decay and schedule of the config do not apply to it.

    Raises:
        ValueError: a parameter matches no rule, a rule matches no parameter, or all are frozen; or statistics are not
            given and the number of classes cannot be read from the parameters.
    """
    trainable, frozen = split_frozen(params, config.optimizer.rules)
    if optimizer is None:
        # The state does not depend on the length of the training, which may still be unknown.
        optimizer = create_optimizer(config.optimizer, params, config.train.steps or 1)
    if statistics is None:
        statistics = identity_statistics(_count_classes(config, params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        statistics=statistics,
    )


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


def abstract_state(config: Config, num_classes: int) -> TrainState:
    """Shapes and dtypes of the state, to restore a checkpoint into."""
    model = build_model(config, num_classes, CENTERED_PIXELS)  # pixels do not affect shapes

    def build() -> TrainState:
        return create_state(config, init_params(model, jax.random.key(0)), identity_statistics(num_classes))

    return jax.eval_shape(build)
