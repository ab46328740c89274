"""Measurement of a run while it trains: its steps, the best checkpoint and the early end."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from frcnn_jax.checkpoint import Evaluations, read_evaluations, write_evaluations
from frcnn_jax.config import Config, EvalConfig, in_steps
from frcnn_jax.distributed.talk import is_first
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.optimizer import learning_rate_schedule
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import BoxStatistics

# Entries of `Evaluation.measured` that describe data, not settings.
_DATA = ("data", "fingerprint", "proposals")
# Runs from before a setting of the evaluation existed were measured without it, as by default.
_DEFAULTS = {f"evaluate.{field.name}": field.default for field in dataclasses.fields(EvalConfig)}


class Evaluation(Protocol):
    """An opened data set to measure a run on."""

    measured: dict[str, Any]
    """Data and settings of the measurement, as JSON values; values are comparable if these are equal."""

    def __call__(
        self, model: FastRCNN, params: Any, statistics: BoxStatistics, interrupted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """{"map": ..., "ap": {class: ...}}; None if `interrupted` became true before the end."""
        ...


class Validation:
    """The values of a run and its best checkpoint; measures at the steps that the config asks for, if any."""

    def __init__(
        self,
        workdir: Path,
        config: Config,
        evaluation: Evaluation | None,
        model: FastRCNN,
        values: Evaluations,
        log: MetricsLog,
    ):
        """
        Args:
            values: values up to the step that the run resumes from.
        """
        self._workdir, self._config, self._log = workdir, config, log
        self._evaluation, self._model = evaluation, model
        every = config.train.evaluate_every
        self._every = None if evaluation is None or every is None else in_steps(every, config.train.steps)
        self._values = values if evaluation is None else Evaluations(evaluation.measured, values.values)
        if values.values:
            log.show_map(values.values[-1][1])

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint so far."""
        return self._values.best[0] if self._values.values else None

    @property
    def exhausted(self) -> bool:
        """True if the training ends because `train.patience` values after the best one were not better."""
        patience = self._config.train.patience
        return patience is not None and self._values.since_best >= patience

    def due(self, step: int) -> bool:
        """True if that step is to be measured and has not been measured."""
        if self._every is None or step == 0 or step in self._values.steps:
            return False
        return step % self._every == 0 or step == self._config.train.steps

    def measure(self, state: TrainState, interrupted: Callable[[], bool], say: Callable[[str], Any]) -> bool:
        """Measures the state, whose checkpoint is written, and logs the value; False if interrupted."""
        step, before = int(state.step), self._values.best
        # A copy by way of the host looks like the parameters of a loaded detector, and shares its compiled functions.
        params, statistics = jax.tree.map(jnp.asarray, jax.device_get((state.params, state.statistics)))
        metrics = self._evaluation(self._model, params, statistics, interrupted)
        if metrics is None:
            return False
        value = metrics["map"]
        # Logged first: after a kill in between the step is measured again.
        self._log.add_evaluation(step, metrics)
        self._values = self._values.add(step, value)
        if is_first():
            write_evaluations(self._workdir, self._values)
        line = f"Step {step}: mAP {value:.4f} on {self._values.measured['data']}"
        say(
            f"{line}, the best so far"
            if self.best == step
            else f"{line}; the best: {before[1]:.4f} at step {before[0]}"
        )
        return True

    def ends_early(self, step: int) -> bool:
        """True if the patience, and not the length of the training, ends it at `step`."""
        return self.exhausted and step < self._config.train.steps

    def ending(self, step: int) -> str:
        """Message about the early end at `step`."""
        best_step, best = self._values.best
        config, steps = self._config, self._config.train.steps
        count = self._values.since_best
        line = (
            f"The training ends at step {step} of {steps}: {count} value{'s' * (count > 1)} since step {best_step} "
            f"{'are' if count > 1 else 'is'} not better than its mAP of {best:.4f} "
            f"(train.patience = {config.train.patience}; "
            "a larger one goes on)"
        )
        if config.optimizer.schedule == "cosine":
            rate = float(learning_rate_schedule(config.optimizer, steps)(step))
            line += f"; its cosine is cut off at a learning rate of {rate:.2g}"
        return line


def compare_measured(workdir: Path, now: Mapping[str, Any], accept_changed: bool) -> None:
    """Raises ValueError if existing values of the run were measured differently, so that new ones are not comparable.

    Args:
        now: `Evaluation.measured` of the new values.
        accept_changed: compare even if the data have changed.
    """
    before = read_evaluations(workdir)
    then = _DEFAULTS | before.measured
    changed = {name for name in before.measured.keys() | now.keys() if then.get(name) != now.get(name)}
    if not before.values or not changed - set(_DATA if accept_changed else ()):
        return
    settings = sorted(changed - set(_DATA))
    if settings:
        listed = "; ".join(f"{name} is {then.get(name)} there and {now.get(name)} here" for name in settings)
        raise ValueError(
            f"{workdir} was measured otherwise while it trained: {listed}. Give the same, so that the values compare; "
            "a finished run is tested with other settings by frcnn evaluate"
        )
    raise ValueError(
        f"{workdir} was measured on other images or proposals while it trained, of {before.measured.get('data')}, and "
        f"now {now.get('data')}: give them as they were, or --accept-changed-data to compare the values all the same"
    )
