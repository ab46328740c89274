"""Messages between processes about ends: the step after which all stop, failures, and silence."""

import contextlib
import signal
import threading
import time

import pytest

from frcnn_jax import signals
from frcnn_jax.distributed import start, talk, watch
from tests.distributed.conftest import Service


@pytest.fixture
def watches(place, monkeypatch):
    """So many watches without threads, and a function that has one look."""
    now = [0.0]
    monkeypatch.setattr(watch.Watch, "_run", lambda self: None)
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])

    def make(count):
        service = Service()
        place.take(service, 0, count)
        made = [watch.Watch(heartbeat=8) for _ in range(count)]
        beats = [0] * count

        def look(index, seconds=0.0):
            now[0] += seconds
            beats[index] += 1
            place.take(service, index, count)
            made[index]._look(beats[index])

        return made, look

    yield make
    place.take(None)


@pytest.fixture
def block():
    with contextlib.ExitStack() as stack:
        yield stack


def test_all_stop_after_the_step_beyond_the_highest_that_one_has_begun(watches, block):
    made, look = watches(3)
    signalled = [False]
    steps = [5, 7, 6]
    for each, step, received in zip(made, steps, [lambda: signalled[0], bool, bool], strict=True):
        block.enter_context(each.training(step, received))
    for index in range(3):
        look(index)
    assert not any(each.stop_wanted() for each in made)
    assert not any(each.stops_after(step) for each, step in zip(made, steps, strict=True))
    signalled[0] = True
    assert [each.stop_wanted() for each in made] == [True, False, False]
    for _ in range(2):
        for index in range(3):
            look(index)
    assert all(each.stop_wanted() for each in made)
    for each in made:
        assert [each.stops_after(step) for step in (7, 8, 9)] == [False, True, True]


def test_a_process_that_has_told_its_step_waits_for_the_others(watches, block):
    made, look = watches(2)
    block.enter_context(made[0].training(3, lambda: True))
    block.enter_context(made[1].training(3, lambda: False))
    look(0)  # it says that it wants to stop, and has begun step 3
    asked = threading.Thread(target=lambda: found.append(made[0].stops_after(4)), daemon=True)
    found = []
    asked.start()
    asked.join(timeout=0.2)
    assert asked.is_alive()  # step 5 might be the last for the other one
    look(1)
    look(0)
    asked.join(timeout=60)
    assert found == [True]
    assert made[1].stops_after(4)


def test_an_end_is_told_with_its_reason(watches, place):
    made, look = watches(2)
    place.process_id = 1
    made[1].leave("stopped: the disk is full")
    look(0)
    assert talk.reason_to_end() == "process 1 stopped: the disk is full"


def test_one_that_is_silent_for_longer_than_the_heartbeat_is_lost(watches):
    _, look = watches(3)
    for index in (0, 1, 2, 0):
        look(index)
    for _ in range(4):  # process 1 says nothing any more
        look(0, 1.0)
        look(2, 1.0)
    assert talk.reason_to_end() is None
    look(0, 1.0)
    assert talk.reason_to_end() == "process 1 was lost: no sign of life for 8 s"


@pytest.fixture
def stopped(monkeypatch):
    """Sends a training of several processes, which may have unsaved work, signals that Python does not handle.

    Returns the exit statuses by which the watch ends the process within a second of the last signal.
    """
    monkeypatch.setattr(watch.Watch, "_run", lambda self: None)
    monkeypatch.setattr(watch, "_watch", watch.Watch(heartbeat=8))
    monkeypatch.setattr(start, "GRACE", 0.3)
    monkeypatch.setattr(signals, "AGAIN", 0.1)
    monkeypatch.setattr(signals, "REPEATED", 0.2)

    def send(count, *, unsaved):
        ended, codes = threading.Event(), []

        def end(code):
            codes.append(code)
            ended.set()

        monkeypatch.setattr(watch.current_watch(), "leave", lambda why: None)
        monkeypatch.setattr(watch.current_watch(), "end", end)
        with start._signals():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)  # as in a compilation
            with watch.current_watch().training(0, lambda: True):
                signals.set_unsaved(unsaved)
                for _ in range(count):
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(0.25)
                ended.wait(1)
        return set(codes)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield send
    signals.set_unsaved(False)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_the_first_compilation_of_several_processes(stopped):
    assert stopped(1, unsaved=False) == {130}


def test_unsaved_work_of_several_processes_is_ended_by_the_second_signal_only(stopped):
    assert stopped(1, unsaved=True) == set()
    assert stopped(2, unsaved=True) == {130}
