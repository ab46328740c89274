"""Seconds a call takes, measured the same way for us and for the peer. Imports neither JAX nor PyTorch."""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a call, one for each sample; a sample can be the mean of several short calls."""

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
    """How long to measure: until both minima are reached."""

    min_runs: int = 3
    min_seconds: float = 1.0
    sample_seconds: float = 0.02
    """Calls shorter than this are made one after the other, and waited for once, until a sample is this long."""


def measure(
    run: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None, effort: Effort | None = None
) -> Timing:
    """Times `run` after warming it up.

    Args:
        run: one call of what is measured; may return before its work is done.
        wait: blocks until the result of `run` is there.
    """
    effort = Effort() if effort is None else effort
    wait(run())
    once = _sample(run, wait, 1)
    calls = max(math.ceil(effort.sample_seconds / max(once, 1e-7)), 1)
    # A call of seconds needs no second round of warming up.
    samples = [once] if once >= 1 else []
    while len(samples) < effort.min_runs or sum(samples) * calls < effort.min_seconds:
        samples.append(_sample(run, wait, calls))
    return Timing(tuple(samples))


def _sample(run: Callable[[], Any], wait: Callable[[Any], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    wait(result)
    return (time.perf_counter() - start) / calls


def cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
