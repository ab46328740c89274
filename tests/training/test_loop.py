"""Whole runs: killed and gone on with, stopped by a loss that is not finite, refused, restored on other devices."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.config import replace, to_json
from frcnn_jax.locks import FolderInUseError, folder_lock
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.training import loop
from frcnn_jax.training.loop import train
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.state import create_state
from frcnn_jax.training.workdir import claim_workdir
from tests.training.runs import (
    ROOT,
    TEST,
    kill_after,
    run_config,
    step_in_a_moment,
    stop_by_sigterm,
    with_learning_rate,
)


@pytest.fixture(scope="module")
def finished(small, data, tmp_path_factory):
    """(state, workdir) of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return train(run_config(data), workdir), workdir


@pytest.fixture(scope="module")
def momentary(small, data, tmp_path_factory):
    """The same of a run whose steps take a moment."""
    workdir = tmp_path_factory.mktemp("runs") / "momentary"
    with pytest.MonkeyPatch.context() as patch:
        step_in_a_moment(patch.setattr)
        return train(run_config(data), workdir), workdir


def is_locked(workdir: Path) -> bool:
    try:
        with folder_lock(workdir, purpose="a test"):
            return False
    except FolderInUseError:
        return True


def steps_in(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def metrics_of(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "waiting_share")} for line in lines]


def assert_bit_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


def test_a_killed_run_goes_on_to_the_same_bits(finished, data, tmp_path, capsys):
    state, workdir = finished
    assert kill_after(data, tmp_path, last=7) == -signal.SIGKILL
    assert steps_in(tmp_path) == [4]
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 6]
    resumed = train(run_config(data), tmp_path)
    assert "Going on from step 4" in capsys.readouterr().out
    assert int(resumed.step) == 12
    assert_bit_equal(resumed, state)
    assert metrics_of(tmp_path) == metrics_of(workdir)
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 6, 8, 10, 12]
    assert steps_in(tmp_path) == steps_in(workdir) == [8, 12]


def test_a_run_killed_before_its_first_checkpoint_says_that_it_begins_again(data, tmp_path, monkeypatch, capsys):
    step_in_a_moment(monkeypatch.setattr)
    said = f"{tmp_path} has no checkpoint yet (train.checkpoint_every = 4): it begins with step 0 again"
    (tmp_path / "config.json").write_text(to_json(run_config(data)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    train(run_config(data), tmp_path)
    assert said in capsys.readouterr().out
    train(run_config(data), tmp_path / "new")
    assert "no checkpoint yet" not in capsys.readouterr().out


def test_an_interrupted_run_saves_its_step_and_goes_on_to_the_same_bits(momentary, data, tmp_path, monkeypatch):
    state, workdir = momentary
    passed_on = []
    step_in_a_moment(monkeypatch.setattr)

    def interrupt(self, step, *arguments, add=MetricsLog.add):
        add(self, step, *arguments)
        assert is_locked(tmp_path)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    def outside(*_):
        passed_on.append((steps_in(tmp_path), is_locked(tmp_path), (tmp_path / ".lock").read_text()))

    before = signal.signal(signal.SIGTERM, outside)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(run_config(data), tmp_path)
    signal.signal(signal.SIGTERM, before)
    assert passed_on == [([4, 5], False, "")]  # the signal's own effect, which may end the process, comes last
    assert steps_in(tmp_path) == [4, 5]
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 5]
    assert_bit_equal(train(run_config(data), tmp_path), state)
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 5, 6, 8, 10, 12]
    assert metrics_of(tmp_path)[-3:] == metrics_of(workdir)[-3:]
    assert steps_in(tmp_path) == [8, 12]


def test_a_finished_run_is_left_as_it_is(finished, data, capsys):
    state, workdir = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert_bit_equal(train(run_config(data), workdir), state)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    said = f"The training of {workdir} is finished, at step 12; to train further, give more --train.steps\n"
    printed = capsys.readouterr()
    assert printed.out.endswith(said)
    assert "Training" not in printed.err, "no bar"


def test_fewer_steps_than_were_made_are_refused(finished, data):
    _, workdir = finished
    with pytest.raises(ValueError, match=r"has reached step 12, beyond train\.steps = 10: give more"):
        train(run_config(data, steps=10), workdir)


def test_box_statistics_are_those_of_flipped_images_too(finished):
    statistics = finished[0].statistics
    # The run flips left to right and not top to bottom.
    np.testing.assert_array_equal(statistics.mean[:, 0], 0)
    assert np.abs(statistics.mean[1:, 1]).min() > 1e-3


def test_images_without_proposals_or_objects_are_evaluated(finished):
    _, workdir = finished
    metrics = evaluate_run(workdir)
    assert metrics["images"] == len(TEST)
    assert metrics["step"] == 12
    assert set(metrics["ap"]) == {"cat", "dog"}
    written = json.loads((workdir / "eval/metrics.json").read_text())
    assert written == metrics
    assert load_detector(workdir).classes == ("cat", "dog")


def test_other_settings_are_refused(finished, data):
    _, workdir = finished
    before = (workdir / "config.json").read_text()
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate is 0\.01 there and 0\.5 here"):
        train(with_learning_rate(run_config(data), 0.5), workdir, before_data=data_are_opened)
    assert (workdir / "config.json").read_text() == before


