"""Test images without annotation or without objects: messages, and replacement by other images."""

import dataclasses
import json
import logging
import re
import shutil

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.prepared.index import SUMMARY_FILE
from frcnn_jax.data.prepared.splits.rule import split_rule
from frcnn_jax.sums import SUMS_FILE
from tests.data.formats.written import Picture, write_coco, write_csv, write_labelimg, write_text, write_voc, write_yolo

PICTURES = [
    Picture(f"{split}{number}", split, (20, 24), (("cat", (1, 2, 9, 10)),))
    for split, count in (("train", 12), ("test", 4))
    for number in range(count)
]


def config_of(root, **policy):
    faults = FaultPolicy(**policy)
    return DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"), test="folder/test", faults=faults)


def opened(config, split, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = open_dataset(f"folder/{split}", config)
    return data, [message.removeprefix(config.root) for message in caplog.messages]


@pytest.mark.parametrize(
    ("write", "annotations"),
    [
        (write_labelimg, "test/*.xml"),
        (write_yolo, "labels/test"),
        (write_coco, "annotations/instances_test2017.json"),
        (write_csv, "test_labels.csv"),
    ],
)
def test_a_folder_of_test_images_without_annotation_is_said_to_be_that(tmp_path, write, annotations, caplog):
    root = write(tmp_path / "set", PICTURES)
    for path in root.glob(annotations):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    data, messages = opened(config_of(root), "test", caplog)
    assert data.image_ids == ("train0", "train5")
    said = "with a chance of 0.1 (data.split), as there are 4 test images without annotation, which are left out"
    assert any(message.endswith(said) for message in messages), "as a warning"


def test_a_single_test_image_without_annotation_is_said_to_be_that(tmp_path):
    root = write_labelimg(tmp_path / "set", [*PICTURES[:2], Picture("alone", "test", (20, 20))])
    (root / "test/alone.xml").unlink()
    config = DataConfig(root=str(root))
    why = split_rule("test", open_reader(root, config)[1], config).why
    assert "as there is 1 test image without annotation, which is left out" in why


def test_a_list_of_test_images_without_annotation_is_said_to_be_that(tmp_path, caplog):
    root = write_voc(tmp_path / "set", PICTURES)
    for path in root.glob("Annotations/test*"):
        path.unlink()
    none = "none of the 4 images of split test has an annotation"
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/test", config_of(root))
    assert f"  {none}" in str(caught.value).splitlines()
    drop = config_of(root, missing_annotation="drop")
    data, messages = opened(drop, "trainval", caplog)
    assert (len(data), messages[0]) == (12, f": {none}")
    message = (
        "data set folder/test: none of the 4 images of split 'test' has an annotation; annotate them, or take them as "
        "images without objects: --data.faults.missing-annotation empty (there: train)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_dataset("folder/test", drop)
    data, messages = opened(config_of(root, missing_annotation="empty"), "test", caplog)
    assert (len(data), messages) == (4, [f": {none}"])
    # Prepared by an earlier version.
    directory = open_dataset("folder/train", drop).directory
    for name in (SUMMARY_FILE, SUMS_FILE):
        (directory / name).unlink()
    with pytest.raises(ValueError, match=r"folder/test: no split 'test' with images \(there: train\)"):
        open_dataset("folder/test", drop)


def test_a_split_that_was_dropped_for_other_faults_says_which(tmp_path):
    root = write_voc(tmp_path / "set", PICTURES)
    for path in root.glob("JPEGImages/test*"):
        path.write_bytes(path.read_bytes()[:-2])
    write_text(root / "Annotations/test3.xml", "<annotation>")
    drop = config_of(root, unreadable_image="drop", unreadable_annotation="drop")
    with pytest.raises(
        ValueError, match=r"all images of split 'test' were dropped for their faults \(unreadable_anno.* 1"
    ):
        open_dataset("folder/test", drop)


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_split_without_objects_is_said_to_be_that(tmp_path, write, caplog):
    root = write(
        tmp_path / "set", [dataclasses.replace(p, objects=() if p.split == "test" else p.objects) for p in PICTURES]
    )
    _, messages = opened(config_of(root), "test", caplog)
    said = ": none of the 4 images of split test has an object, so that nothing is measured: annotate objects, or give "
    assert f"{said}another split by --data.test" in messages
    assert json.loads((opened(config_of(root), "test", caplog)[0].directory / SUMMARY_FILE).read_text())["empty"] == {}
