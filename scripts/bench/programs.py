"""Compiled calls for several topics: a training step, or any function, with its memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.config import Config
from frcnn_jax.distributed.arrays import AXIS
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.step import StepFunction, make_train_step, map_train_step
from frcnn_jax.types import Batch


def training_run(
    model: FastRCNN, config: Config, state: TrainState, batch: Batch
) -> tuple[Callable[[], Any], int | None]:
    """A function that makes consecutive steps, as the training loop does on one device with the batch on it, and the
    memory of a step. The state is donated.
    """
    compiled, *inputs = compile_training(model, config, state, batch)
    del state
    return repeat_training(compiled, *inputs), bytes_needed(compiled)


def compile_training(
    model: FastRCNN,
    config: Config,
    state: TrainState,
    batch: Batch,
    devices: int = 1,
    make_step: Callable[..., StepFunction] = make_train_step,
) -> tuple[Any, ...]:
    """The compiled training step for the first devices, and its state, batch and key there."""
    mesh = Mesh(np.array(jax.devices()[:devices]), (AXIS,))
    optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
    step = map_train_step(make_step(model, optimizer, sampling=config.sampling), mesh)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
    key = jax.random.key(2)
    return step.lower(state, batch, key).compile(), state, batch, key


def repeat_training(compiled: Any, state: TrainState, batch: Batch, key: Any) -> Callable[[], Any]:
    """A function that makes one step after the other. The state is donated."""

    def run() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return state, metrics

    return run


def bytes_needed(compiled: Any) -> int | None:
    """Bytes of arguments, results and temporary arrays of a compiled function; None if not reported."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return kept + found.temp_size_in_bytes


def compiled_call(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], int | None]:
    """A call of `function`, compiled, and the bytes it needs."""
    arguments = jax.device_put(arguments)
    compiled = jax.jit(function).lower(*arguments).compile()
    return partial(compiled, *arguments), bytes_needed(compiled)


def constant_params(model: FastRCNN) -> Any:
    """Constant parameters, which need no compilation, unlike random ones."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 0.01, leaf.dtype)), shapes)
