"""Fine-tuning of a network, or of its last layers, with a softmax on windows drawn from all images."""

import math
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, Evaluations, read_evaluations, write_evaluations
from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.stages.batches import WindowBatches, mean_over_parts
from frcnn_jax.comparison.stages.step_clock import Shapes, StepClock
from frcnn_jax.config import Config, OptimizerConfig, ParameterRule, TrainConfig, replace
from frcnn_jax.data.pipeline import iterate
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.ops.losses import cross_entropy
from frcnn_jax.progress import Progress, paused_clock
from frcnn_jax.signals import set_unsaved
from frcnn_jax.training.interruption import deferred_signals
from frcnn_jax.training.optimizer import create_optimizer, merge
from frcnn_jax.training.state import TrainState, create_state
from frcnn_jax.training.statistics import identity_statistics

__all__ = ["FineTuned", "Task", "fine_tune", "optimizer_config"]


class Task(NamedTuple):
    """The network to fine-tune, and its inputs."""

    params: Any
    classifier: str  # path of the new layer, as in "head/cls_score"
    load: Callable[[Any], Float[Array, " B *F"]]  # from the result of a batch's `read` to the input on the device
    logits: Callable[[Any, Array, PRNGKeyArray | None], Float[Array, "B K1"]]  # from params, input, dropout key
    pixels: PixelNormalization  # of the network
    at_once: int | None = None  # most inputs whose gradient is computed at once; None: all of a batch


class FineTuned(NamedTuple):
    """Parameters after fine-tuning, with steps and losses."""

    params: Any
    steps: int  # number of steps made
    chosen: int  # step of the parameters
    losses: tuple[tuple[int, float], ...]  # step, loss on held-out windows


def optimizer_config(settings: FineTuningConfig, classifier: str) -> OptimizerConfig:
    """Caffe's SGD: biases have twice the rate and no decay; the classifier multiplies both."""
    return settings.optimizer(
        rules=(
            ParameterRule(f"^{classifier}/kernel$", settings.classifier_rate),
            ParameterRule(f"^{classifier}/bias$", 2 * settings.classifier_rate, 0.0),
            ParameterRule("/(bias|scale)$", 2.0, 0.0),
            ParameterRule("/kernel$"),
        )
    )


def fine_tune(
    folder: Path,
    task: Task,
    source: WindowBatches,
    held_out: WindowBatches | None,
    *,
    config: Config,
    settings: FineTuningConfig,
    describe: Callable[[Config], CheckpointMetadata],
    clock: StepClock,
    section: str = "fine_tuning",
) -> FineTuned:
    """Makes the steps of `source`, resuming from the newest checkpoint in `folder`; `task.params` are consumed.

    Interrupted by Ctrl-C or SIGTERM, it ends the step and writes a checkpoint first. With `held_out` it ends when the
    loss has not fallen for `settings.patience` measurements, but not before `settings.least_steps`.

    Args:
        describe: `describe(config=...)` returns the metadata of the checkpoints, for the config with the optimizer of
            the fine-tuning.
        clock: times the steps, but not compiling: not the first step of this process, unless it is the only one to
            time, and not a first computation of inputs of other shapes. Checkpoints and measurements are not timed
            either: Fast R-CNN's are written while it goes on, and the paper measures nothing.
        section: name of the settings, for messages.

    Raises:
        FloatingPointError: the loss is not finite; names the step.
        KeyboardInterrupt: interrupted; the state is in the newest checkpoint.
    """
    steps = len(source)
    length = TrainConfig(steps=max(steps, 1), seed=config.train.seed)
    config = replace(config, optimizer=optimizer_config(settings, task.classifier), train=length)
    optimizer = create_optimizer(config.optimizer, task.params, length.steps)
    state, key = create_state(config, task.params, identity_statistics(2)), jax.random.key(config.train.seed)
    update, measure = _compile(task, optimizer, held_out)
    with ExitStack() as resources:
        checkpoints = resources.enter_context(closing(Checkpoints(folder)))
        iterator = iterate(source, config.input.workers, prefetch=max(config.input.workers, 2))
        if checkpoints.latest is not None:
            state, key, position = checkpoints.restore(state)
            checkpoints.add_sums()
            iterator.set_state(clock.resume(position, int(state.step)))
        else:
            clock.reset()
        number = int(state.step)
        values = read_evaluations(folder).up_to(number)
        metadata = describe(config=config)
        interrupted = resources.enter_context(deferred_signals())
        set_unsaved(False)  # until a step is made, so that a signal ends even a long compilation
        progress = resources.enter_context(closing(Progress(total=steps, initial=number, desc="Fine-tuning")))
        resources.callback(clock.stop)
        shapes = Shapes()

        def due(number: int) -> bool:
            return held_out is not None and number > 0 and (number % settings.measure_every == 0 or number == steps)

        def measured(values: Evaluations, number: int) -> Evaluations:
            if due(number) and number not in values.steps:
                clock.stop()
                # `Evaluations` looks for the highest value.
                values = values.add(number, -measure(merge(state.trainable, state.frozen)))
                write_evaluations(folder, values)
                progress.set_postfix_str(f"loss on held-out windows {-values.values[-1][1]:.3f}")
            return values

        on_cpu = jax.default_backend() == "cpu"
        values = measured(values, number)
        if number == steps - 1 and not clock.steps:
            clock.start()
        stopped = interrupted()
        while number < steps and not _exhausted(values, number, settings) and not stopped:
            inputs, labels, flips = next(iterator)
            compiles = shapes.are_new(inputs)
            if compiles and clock.is_running:
                jax.block_until_ready(state)
                with clock.paused():
                    jax.block_until_ready(task.load(inputs))  # compiles
            with paused_clock(progress, "compiling a step") if compiles else nullcontext():
                state, loss = update(state, _flip(task.load(inputs), flips), labels, key)
            set_unsaved(True)
            if on_cpu:  # else the next calls wait for it inside of JAX, where no signal is seen
                jax.block_until_ready(loss)
            number += 1
            stopped = interrupted()  # asked once, so that what ends the steps has written a checkpoint
            is_saved = due(number) or number % settings.checkpoint_every == 0 or number == steps or stopped
            if is_saved and not math.isfinite(loss):
                raise FloatingPointError(
                    f"fine-tuning: the loss is {float(loss)} in step {number}: give a lower "
                    f"{section}.learning_rate, in another --workdir"
                )
            if is_saved:
                jax.block_until_ready(state)
            clock.add_step()
            if is_saved:
                clock.stop()
                best = None if values.best is None else values.best[0]
                checkpoints.save(state, key, iterator.get_state() | clock.saved(), metadata, best=best)
                set_unsaved(False)
                values = measured(values, number)
                stopped = interrupted()
            progress.update()
            if not clock.is_running:
                jax.block_until_ready(loss)
                clock.start()
        clock.stop()
        if stopped:
            return FineTuned(None, number, number, ())  # the signal takes effect when the block is left
        chosen = number
        if values.best is not None and values.best[0] != number:
            chosen = checkpoints.step = values.best[0]
            state, _, _ = checkpoints.restore(state)
    losses = tuple((step, -value) for step, value in values.values)
    return FineTuned(merge(state.trainable, state.frozen), number, chosen, losses)


