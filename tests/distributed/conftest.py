"""Fixtures of the tests of several processes: data, and threads in the place of processes."""

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from frcnn_jax.distributed import talk
from tests.training.runs import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a small data set with its proposals."""
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


class Service:
    """The store that `jax.distributed` keeps for all processes."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self._changed:
            assert allow_overwrite or key not in self._values, key
            self._values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: as JAX says")
            return self._values[key]

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self._changed:
            return [pair for pair in self._values.items() if pair[0].startswith(folder)]


class Place(threading.local):
    """A thread's place among the processes; other threads are alone."""

    client, process_id, num_processes = None, 0, 1

    def __init__(self):
        self.calls = itertools.count()

    def take(self, service: Service | None, index: int = 0, count: int = 1) -> None:
        self.client, self.process_id, self.num_processes = service, index, count


class Calls:
    """The number of the next call, of each thread."""

    def __init__(self, place: Place):
        self._place = place

    def __next__(self) -> int:
        return next(self._place.calls)


@pytest.fixture
def place(monkeypatch):
    """The place of the calling thread among processes, which it can take."""
    place = Place()
    monkeypatch.setattr(talk, "distributed", SimpleNamespace(global_state=place))
    monkeypatch.setattr(talk, "_calls", Calls(place))
    monkeypatch.setattr(talk, "_reason", None)
    monkeypatch.setattr(talk, "_POLL_MS", 20)
    return place


@pytest.fixture
def in_processes(place):
    """Calls a function of a process's number in so many threads; results, or the errors, by number."""

    def call(count: int, function: Callable[[int], Any]) -> list[Any]:
        service, results = Service(), [None] * count

        def process(index: int) -> None:
            place.take(service, index, count)
            try:
                results[index] = function(index)
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=process, args=(index,), daemon=True) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in threads)
        return results

    return call
