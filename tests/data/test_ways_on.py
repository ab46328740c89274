"""Messages about a folder name the place of what is missing, and what to type."""

import json
import logging
import re

import pytest

from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import coco_json, write_labelimg, write_text, write_voc
from tests.data.test_splits import NAMES, config_of, ids, pictures
from tests.data.voc_files import VocFiles, object_xml


def test_an_empty_list_is_named_where_classes_are_renamed(tmp_path):
    root = write_voc(tmp_path / "set", pictures("train", ["a"]) + pictures("validation", ["b"]))
    write_text(root / "ImageSets/Main/test.txt", "")
    with pytest.raises(ValueError, match=r"has no images: ImageSets/Main/test\.txt lists none; add some"):
        ids(config_of(root, rename=("cat=dog",)), "test")


def test_a_split_to_validate_with_that_does_not_exist(tmp_path):
    root = write_labelimg(tmp_path / "set", pictures("", NAMES[:20]))
    config = config_of(root, validation="folder/val")
    with pytest.raises(FileNotFoundError, match=r"no split 'validation' \(there: all\); leave data\.validation out"):
        ids(config, "val")


def test_a_format_that_cannot_be_read_does_not_stop_another(tmp_path, caplog):
    root = write_voc(tmp_path / "set", pictures("train", ["a", "b"]))
    write_text(root / "labels/a.txt", "0 .5 .5 .1 .1\n")
    for name in ("data", "old"):
        write_text(root / f"{name}.yaml", f"train: {name}\nnames: [cat]\n")
    with caplog.at_level(logging.WARNING):
        assert open_reader(root, config_of(root))[0] == "voc"
    assert re.search(r"is read as voc and not as yolo: .*data\.yaml.*; --data\.format yolo stops there", caplog.text)
    with pytest.raises(ValueError, match=r"old\.yaml"):
        open_reader(root, config_of(root, format="yolo"))


def test_too_many_files_of_coco_are_counted(tmp_path):
    its = pictures("train", [f"p{number}" for number in range(51)])
    for picture in its:
        picture.save(tmp_path / "set")
        write_text(tmp_path / f"set/{picture.stem}.json", json.dumps(coco_json([picture])))
    message = r"set: 51 JSON files in one folder \(the first: p0\.json\) are more than the 50 read: join them"
    with pytest.raises(FileNotFoundError, match=message):
        open_reader(tmp_path / "set", config_of(tmp_path / "set"))


def test_a_class_of_a_list_of_another_name_alone(tmp_path, caplog):
    files = VocFiles(tmp_path / "set")
    files.image("a", object_xml("cat"))
    files.image("b", object_xml("cat"), object_xml("bee"))
    files.split("train", "a")
    files.split("mini", "b")
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/mini", config_of(files.root, test="folder/mini"))
    assert data.classes == ("cat",)
    named = r"of no image of train, validation or test \(data\.classes would name them\) are left out: bee 1"
    assert re.search(named, caplog.text)
