"""The contract of readers, and the table of formats: folders that fit and that do not, a custom format."""

import dataclasses
import importlib
import sys

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.table import FORMATS, register_format
from frcnn_jax.data.formats.voc.reader import VocReader
from tests.data.contracts import check_dataset, check_reader
from tests.data.voc_files import VocFiles, object_xml, pixels, standard_folder

HEADER = "split,image,class,x,y,w,h,kind"
ROWS = ("train,a.jpg,cat,1,1,40,30,", "train,a.jpg,ant,5.125,6.5,15.375,16,", "train,b.jpg,,,,,,",
        "test,c.jpg,ant,40,30,1,1,", "validation,d.jpg,bee,3,4,0.3,7,")  # fmt: skip


@pytest.fixture
def csv_format():
    module = importlib.import_module("tests.data.csv_format")
    yield module
    FORMATS.pop("my_csv")
    sys.modules.pop(module.__name__)


def csv_folder(root, *rows):
    root.mkdir(exist_ok=True)
    for seed, name in enumerate("abcd"):
        cv2.imwrite(str(root / f"{name}.jpg"), pixels(seed))
    (root / "labels.csv").write_text("\n".join([HEADER, *(rows or ROWS)]) + "\n")
    return DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"))


def test_voc(tmp_path):
    files = standard_folder(tmp_path)
    files.split("test", "t1", "t1", "missing")
    for split in ("train", "validation", "test"):
        check_reader("voc", files.root, split)


def test_a_format_of_ones_own(tmp_path, csv_format):
    csv_folder(tmp_path, *ROWS, "test,e.jpg,bee,1,1,5,5,")
    for split in ("train", "test"):
        check_reader("my_csv", tmp_path, split)


def test_its_boxes_are_right_to_the_last_bit(tmp_path, csv_format):
    """Fractions that no rounding to thousandths gives back, a single pixel in the corner, less than a pixel."""
    config = csv_folder(tmp_path / "mine", *ROWS, "train,b.jpg,bee,1.123456789,2.1,3.3333333,7.7777777,")
    train = open_dataset("folder/train", config)
    check_dataset(train)
    assert (train.image_ids, train.classes) == (("a.jpg", "b.jpg"), ("ant", "bee", "cat"))
    np.testing.assert_array_equal(train.annotations[0].boxes, [[0, 0, 40, 30], [4.125, 5.5, 19.5, 21.5]])
    x, y, w, h = 1.123456789 - 1, 2.1 - 1, 3.3333333, 7.7777777
    np.testing.assert_array_equal(train.annotations[1].boxes, np.float32([[x, y, x + w, y + h]]))
    test, validation = open_dataset("folder/test", config), open_dataset("folder/val", config)
    np.testing.assert_array_equal(test.annotations[0].boxes, [[39, 29, 40, 30]])
    np.testing.assert_array_equal(validation.annotations[0].boxes, np.float32([[2, 3, 2.3, 10]]))
    assert test.directory == train.directory
    assert open_dataset("folder/trainval", config).image_ids == ("a.jpg", "b.jpg", "d.jpg")


def test_it_is_prepared_anew_where_it_changed_and_not_where_it_moved(tmp_path, csv_format):
    config = csv_folder(tmp_path / "mine")
    first = open_dataset("folder/train", config)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "mine").rename(tmp_path / "elsewhere/mine")
    config = dataclasses.replace(config, root=str(moved))
    assert open_dataset("folder/train", config).directory == first.directory
    csv_folder(moved, *ROWS[:-1])
    relabelled = open_dataset("folder/train", config)
    assert relabelled.directory != first.directory
    assert relabelled.fingerprint != first.fingerprint, "one class fewer"
    cv2.imwrite(str(moved / "b.jpg"), pixels(9))
    changed = open_dataset("folder/train", config)
    assert changed.directory != relabelled.directory
    assert changed.fingerprint != relabelled.fingerprint


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ("train,a.jpg,cat,-4,1,9,5,", "box_outside",
         r"labels.csv \(a.jpg\): object 2: bndbox = 'x1 -5, y1 0, x2 4, y2 5': outside the image "
         r"\(x1, y1 from 0, x2 to 40, y2 to 30\)"),
        ("train,a.jpg,cat,3,1,0,5,", "degenerate_box", "reversed or empty"),
        ("train,a.jpg,cat,x,1,0,5,", "unreadable_annotation", "object 2: x,y,w,h = 'a.jpg'"),
        ("train,e.jpg,cat,3,1,2,5,", "missing_image", "image = 'e.jpg': there is no such file"),
    ],
)  # fmt: skip
def test_its_faults_are_told_in_its_own_terms(tmp_path, csv_format, row, kind, message):
    config = csv_folder(tmp_path / "mine", *ROWS, row)
    with pytest.raises(DatasetFaultError, match=message) as caught:
        open_dataset("folder/train", config)
    assert [fault.kind for fault in caught.value.faults] == [kind]
    config = dataclasses.replace(config, faults=FaultPolicy(**{kind: "drop"}))
    assert open_dataset("folder/train", config).dropped == {kind: 1}


