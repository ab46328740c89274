"""Reading threads that die or hang: an error within a limit."""

import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.config import EvalConfig, InputConfig
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.patience import PatientIterator
from frcnn_jax.evaluation.evaluate import detect_dataset


class Counting:
    """Items 0 to 2, of which the second one does what it is told."""

    def __init__(self, second=lambda: None):
        self.position, self.second = 0, second

    def __next__(self):
        if self.position == 3:
            raise StopIteration
        if self.position == 1:
            self.second()
        self.position += 1
        return self.position - 1

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def test_items_and_their_position_are_passed_on():
    iterator = PatientIterator(Counting(), 60, list)
    assert next(iterator) == 0
    assert iterator.get_state() == {"position": 1}
    assert list(iterator) == [1, 2]
    iterator.set_state({"position": 2})
    assert next(iterator) == 2
    with pytest.raises(StopIteration):
        next(iterator)
    iterator.close()


def test_an_error_of_a_reader_is_that_of_the_step():
    def fail():
        raise ValueError("folder/train: image b: cannot be decoded")

    iterator = PatientIterator(Counting(fail), 60, list)
    next(iterator)
    with pytest.raises(ValueError, match=r"^folder/train: image b: cannot be decoded$"):
        next(iterator)
    iterator.close()


class Stuck:
    """A data set on a network drive that no longer answers."""

    name, image_ids, sizes = "folder/train", ("a", "b"), np.array([[1, 1], [1, 1]])

    def __init__(self):
        self.asked, self.answer = threading.Event(), threading.Event()

    def __len__(self):
        return 2

    def read_image(self, index):
        self.asked.set()
        self.answer.wait()
        return np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def stuck(monkeypatch):
    """A `Stuck` that has begun to read when the names of the images being read are asked for."""
    dataset, being_read = Stuck(), DecodedImages.being_read
    monkeypatch.setattr(DecodedImages, "being_read", lambda self: dataset.asked.wait(60) and being_read(self))
    yield dataset
    dataset.answer.set()


def test_a_reader_that_hangs_is_named_within_the_limit(stuck):
    images = DecodedImages(stuck)
    iterator = PatientIterator((images[1] for _ in range(1)), 0.2, images.being_read)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no batch came within 0\.2 s \(input\.read_timeout\); being read: b\. "):
        next(iterator)
    assert time.monotonic() - started < 120
    stuck.answer.set()
    iterator.close()


def test_an_evaluation_ends_within_the_limit_too(stuck):
    model = SimpleNamespace(spatial_scale=1 / 16, shares_rois=True)
    proposals = [np.zeros((0, 4), np.float32)] * 2
    settings = {"input_config": InputConfig(read_timeout=0.2), "config": EvalConfig()}
    with pytest.raises(TimeoutError, match=r"within 0\.2 s \(input\.read_timeout\); being read: [ab]"):
        detect_dataset(model, None, None, stuck, proposals, **settings)


def test_an_image_that_cannot_be_read_is_named_by_an_evaluation():
    dataset, model = Stuck(), SimpleNamespace(spatial_scale=1 / 16, shares_rois=True)

    def read_image(index):
        raise ValueError("cannot be decoded")

    dataset.read_image = read_image
    proposals = [np.zeros((0, 4), np.float32)] * 2
    with pytest.raises(ValueError, match="cannot be decoded") as error:
        detect_dataset(model, None, None, dataset, proposals, input_config=InputConfig(), config=EvalConfig())
    assert re.fullmatch("folder/train: image [ab]: cannot be decoded", str(error.value))


HANG = """
import concurrent.futures, threading
from frcnn_jax.cli.run import run

def main():
    concurrent.futures.ThreadPoolExecutor().submit(threading.Event().wait)
    raise TimeoutError("no batch came")

run(main)
"""


def test_a_thread_that_hangs_does_not_hold_the_program_back():
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert done.stderr == "-c: no batch came\n"
