"""Items in several threads: their order, the share of each thread, and how few results wait."""

import threading
import time

import pytest

from frcnn_jax.data import files
from frcnn_jax.data.files import map_in_threads


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(files, "cores", lambda: 3)


@pytest.mark.parametrize("count", [0, 1, 5, 12, 100, 1000])
def test_results_are_in_order(count):
    assert list(map_in_threads(lambda i: -i, range(count))) == [-i for i in range(count)]


def test_a_few_items_are_spread_over_all_threads():
    together = threading.Barrier(3, timeout=60)  # passed by three at once
    assert list(map_in_threads(lambda i: together.wait() >= 0, range(9))) == [True] * 9


def test_few_results_wait_to_be_taken():
    seen = []
    results = map_in_threads(seen.append, range(10_000))
    next(results)
    time.sleep(0.2)
    assert len(seen) <= 13 * 32


def test_what_is_abandoned_ends_at_once(monkeypatch):
    """Only the items that the threads are at are finished, once the rest is given up."""
    abandoned, seen = threading.Event(), []

    class Pool(files.ThreadPoolExecutor):
        def shutdown(self, **options):
            abandoned.set()
            super().shutdown(**options)

    def work(i):
        assert i < 32 or abandoned.wait(timeout=60)  # 32 items are a task
        seen.append(i)

    monkeypatch.setattr(files, "ThreadPoolExecutor", Pool)
    results = map_in_threads(work, range(1000))
    next(results)
    results.close()
    assert sorted(seen)[:32] == list(range(32))
    assert len(seen) <= 32 + 3


def test_an_error_is_raised_and_ends_the_rest():
    def fail(i):
        seen.append(i)
        if i == 40:
            raise ValueError("number 40")

    seen = []
    with pytest.raises(ValueError, match="number 40"):
        list(map_in_threads(fail, range(10_000)))
    assert len(seen) <= 14 * 32