def test_crowds_are_kept_and_marked(tmp_path, csv_format):
    config = csv_folder(tmp_path / "mine", *ROWS, "train,a.jpg,bee,2,1,20,20,crowd", "train,b.jpg,cat,1,1,9,9,crowd")
    data = open_dataset("folder/train", config)
    check_dataset(data)
    assert [truth.crowd.tolist() for truth in data.annotations] == [[False, False, True], [True]]
    assert [truth.labels.tolist() for truth in data.annotations] == [[3, 1, 2], [3]]
    assert data.dropped == {}


def test_a_fault_of_a_crowd_is_a_fault(tmp_path, csv_format):
    config = csv_folder(tmp_path / "mine", *ROWS, "train,a.jpg,bee,-5,1,20,20,crowd")
    with pytest.raises(DatasetFaultError, match="box_outside"):
        open_dataset("folder/train", config)


def test_an_id_of_two_images_is_refused(tmp_path, csv_format, monkeypatch):
    config = csv_folder(tmp_path / "mine")
    read = csv_format.CsvReader.record

    def short(self, name, rows):
        return dataclasses.replace(read(self, name, rows), image_id="same")

    monkeypatch.setattr(csv_format.CsvReader, "record", short)
    with pytest.raises(ValueError, match=r"the id 'same' stands for .*a\.jpg and for .*b\.jpg"):
        open_dataset("folder/train", config)


def test_two_formats_that_fit_are_named_unless_one_is_set(tmp_path, csv_format):
    config = csv_folder(tmp_path / "both")
    files = VocFiles(tmp_path / "both")
    files.image("v", object_xml("dog"))
    files.split("train", "v")
    with pytest.raises(ValueError, match=r"both: the formats voc and my_csv fit, and do not hold .* set data\.format"):
        open_dataset("folder/train", config)
    for name, ids in (("voc", ("v",)), ("my_csv", ("a.jpg", "b.jpg"))):
        assert open_dataset("folder/train", with_format(config, name)).image_ids == ids
    with pytest.raises(ValueError, match=r"data\.format = 'via': unknown; known are coco, csv, .*, yolo and auto"):
        open_dataset("folder/train", with_format(config, "via"))


def with_format(config, name):
    if hasattr(config, "format"):
        return dataclasses.replace(config, format=name)
    changed = dataclasses.replace(config)
    object.__setattr__(changed, "format", name)
    return changed


def test_a_folder_that_no_format_fits_says_what_was_looked_for(tmp_path, csv_format):
    config = DataConfig(root=str(tmp_path), tfds_dir=str(tmp_path / "tfds"))
    wanted = (
        r"its format is not known\. It has 0 images, but no folder JPEGImages \(VOC format\), no XML annotations "
        r"beside images \(format labelimg\), no JSON file .*, no YAML file .*, no CSV file .*, no file labels\.csv "
        r"\(format my_csv\)"
    )
    with pytest.raises(FileNotFoundError, match=wanted):
        open_dataset("folder/train", config)
    csv_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no split 'mine' \(it has: train, test, validation\)"):
        open_dataset("folder/mine", config)


def test_a_name_is_registered_once(csv_format):
    register_format("my_csv", csv_format.CsvReader)
    for name in ("my_csv", "voc", "auto"):
        with pytest.raises(ValueError, match=f"format '{name}' already exists"):
            register_format(name, object)


def test_a_reader_without_the_optional_methods_gets_them(csv_format):
    reader = FORMATS["my_csv"]
    assert issubclass(reader, csv_format.CsvReader)
    assert (reader.may_fit(None), reader.lacking(None)) == (False, "")


class NoReader:
    layout = "file"


class NothingOwn(AnnotationReader):
    layout = "file"


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("bad", 3, r"must be a class with .* as AnnotationReader says, not 3 without layout, fits, read$"),
        ("bad", NoReader, "not <class '.*NoReader'> without fits, read$"),
        ("bad", NothingOwn, "not <class '.*NothingOwn'> without fits, read$"),
        (5, VocReader, r'takes a name first, as in "my_csv", not 5$'),
    ],
)
def test_what_cannot_be_registered(name, reader, message):
    known = dict(FORMATS)
    with pytest.raises(TypeError, match=message):
        register_format(name, reader)
    assert known == FORMATS
