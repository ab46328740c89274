"""Paths on command lines and in calls of the library: `~` is expanded, also in `--option=~/x`."""

import re
from pathlib import Path

import pytest

import frcnn_jax as frcnn
from frcnn_jax.data.demo import make_demo
from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.training.workdir import read_config
from frcnn_jax.weights.convert import convert_weights

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(path for folder in ("scripts", "frcnn_jax/commands") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_arguments_that_are_paths_are_expanded(script):
    """An argument that is used as a path, or that says that it is a file or folder, has the one type for that."""
    text = script.read_text()
    assert "type=Path" not in text
    for argument in re.findall(r"add_argument\((.*?)\)\n", text, re.DOTALL):
        if re.search(
            r'"--(workdir|out|config|proposals|image)"|metavar="(FILE|FOLDER|IMAGE|SOURCE|PATH)"', argument
        ) and not re.search(r"type=(int|count)\b", argument):
            assert "type=expand_user" in argument, argument


@pytest.mark.parametrize(
    "call",
    [
        lambda path: frcnn.load_config(path),
        lambda path: frcnn.load_detector(path),
        lambda path: frcnn.load_weights(f"{path}.npz", None),
        lambda path: frcnn.read_pixels(path),
        lambda path: read_config(path),
        lambda path: evaluate_run(path),
        lambda path: read_proposal_file(path, [], [], "error"),
        lambda path: convert_weights(f"{path}.caffemodel", "tiny", path),
    ],
)
def test_calls_expand_the_home(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
        call("~/none")


def test_the_demo_can_be_made_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/notes.txt").touch()
    with pytest.raises(FileExistsError, match=f"{tmp_path}/demo already exists"):
        make_demo("~/demo", train_images=1, test_images=1)
