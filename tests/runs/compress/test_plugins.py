"""Plug-ins of a run are trusted in its compressed copy."""

import json
import shutil
import sys

from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.compress import compress_run
from frcnn_jax.runs.detector import load_detector
from tests.runs.compress.reading import SMALL


def test_plugins_of_a_run_are_trusted_in_its_compressed_copy(workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/plugin_of_a_run.py").write_text("")
    run = shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(stored | {"plugins": ["plugin_of_a_run"]}))
    load_plugins(["plugin_of_a_run"], run)
    for made in (True, False):  # anew, and where the compression exists already
        assert compress_run(run, tmp_path / "out", **SMALL) == made
        monkeypatch.delitem(sys.modules, "plugin_of_a_run")
        assert load_detector(tmp_path / "out").config.plugins == ("plugin_of_a_run",)
        shutil.rmtree(tmp_path / "state")
        load_plugins(["plugin_of_a_run"], run)
