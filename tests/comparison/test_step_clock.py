"""The time of fine-tuning: of each step once, without compiling."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from frcnn_jax.comparison import record
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.stages import fine_tuning
from frcnn_jax.comparison.stages.step_clock import StepClock
from tests.comparison.test_fine_tuning import SETTINGS, Source, run


@pytest.fixture
def now(monkeypatch):
    """The time that records see, which tests add to."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(record, "time", clock)
    return clock


def test_steps_are_timed_once_and_without_compiling(tmp_path, now):
    """Each step takes a second; the first one of a process, and a first batch of another shape, take 100 more."""

    def stored():
        return Record.read(tmp_path / "record.json").content["train"]["fine_tuning"]["seconds"]

    class Batches(Source):
        def __getitem__(self, step):
            inputs, labels, flips = super().__getitem__(step)
            return (inputs if step < 6 else inputs[None]), labels, flips

    def load(inputs):
        if inputs.shape not in loaded:
            loaded.add(inputs.shape)
            now.now += 100
        now.now += 1
        return jnp.asarray(inputs.reshape(4, 3))

    loaded = set()
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, source=Batches(8), stop_after=5, load=load)  # the newest checkpoint is of step 3
    assert stored() == 4  # the second to the fifth step
    loaded.clear()
    run(tmp_path, source=Batches(8), load=load)
    assert stored() == 2 + 4  # the second and third, and the fifth to the eighth, after those that compile
    run(tmp_path, source=Batches(8), load=load)
    assert stored() == 6


def test_checkpoints_are_not_timed(tmp_path, now, monkeypatch):
    """Of eight steps of a second the first is not timed, and three checkpoints of ten seconds are not."""

    def load(inputs):
        now.now += 1
        return jnp.asarray(inputs)

    save = fine_tuning.Checkpoints.save

    def slowly(*arguments, **named):
        now.now += 10
        save(*arguments, **named)

    monkeypatch.setattr(fine_tuning.Checkpoints, "save", slowly)
    run(tmp_path, load=load)
    assert now.now == 8 + 30
    assert Record.read(tmp_path / "record.json").content["train"]["fine_tuning"]["seconds"] == 7


def test_a_training_without_a_checkpoint_is_timed_anew(tmp_path, now):
    def load(inputs):
        now.now += 1
        return jnp.asarray(inputs)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, stop_after=3, load=load)
    run(tmp_path, dataclasses.replace(SETTINGS, steps=1), load=load)  # the only step is timed, though it compiles
    assert Record.read(tmp_path / "record.json").content["train"]["fine_tuning"]["seconds"] == 1


@pytest.mark.parametrize(
    ("is_share", "expected"), [(False, {"seconds": 8.0, "share": 1.0}), (True, {"seconds": 6.0, "share": 0.06})]
)
def test_time_of_all_steps(tmp_path, is_share, expected):
    """Of eight steps six were timed, in six seconds; the whole has a hundred."""
    clock = StepClock(Record(tmp_path / "record.json", system="rcnn", model="tiny"))
    assert clock.resume({"next": 3, "seconds": 6.0, "timed_steps": 6}, 8) == {"next": 3}
    assert clock.saved() == {"seconds": 6.0, "timed_steps": 6}
    clock.finish(8, 100, is_share=is_share)
    assert Record.read(tmp_path / "record.json").content["train"]["fine_tuning"] == expected


def test_a_checkpoint_of_an_earlier_version_has_no_time(tmp_path):
    opened = Record(tmp_path / "record.json", system="rcnn", model="tiny")
    opened.set_train("fine_tuning", 9.0, share=0.1)
    clock = StepClock(opened)
    assert clock.resume({"next": 3}, 3) == {"next": 3}
    assert clock.saved() == {"seconds": 9.0, "timed_steps": 3}
