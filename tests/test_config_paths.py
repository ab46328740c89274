"""Settings that are paths: absolute, `~` expanded, and told from names."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import __main__ as frcnn_command
from frcnn_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    ProposalConfig,
    absolute_paths,
    changed_settings,
    expand_user,
    load_config,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home, and a current folder within it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_every_path_is_made_absolute_and_nothing_else(home):
    config = Config(
        data=DataConfig(root="~/voc/", tfds_dir="prepared"),
        proposals=ProposalConfig(train_files=("~/a.mat", "/b.mat"), test_file="c.npz"),
        model=ModelConfig(weights="VGG16.caffemodel"),
    )
    absolute = absolute_paths(config)
    here = home / "here"
    assert {name: now for name, (_, now) in changed_settings(config, absolute).items()} == {
        "data.root": f"{home}/voc",
        "data.tfds_dir": f"{here}/prepared",
        "proposals.train_files": (f"{home}/a.mat", "/b.mat"),
        "proposals.test_file": f"{here}/c.npz",
        "model.weights": f"{here}/VGG16.caffemodel",
    }
    assert absolute_paths(absolute) == absolute
    assert absolute_paths(Config()) == Config()


@pytest.mark.parametrize(
    ("weights", "is_path"), [("runs/x", True), ("~/x", True), ("w.npz", True), ("folder", True), ("imagenet", False)]
)
def test_weights_may_be_a_name(home, weights, is_path):
    (home / "here/folder").mkdir()
    found = absolute_paths(dataclasses.replace(Config(), model=ModelConfig(weights=weights))).model.weights
    assert found == (str(expand_user(weights).absolute()) if is_path else weights)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "~nobody-of-that-name"])
def test_an_unknown_home_is_refused(path, home):
    message = f"^{path}: there is no user nobody-of-that-name; give the path from / on$"
    for kind in (str, Path):
        with pytest.raises(FileNotFoundError, match=message):
            expand_user(kind(path))
    for config in (Config(data=DataConfig(root=path)), Config(model=ModelConfig(weights=path))):
        with pytest.raises(FileNotFoundError, match=message):
            absolute_paths(config)
    assert expand_user(home / path) == home / path


@pytest.mark.parametrize("address", ["https://example.com/vgg16.pth", "http:/example.com"])
def test_an_address_is_not_a_path(address, home):
    message = f"^{address} is not a file: download it first, and give its path$"
    with pytest.raises(FileNotFoundError, match=message):
        expand_user(address)
    for config in (Config(data=DataConfig(root=address)), Config(model=ModelConfig(weights=address))):
        with pytest.raises(FileNotFoundError, match=message):
            absolute_paths(config)
    assert expand_user("https") == Path("https")


def test_an_empty_path_is_refused(home, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"^the path is empty; the current folder is \.$"):
        expand_user("")
    assert expand_user(".") == Path()
    monkeypatch.setattr(sys, "argv", ["frcnn", "train", "--config", "folder", "--workdir", ""])
    with pytest.raises(SystemExit, match=r"^2$"):
        frcnn_command.main()
    assert capsys.readouterr().err.endswith("argument --workdir: the path is empty; the current folder is .\n")
    monkeypatch.setattr(sys, "argv", ["frcnn", "train", "--config", "folder", "--workdir", "x", "--data.root", ""])
    with pytest.raises(SystemExit, match=r"^frcnn train: data\.root must be a path or None, not ''$"):
        frcnn_command.main()
    assert not list((home / "here").iterdir())


def test_an_unknown_home_on_a_command_line_is_one_line(home):
    script = Path(__file__).parents[1] / "scripts/demo_data.py"
    done = subprocess.run([sys.executable, str(script), "~nobody-of-that-name/x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "demo_data.py: ~nobody-of-that-name/x: there is no user nobody-of-that-name; give the path from / on\n"
    )
    assert not list((home / "here").iterdir())


def test_config_files_are_found_at_home(home):
    (home / "some.py").write_text("from frcnn_jax.config import Config\nget_config = Config\n")
    assert load_config("~/some.py") == Config()
