"""A disk that is full, at each place that writes: one line that names the file, and what was there is still whole."""

import contextlib
import errno
import resource

import numpy as np
import pytest

from frcnn_jax.atomic import write_text
from frcnn_jax.checkpoint import Evaluations, read_evaluations, write_evaluations
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.stages.folder import save_arrays
from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.proposals.store import ProposalStore
from frcnn_jax.evaluation.report import write_image
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.weights.formats.table import write_weights
from frcnn_jax.weights.metadata import NetworkMetadata
from tests.data.voc_files import VocFiles, object_xml, pixels


@contextlib.contextmanager
def little_space(size: int = 3000):
    """No file may grow beyond so many bytes: writing then fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def weights(suffix):
    metadata = NetworkMetadata("tiny", CAFFE_PIXELS, 4, "a.caffemodel")
    arrays = {"a": np.zeros(10_000, np.float32)}
    return lambda folder: write_weights(folder / f"a{suffix}", arrays, metadata, overwrite=True)


WRITERS = {
    "text": ("a.txt", lambda folder: write_text(folder / "a.txt", "x" * 10_000)),
    "safetensors": ("a.safetensors", weights(".safetensors")),
    "npz": ("a.npz", weights(".npz")),
    "picture": ("a.jpg", lambda folder: write_image(folder / "a.jpg", pixels(1, 400, 400))),
    "results of a comparison": ("svms.npz", lambda folder: save_arrays(folder / "svms.npz", {"a": np.zeros(10_000)})),
    "evaluations": (
        "evaluations.json",
        lambda folder: write_evaluations(folder, Evaluations({}, tuple((i, 0.5) for i in range(1000)))),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_named_and_the_old_one_stays(tmp_path, kind):
    name, write = WRITERS[kind]
    (tmp_path / name).write_bytes(b"as it was")
    with little_space(), pytest.raises(OSError, match="File too large") as error:
        write(tmp_path)
    assert error.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"as it was"


def test_evaluations_stay_as_they_were(tmp_path):
    write_evaluations(tmp_path, Evaluations({"data": "a"}, ((1, 0.25),)))
    with little_space(10), pytest.raises(OSError, match="File too large"):
        write_evaluations(tmp_path, Evaluations({"data": "a"}, ((1, 0.25), (2, 0.5))))
    assert read_evaluations(tmp_path).values == ((1, 0.25),)


def test_a_record_of_a_comparison_stays_as_it_was(tmp_path):
    path = tmp_path / "record.json"
    record = Record(path, system="rcnn", model="tiny")
    record.set(steps=3)
    with little_space(), pytest.raises(OSError, match="File too large") as error:
        record.set(held_out_losses=[[i, 0.5] for i in range(1000)])
    assert error.value.filename == str(path)
    again = Record.read(path).content
    assert (again["steps"], "held_out_losses" in again) == (3, False)


def test_proposals(tmp_path):
    store = ProposalStore(tmp_path, {"method": "m"})
    with store.lock():
        store.add({"first": np.ones((2, 4), np.float32)})
        with little_space(), pytest.raises(OSError, match=rf"{store.folder}/segment-\S+ cannot be written: 20000 "):
            store.add({"second": np.zeros((5000, 4), np.float32)})
    again = ProposalStore(tmp_path, {"method": "m"})
    assert set(again.find(["first", "second"])) == {"first"}
    assert not list(store.folder.glob(".segment*"))


def test_preparing(tmp_path):
    files = VocFiles(tmp_path / "data")
    for name in ("a", "b", "c", "d"):
        files.image(name, object_xml())
    files.split("train", "a", "b", "c")
    files.split("test", "d")
    config = DataConfig(root=str(tmp_path / "data"), tfds_dir=str(tmp_path / "tfds"), train=("folder/train",))
    message = rf"cannot be written: .*File too large: '{tmp_path}/tfds/\S+'$"
    with little_space(4500), pytest.raises(OSError, match=message) as error:
        open_dataset("folder/train", config)
    assert error.value.errno == errno.EFBIG
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    assert len(open_dataset("folder/train", config)) == 3


def test_metrics_and_the_thread_of_tensorboard(tmp_path, caplog):
    """The thread met the error first, and the run waited for it for ever."""
    log = MetricsLog(tmp_path, 0, lambda step: 0.1)
    values = {"loss": 1.0, "gradient_norm": 1.0, "classification": 1.0, "localization": 0.0}

    def run():
        for step in range(1, 100):
            log.add(step, values, ["a"], 0.0)
            log.flush()

    with little_space(), pytest.raises(OSError, match="File too large") as error:
        run()
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    with little_space():
        for _ in range(50):  # more than its queue holds
            log._board.add_scalar("a", 1.0, 1)
        log.close()
    assert caplog.text.count("TensorBoard's events are incomplete") == 1
    MetricsLog(tmp_path, 3, lambda step: 0.1).close()  # the line that was cut is gone
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
