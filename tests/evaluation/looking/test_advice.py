"""Settings that the survey advises, in the command that it ends with."""

import shlex
import sys

import pytest

from frcnn_jax.commands.inspect_data import main
from frcnn_jax.config import Config, replace
from frcnn_jax.evaluation.looking.advice import advised_settings
from frcnn_jax.evaluation.looking.survey import survey_folder
from tests.data.formats.written import Picture, write_rows
from tests.data.voc_files import VocFiles, object_xml


def folder(root, *names):
    """Photographs of one object each, of these classes in turn, in no split."""
    files = VocFiles(root)
    for number in range(12):
        files.image(f"a{number}", object_xml(names[number % len(names)]))
    return root


def advised(root, given=(), **data):
    config = replace(Config(), data={"root": str(root), "train": ("folder/trainval",), "test": "folder/test", **data})
    return advised_settings(survey_folder(config), config, list(given))


def test_names_and_the_test(tmp_path):
    root = folder(tmp_path, "big Cat", "big cat", "dog")
    words, purposes = advised(root, ["--data.root", "R", "--data.split", "0.1", "--data.verify"])
    rename = ["--data.rename", "big Cat=big cat"]
    assert words == ["--data.root", "R", "--data.verify", *rename, "--data.split", "0.3"]
    assert purposes == ["the names of classes", "a larger test"]
    assert advised(root, ["--data.split=0.4"], split=0.4) == (["--data.split=0.4", *rename], purposes[:1])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (("dog=Hound",), ("dog=Hound", "Cat=cat")),
        (("Cat=CAT", "cat=Cat"), ("Cat=CAT", "cat=Cat")),  # no object has these names itself
    ],
)
def test_renames_are_added_to_those_that_are_given(tmp_path, earlier, later):
    root = folder(tmp_path, "Cat", "cat", "dog")
    assert advised(root, ["--data.rename", *earlier], rename=earlier, split=0.4)[0] == ["--data.rename", *later]
    survey_folder(replace(Config(), data={"root": str(root), "rename": later}))


def test_classes_that_are_given_keep_their_names(tmp_path):
    root = folder(tmp_path, "Cat", "cat")
    assert advised(root, classes=("Cat", "cat"), split=0.4) == ([], [])


def test_codes_get_their_names(tmp_path):
    pictures = [Picture(f"p{number}", split, (30, 40), (("/m/019jd", (1, 2, 30, 20)),)) for number, split in
                enumerate(("train", "test"))]  # fmt: skip
    header = "filename,class,xmin,ymin,xmax,ymax"
    root = write_rows(tmp_path, pictures, header, lambda picture, *row: ",".join(map(str, (picture.name, *row))))
    (root / "classes.csv").write_text("/m/019jd,Boat\n")
    assert advised(root) == (["--data.rename", "/m/019jd=Boat"], ["the names of classes"])


def test_the_command_has_all_of_it(tmp_path, monkeypatch, capsys):
    root = folder(tmp_path / "set", "big Cat", "big cat")
    (root / "Annotations/a1.xml").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["frcnn inspect-data", "--data.root", str(root)])
    main()
    *_, head, command, _ = capsys.readouterr().out.splitlines()
    assert head == "Next, with the settings for the faults, the names of classes and a larger test:"
    words = shlex.split(command)
    assert words[words.index("--data.rename") + 1 : words.index("--data.split")] == ["big Cat=big cat"]
    assert words[-2:] == ["--data.faults.unreadable-annotation", "drop"]
