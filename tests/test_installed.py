"""The wheel: its files, and `frcnn` installed from it, from training to an exported detector, in an empty folder."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest

from tests.test_scripts import config_file
from tests.training.runs import TEST, write_data

ROOT = Path(__file__).parents[1]
SOURCES = ("frcnn_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
# A command several times in one process, which saves its start: its file, and lists of arguments.
SEVERAL = """
import json, runpy, sys

program, lists = sys.argv[1], json.loads(sys.argv[2])
for arguments in lists:
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, ended.code
"""
MAKE = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def run(*command, cwd=None):
    """The result of a command, which knows nothing of the clone."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, timeout=280)


def succeed(*command, cwd=None):
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def copy_sources(folder):
    folder.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def environment(folder, wheel):
    """The Python of an environment with this wheel alone."""
    succeed(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    succeed(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from the source distribution where setuptools is new enough to do so without downloads."""
    folder = tmp_path_factory.mktemp("wheel")
    source, options = copy_sources(folder / "source"), []
    if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
        succeed(sys.executable, "-c", MAKE, "sdist", folder, cwd=source)
        (source,) = folder.glob("*.tar.gz")
        options = ["--no-build-isolation"]
    succeed(sys.executable, "-m", "pip", "wheel", "--no-deps", *options, "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def frcnn(wheel, tmp_path_factory):
    """The command, installed into an environment of its own beside the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    environment(folder, wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    return folder / "bin/frcnn"


def test_the_wheel_has_every_file_and_config_and_nothing_else(wheel):
    files = [path.relative_to(ROOT) for path in (ROOT / "frcnn_jax").rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix != ".pyc"]
    files += [Path("frcnn_jax") / path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py")]
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == set(map(str, files))
    assert "frcnn_jax/configs/voc07_vgg16.py" in names


def test_an_editable_installation_is_imported_beside_a_clone_of_its_name(tmp_path):
    """`pip install -e .`: the clone, a folder frcnn_jax beside the script, is no package frcnn_jax."""
    clone = copy_sources(tmp_path / "frcnn_jax")
    succeed(sys.executable, "-c", MAKE, "editable", tmp_path, cwd=clone)
    (wheel,) = tmp_path.glob("*.whl")
    python = environment(tmp_path / "environment", wheel)
    (tmp_path / "script.py").write_text("import frcnn_jax\nprint(frcnn_jax.__file__)\n")
    assert succeed(python, "script.py", cwd=tmp_path).strip() == str(clone / "frcnn_jax/__init__.py")


def test_from_training_to_an_exported_detector(frcnn, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    data, workdir = tmp_path / "data", empty / "run"

    write_data(data)
    config = config_file(data, log_every=1)

    printed = succeed(frcnn, "train", "--config", config, "--workdir", "run", "--train.steps", 2, cwd=empty)
    assert "Average precision (voc07, 4 images)" in printed
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 2
    files = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "data.npz", ".lock", "eval"}
    assert {path.name for path in workdir.iterdir()} == files
    metrics = json.loads((workdir / "eval/metrics.json").read_text())
    assert (metrics["images"], metrics["step"], metrics["metric"]) == (4, 2, "voc07")

    others = ["--out", tmp_path / "again", "--voc-results", tmp_path / "voc", "--evaluate.pictures", 1]
    images = [data / f"JPEGImages/{name}.jpg" for name in TEST]
    everything = ["--workdir", "run", "--proposals", data / "test.npz", "--out", tmp_path / "found", "--score", 0.01]
    lists = [
        ["evaluate", "--workdir", "run", "--evaluate.metric", "voc10", "--verify", *others],
        ["detect", *images, *everything],
        ["export", "--workdir", "run", "--format", "safetensors", "--out", "X.safetensors"],
    ]
    lists = [list(map(str, arguments)) for arguments in lists]
    printed = succeed(frcnn.with_name("python"), "-P", "-c", SEVERAL, frcnn, json.dumps(lists), cwd=empty)
    assert "Average precision (voc10, 4 images)" in printed
    assert json.loads((tmp_path / "again/metrics.json").read_text())["metric"] == "voc10"
    assert json.loads((workdir / "eval/metrics.json").read_text())["metric"] == "voc07"
    files = [tmp_path / f"voc/comp4_det_test_{name}.txt" for name in ("cat", "dog")]
    assert {line.split()[0] for path in files for line in path.read_text().splitlines()} == {"t0", "t1", "t3"}

    assert f"{images[0]}: 9 proposals," in printed
    assert f"{images[2]}: 0 proposals, 0 objects with score >= 0.01" in printed
    for path in images:
        found = json.loads((tmp_path / f"found/{path.stem}.detections.json").read_text())
        assert (found["image"], found["height"], found["width"]) == (str(path), 30, 40)
        for row in found["detections"]:
            assert row["class"] in ("cat", "dog")
            assert 0 < row["score"] <= 1
            x1, y1, x2, y2 = row["box"]
            assert 0 <= x1 <= x2 <= 40
            assert 0 <= y1 <= y2 <= 30
        height, width, _ = cv2.imread(str(tmp_path / f"found/{path.stem}.detections.jpg")).shape
        assert height * 4 == width * 3
    assert json.loads((tmp_path / "found/t0.detections.json").read_text())["detections"]
    assert not json.loads((tmp_path / "found/t2.detections.json").read_text())["detections"]

    assert "\nX.safetensors: " in printed
    assert {path.name for path in empty.iterdir()} == {"run", "X.safetensors"}


def test_its_configs_are_found_by_name(frcnn, tmp_path):
    code = "from frcnn_jax.config import *; print(*config_names()); print(load_config('bccd').train.steps)"
    names, steps = succeed(frcnn.with_name("python"), "-c", code, cwd=tmp_path).splitlines()
    assert names.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert steps == "1000"
