"""Splits of any name that are tested or validated with: none of their images is trained on, and all count alike."""

import dataclasses
import shutil

import pytest

from frcnn_jax.data.dataset import open_dataset
from tests.data.formats.written import Picture, write_coco, write_labelimg, write_text
from tests.data.test_splits import NAMES, config_of, held_out, ids, pictures
from tests.data.voc_files import VocFiles, object_xml


def voc(root, lists, box=(2, 3, 9, 10)):
    """A folder in VOC format with these lists of ids, each id one image."""
    files = VocFiles(root)
    for name in dict.fromkeys(" ".join(lists.values()).split()):
        files.image(name, object_xml("cat", box))
    for name, names in lists.items():
        files.split(name, *names.split())
    return files.root


def test_a_tested_list_within_the_one_trained_on(tmp_path):
    root = voc(tmp_path / "set", {"train": "a b c", "val": "d e", "test": "f", "holdout2": "b d"})
    config = config_of(root, test="folder/holdout2")
    assert ids(config, "trainval", "holdout2", "train", "val", "test") == [
        ("a", "c", "e"),
        ("b", "d"),
        ("a", "c"),
        ("e",),
        ("f",),
    ]
    assert ids(config_of(root), "trainval") == [("a", "b", "c", "d", "e")]
    write_text(root / "ImageSets/Main/holdout2.txt", "c\n")
    assert ids(config, "trainval", "holdout2") == [("a", "b", "d", "e"), ("c",)], "prepared again"
    assert open_dataset("folder/train", config).dropped == {"tested": 1}


def test_a_list_validated_with_within_the_one_trained_on(tmp_path):
    root = voc(tmp_path / "set", {"trainval": "a b c d", "test": "e", "minival": "b c"})
    for test in ("folder/test", "voc/2007/test"):
        config = config_of(root, test=test, validation="folder/minival")
        assert ids(config, "trainval", "minival") == [("a", "d"), ("b", "c")]


def test_a_list_of_another_name_that_is_trained_on(tmp_path):
    """By content too; as a set that is not trained on it is what it lists."""
    root = voc(tmp_path / "set", {"part1": "a b c", "part2": "d e", "test": "c"})
    shutil.copy(root / "JPEGImages/c.jpg", root / "JPEGImages/a.jpg")
    config = config_of(root, train=("folder/part1", "folder/part2"))
    assert ids(config, "part1", "part2", "test") == [("b",), ("d", "e"), ("c",)]
    assert ids(config_of(root), "part1") == [("a", "b", "c")]
    assert ids(dataclasses.replace(config, test="folder/part1"), "part1") == [("a", "b", "c")]


def test_the_share_that_is_held_out_of_lists_of_other_names(tmp_path):
    root = voc(tmp_path / "set", {"part1": " ".join(NAMES[:30]), "part2": " ".join(NAMES[30:])})
    config = config_of(root, train=("folder/part1",))
    tested = held_out(NAMES, 0.1)
    assert ids(config, "part1", "test") == [tuple(name for name in NAMES[:30] if name not in tested), tested]
    config = config_of(root, test="folder/part2")
    assert ids(config, "trainval", "part2") == [tuple(NAMES[:30]), tuple(NAMES[30:])]


@pytest.mark.parametrize("names", [("Train", "Test"), ("train", "test"), ("TRAIN", "test")])
def test_the_case_of_a_split_does_not_count(tmp_path, names):
    root = voc(tmp_path / "set", {"Train": "a b", "Test": "b c"})
    config = config_of(root, train=(f"folder/{names[0]}",), test=f"folder/{names[1]}")
    assert ids(config, *names) == [("a",), ("b", "c")]
    root = write_coco(tmp_path / "coco", [*pictures("train", ["a"]), *pictures("test", ["b"])])
    config = config_of(root, train=(f"folder/{names[0]}",), test=f"folder/{names[1]}")
    assert ids(config, *names) == [("a",), ("b",)]


def test_a_split_of_another_name_follows_the_conventions_of_all(tmp_path):
    """Its own two objects are too few to tell."""
    files = VocFiles(tmp_path / "set")
    for name in "abcdef":
        files.image(name, object_xml("cat", (0, 0, 20, 19)))
    files.split("train", *"abcdef")
    files.split("mini", *"ab")
    config = config_of(files.root, train=("folder/train",))
    train, mini = (open_dataset(f"folder/{split}", config) for split in ("train", "mini"))
    boxes = [data.annotations[0].boxes.tolist() for data in (train, mini)]
    assert boxes == [[[0, 0, 21, 20]]] * 2
    for name in "abcdef":
        files.image(name, object_xml("cat", (0 if name in "ab" else 1, 1, 20, 19)))
    assert open_dataset("folder/mini", config).annotations[0].boxes.tolist() == [[0, 0, 20, 19]], "prepared again"


def test_a_folder_that_is_not_tested_is_all_trained_on(tmp_path):
    root = write_labelimg(tmp_path / "set", pictures("", NAMES[:20]))
    assert held_out(NAMES[:20], 0.3)
    elsewhere = config_of(root, test="voc/2007/test", split=0.3)
    assert ids(elsewhere, "trainval", "train") == [tuple(NAMES[:20])] * 2
    assert ids(elsewhere, "test") == [held_out(NAMES[:20], 0.3)], "on request"
    measured = dataclasses.replace(elsewhere, validation="folder/test")
    train, test = ids(measured, "trainval", "test")
    assert (sorted([*train, *test]), test) == (NAMES[:20], held_out(NAMES[:20], 0.3))
    root = write_coco(tmp_path / "two", [*pictures("train", ["a"]), *pictures("validation", ["b"])])
    assert ids(config_of(root, test="voc/2007/test"), "trainval") == [("a", "b")]
    assert ids(config_of(root), "trainval") == [("a",)]


def test_all_and_a_share_of_it(tmp_path):
    root = write_labelimg(tmp_path / "set", [Picture(n, "", (20, 24), (("cat", (1, 2, 9, 10)),)) for n in NAMES[:20]])
    config = config_of(root, train=("folder/all",), split=0.3)
    train, test = ids(config, "all", "test")
    assert (sorted([*train, *test]), test) == (NAMES[:20], held_out(NAMES[:20], 0.3))
    same = config_of(root, train=("folder/trainval",), test="folder/all", split=0.0)
    assert ids(same, "trainval", "all") == [tuple(NAMES[:20])] * 2, "as asked for"


def test_renames_are_those_of_all_splits(tmp_path, caplog):
    root = voc(tmp_path / "set", {"train": "a b c d", "holdout2": "c"})
    assert ids(config_of(root, test="folder/holdout2", rename=("cat=lion",)), "train") == [("a", "b", "d")]
    assert "other objects" not in caplog.text
