"""The steps of a run: batch, step, metrics, checkpoint and measurement, in this order."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from frcnn_jax.config import TrainConfig
from frcnn_jax.data.pipeline import BatchSource
from frcnn_jax.distributed.arrays import on_every_device, share_out
from frcnn_jax.distributed.talk import gather, is_first
from frcnn_jax.distributed.watch import Stops
from frcnn_jax.progress import Progress, paused_clock
from frcnn_jax.signals import set_unsaved
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.validation import Validation
from frcnn_jax.types import Batch

# Steps that a device is given before they are waited for; none on a CPU, as an interruption waits for all of them.
_AHEAD, _AHEAD_ON_CPU = 4, 0

# RGB pictures by name, of the state after a step, its batch on the host, the key of the run and the step.
MakePictures = Callable[[TrainState, Any, jax.Array, int], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the steps of a run need besides its state."""

    settings: TrainConfig
    step: Callable[..., tuple[TrainState, Any]]  # of state, batch, key and learning rate; mapped over `mesh`
    rates: np.ndarray  # learning rate of every step
    key: jax.Array
    mesh: Mesh
    source: BatchSource
    batches: Iterator[Batch]
    log: MetricsLog
    save: Callable[[TrainState, bool], None]  # writes a checkpoint, and waits until it is written if True
    check_saved: Callable[[], None]  # raises an error of a checkpoint that was not waited for
    validation: Validation
    pictures: MakePictures | None = None


def run_steps(run: Run, state: TrainState, stops: Stops) -> TrainState:
    """The state after the last step, which a signal, the length of the run or its patience sets.

    Raises:
        FloatingPointError: a loss is not finite; checkpoints are those of earlier steps.
    """
    settings, log, validation = run.settings, run.log, run.validation
    number = int(state.step)
    on_cpu = run.mesh.devices.flat[0].platform == "cpu"
    bar = _Bar(number, settings.steps, ahead=_AHEAD_ON_CPU if on_cpu else _AHEAD)
    set_unsaved(False)  # until the first step has begun, which may compile for minutes
    # True if the run was stopped between a checkpoint and its measurement.
    due = validation.due(number)
    stopped = due and not _measure(run, state, stops, bar.say)
    while number < settings.steps and not stopped and not validation.exhausted:
        number += 1
        started = time.perf_counter()
        batch = next(run.batches)
        waited = time.perf_counter() - started
        with bar.compiling(batch, log.leave_out):
            # An argument, so that trainings of other lengths share the program.
            rate = on_every_device(run.rates[number - 1], run.mesh)
            state, metrics = run.step(state, share_out(batch, run.mesh), run.key, rate)
        set_unsaved(True)
        log.add(number, metrics, run.source.image_ids(number - 1), waited)
        bar.add(metrics)
        pictures_due = settings.pictures_every and number % settings.pictures_every == 0
        if pictures_due and run.pictures is not None:
            log.add_pictures(number, partial(run.pictures, state, batch, run.key, number))
        last = stops.after(number) or number == settings.steps
        due = validation.due(number)
        # Saved before the measurement, so that its interruption does not lose the step.
        checkpoint_due = last or due or number % settings.checkpoint_every == 0
        if number % settings.log_every == 0 or checkpoint_due:
            # Raises if a loss is not finite, so that no checkpoint is written after it.
            bar.finish(log.flush())
            run.check_saved()
        if checkpoint_due:
            # A measured checkpoint must exist even if the run is killed; others are written during the next steps.
            run.save(state, last or due)
            set_unsaved(not (last or due))
        if checkpoint_due or pictures_due:
            gather(None)  # only process 0 saves and draws, and the others would time out in the next step
        stopped = last
        if due:
            stopped = stops.stopped or not _measure(run, state, stops, bar.say) or last
    bar.close()
    if validation.ends_early(number):
        print(validation.ending(number))
    return state


def _measure(run: Run, state: TrainState, stops: Stops, say: Callable[[str], Any]) -> bool:
    """Measures the state; False if a signal to one process ends measurement and training in all processes."""
    finished = run.validation.measure(state, stops.wanted, say)
    stops.measured(finished)
    return finished


class _Bar:
    """A progress bar that counts a step when it is finished, and not when the device was given it."""

    def __init__(self, first: int, steps: int, *, ahead: int):
        """
        Args:
            ahead: steps that may be under way before the oldest is waited for.
        """
        self._ahead, self._under_way, self._sizes = ahead, deque[Any](), set[tuple[int, int]]()
        self._progress = Progress(
            total=steps,
            initial=first,
            desc="Training",
            smoothing=0,  # the mean of the run, as measurements follow some steps
            bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",  # 80 columns, without a bar
            disable=not is_first() or first >= steps,
        )
        self.say, self.close = self._progress.write, self._progress.close

    def add(self, metrics: Any) -> None:
        """Adds a step that has begun; waits for the oldest if too many are under way."""
        self._under_way.append(metrics)
        if len(self._under_way) > self._ahead:
            jax.block_until_ready(self._under_way.popleft())
            self._progress.update()

    def finish(self, text: str) -> None:
        """Counts all steps, which have been waited for, and shows a text."""
        self._progress.set_postfix_str(text, refresh=False)
        self._count()
        self._progress.refresh()

    @contextmanager
    def compiling(self, batch: Batch, leave_out: Callable[[float], None]) -> Iterator[None]:
        """Says that the step compiles, if the batch has a new size; `leave_out` is given the seconds."""
        size = batch.images.shape[1:3]
        if size in self._sizes:
            yield
            return
        self._sizes.add(size)
        jax.block_until_ready(list(self._under_way))  # as no earlier step may run in the time that is left out
        self._count()
        started = time.perf_counter()
        with paused_clock(self._progress, f"compiling a step for {size[1]} x {size[0]} pixels"):
            yield
        leave_out(time.perf_counter() - started)

    def _count(self) -> None:
        self._progress.update(len(self._under_way))
        self._under_way.clear()
