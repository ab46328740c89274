"""Lists of splits in the root of a folder, beside annotations of each format."""

import json
import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import (
    NAMES,
    PICTURES,
    coco_json,
    write_csv,
    write_labelimg,
    write_text,
    write_voc,
    yolo_rows,
)

LISTS = {"train": ["a_2", "a_1"], "valid": ["b_1"], "test": ["t_2", "t_1"]}
LINES = {
    "PaddleDetection": "./images/{0}.jpg ./annotations/{0}.xml",
    "tabs": "images/{0}.jpg\tannotations/{0}.xml",
    "boxes in the line": "images/{0}.jpg 1,2,3,4,0 5,6,7,8,1",
    "ids": "{0}",
    "marked ids": "{0} -1",
    "names": "{0}.jpg",
    "annotations": "annotations/{0}.xml",
    "another machine": "C:\\set\\images\\{0}.jpg",
}


def write_lists(root, line="{}", names="{}.txt", lists=LISTS):
    for split, stems in lists.items():
        write_text(root / names.format(split), "".join(f"{line.format(stem)}\n" for stem in stems))


def splits(root, layout):
    name, reader = open_reader(root, DataConfig())
    assert name == layout
    return {split: sorted(reader.read(split).ids) for split in reader.splits}


EXPECTED = {"train": ["a_1", "a_2"], "validation": ["b_1"], "test": ["t_1", "t_2"]}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("names", ["{}.txt", "lists/{}_list.txt"])
def test_lists_beside_xml(tmp_path, line, names):
    write_labelimg(tmp_path, PICTURES, "images", "annotations")
    write_lists(tmp_path, LINES[line], names)
    assert splits(tmp_path, "labelimg") == EXPECTED


def test_nothing_that_a_list_tests_is_trained_on(tmp_path, caplog):
    root = write_labelimg(tmp_path / "set", PICTURES, "images", "annotations")
    write_lists(root, LINES["PaddleDetection"])
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), train=("folder/trainval",), test="folder/test")
    with caplog.at_level(logging.INFO):
        train, test = (open_dataset(f"folder/{split}", config).image_ids for split in ("trainval", "test"))
    assert (train, test) == (("a_1", "a_2", "b_1"), ("t_1", "t_2"))
    assert "train: 3 images of train.txt and valid.txt; test: 2 images of test.txt" in caplog.text


def test_listed_images_without_annotation_are_the_reason_for_another_test(tmp_path, caplog):
    root = write_labelimg(tmp_path / "set", PICTURES, "images", "annotations")
    write_lists(root)
    for stem in LISTS["test"]:
        (root / f"annotations/{stem}.xml").unlink()
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), train=("folder/trainval",), test="folder/test")
    with caplog.at_level(logging.WARNING):
        assert open_dataset("folder/test", config).image_ids == ("b_1",)
    assert "as there are 2 test images without annotation, which are left out" in caplog.text


@pytest.mark.parametrize("line", ["PaddleDetection", "ids", "names"])
@pytest.mark.parametrize("below", ["", "VOCdevkit/VOC2007"])
@pytest.mark.parametrize("names", ["{}.txt", "{}_list.txt"])
def test_lists_beside_jpegimages_or_above(tmp_path, line, below, names):
    root = write_voc(tmp_path / below)
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    text = LINES[line].replace("images", f"{below}/JPEGImages").replace("annotations", f"{below}/Annotations")
    write_lists(tmp_path, text, names)
    assert splits(tmp_path, "voc") == EXPECTED
    config = DataConfig(root=str(tmp_path), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    assert open_dataset("folder/test", config).image_ids == ("t_2", "t_1"), "in the order of the list"


def test_folders_of_splits_in_jpegimages_without_lists(tmp_path):
    write_labelimg(tmp_path, PICTURES, "JPEGImages/{}", "Annotations/{}")
    assert splits(tmp_path, "labelimg") == EXPECTED


def test_lists_beside_one_file_of_coco_or_csv(tmp_path):
    for picture in PICTURES:
        picture.save(tmp_path / "coco/images")
    write_text(tmp_path / "coco/annotations.json", json.dumps(coco_json(PICTURES)))
    write_lists(tmp_path / "coco", "{}.jpg")
    assert splits(tmp_path / "coco", "coco") == EXPECTED
    config = DataConfig(root=str(tmp_path / "coco"), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    assert open_dataset("folder/test", config).image_ids == ("t_1", "t_2")
    root = write_csv(tmp_path / "csv")
    write_lists(root, lists={"test": ["a_1"], "train": ["t_1"]})
    assert splits(root, "csv") == EXPECTED, "files of the splits count first"


def test_yolo_takes_ids_and_labels_are_no_lists(tmp_path, caplog):
    for picture in PICTURES:
        picture.save(tmp_path / "images")
        write_text(tmp_path / f"labels/{picture.stem}.txt", yolo_rows(picture))
    for name in ("my_test", "test"):
        PICTURES[3].save(tmp_path / "images", f"{name}.jpg")
        write_text(tmp_path / f"labels/{name}.txt", yolo_rows(PICTURES[3]))
    write_text(tmp_path / "labels/test_lost.txt", yolo_rows(PICTURES[3]))
    write_text(tmp_path / "classes.txt", "\n".join(NAMES))
    write_lists(tmp_path, "{}")
    with caplog.at_level(logging.WARNING):
        assert splits(tmp_path, "yolo") == EXPECTED | {"test": ["labels/test_lost", "t_1", "t_2"]}
    assert "is not read" not in caplog.text


def test_a_list_counts_before_a_folder_and_leaves_other_folders(tmp_path, caplog):
    write_labelimg(tmp_path, PICTURES, "{}", "{}")
    write_lists(tmp_path, lists={"val": ["a_2"], "test": ["t_1"]})
    with caplog.at_level(logging.WARNING):
        assert splits(tmp_path, "labelimg") == {
            "train": ["a_1"],
            "validation": ["a_2"],
            "test": ["t_1"],
            "all": ["b_1", "t_2"],
        }
    assert "left out 2 images in no folder or file of a split" in caplog.text


@pytest.mark.parametrize("write", [write_labelimg, write_voc])
def test_a_file_named_after_a_split_that_is_no_list_is_named(tmp_path, caplog, write):
    root = write(tmp_path / "set")
    for path in root.glob("ImageSets/Main/*"):
        path.unlink()
    write_lists(root, lists={"train": ["a_1", "lost"], "valid": [], "test": ["x_1", "x_2"]})
    with caplog.at_level(logging.WARNING):
        open_reader(root, DataConfig())[1].splits  # noqa: B018
    said = [message.removeprefix(f"{root}/") for message in caplog.messages]
    assert "test.txt is not read: no line names an image in the folder (x_1)" in said
    assert "valid.txt is not read: it is empty" in said


def test_lists_beside_those_in_main_are_named(tmp_path, caplog):
    root = write_voc(tmp_path)
    (root / "ImageSets/Main/test.txt").rename(root / "test.txt")
    write_lists(root, lists={"train": ["b_1"]})
    with caplog.at_level(logging.WARNING):
        assert set(splits(root, "voc")) == {"train", "validation"}
    assert caplog.messages == [f"{root}/test.txt is not read: there are lists in {root}/ImageSets/Main"]
