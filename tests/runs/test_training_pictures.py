"""Pictures of a training in TensorBoard: what they show, when, and that they change nothing else."""

import gc
import struct
import weakref
from functools import partial
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from frcnn_jax.evaluation.drawing import PALETTE, draw_rois
from frcnn_jax.runs import train as runs_train
from frcnn_jax.runs import training_pictures
from frcnn_jax.runs.train import train
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.step import sample_step
from tests.evaluation.records import detections
from tests.training.runs import run_config, shrink_tiny, step_in_a_moment, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """(workdir, what the pictures were made of, arguments of `detect`) of a run whose steps take a moment."""
    seen, asked, workdir = [], [], tmp_path_factory.mktemp("runs") / "run"

    def watched(*arguments):
        pictures = open_pictures(*arguments)

        def make(state, batch, key, step):
            made = pictures(state, batch, key, step)
            seen.append((step, batch, key, jax.device_get(state.params), made))
            return made

        return make

    def detect(model, params, image, boxes, **settings):
        asked.append((jax.device_get(params), image, boxes, settings))
        return detections(([5, 5, 20, 20], 0.9), ([0, 0, 10, 10], 0.1))

    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        step_in_a_moment(patch.setattr)
        open_pictures = runs_train.open_pictures
        patch.setattr(runs_train, "open_pictures", watched)
        patch.setattr(training_pictures, "detect", detect)
        train(run_config(data, steps=5, pictures_every=2), workdir)
    return workdir, seen, asked


def pictures_in(workdir):
    """Encoded pictures in TensorBoard's events by step and name."""
    found = {}
    for path in sorted((workdir / "tensorboard").glob("events*")):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack("<Q", content[start : start + 8])
            event = Event.FromString(content[start + 12 : start + 12 + length])
            found |= {(event.step, value.tag): value.image for value in event.summary.value if value.HasField("image")}
            start += length + 16
    return found


def test_they_are_there_at_their_steps(run):
    found = pictures_in(run[0])
    names = ("train/rois", "detections/1_a0", "detections/2_a4")
    assert set(found) == {(step, name) for step in (2, 4) for name in names}
    for image in found.values():
        decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (image.height, image.width, 3)
    # Detections are drawn on an image of 30 x 40, enlarged; RoIs on what the network sees.
    sizes = {name: (image.height, image.width) for (step, name), image in found.items() if step == 2}
    assert sizes == {"train/rois": (64, 85), "detections/1_a0": (360, 480), "detections/2_a4": (360, 480)}


def test_rois_are_those_of_the_step(run, data):
    sample_all = jax.jit(partial(sample_step, config=run_config(data).sampling))
    for step, batch, key, _, pictures in run[1]:
        sample = jax.device_get(sample_all(batch, key, step - 1))
        (height, width), real = batch.image_sizes[0], sample.mask[0]
        image = batch.images[0, :height, :width]
        expected = draw_rois(image, sample.rois[0][real] * batch.scales[0], sample.labels[0][real])
        # Objects are drawn over them.
        assert (pictures["train/rois"] == expected).all(axis=2).mean() > (0.8 if batch.gt_mask[0].any() else 1 - 1e-9)
        assert (expected != image).any(axis=2).mean() > 0.02


def test_detections_are_those_of_the_state_after_the_step(run, data):
    (_, seen, asked), config = run, run_config(data)
    assert len(asked) == 2 * len(seen) == 4
    for number, (params, image, boxes, settings) in enumerate(asked):
        jax.tree.map(np.testing.assert_array_equal, params, seen[number // 2][3])
        assert (image.shape, boxes.shape) == ((30, 40, 3), (9, 4))
        about = {name: settings[name] for name in ("scale", "max_size", "scales", "score_threshold", "per_class")}
        assert about == {"scale": 64, "max_size": 96, "scales": (), "score_threshold": 1e-5, "per_class": 100}
        assert settings["statistics"].mean.shape == (3, 4)
    assert config.evaluate.picture_score == 0.5
    picture = seen[0][4]["detections/1_a0"]
    assert (picture[60, 60:240] == PALETTE[0]).all(axis=1).mean() > 0.9  # the box, 12 times as large
    assert not (picture[0:120, 0] == PALETTE[0]).all(axis=1).any()  # and not the other one


def test_of_a_run_that_is_measured_they_show_the_images_it_is_measured_on(data):
    truths = SimpleNamespace(annotations=[SimpleNamespace(labels=np.zeros(1))])
    measured = SimpleNamespace(dataset=truths, proposals="theirs")
    made = runs_train.open_pictures(run_config(data), None, None, None, measured)
    assert (made.dataset, made.proposals) == (truths, "theirs")


@pytest.mark.long
def test_a_training_is_the_same_without_them(data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        states = [train(run_config(data, steps=4, pictures_every=every), tmp_path / f"{every}") for every in (0, 1, 2)]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, state, states[0])
    assert [len(pictures_in(tmp_path / f"{every}")) for every in (0, 1, 2)] == [0, 12, 6]


def test_an_error_ends_the_pictures_and_nothing_else(tmp_path, caplog):
    log = MetricsLog(tmp_path, 0, lambda step: 0.1)

    def fail():
        raise RuntimeError("out of memory\nand much more")

    names = ("loss", "classification", "localization", "foreground", "gradient_norm")
    for step in (1, 2):
        log.add(step, dict.fromkeys(names, 1.0), ["a"], 0.0)
        log.add_pictures(step, fail)
    assert "loss 1.00" in log.flush()
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no more pictures in TensorBoard (train.pictures_every): out of memory"
    ]


def test_pictures_are_reduced_and_not_kept(tmp_path):
    log, alive = MetricsLog(tmp_path, 0, lambda step: 0.1), []

    def make():
        picture = np.zeros((900, 1600, 3), np.uint8)
        picture[:, :800] = 250, 40, 10
        alive.append(weakref.ref(picture))
        return {"a": picture}

    for step in range(3):
        log.add_pictures(step, make)
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    log.close()
    found = pictures_in(tmp_path)
    assert {(step, name, image.height, image.width) for (step, name), image in found.items()} == {
        (step, "a", 450, 800) for step in range(3)
    }
    decoded = cv2.imdecode(np.frombuffer(found[2, "a"].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[200, 100].astype(int) - (10, 40, 250)).max() < 8


def test_images_without_objects_are_not_shown(data):
    truths = [SimpleNamespace(labels=np.zeros(count)) for count in (0, 2, 0)]
    dataset = SimpleNamespace(annotations=truths)
    config = run_config(data)
    assert runs_train.training_pictures(config, None, dataset, ()).indexes == (1,)
    dataset.annotations = truths[:1]
    assert runs_train.training_pictures(config, None, dataset, ()).indexes == ()
