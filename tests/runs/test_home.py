"""A workdir given from the home folder on, as `~/run`, is found by every function that takes one."""

import importlib
import inspect
import json
import pkgutil

import pytest

import frcnn_jax as frcnn
from frcnn_jax.checkpoint import Checkpoints, open_checkpoint, read_chosen
from frcnn_jax.comparison.ablations import fast_rcnn_svm
from frcnn_jax.comparison.table import find_records, write_table
from frcnn_jax.config import Config
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.compress import compress_run, compressed_workdir
from frcnn_jax.runs.detector import open_run
from frcnn_jax.training import loop
from frcnn_jax.training.losses.named import create_loss
from frcnn_jax.training.workdir import read_config
from frcnn_jax.weights.formats.checkpoints import read_checkpoint
from frcnn_jax.weights.load import load_weights, read_metadata, read_pixels
from tests.comparison.cases import case
from tests.training.runs import run_config, shrink_tiny, step_in_a_moment, write_data

RUN = "~/run"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with a run of one step, given as `~/run` while it is trained."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        shrink_tiny(patch.setattr)
        step_in_a_moment(patch.setattr)
        write_data(folder / "data")
        loop.train(run_config(folder / "data", steps=1), RUN)
        yield folder


def opened(workdir):
    with open_checkpoint(workdir) as checkpoints:
        return checkpoints.folder


# Of every public function with an argument `workdir` that may be a text.
CALLS = {
    "checkpoint.store.open_checkpoint": lambda home: opened(RUN) == home / "run/checkpoints/1",
    "checkpoint.store.read_chosen": lambda home: read_chosen(RUN, None, lambda checkpoints: checkpoints.step) == 1,
    "weights.formats.checkpoints.read_checkpoint": lambda home: read_checkpoint(RUN)[1].step == 1,
    "runs.detector.load_detector": lambda home: frcnn.load_detector(RUN).step == 1,
    "runs.detector.open_run": lambda home: open_run(RUN) == read_config(home / "run"),
    "training.workdir.read_config": lambda home: read_config(RUN) == read_config(home / "run"),
    "runs.evaluate.evaluate_run": lambda home: (
        frcnn.evaluate_run(RUN) == json.loads((home / "run/eval/metrics.json").read_text())
    ),
    "runs.compress.compressed_workdir": lambda home: compressed_workdir(RUN, fc6_rank=2) == home / "run-svd-fc6-2",
    "runs.compress.compress_run": lambda home: (
        compress_run(RUN, "~/small", fc6_rank=2) and read_config(home / "small").model.fc6_rank == 2
    ),
    "runs.train.train": lambda home: int(frcnn.train(read_config(RUN), RUN).step) == 1,
    "training.loop.train": lambda home: int(loop.train(read_config(RUN), RUN).step) == 1,
    "training.losses.named.create_loss": lambda home: create_loss(Config().loss, RUN) is not None,
    "comparison.table.find_records": lambda home: find_records("~") == [],
}


def taking_workdirs():
    found = set()
    for module in pkgutil.walk_packages(frcnn.__path__, "frcnn_jax."):
        if module.name.startswith("frcnn_jax.commands") or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isfunction(value) and value.__module__ == module.name and not name.startswith("_"):
                workdir = inspect.signature(value).parameters.get("workdir")
                if workdir is not None and "str" in str(workdir.annotation):
                    found.add(f"{module.name}.{name}".removeprefix("frcnn_jax."))
    return found


def test_there_is_a_call_of_each():
    assert taking_workdirs() - {"plugins.load_plugins"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_each_finds_it(name, home):
    assert CALLS[name](home)
    assert list((home / "here").iterdir()) == []  # no folder named ~


def test_others_find_it(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert Checkpoints(RUN).latest == 1
    model = frcnn.load_detector(RUN).model
    assert load_weights(RUN, model).keys() == {"backbone", "head"}
    assert load_weights(f"{RUN}/checkpoints", model).keys() == {"backbone", "head"}
    assert read_metadata(RUN).step == 1
    assert read_pixels(RUN) == model.pixels
    load_plugins(["json"], RUN)
    assert json.loads((home / "state/frcnn_jax/plugins.json").read_text()) == {str(home / "run"): ["json"]}
    write_table("~/tables", [])
    assert (home / "tables/comparison.md").is_file()
    assert list((home / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (("~/svm", "~/none"), "none"),
        (("~/svm",), "fast_rcnn-tiny/run"),
        ((".",), "fast_rcnn-tiny/run"),
    ],
)
def test_the_comparison_names_the_folder(home, arguments, folder):
    config, comparison = case(home / "data")
    with pytest.raises(FileNotFoundError, match=f"^{home}/{folder} holds no run"):
        fast_rcnn_svm.test(config, comparison, *arguments)
