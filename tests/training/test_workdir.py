"""Whose workdir it is, and what is logged there."""

import dataclasses
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from frcnn_jax.config import (
    Config,
    EvalConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    replace,
    to_json,
)
from frcnn_jax.training import loop
from frcnn_jax.training.loop import describe_resumed
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.workdir import check_new, claim_workdir, read_config, run_folder
from tests.data.test_pipeline import Images

BEFORE = Config(train=TrainConfig(steps=100))


def metrics(loss=1.0, **more):
    values = {"loss": loss, "classification": 0.5, "localization": 0.25, "foreground": 8.0, "background": 24.0,
              "gradient_norm": 2.0}  # fmt: skip
    return {name: jnp.float32(value) for name, value in (values | more).items()}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_same_settings_may_claim_again(tmp_path):
    claim_and_learn(tmp_path / "run")
    assert read_config(tmp_path / "run") == BEFORE
    claim_workdir(tmp_path / "run", BEFORE)


def claim_and_learn(workdir, config=BEFORE):
    claim_workdir(workdir, config)
    (workdir / "checkpoints/10").mkdir(parents=True)


@pytest.mark.parametrize("place", ["", "images", "images/run"])
def test_a_new_run_among_the_images_is_refused_before_it_writes(tmp_path, place):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.JPG").touch()
    config = replace(BEFORE, data={"root": str(tmp_path)})
    message = f"--workdir {tmp_path / place} lies among the images of data.root = {tmp_path}: give a folder of its own"
    with pytest.raises(ValueError, match=re.escape(message)), run_folder(tmp_path / place, config, False):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "a.JPG"]
    claim_and_learn(tmp_path / place, config)  # as older versions did; such a run goes on
    check_new(tmp_path / place, str(tmp_path))


@pytest.mark.parametrize("name", ["metrics.jsonl", "data.npz", "evaluations.json", "checkpoints/1000"])
def test_files_of_others_in_the_place_of_a_new_run_are_refused(tmp_path, name):
    (tmp_path / "mine/photos").mkdir(parents=True)
    (tmp_path / "mine" / name).mkdir(parents=True)
    config = replace(BEFORE, data={"root": str(tmp_path / "mine/photos")})
    message = rf"^{tmp_path}/mine/{name} is not of a run, .*: give another --workdir$"
    with pytest.raises(FileExistsError, match=message), run_folder(tmp_path / "mine", config, False):
        pass


@pytest.mark.parametrize("place", ["data/runs/1", "runs/1", "data.1"])
def test_a_run_beside_the_images_is_accepted(tmp_path, place):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jpg").touch()
    check_new(tmp_path / place, str(tmp_path / "data"))
    check_new(tmp_path / place, None)


@pytest.mark.parametrize(
    ("config", "step", "message"),
    [
        (BEFORE, 99, "Going on from step 99 of runs/a"),
        (BEFORE, 100, "The training of runs/a is finished, at step 100; to train further, give more --train.steps"),
        (
            Config(train=TrainConfig(epochs=2, steps=100)),
            100,
            "The training of runs/a is finished, at step 100; to train further, give more --train.epochs",
        ),
        (
            Config(train=TrainConfig(steps=100), optimizer=OptimizerConfig(schedule="cosine")),
            100,
            "The training of runs/a is finished, at step 100; to train further, start from it in another --workdir, "
            "with --model.weights runs/a",
        ),
    ],
)
def test_a_resumed_run_goes_on_or_says_how_to_train_further(config, step, message):
    assert describe_resumed(Path("runs/a"), config, step) == message


def test_before_the_first_checkpoint_settings_may_change(tmp_path):
    """A slip in a setting can be put right in the same workdir."""
    claim_workdir(tmp_path, BEFORE)
    (tmp_path / "checkpoints/10.orbax-checkpoint-tmp").mkdir(parents=True)
    now = dataclasses.replace(BEFORE, optimizer=OptimizerConfig(learning_rate=0.5))
    claim_workdir(tmp_path, now)
    assert read_config(tmp_path) == now


