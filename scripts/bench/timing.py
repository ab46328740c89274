"""Seconds per call, measured in the same way for this package and for the peer. Imports neither JAX nor PyTorch."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call, one for each sample; a sample can be the mean of several short calls."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def fastest(self) -> float:
        return min(self.samples)

    @property
    def slowest(self) -> float:
        return max(self.samples)


@dataclasses.dataclass(frozen=True)
class Effort:
    """Length of a measurement: it ends when both minima are reached."""

    min_runs: int = 3
    min_seconds: float = 1.0
    sample_seconds: float = 0.02
    """Least length of a sample: shorter calls are repeated without waiting in between."""


class Sampler:
    """Measures the seconds of a call of `run`, one sample per call.

    Two calls of `run` precede the first sample: the first compiles, and both warm up reused memory.

    Args:
        run: the measured call; may return before its work is done.
        wait: blocks until the result of `run` is ready.
    """

    def __init__(
        self,
        run: Callable[[], Any],
        wait: Callable[[Any], Any] = lambda result: None,
        effort: Effort | None = None,
    ):
        self._run, self._wait = run, wait
        wait(run())
        once = self._time(1)
        sample_seconds = (Effort() if effort is None else effort).sample_seconds
        self._calls = max(math.ceil(sample_seconds / max(once, 1e-7)), 1)

    def __call__(self) -> float:
        return self._time(self._calls)

    def _time(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = self._run()
        self._wait(result)
        return (time.perf_counter() - start) / calls


def measure(
    run: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None, effort: Effort | None = None
) -> Timing:
    """Times `run` after warming it up; arguments as those of `Sampler`."""
    return take_turns([Sampler(run, wait, effort)], effort)[0]


def take_turns(samplers: Sequence[Callable[[], float]], effort: Effort | None = None) -> list[Timing]:
    """Samples of each, taken in turns, so that a slow phase of the machine affects all alike."""
    effort = Effort() if effort is None else effort
    rounds: list[tuple[float, ...]] = []
    started = time.perf_counter()
    while len(rounds) < effort.min_runs or time.perf_counter() - started < effort.min_seconds * len(samplers):
        rounds.append(tuple(sampler() for sampler in samplers))
    return [Timing(samples) for samples in zip(*rounds, strict=True)]
