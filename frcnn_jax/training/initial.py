"""The model, parameters and state before the first step, as a config describes them."""

import logging
from typing import Any

import jax
import jax.numpy as jnp

from frcnn_jax.config import Config
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.pixels import CENTERED_PIXELS, PixelNormalization
from frcnn_jax.training.optimizer import split_frozen
from frcnn_jax.training.state import TrainState, create_state
from frcnn_jax.training.statistics import box_statistics, identity_statistics
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.load import load_start, read_pixels

_log = logging.getLogger(__name__)


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


def abstract_state(config: Config, num_classes: int) -> TrainState:
    """Shapes and dtypes of the state, to restore a checkpoint into."""
    model = build_model(config, num_classes, CENTERED_PIXELS)  # pixels do not affect shapes

    def build() -> TrainState:
        return create_state(config, init_params(model, jax.random.key(0)), identity_statistics(num_classes))

    return jax.eval_shape(build)