def test_other_settings_are_refused_and_named(tmp_path):
    claim_and_learn(tmp_path)
    now = dataclasses.replace(
        BEFORE,
        optimizer=OptimizerConfig(learning_rate=0.5),
        input=InputConfig(batch_size=8, workers=3),
    )
    with pytest.raises(ValueError, match=r"holds a run with other settings") as error:
        claim_workdir(tmp_path, now)
    message = str(error.value)
    assert "optimizer.learning_rate is 0.001 there and 0.5 here" in message
    assert "input.batch_size is 2 there and 8 here" in message
    assert "workers" not in message
    assert str(tmp_path) in message
    assert read_config(tmp_path) == BEFORE


def test_settings_that_do_not_touch_what_was_learned_may_change(tmp_path):
    claim_and_learn(tmp_path)
    now = dataclasses.replace(
        BEFORE,
        train=TrainConfig(steps=200, log_every=1, checkpoint_every=7, keep_checkpoints=1),
        evaluate=EvalConfig(nms_iou=0.5),
        input=InputConfig(test_scale=300, workers=0, max_objects=70),  # padding, which changes no draw
        model=ModelConfig(roi_pooling="xla"),  # the same values as the kernels
    )
    claim_workdir(tmp_path, now)
    assert read_config(tmp_path) == now


def test_other_settings_of_the_test_are_printed(tmp_path, capsys):
    claim_and_learn(tmp_path)
    claim_workdir(tmp_path, BEFORE)
    assert capsys.readouterr().out == ""
    claim_workdir(tmp_path, replace(BEFORE, evaluate={"second_pass": 128}))
    assert capsys.readouterr().out == (f"evaluate.second_pass of {tmp_path} is 128 from now on, in place of 0\n")


def test_a_cosine_may_not_change_its_length(tmp_path):
    before = dataclasses.replace(BEFORE, optimizer=OptimizerConfig(schedule="cosine"))
    claim_and_learn(tmp_path, before)
    with pytest.raises(ValueError, match=r"train\.steps is 100 there and 200 here"):
        claim_workdir(tmp_path, dataclasses.replace(before, train=TrainConfig(steps=200)))


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no run: there is no .*config\.json"):
        read_config(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": {', "Expecting property name"),
        ('{"architectures": []}', "unknown settings architectures"),
        ("[1]", r"settings by name are wanted, not \[1\]"),
        ('{"data": null}', "config.data: settings by name are wanted, not null"),
    ],
)
def test_a_config_that_is_not_ours_is_named_and_kept(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        read_config(tmp_path)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        claim_workdir(tmp_path, BEFORE)
    assert path.read_text() == text


def test_means_since_the_last_flush(tmp_path):
    log = MetricsLog(tmp_path, 0, lambda step: 0.1 * (step + 1))
    log.add(1, metrics(1.0), ["a", "b"], 0.0)
    log.add(2, metrics(3.0), ["c", "d"], 0.0)
    line = log.flush()
    log.add(3, metrics(5.0), ["e", "f"], 0.0)
    log.flush()
    log.close()
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["foreground"]) == (2, 2.0, 8.0)
    assert (second["step"], second["loss"]) == (3, 5.0)
    assert first["learning_rate"] == pytest.approx(0.2)  # of step 2, the last one made
    assert first["images_per_second"] > 0
    assert "loss 2.00 (class 0.50, box 0.25), " in line
    assert line.endswith(" images/s")
    assert len(line) < 50  # beside steps and time in 80 columns
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_measured_map_is_a_line_of_its_own_and_in_those_after_it(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("frcnn_jax.training.metrics.time", SimpleNamespace(perf_counter=lambda: now[0]))
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 2, "map": 1}\n{"step": 1, "map": 0.5}\n')
    log = MetricsLog(tmp_path, 2, lambda step: 0.1, measured=(1,))  # step 2 was measured, and killed before it counted
    assert lines(tmp_path) == [{"step": 2, "loss": 1}, {"step": 1, "map": 0.5}]
    log.add(3, metrics(), ["a"], 0.0)
    now[0] += 1.0
    assert "(class" in log.flush()
    now[0] += 100.0
    log.add_evaluation(3, {"map": 0.4321, "ap": {"cat": 0.5, "dog": None}, "images": 3})
    log.add(4, metrics(), ["a"], 0.0)
    now[0] += 0.25
    line = log.flush()
    log.close()
    assert line.startswith("loss 1.00, mAP 0.432, ")
    assert len(line) < 50
    assert lines(tmp_path)[3] == {"step": 3, "map": 0.4321, "ap": {"cat": 0.5, "dog": None}}
    assert lines(tmp_path)[4]["images_per_second"] == 4  # the time of the measurement is none of the steps'


