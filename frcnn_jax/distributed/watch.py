"""A thread that sends heartbeats to the other processes and watches theirs.

All processes end together. One that ends says why; one without heartbeats is lost. A signal to one of them during
training stops all of them after the same step: each tells how many steps it has begun, and continues to the step after
the highest of these numbers.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import jax

from frcnn_jax.distributed.output import end_output
from frcnn_jax.distributed.talk import (
    check_others,
    client,
    gather,
    must_end,
    process_count,
    process_index,
    reason_to_end,
)

__all__ = ["GRACE", "Stops", "Watch", "begin_watch", "current_watch", "stops_together"]

GRACE = 10.0  # seconds for a process to end by itself before its thread ends it
_PERIOD = 0.5
_FOLDER = "frcnn/watch"
_watch: "Watch | None" = None


class Watch:
    """The watching thread and its state."""

    def __init__(self, heartbeat: int):
        self._heartbeat = heartbeat
        self._seen: dict[str, tuple[str, float]] = {}  # last heartbeat of each process, and its time
        self._lost: set[str] = set()
        self._state = threading.Condition()
        self._received: Callable[[], bool] = lambda: False  # true once a signal has come
        self._step: int | None = None  # steps begun; None while this process does not train
        self._told = self._asked = False  # the number of steps and the request to stop were sent
        self._wanted = False  # a process requests to stop
        self._last: int | None = None  # last step of all processes
        self._over = threading.Event()
        # Process 0 answers all others.
        self._period = _PERIOD * max(process_count() / 32, 1)
        self._thread = threading.Thread(target=self._run, name="processes", daemon=True)
        self._thread.start()

    def leave(self, why: str) -> None:
        """Tells the others that this process ends before the work is done."""
        self._over.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # no process is left to be told
            client().key_value_set(f"{_FOLDER}/ended/{process_index()}", why, allow_overwrite=True)

    def end_by_signal(self, _: int) -> NoReturn:
        """Ends the process by a signal that Python cannot handle, for example during a compilation."""
        self._end_saying("stopped by a signal", "was stopped by a signal", 128 + signal.SIGINT)

    def end(self, code: int) -> NoReturn:
        """Ends the process without JAX's shutdown barrier, which waits for all others; process 0, which relays
        messages, ends last.
        """
        try:
            end_output()
            until = time.monotonic() + (2 * GRACE if process_index() == 0 else 0)
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                while time.monotonic() < until and len(self._found("ended").keys() | self._lost) < process_count():
                    time.sleep(0.1)
        finally:
            os._exit(code)

    def finish(self) -> None:
        """Ends the thread after all processes have done their work."""
        self._over.set()
        self._thread.join()

    def wait_for_reason(self) -> str | None:
        """Waits for the reason why this process must end: at the latest when a process counts as lost."""
        until = time.monotonic() + self._heartbeat + 4 * self._period
        while reason_to_end() is None and time.monotonic() < until:
            time.sleep(0.1)
        return reason_to_end()

    @contextmanager
    def training(self, step: int, received: Callable[[], bool]) -> Iterator[None]:
        """Makes signals wait for the end of a step in the block; see `stops_together`."""
        with self._state:
            self._step, self._received = step, received
        try:
            yield
        finally:
            with self._state:
                self._step, self._received = None, lambda: False

    def stops_after(self, step: int) -> bool:
        """True if all processes stop after this step, the last one that this process has begun."""
        with self._state:
            self._step = step
            # The sent number counts as the highest until the others know it.
            while self._told and self._last is None:
                self._state.wait(_PERIOD)
                check_others()
            return self._last is not None and step >= self._last

    def stop_wanted(self) -> bool:
        """True if a signal has reached one of the processes during training."""
        return self._wanted or self._received()

    def _run(self) -> None:
        ending = None
        for heartbeat_number in itertools.count():
            if self._over.wait(self._period):
                return
            try:
                self._look(heartbeat_number)
            except jax.errors.JaxRuntimeError:
                must_end("process 0, which connects the others, was lost")
            reason = reason_to_end()
            if reason is not None:
                ending = ending or time.monotonic()
                # The main thread waits on a device for an ended process, or compiles.
                if time.monotonic() - ending > GRACE:
                    self._end_saying(reason, "ended with it", 1)

    def _end_saying(self, why: str, to_others: str, code: int) -> NoReturn:
        """Ends the process from a thread.

        Args:
            why: the reason, for stderr.
            to_others: the same, as the other processes print it after this one's name.
        """
        try:
            self.leave(to_others)
            with contextlib.suppress(OSError):  # its reader may have ended by the same signal
                print(f"{why}; this process ends", file=sys.stderr, flush=True)
        finally:
            self.end(code)

    def _look(self, heartbeat_number: int) -> None:
        """Sends a heartbeat, and reads heartbeats and messages of the others."""
        me, now = str(process_index()), time.monotonic()
        client().key_value_set(f"{_FOLDER}/alive/{me}", str(heartbeat_number), allow_overwrite=True)
        if self._received() and not self._asked:
            self._asked = True
            client().key_value_set(f"{_FOLDER}/stop/{me}", "")
        for index, why in self._found("ended").items():
            if index != me:
                must_end(f"process {index} {why}")
        for index, sign in self._found("alive").items():
            if self._seen.get(index, ("", 0.0))[0] != sign:
                self._seen[index] = (sign, now)
            elif now - self._seen[index][1] > self._heartbeat:
                self._lost.add(index)
                must_end(f"process {index} was lost: no sign of life for {self._heartbeat} s")
        self._wanted = bool(self._found("stop"))
        if self._wanted:
            self._agree(me)

    def _agree(self, me: str) -> None:
        with self._state:
            if self._step is not None and not self._told:
                client().key_value_set(f"{_FOLDER}/step/{me}", str(self._step))
                self._told = True
            steps = self._found("step")
            if self._told and len(steps) == process_count():
                self._last = max(map(int, steps.values())) + 1
                self._state.notify_all()

    def _found(self, kind: str) -> dict[str, str]:
        """The messages of the processes of one kind, by process index."""
        pairs = client().key_value_dir_get(f"{_FOLDER}/{kind}/")
        return {key.rpartition("/")[2]: value for key, value in pairs}


def begin_watch(heartbeat: int) -> None:
    """Begins to watch the other processes, unless begun already.

    Args:
        heartbeat: seconds without a heartbeat after which a process counts as lost.
    """
    global _watch
    if _watch is None:
        _watch = Watch(heartbeat)


def current_watch() -> Watch | None:
    """The watch of this process; None for a single process."""
    return _watch


class Stops:
    """The end of a training by a signal, at the same step in all processes.

    Attributes:
        stopped: True once a signal has ended the training, after a step or in a measurement.
    """

    def __init__(self, watch: Watch | None, received: Callable[[], bool]):
        self._watch, self._received, self.stopped = watch, received, False

    def after(self, step: int) -> bool:
        """True if all processes stop after this begun step; called after each step.

        Raises:
            ProcessLostError: another process has ended.
        """
        self.stopped = self._received() if self._watch is None else self._watch.stops_after(step)
        return self.stopped

    def measured(self, finished: bool) -> None:
        """Notes if a measurement, which asks `wanted`, was finished; called after each one."""
        self.stopped = not finished

    def wanted(self) -> bool:
        """True once a signal has reached one of the processes; the others learn of it at different times."""
        return self._received() if self._watch is None else self._watch.stop_wanted()


@contextmanager
def stops_together(step: int, received: Callable[[], bool]) -> Iterator[Stops]:
    """A block in which signals wait for the end of a step, and reach all processes.

    Args:
        step: number of steps made so far, the same in all processes.
        received: returns True if a signal has reached this process.
    """
    with contextlib.nullcontext() if _watch is None else _watch.training(step, received):
        gather(None)
        yield Stops(_watch, received)
