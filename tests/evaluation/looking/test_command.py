"""`inspect-data` as it is typed."""

import sys

import pytest

from frcnn_jax.commands.inspect_data import main
from tests.data.voc_files import standard_folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["inspect_data.py", *map(str, arguments)])
    main()


@pytest.fixture
def folder(tmp_path):
    standard_folder(tmp_path / "set")
    return tmp_path / "set"


def test_prints_and_writes_the_page_where_it_is_asked_for(folder, tmp_path, monkeypatch, capsys):
    root = ["--data.root", folder, "--data.tfds-dir", tmp_path / "prepared"]
    run(monkeypatch, *root)
    printed = capsys.readouterr().out
    assert f"{folder}: layout voc, 3 classes, 4 images, 4 objects" in printed
    assert "No faults." in printed
    assert "With --out FOLDER" in printed
    assert not (tmp_path / "prepared").exists()
    small = ["--input.scales", 48, "--input.max-size", 64]
    run(monkeypatch, *root, "--out", tmp_path / "look", *small)
    assert f"Page: {tmp_path / 'look/index.html'}" in capsys.readouterr().out
    assert "What the network sees" in (tmp_path / "look/index.html").read_text("utf-8")


def test_proposals_are_searched(folder, tmp_path, monkeypatch, capsys):
    root = ["--data.root", folder, "--data.tfds-dir", tmp_path / "prepared"]
    run(monkeypatch, *root, "--proposals", "2", "--proposals.min-side", 2)
    assert "2 images  IoU 0.5  IoU 0.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "voc07_vgg16"], "--data.root FOLDER is missing"),
        (["--proposals", "0"], "--proposals: must be at least 1, not 0"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert message in capsys.readouterr().err
