"""A trunk of one's own in a plug-in, from training to export, by the scripts in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax.config import to_json
from tests.training.runs import TEST, run_config, write_data

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
PLUGIN = '''
"""The README's trunk, registered."""

from functools import partial

import flax.linen as nn
import numpy as np

from frcnn_jax.config import ParameterRule
from frcnn_jax.models.architectures import Architecture, register_architecture
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import CENTERED_PIXELS


class Trunk(nn.Module):
    dtype: np.dtype = np.dtype("float32")  # of its features
    param_dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):  # images; height and width of each that are not padding, or None
        x = nn.relu(nn.Conv(64, (16, 16), strides=16, dtype=self.dtype, param_dtype=self.param_dtype)(x))
        return x, None if sizes is None else -(-sizes // 16)


register_architecture(
    "patches",
    Architecture(
        trunk=Trunk,
        stride=16,
        channels=64,
        pixels=CENTERED_PIXELS,
        rules=(ParameterRule("/bias$", 2.0, 0.0), ParameterRule("/kernel$")),
        output_size=(3, 3),
        head=partial(FastRCNNHead, widths=(32, 16)),
    ),
)
'''
CONFIG = """
from pathlib import Path

from frcnn_jax.config import from_json, replace


def get_config():
    config = from_json((Path(__file__).parent / "settings.json").read_text())
    return replace(config, plugins=("my_trunks",), model={"name": "patches"}, optimizer={"rules": ()})
"""
# Commands one after the other, each of which has to import the plug-in anew.
SEVERAL = """
import json, runpy, sys

from frcnn_jax.models.architectures import ARCHITECTURES

for arguments in json.loads(sys.argv[1]):
    ARCHITECTURES.pop("patches", None)
    sys.modules.pop("my_trunks", None)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        print("stopped by", stopped.code)
"""
LOAD_BACK = """
import jax, numpy as np
from jax import export

import frcnn_jax as frcnn
from frcnn_jax.plugins import load_plugins

load_plugins(["my_trunks"])
model = frcnn.create_model("patches", 3)
params = frcnn.load_weights("exported.safetensors", model)
detector = frcnn.load_detector("run")
image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
boxes = np.array([[5, 5, 60, 50], [20, 10, 90, 60]], np.float32)
ours = detector.detect(image, boxes)
loaded = frcnn.detect(model, params, image, boxes, scale=64, max_size=96, score_threshold=1e-5)
np.testing.assert_allclose(loaded.scores, ours.scores, atol=1e-5)
np.testing.assert_allclose(loaded.boxes, ours.boxes, atol=1e-2)

function = export.deserialize(bytearray(open("exported.stablehlo", "rb").read()))
padded = np.pad(boxes, ((0, 6), (0, 0)))
size = np.int32([64, 96])
found = jax.jit(function.call)(image, size, size, np.float32(1), padded, np.arange(8) < 2)
np.testing.assert_allclose(np.array(found["scores"])[found["mask"]], ours.scores, atol=1e-5)
print(f"{len(ours.scores)} detections")
"""


def start(folder, *command):
    """A process in `folder`, which compiles without optimisation; the package is found wherever the tests find it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    arguments = [sys.executable, *map(str, command)]
    return subprocess.Popen(arguments, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    try:
        out, errors = process.communicate(timeout=280)
    finally:
        process.kill()
    return process.returncode, out, errors


def succeed(folder, *command):
    code, out, errors = finish(start(folder, *command))
    assert code == 0, errors[-3000:]
    assert "stopped by" not in out, out
    return out


def several(*commands):
    """Arguments of one process that runs scripts one after the other; as for a script, only they search its folder."""
    return "-P", "-c", SEVERAL, json.dumps([[str(SCRIPTS / f"{name}.py"), *map(str, rest)] for name, *rest in commands])


@pytest.fixture
def story(tmp_path):
    """A folder with data, a plug-in and a config that names it."""
    write_data(tmp_path / "data")
    (tmp_path / "my_trunks.py").write_text(PLUGIN)
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "settings.json").write_text(to_json(run_config(tmp_path / "data", checkpoint_every=2)))
    return tmp_path


@pytest.mark.long
def test_a_trunk_in_a_plugin_from_training_to_export(story, tmp_path_factory):
    workdir = story / "run"
    training = ("--config", story / "mine.py", "--workdir", workdir)
    (story / "load_back.py").write_text(LOAD_BACK)
    image = story / f"data/JPEGImages/{TEST[0]}.jpg"
    run = ("--workdir", "run")
    bucket = ("--bucket", 64, 96, "--proposals", 8, "--platforms", "cpu")
    printed = succeed(
        story,
        *several(
            ("train", *training, "--train.steps", 2),
            ("train", *training, "--train.steps", 5),
            ("evaluate", *run, "--out", "again"),
            ("detect", *run, image, "--proposals", story / "data/test.npz", "--out", "found"),
            ("export", *run, "--format", "safetensors", "--out", "exported.safetensors"),
            ("export", *run, "--format", "stablehlo", "--out", "exported.stablehlo", *bucket),
            (story / "load_back",),
        ),
    )
    assert f"of {workdir}" in printed
    assert "Going on from step 2" in printed
    settings = json.loads((workdir / "config.json").read_text())
    assert (settings["plugins"], settings["model"]["name"]) == (["my_trunks"], "patches")
    assert [rule["pattern"] for rule in settings["optimizer"]["rules"]] == ["/bias$", "/kernel$"]
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5
    metrics = json.loads((workdir / "eval/metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (5, 4)
    assert printed.count("Average precision") == 3
    assert json.loads((story / "again/metrics.json").read_text())["map"] == metrics["map"]
    assert json.loads((story / f"found/{TEST[0]}.detections.json").read_text())["detections"]
    assert printed.count("patches after 5 steps") == 2
    *_, count, _ = printed.split()
    assert int(count) > 0

    refused = several(
        ("train", *training),
        ("detect", "--workdir", workdir, image),
        ("compress", "--workdir", workdir, "--fc6", 4, "--no-evaluate"),
    )
    code, printed, _ = finish(start(tmp_path_factory.mktemp("elsewhere"), *refused))
    assert code == 0
    assert printed == "".join(
        f"stopped by {script}.py: plugins: no module my_trunks: put its folder on PYTHONPATH, install it with pip, or "
        "start from its folder\n"
        for script in ("train", "detect", "compress")
    )
