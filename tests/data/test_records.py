"""Records of a reader that checks nothing, and files that cannot be read."""

import dataclasses
import math
import os

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.formats.table import FORMATS, register_format
from frcnn_jax.data.prepared.splits import tested
from frcnn_jax.data.records import ImageRecord, ObjectRecord, SplitRecords
from tests.data.formats.written import Picture, write_labelimg

BOXES = {"a": (1, 2, 9, 10), "b": (1, 2, math.nan, 10), "c": (1, -math.inf, 9, 10), "lost": (1, 2, 9, 10)}


class PlainReader:
    """Three images of each split and one that does not exist, of the same name in both."""

    layout, splits = "file plain", ("train", "test")

    def __init__(self, root, config):
        self.root = root

    @staticmethod
    def fits(root):
        return (root / "plain").is_file()

    def read(self, split):
        whole = ObjectRecord(1, "cat", (0, 0, 20, 20))
        return SplitRecords(
            tuple(
                ImageRecord(
                    *(f"{split}/{name}", self.root / split / f"{name}.jpg", "plain", None),
                    (ObjectRecord(0, "cat", box), whole),
                )
                for name, box in BOXES.items()
            )
        )


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "plain", PlainReader)  # is removed at the end
    register_format("plain", PlainReader)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/plain").touch()
    for split in ("train", "test"):
        for name in "abc":
            Picture(name, split, (20, 24)).save(tmp_path / "set" / split)
    return DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds"), test="folder/test")


def test_records_of_a_plug_in_are_checked(config):
    with pytest.raises(DatasetFaultError, match="missing_image 2, unreadable_annotation 4") as caught:
        open_dataset("folder/train", config)
    found = {str(fault).partition(": ")[2] for fault in caught.value.faults}
    assert found == {
        *(
            f"image = 'lost.jpg': there is no such file, in the record of {split}/lost [missing_image]"
            for split in ("train", "test")
        ),
        *(
            f"object 0: box = '{box}': not finite, in the record of {split}/{name} [unreadable_annotation]"
            for name, box in (("b", "x1 1, y1 2, x2 nan, y2 10"), ("c", "x1 1, y1 -inf, x2 9, y2 10"))
            for split in ("train", "test")
        ),
    }


def test_what_is_wrong_in_them_may_be_dropped(config):
    drop = FaultPolicy(missing_image="drop", unreadable_annotation="drop")
    data = open_dataset("folder/train", dataclasses.replace(config, faults=drop))
    assert data.image_ids == ("train/a", "train/b", "train/c")
    assert [len(truth.boxes) for truth in data.annotations] == [2, 1, 1]


def test_files_that_cannot_be_read_are_not_equal(tmp_path, monkeypatch):
    """The name of the error stands in place of the hash."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12")
    names = {"train": "a", "test": "b"}
    splits = {split: SplitRecords((ImageRecord(name, tmp_path / name, "x"),)) for split, name in names.items()}
    assert tested.without_tested(splits, ["test"], tmp_path)[1] == {"train": 1}
    monkeypatch.setattr(tested, "file_hash", lambda path: "PermissionError")
    assert tested.without_tested(splits, ["test"], tmp_path) == (splits, {})


def test_faults_in_a_folder_whose_name_is_not_utf_8_are_reported(tmp_path):
    its = [Picture(str(number), "", (30, 40), (("cat", (2, 3, 60, 12)),)) for number in range(2)]
    folder = os.fsdecode(b"caf\xe9")
    root = write_labelimg(tmp_path / "set", its, images=folder, xml=folder)
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    with pytest.raises(DatasetFaultError, match=r"has 2 faults \(box_outside 2\)"):
        open_dataset("folder/trainval", config)
    (report,) = (tmp_path / "tfds").rglob("*.faults.txt")
    assert r"caf\udce9/0.xml: object 0" in report.read_text("utf-8")
