"""Losses by name: of the tables, of one's own modules, and as functions that are passed."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import LossConfig, load_config, override
from frcnn_jax.ops import losses
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.training import loop
from frcnn_jax.training.loop import train
from frcnn_jax.training.losses import MultiTaskLoss, create_loss, name_loss
from frcnn_jax.training.losses.batch_loss import loss_fn
from frcnn_jax.training.step import make_train_step
from tests.training.runs import ROOT, run_config, step_in_a_moment

HUBER = """
import jax.numpy as jnp
from frcnn_jax import encode_boxes

number = 3


def huber(deltas, rois, gt_boxes, mean, std):
    errors = jnp.abs(deltas - (encode_boxes(rois, gt_boxes) - mean) / std)
    return jnp.where(errors < 2, 0.5 * errors**2, 2 * errors - 2).sum(-1)
"""


def absolute(deltas, rois, gt_boxes, mean, std):
    return jnp.abs(deltas - (losses.encode_boxes(rois, gt_boxes) - mean) / std).sum(-1)


@pytest.mark.parametrize(
    ("loss", "given"),
    [("focal", "'focal'"), (losses.focal, "focal"), (functools.partial(losses.focal, gamma=1), "part")],
)
def test_a_loss_of_another_kind_is_refused(tmp_path, loss, given):
    message = rf"loss must be a frcnn_jax\.MultiTaskLoss, as MultiTaskLoss\(classification=.*\) .*, not {given}"
    for call in (
        lambda: train(run_config(tmp_path), tmp_path / "run", loss=loss),
        lambda: loss_fn({}, None, None, model=None, loss=loss),
        lambda: make_train_step(None, None, loss=loss),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert not (tmp_path / "run").exists()


def test_parts_of_another_kind_are_refused(unchecked_types):
    for part, name, shown in (
        ("classification", "focal", "focal"),
        ("localization", "giou", "giou_localization"),
        ("localization", "huber", "smooth_l1_localization"),
    ):
        message = f"the {part} loss must be a function, as frcnn_jax.{shown}, not '{name}'"
        for call in (MultiTaskLoss, functools.partial(losses.multi_task_loss, None, None)):
            with pytest.raises(TypeError, match=message):
                call(**{part: name})


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder of modules from which a program was started."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "my_losses.py").write_text(HUBER)
    (folder / "broken_losses.py").write_text("import no_such_module\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("my_losses", "broken_losses"):
        sys.modules.pop(name, None)


def test_names_of_the_tables():
    loss = create_loss(LossConfig("focal", "giou", 0.5))
    assert loss == MultiTaskLoss(losses.focal, losses.giou_localization, 0.5)
    assert name_loss(loss) == LossConfig("focal", "giou", 0.5)
    assert create_loss(LossConfig()) == MultiTaskLoss()
    assert name_loss(MultiTaskLoss()) == LossConfig()


def test_a_function_of_a_module(modules):
    loss = create_loss(LossConfig(localization="my_losses:huber"))
    assert loss.localization is sys.modules["my_losses"].huber
    assert name_loss(loss) == LossConfig(localization="my_losses:huber")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_losses:huber", "no module no_losses: put its folder on PYTHONPATH"),
        ("broken_losses:huber", "broken_losses cannot be imported: No module named 'no_such_module'"),
        ("my_losses:hubert", "the module my_losses has no hubert"),
        ("my_losses:number", "number is not a function but int"),
        ("my_losses:f.<locals>.g", r"cannot be imported: pass the function as train\(\.\.\., loss=MultiTaskLoss"),
        ("__main__:huber", "cannot be imported: pass the function"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(modules, name, message):
    config = LossConfig()
    object.__setattr__(config, "localization", name)
    with pytest.raises((ValueError, ImportError), match=rf"^loss\.localization = '.*{message}") as error:
        create_loss(config)
    assert "\n" not in str(error.value)


def test_a_class_is_no_loss_though_it_can_be_called(modules):
    """The record of an object without attributes is the name of its class, which would make an object of the arrays."""
    (modules / "my_losses.py").write_text("class Mine:\n    def __call__(self, logits, labels):\n        return 0\n")
    message = (
        r"Mine is a class, not a function: pass an object of it as train\(\.\.\., loss=MultiTaskLoss\(classification="
    )
    with pytest.raises(ValueError, match=rf"^loss\.classification = 'my_losses:Mine': {message}") as error:
        create_loss(LossConfig(classification="my_losses:Mine"))
    assert "\n" not in str(error.value)


def test_an_unknown_name():
    config = LossConfig()
    object.__setattr__(config, "classification", "vocal")
    with pytest.raises(ValueError, match=r"'vocal' is not the name of a loss: known are cross_entropy, focal, and"):
        create_loss(config)


def test_nothing_is_imported_from_a_workdir(modules):
    with pytest.raises(ImportError, match="my_losses"):
        create_loss(LossConfig(localization="my_losses:huber"), modules)


def test_names_of_functions_that_are_passed():
    def focal(gamma):
        return name_loss(MultiTaskLoss(functools.partial(losses.focal, gamma=gamma))).classification

    assert focal(1.0) == "frcnn_jax.ops.losses:focal(gamma=1.0)" != focal(3.0)
    named = name_loss(MultiTaskLoss(lambda logits, labels: 0, absolute))
    assert named.classification.startswith(f"{__name__}:test_names_of_functions_that_are_passed.<locals>.<lambda>")
    assert named.localization == f"{__name__}:absolute"


def test_a_loss_that_is_passed_is_recorded_and_needed_again(small, data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    make, used = loop.make_train_step, []
    monkeypatch.setattr(
        loop, "make_train_step", lambda *arguments, loss, **settings: used.append(loss) or make(*arguments, **settings)
    )
    config = run_config(data, steps=1)
    loss = MultiTaskLoss(localization=absolute)
    train(config, tmp_path, loss)
    assert used == [loss]
    recorded = json.loads((tmp_path / "config.json").read_text())["loss"]
    assert recorded["localization"] == f"{__name__}:absolute"
    train(config, tmp_path, loss)
    for other in (None, MultiTaskLoss(localization=losses.giou_localization)):
        with pytest.raises(ValueError, match=r"loss\.localization is .*absolute' there and .* the same loss again"):
            train(config, tmp_path, other)


def test_processes_with_other_losses_are_noticed(tmp_path, monkeypatch):
    """The settings that are compared among the processes name the loss that is passed."""

    class Compared(Exception):
        pass

    def compare(what, value, advice):
        raise Compared(what, value)

    monkeypatch.setattr(loop, "same", compare)
    with pytest.raises(Compared) as error:
        train(run_config(tmp_path), tmp_path / "run", MultiTaskLoss(localization=absolute))
    what, value = error.value.args
    assert what == "other settings"
    assert json.loads(value)["loss"]["localization"] == f"{__name__}:absolute"


def test_weights_of_the_loss_are_numbers():
    for weight in (0.5, 2, np.float32(0.5), jnp.float32(0.5)):
        named = name_loss(MultiTaskLoss(localization_weight=weight)).localization_weight
        assert type(named) is float
        assert named == weight
    for weight in ("2", None, True, [0.5], np.ones(1), 1j):
        with pytest.raises(TypeError, match=r"^MultiTaskLoss takes localization_weight as a number, not "):
            MultiTaskLoss(localization_weight=weight)
    for weight in (-1.0, -np.float32(0.5), jnp.float32(np.nan), np.inf):
        with pytest.raises(
            ValueError, match=r"^MultiTaskLoss takes localization_weight as a finite number of at least 0"
        ):
            MultiTaskLoss(localization_weight=weight)
    weighted = jax.grad(lambda weight: weight * MultiTaskLoss(localization_weight=weight).localization_weight)
    assert weighted(3.0) == 6


def run_script(name, *arguments, folder):
    """The result of a script in a process that was started in `folder`, with a `tiny` that compiles in a moment."""
    argv = [str(ROOT / f"scripts/{name}.py"), *map(str, arguments)]
    code = (
        "import runpy, sys\nfrom tests.training.runs import shrink_tiny\n"
        f"shrink_tiny()\nsys.argv = {argv!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    # -P: the current folder is searched as for a script, by the program alone.
    return subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=280
    )


@pytest.mark.long
def test_a_loss_in_a_module_is_trained_resumed_and_not_needed_to_evaluate(
    small, data, modules, tmp_path, monkeypatch, capsys
):
    """Begun by the script in a process of its own, which finds the module in the folder that it was started in."""
    path, workdir = tmp_path / "small.py", tmp_path / "run"
    path.write_text(
        "from tests.training.runs import *\n\n\ndef get_config():\n"
        f"    config = run_config(Path({str(data)!r}))\n"
        "    loss = dataclasses.replace(config.loss, localization='my_losses:huber')\n"
        "    return dataclasses.replace(config, loss=loss)\n"
    )
    result = run_script("train", "--config", path, "--workdir", workdir, "--train.steps", 1, folder=modules)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((workdir / "config.json").read_text())["loss"]["localization"] == "my_losses:huber"

    config = override(load_config(path), ["--train.steps", "2"])
    assert int(train(config, workdir).step) == 2
    assert "Going on from step 1" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(modules))]
    del sys.modules["my_losses"]
    assert evaluate_run(workdir)["step"] == 2
    with pytest.raises(ImportError, match=r"^loss\.localization = 'my_losses:huber': no module my_losses: "):
        train(override(config, ["--train.steps", "3"]), workdir)
