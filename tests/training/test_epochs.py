"""A training's length in epochs: in steps by the images there are, recorded, and kept by a run that goes on."""

import dataclasses
import json
import shutil

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import OptimizerConfig, ParameterRule, from_json, replace, to_json
from frcnn_jax.training.loop import train
from frcnn_jax.training.state import create_state
from frcnn_jax.training.workdir import check_settings, count_steps
from tests.training.runs import run_config, step_in_a_moment


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    step_in_a_moment(monkeypatch.setattr)


def config_of(root, epochs, **optimizer):
    """Batches of 2 of 8 images: 4 steps an epoch."""
    return replace(run_config(root), train={"epochs": epochs}, optimizer=optimizer)


def recorded(workdir):
    return json.loads((workdir / "config.json").read_text())["train"]


def rates(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["learning_rate"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def finished(small, data, tmp_path_factory):
    """Workdir of a run of one epoch."""
    workdir = tmp_path_factory.mktemp("runs") / "epochs"
    with pytest.MonkeyPatch.context() as patch:
        step_in_a_moment(patch.setattr)
        train(config_of(data, 1), workdir)
    return workdir


def with_another_image(data, root):
    """The data with a ninth image to train on."""
    shutil.copytree(data, root, ignore=shutil.ignore_patterns("prepared"))
    image = cv2.imread(str(root / "JPEGImages/a3.jpg"))
    cv2.imwrite(str(root / "JPEGImages/new.jpg"), image[::-1])
    (root / "Annotations/new.xml").write_text((root / "Annotations/a3.xml").read_text().replace("a3.jpg", "new.jpg"))
    with (root / "ImageSets/Main/train.txt").open("a") as file:
        file.write("new\n")
    proposals = dict(np.load(root / "train.npz"))
    np.savez(root / "train.npz", **proposals, new=proposals["a3"])
    return root


def test_the_schedule_is_laid_out_over_the_epochs(small, data, tmp_path, capsys):
    config = config_of(data, 1.5, drops=(0.5,), warmup=0.34, learning_rate=1.0, drop_factor=0.5)
    config = replace(config, train={"log_every": 1})
    assert int(train(config, tmp_path).step) == 6
    assert "train.epochs = 1.5: 6 steps of 2 images each, from 8 images\n" in capsys.readouterr().out
    assert (recorded(tmp_path)["steps"], recorded(tmp_path)["epochs"]) == (6, 1.5)
    assert list(rates(tmp_path).values()) == [0, 0.5, 1, 0.5, 0.5, 0.5]


def test_a_small_set_gets_the_least_number_of_steps(small, data, tmp_path, capsys):
    """And keeps it when the run goes on."""
    config = replace(config_of(data, 1), train={"min_steps": 7, "epochs": 1})
    assert int(train(config, tmp_path).step) == 7
    line = "train.epochs = 1, at least 7 steps: 7 steps of 2 images each, from 8 images\n"
    assert line in capsys.readouterr().out
    assert (recorded(tmp_path)["steps"], recorded(tmp_path)["min_steps"]) == (7, 7)
    assert int(train(config, tmp_path).step) == 7
    assert count_steps(replace(config, train={"min_steps": 3, "epochs": 1}), tmp_path, 8).train.steps == 4


def test_a_finished_run_of_epochs_is_left_as_it_is_and_more_go_on(finished, data, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    before = (workdir / "metrics.jsonl").read_bytes()
    for config in (config_of(data, 1), from_json((workdir / "config.json").read_text()), run_config(data, steps=4)):
        assert int(train(config, workdir).step) == 4
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert int(train(config_of(data, 2), workdir).step) == 8
    assert (recorded(workdir)["steps"], recorded(workdir)["epochs"]) == (8, 2)
    with pytest.raises(ValueError, match=r"has reached step 8, beyond train\.steps = 6: give more --train\.epochs"):
        train(config_of(data, 1.5), workdir)


def test_steps_beside_epochs_are_refused_before_anything_is_made(data, tmp_path):
    config = config_of(data, 1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=7))
    with pytest.raises(
        ValueError, match=r"^train\.steps = 7 and train\.epochs = 1, which come to 4 steps for 8 images"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_changed_data_do_not_move_the_end(finished, data, tmp_path, capsys):
    """The schedule that a run began with is not moved under its feet; more epochs count the images there are."""
    workdir, more = shutil.copytree(finished, tmp_path / "run"), with_another_image(data, tmp_path / "more")
    with pytest.raises(ValueError, match="1 image added"):
        train(config_of(more, 1), workdir)
    with pytest.raises(ValueError, match=r"is at its last step, 4, .* give more --train\.epochs to go on"):
        train(config_of(more, 1), workdir, accept_changed_data=True)
    said = "train.epochs = 1 came to 4 steps when this run began, and stays so; with the 9 images that there are now it"
    assert f"{said} would be 5\n" in capsys.readouterr().out
    assert int(train(config_of(more, 2), workdir, accept_changed_data=True).step) == 9


@pytest.mark.parametrize("optimizer", [{"schedule": "cosine"}, {"drops": (0.5,)}, {"warmup": 0.1}])
def test_a_schedule_laid_out_over_all_steps_refuses_other_epochs(tmp_path, optimizer):
    settings = {"learning_rate": 0.01} | optimizer
    config = replace(config_of(tmp_path, 2), optimizer=OptimizerConfig(**settings))
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    (tmp_path / "config.json").write_text(to_json(count_steps(config, tmp_path / "new", 8)))
    check_settings(tmp_path, config)
    check_settings(tmp_path, count_steps(config, tmp_path, 10))  # 2 epochs of more images: the steps of before
    check_settings(tmp_path, replace(config, train={"steps": 8}))
    other = replace(config, train={"epochs": 3.0})
    check_settings(tmp_path, other)  # not known yet
    with pytest.raises(
        ValueError, match=r"train\.steps is 8 there and 12 here; train\.epochs is 2 there and 3\.0 here"
    ):
        check_settings(tmp_path, count_steps(other, tmp_path, 8))
    with pytest.raises(ValueError, match=r"steps is 8 there and 9 here; .*, as the schedule of the rate is laid out"):
        check_settings(tmp_path, replace(config, train={"steps": 9}))


def test_a_state_of_a_config_whose_steps_are_not_counted_yet(tmp_path):
    """The case of a custom training loop: the optimizer's state is the same for any length."""
    config = replace(config_of(tmp_path, 2, schedule="cosine"), optimizer={"rules": (ParameterRule("."),)})
    state = create_state(config, {"head": {"cls_score": {"bias": jnp.zeros(3)}}})
    assert int(state.step) == 0