def test_a_second_run_in_the_workdir_is_refused_while_detectors_are_read(finished, data):
    _, workdir = finished
    before = (workdir / "config.json").read_bytes()
    message = rf"^{workdir} is in use by process {os.getpid()} on \S+ since .* \(training\)\. [^\n]*$"
    with folder_lock(workdir, purpose="training"):
        with pytest.raises(FolderInUseError, match=message):
            train(with_learning_rate(run_config(data), 0.5), workdir)
        assert load_detector(workdir).step == 12
    assert (workdir / "config.json").read_bytes() == before


def test_training_that_ignores_ctrl_c_says_so_and_is_stopped_by_sigterm(data, tmp_path):
    """The case of a process that a shell started in the background."""
    result = stop_by_sigterm(data, tmp_path, last=3)
    assert result.returncode == -signal.SIGTERM
    assert "Ctrl-C (SIGINT) is ignored" in result.stderr
    assert "Stopping after this step" in result.stderr
    assert steps_in(tmp_path) == [3]


def test_a_start_that_failed_does_not_claim_the_workdir(data, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        train(run_config(data / "nowhere"), tmp_path)
    claim_workdir(tmp_path, run_config(data))


def data_are_opened(*_):
    raise AssertionError("data are opened")


def test_missing_weights_are_noticed_before_data_are_opened(data, tmp_path):
    config = replace(run_config(data), model={"weights": str(tmp_path / "none.npz")})
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        train(config, tmp_path / "run", before_data=data_are_opened)
    config = replace(run_config(data), model={"new_heads": True})
    with pytest.raises(
        ValueError, match=r"^model\.new_heads .* model\.weights, which is not set: give --model\.weights"
    ):
        train(config, tmp_path / "run", before_data=data_are_opened)


def test_work_before_the_data_are_opened_gets_the_settings_of_the_run(data, tmp_path, monkeypatch):
    def open_test_set(config):
        assert (tmp_path / "run/.lock").read_text()
        raise LookupError(config.data.root)

    monkeypatch.setattr(loop, "open_dataset", data_are_opened)
    monkeypatch.chdir(data.parent)
    with pytest.raises(LookupError, match=f"^{data}$"):
        train(replace(run_config(data), data={"root": data.name}), tmp_path / "run", before_data=open_test_set)


@pytest.mark.parametrize("background_iou", [(0.1, 0.5), (0.0, 0.5)])
def test_images_that_teach_nothing_are_counted_before_training(data, tmp_path, monkeypatch, caplog, background_iou):
    class Stop(Exception):
        pass

    def build_model(*arguments):
        raise Stop

    monkeypatch.setattr(loop, "build_model", build_model)
    with pytest.raises(Stop):
        train(replace(run_config(data), sampling={"background_iou": background_iou}), tmp_path / "run")
    found = [text for text in caplog.messages if "nothing is learned" in text]
    expected = (
        "folder/train: nothing is learned from 1 image without objects, as background RoIs overlap an object by 0.1 or "
        "more (sampling.background_iou): --sampling.background-iou 0 0.5 draws from all of an image"
    )
    assert found == [expected] * (background_iou[0] > 0)


def test_a_loss_that_is_not_finite_stops_the_run(small, data, tmp_path):
    config = with_learning_rate(run_config(data, log_every=10, checkpoint_every=1), 1e30)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) .*in step 2, with the images a\d, a\d\."):
        train(config, tmp_path)
    assert steps_in(tmp_path) == [1]
    assert [line["step"] for line in metrics_of(tmp_path)] == [1]
    assert load_detector(tmp_path).step == 1


def test_a_checkpoint_of_two_devices_is_restored_on_one(tmp_path):
    code = f"from tests.weights.detectors import *; save_run(small_detector(), Path({str(tmp_path)!r}), devices=2)"
    two = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    flags = {"XLA_FLAGS": two, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | flags, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
    from frcnn_jax.weights.folding import fold_statistics
    from frcnn_jax.weights.load import load_weights
    from tests.weights.detectors import small_detector

    detector = small_detector()
    state = create_state(detector.config, detector.params, detector.statistics)
    checkpoints = Checkpoints(tmp_path)
    restored, key, position = checkpoints.restore(jax.eval_shape(lambda: state))
    checkpoints.close()
    assert jax.device_count() == 1
    assert_bit_equal(restored.params, detector.params)
    assert_bit_equal(restored.statistics, detector.statistics)
    folded = fold_statistics(detector.params, detector.statistics)
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path, detector.model), folded)
    assert restored.step == detector.step
    assert position == {}
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(0)))


def test_a_batch_that_the_devices_cannot_share(data, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [jax.local_devices()[0]] * 3)
    with pytest.raises(ValueError, match=r"input\.batch_size 2 cannot be shared by 3 devices"):
        train(run_config(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_keeps_how_its_images_were_turned(small, data, tmp_path, monkeypatch):
    def as_they_lie(name, config, open_dataset=loop.open_dataset):
        dataset = open_dataset(name, config)
        dataset.orientation = "ignore"
        return dataset

    step_in_a_moment(monkeypatch.setattr)
    monkeypatch.setattr(loop, "open_dataset", as_they_lie)
    train(run_config(data, steps=1), tmp_path)
    assert load_detector(tmp_path).orientation == "ignore"
