"""Settings that are paths: absolute, `~` expanded, and told from names."""

import dataclasses

import pytest

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


def test_an_unknown_home_is_left_as_it_is():
    assert str(expand_user("~nobody-of-that-name/x")) == "~nobody-of-that-name/x"


def test_config_files_are_found_at_home(home):
    (home / "some.py").write_text("from frcnn_jax.config import Config\nget_config = Config\n")
    assert load_config("~/some.py") == Config()
