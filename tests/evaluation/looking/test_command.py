"""`inspect-data` as it is typed."""

import re
import sys

import pytest

from frcnn_jax.commands.inspect_data import main
from tests.data.voc_files import VocFiles, annotation_xml, object_xml, standard_folder


def run(monkeypatch, *arguments, program="inspect_data.py"):
    monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
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
    run(monkeypatch, *root, "--out", tmp_path / "look", *small)  # its own page is replaced, that of another is not
    (tmp_path / "look/index.html").write_text("mine")
    with pytest.raises(FileExistsError, match=r"look/index.html would be replaced, and is no look at data"):
        run(monkeypatch, *root, "--out", tmp_path / "look", *small)
    assert (tmp_path / "look/index.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("program", "typed"),
    [
        ("frcnn inspect-data", "frcnn train"),
        ("python -m frcnn_jax inspect-data", "python -m frcnn_jax train"),
        ("scripts/inspect_data.py", "python scripts/train.py"),
    ],
)
def test_it_ends_with_the_training_of_the_same_folder_config_and_settings(folder, monkeypatch, capsys, program, typed):
    settings = ["--data.root", folder, "--config", "folder_scratch", "--data.rename", "bee=honey bee", "--verify"]
    run(monkeypatch, *settings, program=program)
    *_, head, command, recipes = capsys.readouterr().out.splitlines()
    assert head == "Next:"
    rest = f"--config folder_scratch --workdir runs/mine --data.root {folder} --data.rename 'bee=honey bee'"
    assert command.strip() == f"{typed} {rest}"
    assert "folder is for photographs" in recipes


def test_the_training_is_that_of_a_config_of_ones_own_and_waits_for_faults(folder, tmp_path, monkeypatch, capsys):
    own = tmp_path / "own.py"
    own.write_text("from frcnn_jax.config import derive\n\n\ndef get_config():\n    return derive('demo', __file__)\n")
    run(monkeypatch, "--data.root", folder, "--config", own)
    command = f"  python train.py --config {own} --workdir runs/mine --data.root {folder}\n"
    assert capsys.readouterr().out.endswith(f"\nNext:\n{command}")
    (folder / "Annotations/b1.xml").write_text("{}")
    run(monkeypatch, "--data.root", folder, "--config", own)
    settings = "--data.faults.unreadable-annotation drop"
    printed = capsys.readouterr().out
    assert f"To go on without them:\n  {settings}\n" in printed
    assert printed.endswith(f"\nNext, with the settings for the faults:\n{command.rstrip()} {settings}\n")
    accepted = ["--data.root", folder, "--config", own, *settings.split()]
    run(monkeypatch, *accepted)
    assert capsys.readouterr().out.endswith(f"\nNext:\n{command.rstrip()} {settings}\n")


def test_a_drawn_test_that_stops_is_named_before_the_training(folder, monkeypatch, capsys):
    for path in [*folder.glob("ImageSets/Main/*.txt"), *folder.glob("*/[abt][12]*")]:
        path.unlink()
    files = VocFiles(folder)
    files.image("only", object_xml("cat"))
    run(monkeypatch, "--data.root", folder)
    assert "\nNext, when nothing stops it:\n" in capsys.readouterr().out


def test_nothing_is_next_where_nothing_can_be_learned(folder, monkeypatch, capsys):
    (folder / "Annotations/a1.xml").write_text(annotation_xml(filename="a1.jpg"))
    run(monkeypatch, "--data.root", folder, "--data.validation", "folder/val")
    assert "Next" not in capsys.readouterr().out


def test_proposals_are_searched(folder, tmp_path, monkeypatch, capsys):
    root = ["--data.root", folder, "--data.tfds-dir", tmp_path / "prepared"]
    run(monkeypatch, *root, "--proposals", "2", "--proposals.min-side", 2)
    printed = capsys.readouterr().out
    assert "2 images  objects  IoU 0.5  IoU 0.7" in printed
    advice = "\nRecall at IoU 0.5 is below 0.9: --proposals.max-side 500 or larger finds smaller objects\n"
    share = float(re.search(r"\nall objects +\d+ +(\S+)", printed)[1])
    assert (advice in printed) == (share < 0.9)
    assert f"\nThe proposals are kept in {tmp_path / 'prepared'}, where training finds them\n" in printed


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
