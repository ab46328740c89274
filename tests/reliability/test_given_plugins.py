"""A workdir from elsewhere names no code that is run."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from frcnn_jax import plugins
from frcnn_jax.config import Config, to_json
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs import evaluate

TRAIN = "from frcnn_jax.plugins import load_plugins; load_plugins(['mine'], {!r})"
USE = "from frcnn_jax.plugins import load_plugins; load_plugins(['mine'], {!r}, from_workdir=True)"


@pytest.fixture
def user(tmp_path):
    """Runs code in a folder with a module that leaves a trace where it is imported; returns its error, if any."""
    (tmp_path / "mine.py").write_text("open('imported', 'w').close()")

    def run(code, **more):
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")} | more
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        imported = (tmp_path / "imported").exists()
        (tmp_path / "imported").unlink(missing_ok=True)
        assert imported == (done.returncode == 0)
        return done.stderr.strip().rpartition("\n")[2]

    return run


def test_a_name_in_a_workdir_is_imported_where_the_user_gave_it(user, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    refused = user(USE.format(str(workdir)))
    assert refused == (
        f"PermissionError: plugins: {workdir} names mine, with which it was not trained here, and code of others may "
        "do anything. Where you trust it, put FRCNN_PLUGINS=mine before the command, or import it first"
    )
    assert user(USE.format(str(workdir)), FRCNN_PLUGINS="other, mine") == ""
    assert user("import mine; " + USE.format(str(workdir))) == ""
    assert user(USE.format(str(workdir))) == refused  # neither is remembered
    assert user(TRAIN.format(str(workdir))) == ""
    assert user(USE.format(str(workdir))) == ""
    assert user(USE.format("run")) == ""
    assert json.loads((tmp_path / "state/frcnn_jax/plugins.json").read_text()) == {str(workdir): ["mine"]}
    shutil.copytree(workdir, tmp_path / "copied")
    assert "not trained here" in user(USE.format(str(tmp_path / "copied")))


def test_a_damaged_note_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "frcnn_jax/plugins.json"
    path.parent.mkdir()
    for note in ("{", "[]", '{"run": 1}', "", "[" * 100_000):
        path.write_text(note)
        with pytest.raises(PermissionError, match="not trained here"):
            load_plugins(["mine"], tmp_path / "run", from_workdir=True)


@pytest.mark.parametrize("first", [True, False])
def test_an_evaluation_by_several_processes_records_none(tmp_path, monkeypatch, first):
    """Process 0 has checked and imported the names; the others import them as well."""

    class BuiltError(Exception):
        """In place of the model."""

    def build_model(*_):
        raise BuiltError

    config = Config(plugins=("plugin_that_is_sent",))
    about = {"config": to_json(config), "classes": ["a"], "step": 1, "orientation": "apply"}
    about["pixels"] = dataclasses.asdict(CAFFE_PIXELS)
    for name, value in {"load_detector": None, "process_count": 2, "is_first": first, "from_first": about}.items():
        monkeypatch.setattr(evaluate, name, lambda *_, value=value: value)
    monkeypatch.setattr(evaluate, "build_model", build_model)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_that_is_sent.py").touch()
    with pytest.raises(BuiltError):
        evaluate._load_in_all(tmp_path / "copied", None)
    assert (sys.modules.pop("plugin_that_is_sent", None) is None) == first
    with pytest.raises(PermissionError, match="not trained here"):
        load_plugins(config.plugins, tmp_path / "copied", from_workdir=True)


def test_trainings_that_start_together_are_all_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_text = plugins.write_text

    def write_slowly(*arguments):
        time.sleep(0.05)
        write_text(*arguments)

    monkeypatch.setattr(plugins, "write_text", write_slowly)
    runs = [tmp_path / f"run{i}" for i in range(4)]
    threads = [threading.Thread(target=load_plugins, args=(["json"], run)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    recorded = json.loads((tmp_path / "state/frcnn_jax/plugins.json").read_text())
    assert recorded == {str(run): ["json"] for run in runs}
