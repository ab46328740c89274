"""The time of fine-tuning: of its steps without what they compile, and of each step once."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from frcnn_jax.comparison.record import Record

__all__ = ["Shapes", "StepClock"]

_SECONDS, _STEPS = "seconds", "timed_steps"


class StepClock:
    """Seconds of fine-tuning in a record, and the number of steps that they are of.

    They are saved with each checkpoint, so that steps that a kill makes necessary again are not counted twice.

    Attributes:
        steps: number of timed steps.
    """

    def __init__(self, record: Record):
        self.steps = 0
        self._record, self._block, self._tick = record, contextlib.ExitStack(), None

    @property
    def is_running(self) -> bool:
        return self._tick is not None

    def start(self) -> None:
        """Times what follows."""
        if self._tick is None:
            self._tick = self._block.enter_context(self._record.train("fine_tuning"))

    def stop(self) -> None:
        """Does not time what follows."""
        self._block.close()
        self._tick = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not time the block."""
        running = self.is_running
        self.stop()
        yield
        if running:
            self.start()

    def add_step(self) -> None:
        """Counts a step if it was timed."""
        if self._tick is not None:
            self.steps += 1
            self._tick()

    def saved(self) -> dict[str, float]:
        """Entries to store with a checkpoint."""
        return {_SECONDS: self._seconds(), _STEPS: self.steps}

    def reset(self) -> None:
        """Forgets the time of a training that left no checkpoint."""
        self.resume({_SECONDS: 0.0, _STEPS: 0}, 0)

    def resume(self, position: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Returns to the time at the checkpoint of step `number`; the entries of `position` that are not of the clock.

        An earlier version stored none: the seconds of the record stay.
        """
        self.steps = int(position.get(_STEPS, number))
        self._record.set_train("fine_tuning", position.get(_SECONDS, self._seconds()))
        return {name: value for name, value in position.items() if name not in (_SECONDS, _STEPS)}

    def finish(self, made: int, steps: int, *, is_share: bool) -> None:
        """Records the time of all steps of a training that has ended.

        Args:
            made: number of steps made; those that were not timed count as much as the others.
            steps: number of steps of the whole; of a share, the time is extrapolated to them.
        """
        seconds, timed = self._seconds(), max(self.steps, 1)
        if is_share and steps:
            self._record.set_train("fine_tuning", seconds, share=timed / steps)
        else:
            self._record.set_train("fine_tuning", seconds * max(made, 1) / timed)

    def _seconds(self) -> float:
        return self._record.content["train"].get("fine_tuning", {}).get("seconds", 0.0)


class Shapes:
    """The shapes of inputs so far: each set of new ones compiles a program."""

    def __init__(self) -> None:
        self._known: set[Any] = set()

    def are_new(self, inputs: Any) -> bool:
        """True if arrays of these shapes were not seen before."""
        found = {(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(inputs)}
        new = not found <= self._known
        self._known |= found
        return new
