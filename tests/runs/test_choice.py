"""Choice of a run's checkpoint: the best one where it was measured, the newest, or one by its step."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from frcnn_jax.checkpoint import Evaluations, write_evaluations
from frcnn_jax.checkpoint.evaluations import choose_step
from frcnn_jax.models import architectures
from frcnn_jax.runs.compress import compress_run
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.weights.load import load_weights, read_metadata
from tests.test_scripts import call
from tests.weights.detectors import SMALL_TINY, random_params, save_run, small_detector

MEASURED = Evaluations({"data": "folder/val", "fingerprint": "abc"}, ((1, 0.1), (3, 0.4), (5, 0.4), (7, 0.2), (9, 0.9)))


@pytest.fixture(scope="module", autouse=True)
def small_tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "ARCHITECTURES", {"tiny": SMALL_TINY})
        yield


@pytest.fixture(scope="module")
def plain(small_tiny, tmp_path_factory):
    """A run with checkpoints of the steps 3 and 7, whose parameters differ."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    detector = small_detector()
    for step in (3, 7):
        save_run(dataclasses.replace(detector, step=step, params=random_params(detector.model, step)), folder)
    return folder


@pytest.fixture
def run(plain, tmp_path):
    """The run, measured: step 3 is the best. A value of step 9, whose checkpoint was deleted, does not count."""
    folder = shutil.copytree(plain, tmp_path / "run")
    write_evaluations(folder, MEASURED)
    return folder


def steps_of(folder, *choices):
    return [load_detector(folder, choice).step for choice in choices]


def test_best_where_it_was_measured_else_latest(plain, run):
    assert steps_of(plain, None, "latest", 3, "3", "7") == [7, 7, 3, 3, 7]
    assert steps_of(run, None, "best", "latest", 7) == [3, 3, 7, 7]
    detector = load_detector(run)
    expected = random_params(detector.model, 3)
    jax.tree.map(np.testing.assert_array_equal, detector.params, expected)
    # What starts from the run starts from the same.
    np.testing.assert_array_equal(
        load_weights(run, detector.model)["head"]["fc6"]["kernel"], expected["head"]["fc6"]["kernel"]
    )


def test_a_checkpoint_that_is_not_there_names_those_that_are(plain, run, caplog):
    cases = {
        (plain, "best"): r"run has no best checkpoint, as it was not measured while it trained .*: "
        r"give --checkpoint latest, or a step: its checkpoints are of step 3, 7$",
        (plain, 4): r"run has no checkpoint of step 4: its checkpoints are of step 3, 7$",
        (run, "bset"): r"^--checkpoint must be best, latest or a step, not 'bset'; its checkpoints are of step 3, 7$",
        (run, "-3"): r"^--checkpoint must be best, latest or a step, not '-3'",
    }
    for (folder, choice), message in cases.items():
        with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
            load_detector(folder, choice)
        assert "\n" not in str(error.value)
    shutil.rmtree(run / "checkpoints/3")
    with pytest.raises(
        FileNotFoundError, match=r"run: the best checkpoint, of step 3, is missing; its checkpoints are of step 7$"
    ):
        load_detector(run, "best")
    caplog.clear()
    assert steps_of(run, None) == [7]
    assert caplog.messages[0] == f"{run}: the best checkpoint, of step 3, is missing: the newest one is used, of step 7"


def test_home_in_the_path_of_a_run(plain, monkeypatch):
    monkeypatch.setenv("HOME", str(plain.parent))
    detector = load_detector("~/run")
    assert detector.step == 7
    assert read_metadata("~/run").step == 7
    jax.tree.map(
        np.testing.assert_array_equal, load_weights("~/run", detector.model), load_weights(plain, detector.model)
    )


def test_ties_go_to_the_earlier_step(tmp_path):
    assert choose_step(tmp_path, None, [1, 2]) == 2
    write_evaluations(tmp_path, Evaluations({}, ((2, 0.5), (4, 0.5), (6, 0.1))))
    assert choose_step(tmp_path, "best", [2, 4, 6]) == 2


def test_a_damaged_one_that_is_not_the_newest(run):
    largest = max((run / "checkpoints/3/arrays").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    os.truncate(largest, 1000)
    with pytest.raises(ValueError, match=r"checkpoints/3 is damaged \(.*\): give --checkpoint 7$"):
        load_detector(run)
    assert steps_of(run, "latest") == [7]


def test_compression_of_a_chosen_one(run, tmp_path):
    for choice, step in ((None, 3), ("latest", 7)):
        assert compress_run(run, tmp_path / str(step), fc6_rank=4, checkpoint=choice)
        assert steps_of(tmp_path / str(step), None) == [step]
    with pytest.raises(FileExistsError, match=r"it is at step 3, .*run at 7: give another --out"):
        compress_run(run, tmp_path / "3", fc6_rank=4, checkpoint=7)


def test_the_scripts_take_a_checkpoint_and_say_which_it_was(run, tmp_path, monkeypatch, capsys):
    for choice, step in (((), 3), (("--checkpoint", "latest"), 7), (("--checkpoint", "3"), 3)):
        out = tmp_path / f"exported{'-'.join(choice)}.npz"
        assert call(monkeypatch, "export", "--workdir", run, "--format", "npz", "--out", out, *choice) is None
        assert f"tiny after {step} steps" in capsys.readouterr().out
    image = tmp_path / "image.png"
    from frcnn_jax.evaluation.report import write_image

    write_image(image, np.zeros((40, 50, 3), np.uint8))
    np.savez(tmp_path / "boxes.npz", image=np.float32([[0, 0, 40, 30]]))
    detect = ("detect", image, "--workdir", run, "--proposals", tmp_path / "boxes.npz", "--out", tmp_path / "found")
    for option in ("--score", "--min-score"):
        assert call(monkeypatch, *detect, option, "2") == 2
        assert f"error: {option} must be in 0 ... 1, not 2\n" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"broken")
    detect = (*detect[:2], tmp_path / "broken.png", *detect[2:])
    assert "(1 of 2 files cannot be read), --skip-broken leaves them out" in call(monkeypatch, *detect)
    assert call(monkeypatch, *detect, "--skip-broken", "--checkpoint", "7") is None
    assert (
        f"Pictures and JSON files are in {tmp_path}/found, made with the checkpoint of step 7\n"
        in capsys.readouterr().out
    )
    written = tmp_path / "found/image.detections.json"
    assert len(json.loads(written.read_text())["detections"]) > 0
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr("frcnn_jax.runs.detect_files.detect_images", lambda *_, **named: asked.append(named["min_score"]))
        for options in ((), ("--score", 0.01), ("--score", 0.9, "--min-score", 0.3)):
            assert call(patch, *detect, "--skip-broken", *options) is None
    assert asked == [0.05, 0.01, 0.3]
    assert call(monkeypatch, *detect, "--skip-broken", "--min-score", "1") is None
    assert json.loads(written.read_text())["detections"] == []
    compress = ("compress", "--workdir", run, "--fc6", 4, "--no-evaluate", "--images", 0)
    assert call(monkeypatch, *compress, "--checkpoint", "latest", "--out", tmp_path / "small") is None
    assert "It is the checkpoint of step 7\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "small/compression.json").read_text())["step"] == 7
    for script in ("evaluate", "detect"):
        more = [image] if script == "detect" else []
        code = call(monkeypatch, script, *more, "--workdir", run, "--checkpoint", "8")
        assert code == f"{script}.py: {run} has no checkpoint of step 8: its checkpoints are of step 3, 7"
