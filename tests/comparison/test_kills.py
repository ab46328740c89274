"""Kills in the middle of every stage of R-CNN and SPPnet: the same command ends like one that was never killed."""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.comparison import mining, ridge
from frcnn_jax.comparison.feature_store import FeatureWriter
from frcnn_jax.comparison.scoring import CandidatePool
from frcnn_jax.comparison.stages import classifiers, network, testing
from frcnn_jax.comparison.stages.folder import load_arrays
from frcnn_jax.config import replace
from tests.comparison.cases import case, shrink_tiny
from tests.training.runs import write_data

ROOT = Path(__file__).parents[2]
# Function at whose call of this number the process is killed, in the order of the stages. A store's `_mark` is called
# before and after the rows of an image, so that at even numbers rows are written but not marked.
FEATURES = (FeatureWriter, "_mark", 6)
LAST = {
    "mining": (mining._Mining, "save", 3),
    "SVMs": (classifiers, "save_arrays", 1),
    "regressors": (ridge, "_ridge", 2),
    "test": (FeatureWriter, "_mark", 5),
    "suppression": (CandidatePool, "detections", 1),
    "evaluation": (testing, "write_evaluation", 1),
}
FINE_TUNING = {"fine-tuning": (Checkpoints, "save", 2), "network": (network, "save_arrays", 1)}
KILLS = {
    "rcnn": {**FINE_TUNING, "features": (FeatureWriter, "_mark", 11), "more features": FEATURES, **LAST},
    "sppnet": {"pooled features": FEATURES, **FINE_TUNING, "features": FEATURES, **LAST},
}


def settings(root):
    config, comparison = case(root)
    return config, replace(comparison, svm={"retrain_at": 5})


def main(system, root):
    """Trains and tests in `whole`, then in `killed`, where each process but the last one is killed.

    Each is a process of its own. Prints their exit statuses.
    """
    shrink_tiny()
    statuses = []
    for folder, point in [("whole", None), *[("killed", point) for point in KILLS[system].values()], ("killed", None)]:
        child = os.fork()
        if not child:
            status = 1
            try:
                work(system, root, root / folder, point)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))


def work(system, root, folder, point):
    write = FeatureWriter.write

    def written(self, index, rows):
        with (root / f"{folder.name}.txt").open("a") as file:
            file.write(f"{self.folder.name} {index}\n")
        write(self, index, rows)

    FeatureWriter.write = written
    mining.mine_svms.__kwdefaults__["seconds_between_saves"] = 0
    if point is not None:
        die_at(*point)
    module = importlib.import_module(f"frcnn_jax.comparison.{system}")
    module.train(*settings(root), folder)
    module.test(*settings(root), folder)


def die_at(owner, name, number):
    function, calls = getattr(owner, name), []

    def dying(*arguments, **named):
        calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    setattr(owner, name, dying)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("system", KILLS)
def test_a_kill_in_any_stage_changes_nothing(tmp_path, system):
    write_data(tmp_path)
    code = f"from pathlib import Path; from tests.comparison import test_kills; test_kills.main({system!r}, Path.cwd())"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=1400,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    kills = len(KILLS[system])
    assert json.loads(result.stdout.splitlines()[-1]) == [0, *[-signal.SIGKILL] * kills, 0], result.stderr[-3000:]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("network.npz", "svms.npz", "regressors.npz", "mining.npz"):
        arrays = [load_arrays(folder / name) if name != "mining.npz" else dict(np.load(folder / name))
                  for folder in (whole, killed)]  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, *arrays)
    for store in ("vectors", "pooled", "tested"):
        for name in ("features.bin", "written.bin"):
            assert (whole / store / name).read_bytes() == (killed / store / name).read_bytes(), store
    assert (whole / "eval/metrics.json").read_text() == (killed / "eval/metrics.json").read_text()
    contents = [json.loads((folder / "record.json").read_text()) for folder in (whole, killed)]
    for name in ("steps", "windows", "map", "ap", "disk_bytes", "proposals", "images"):
        assert contents[0][name] == contents[1][name]
    for part in ("train", "test"):
        assert contents[0][part].keys() == contents[1][part].keys()
    # Only images that a kill interrupted are computed again, and one is timed again after the kill in suppression.
    found = [Counter((tmp_path / f"{name}.txt").read_text().splitlines()) for name in ("whole", "killed")]
    assert set(found[0].values()) == {1}
    again = {"rcnn": ["vectors 2", "pooled 2", "vectors 3"], "sppnet": ["pooled 2", "vectors 2"]}
    assert found[1] - found[0] == Counter([*again[system], "tested 2", "tested 1"])