def _compile(
    task: Task, optimizer: optax.GradientTransformation, held_out: WindowBatches | None
) -> tuple[Callable, Callable[[Any], float]]:
    """The update of the state by a batch, and the mean loss of parameters on held-out windows."""

    def mean_loss(params: Any, inputs: Array, labels: Array, key: PRNGKeyArray | None) -> Float[Array, ""]:
        return jnp.mean(cross_entropy(task.logits(params, inputs, key), labels))

    @jax.jit
    @jax.value_and_grad
    def gradient(trainable: Any, frozen: Any, inputs: Array, labels: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        return mean_loss(merge(trainable, frozen), inputs, labels, key)

    @partial(jax.jit, donate_argnums=0)
    def move(state: TrainState, gradient: Any) -> TrainState:
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return TrainState(state.step + 1, trainable, state.frozen, opt_state, state.statistics)

    def update(state: TrainState, inputs: Array, labels: Array, key: PRNGKeyArray) -> tuple[TrainState, Array]:
        of_part = partial(gradient, state.trainable, state.frozen)
        key = jax.random.fold_in(key, state.step)
        value, found = mean_over_parts(of_part, inputs, labels, key, at_once=task.at_once)
        return move(state, found), value

    @jax.jit
    def without_dropout(params: Any, inputs: Array, labels: Array, _: PRNGKeyArray) -> Float[Array, ""]:
        return mean_loss(params, inputs, labels, None)

    def measure(params: Any) -> float:
        of_part, key = partial(without_dropout, params), jax.random.key(0)
        batches = (held_out[i] for i in range(len(held_out)))
        losses = [mean_over_parts(of_part, task.load(b[0]), b[1], key, at_once=task.at_once) for b in batches]
        return float(np.mean(losses))

    return update, measure


def _exhausted(values: Evaluations, number: int, settings: FineTuningConfig) -> bool:
    return bool(values.values) and number >= settings.least_steps and values.since_best >= settings.patience


@jax.jit
def _flip(inputs: Array, flips: Bool[Array, " B"]) -> Array:
    """Windows [B, S, S, C], flipped left to right if `flips` is true; features [B, F] unchanged."""
    if inputs.ndim != 4:
        return inputs
    return jnp.where(flips[:, None, None, None], inputs[:, :, ::-1], inputs)