def test_lines_after_the_checkpoint_and_damaged_ones_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    damaged = b'{"step": 12, "loss": "\xff"}\n\0\0\n{"stef": 13}\n[14]\n{"step": "15"}\n'
    path.write_bytes(
        b'{"step": 10, "loss": 1.0}\n' + damaged + b'{"step": 20, "loss": 2.0}\n{"step": 30, "loss": 3.0}\n{"step": 4'
    )
    log = MetricsLog(tmp_path, 20, lambda step: 0.1)
    assert path.read_text() == '{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 2.0}\n'
    log.add(21, metrics(), ["a"], 0.0)
    log.flush()
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 21]


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [
        (float("nan"), 2.0, "the loss is nan"),
        (float("inf"), 2.0, "the loss is inf"),
        (1.5, float("nan"), "the loss is 1.5 and the norm of its gradient nan"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_names_the_first_step_and_its_images(tmp_path, loss, norm, message):
    log = MetricsLog(tmp_path, 0, lambda step: 0.1)
    log.add(1, metrics(), ["a", "b"], 0.0)
    log.add(2, metrics(loss, gradient_norm=norm), ["c", "d"], 0.0)
    log.add(3, metrics(loss), ["e", "f"], 0.0)
    with pytest.raises(FloatingPointError, match=rf"{message} .*in step 2, with the images c, d\."):
        log.flush()
    log.close()
    # The steps before it are written, it and those after it are not.
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def test_a_config_of_another_version_is_an_error(tmp_path):
    text = to_json(BEFORE).replace('"momentum"', '"momentun"')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.optimizer: unknown settings momentun"):
        read_config(tmp_path)


def test_metrics_that_cannot_be_written_name_the_file(tmp_path, monkeypatch, caplog):
    log = MetricsLog(tmp_path, 0, lambda step: 0.1)
    log.add(1, metrics(), ["a"], 0.0)
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(log, "_path", tmp_path / "full")
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/full'"):
        log.flush()
    close = log._board._writer.close

    def fail():
        close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._board._writer, "close", fail)
    log.close()
    assert "TensorBoard's events are incomplete" in caplog.text


def test_too_many_objects_are_named_before_proposals_are_searched(monkeypatch):
    monkeypatch.setattr(loop, "open_joined_proposals", lambda *_: pytest.fail("proposals, which may take hours"))
    config = Config(input=InputConfig(max_objects=2))
    fault = r"images: image i3 has 3 objects, more than input\.max_objects = 2: give --input\.max-objects 3"
    with pytest.raises(ValueError, match=fault):
        loop.open_data(config, [Images()])


def test_what_a_killed_training_left_unfinished_is_removed(tmp_path):
    """An export or an evaluation may be writing there, without the lock."""
    (tmp_path / ".0123456789abcdef.tmp").touch()
    os.utime(tmp_path / ".0123456789abcdef.tmp", times=(time.time() - 4000,) * 2)
    (tmp_path / ".0123456789abcde0.tmp").touch()
    with run_folder(tmp_path, BEFORE, False):
        names = {path.name for path in tmp_path.iterdir()}
        assert ".0123456789abcde0.tmp" in names <= {".0123456789abcde0.tmp", ".lock", "checkpoints"}
