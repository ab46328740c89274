"""Records of a system: times add up over starts, parts are extrapolated, others' records are refused."""

import json
import math
from types import SimpleNamespace

import pytest

from frcnn_jax.comparison import record as module
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.table import build_table


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_times_add_up_over_starts(tmp_path, clock):
    for seconds in (3, 4):
        record = Record(tmp_path / "record.json", system="rcnn", model="vgg16")
        with record.train("features"):
            clock.now += seconds
    block = record.train("svms")
    block.__enter__()
    clock.now += 1
    assert not block.__exit__(KeyError, KeyError(), None)
    assert Record(tmp_path / "record.json", system="rcnn", model="vgg16").train_seconds() == (8, False)
    assert record.content["memory_bytes"] > 1e6


def test_work_that_is_done_anew_counts_once(tmp_path, clock):
    record = Record(tmp_path / "record.json", system="rcnn", model="vgg16")
    for seconds, anew in ((3, False), (4, True), (5, False)):
        with record.train("features", anew=anew):
            clock.now += seconds
    assert record.train_seconds() == (4 + 5, False)


def test_a_kill_in_a_long_block_loses_seconds_at_most(tmp_path, clock):
    path = tmp_path / "record.json"
    record = Record(path, system="rcnn", model="vgg16")
    with record.train("features") as tick:
        for expected in (0, 6, 6, 12):
            clock.now += 3
            tick()
            stored = json.loads(path.read_text())["train"]["features"]["seconds"] if path.exists() else 0
            assert stored == expected
    assert record.train_seconds() == (12, False)


def test_a_part_is_extrapolated(tmp_path, clock):
    record = Record(tmp_path / "record.json", system="sppnet", model="tiny")
    with record.train("features"):
        clock.now += 5
    with record.train("fine_tuning", share=0.25):
        clock.now += 2
    assert record.train_seconds() == (13, True)
    record.add_test("convolution", 6.0, images=3)
    record.add_test("fc", 1.0, images=3, share=0.5)
    record.add_test("fc", 1.0, images=4, variant="svd")
    assert record.test_seconds() == (pytest.approx(2 + 1 / 3), True)
    assert record.test_seconds("svd") == (0.25, False)
    assert math.isnan(record.test_seconds("other")[0])


def test_further_entries_stay(tmp_path):
    Record(tmp_path / "a.json", system="rcnn", model="tiny").set(map=0.5, steps=7)
    record = Record(tmp_path / "a.json", system="rcnn", model="tiny")
    record.set(steps=8)
    assert (record.content["map"], record.content["steps"]) == (0.5, 8)


def test_test_images_of_a_record_that_was_deleted(tmp_path):
    record = Record(tmp_path / "a.json", system="rcnn", model="tiny")
    record.set_test_images(4)
    assert record.content["images"] == [None, 4]
    row = next(row for row in build_table([record]).rows if row.name == "images to train, test")
    assert row.ours == ["?, 4"]
    record.set(images=[5011, 4])
    record.set_test_images(3)
    assert record.content["images"] == [5011, 3]


def test_memory_of_an_accelerator_is_its_own_entry(tmp_path, monkeypatch):
    Record(tmp_path / "a.json", system="rcnn", model="tiny").set(map=0.5)
    assert "device_memory_bytes" not in Record.read(tmp_path / "a.json").content
    peaks = [5, 3]
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": peaks.pop(0)})
    monkeypatch.setattr(module.jax, "local_devices", lambda: [device])
    for _ in range(2):
        Record(tmp_path / "a.json", system="rcnn", model="tiny").set(map=0.5)
        assert Record.read(tmp_path / "a.json").content["device_memory_bytes"] == 5


def test_faults_are_named(tmp_path):
    path = tmp_path / "record.json"
    Record(path, system="rcnn", model="tiny").set(map=0.5)
    with pytest.raises(ValueError, match="the record of rcnn tiny, not of sppnet tiny"):
        Record(path, system="sppnet", model="tiny")
    with pytest.raises(ValueError, match="no stage 'sleep'; there are fine_tuning, features"):
        Record(path, system="rcnn", model="tiny").train("sleep").__enter__()
    path.write_text("{")
    with pytest.raises(ValueError, match="delete it: results stay, times of finished training are lost"):
        Record(path, system="rcnn", model="tiny")
