"""Exchange of values between processes, as JSON through process 0, without using devices.

Every process must call these functions in the same order, as values are matched by the number of the call. With one
process they return at once, with the value as JSON keeps it too: tuples become lists, and keys strings.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax

# The client of the service that `jax.distributed.initialize` starts; JAX has no public name for it.
from jax._src import distributed

__all__ = ["ProcessLostError", "client", "from_first", "gather", "is_first", "process_count", "process_index", "same"]

_POLL_MS = 500
_calls = itertools.count()
_reason: str | None = None  # why this process must end, set by `watch`


class ProcessLostError(OSError):
    """Another process has ended or cannot be reached, so this one ends too."""


def process_count() -> int:
    """Number of processes; 1 before the start."""
    return distributed.global_state.num_processes if client() is not None else 1


def process_index() -> int:
    """Index of this process, from 0."""
    return distributed.global_state.process_id if client() is not None else 0


def is_first() -> bool:
    """True in the process that writes, draws and logs."""
    return process_index() == 0


def client() -> Any:
    """JAX's connection to process 0; None for a single process."""
    return distributed.global_state.client


def gather(value: Any) -> list[Any]:
    """The value of every process, by process index; values must fit into JSON.

    Raises:
        ProcessLostError: another process has ended.
    """
    if process_count() == 1:
        return [_as_read(value)]
    key = f"frcnn/call/{next(_calls)}"
    client().key_value_set(f"{key}/{process_index()}", json.dumps(value))
    return [json.loads(_wait(f"{key}/{index}")) for index in range(process_count())]


def from_first(make: Callable[[], Any]) -> Any:
    """The value of `make()` in process 0, as JSON; other processes do not call it.

    Raises:
        ProcessLostError: process 0 has ended, for example by an error of `make`.
    """
    if process_count() == 1:
        return _as_read(make())
    key = f"frcnn/call/{next(_calls)}"
    if is_first():
        client().key_value_set(key, json.dumps(make()))
    return json.loads(_wait(key))


def same(what: str, value: str, advice: str) -> None:
    """Compares a text among the processes.

    Raises:
        ValueError: some differ from process 0; names them.
    """
    values = gather(value)
    others = [str(index) for index, other in enumerate(values) if other != values[0]]
    if others:
        subject = f"process {others[0]} has" if len(others) == 1 else f"processes {', '.join(others)} have"
        raise ValueError(f"{subject} {what} than process 0: {advice}")


def must_end(reason: str) -> None:
    """Makes this process end when it waits for others; the first reason counts."""
    global _reason
    _reason = _reason or reason


def reason_to_end() -> str | None:
    """The reason why this process must end; None if it need not."""
    return _reason


def check_others() -> None:
    """Raises ProcessLostError if another process has ended."""
    if _reason is not None:
        raise ProcessLostError(_reason)


def _as_read(value: Any) -> Any:
    """A value as another process would get it."""
    return json.loads(json.dumps(value))


def _wait(key: str) -> str:
    """The text under a key, once it exists; signals take effect meanwhile."""
    while True:
        check_others()
        try:
            return client().blocking_key_value_get(key, _POLL_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise ProcessLostError(f"process 0 cannot be reached: {error}".splitlines()[0]) from error
