"""Every kind of fault: reported with all others, dropped and counted, or clipped, as the policy says."""

import dataclasses
import logging
import pickle
import shutil

import numpy as np
import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.voc_files import VocFiles, annotation_xml, object_xml

GOOD = object_xml("cat")
DTD = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "y">]>' + annotation_xml(GOOD)


@pytest.fixture
def config(tmp_path, files):
    return DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"), classes=("ant", "bee", "cat"))


def cut_image(files: VocFiles) -> None:
    path = files.root / "JPEGImages/t1.jpg"
    path.write_bytes(path.read_bytes()[:-2])


# kind, what makes it, fault as (file, object, field, value), what a drop takes away
CASES = {
    "missing image": (
        "missing_image",
        lambda f: (f.root / "JPEGImages/t1.jpg").unlink(),
        ("JPEGImages/t1", None, "file", "t1"),
        "image",
    ),
    "cut image": ("unreadable_image", cut_image, ("JPEGImages/t1.jpg", None, "file", "t1.jpg"), "image"),
    "missing annotation": (
        "missing_annotation",
        lambda f: (f.root / "Annotations/t1.xml").unlink(),
        ("Annotations/t1.xml", None, "file", "t1.xml"),
        "image",
    ),
    "bad XML": ("unreadable_annotation", lambda f: f.image("t1", xml="<annotation>"), "XML", "image"),
    "DTD": (
        "unreadable_annotation",
        lambda f: f.image("t1", xml=DTD),
        ("Annotations/t1.xml", None, "DOCTYPE", "a"),
        "image",
    ),
    "size": (
        "unreadable_annotation",
        lambda f: f.image("t1", xml=annotation_xml(GOOD, height="thirty")),
        ("Annotations/t1.xml", None, "size/height", "thirty"),
        "image",
    ),
    "missing field": (
        "unreadable_annotation",
        lambda f: f.image("t1", GOOD, object_xml().replace("<xmax>10</xmax>", "")),
        ("Annotations/t1.xml", 1, "bndbox/xmax", ""),
        "object",
    ),
    "not a number": (
        "unreadable_annotation",
        lambda f: f.image("t1", GOOD, object_xml(box=(2, "x", 10, 12))),
        ("Annotations/t1.xml", 1, "bndbox/ymin", "x"),
        "object",
    ),
    "NaN": (
        "unreadable_annotation",
        lambda f: f.image("t1", GOOD, object_xml(box=(2, 3, "nan", 12))),
        ("Annotations/t1.xml", 1, "bndbox/xmax", "nan"),
        "object",
    ),
    "no name": (
        "unreadable_annotation",
        lambda f: f.image("t1", GOOD, object_xml(" ")),
        ("Annotations/t1.xml", 1, "name", ""),
        "object",
    ),
    "difficult": (
        "unreadable_annotation",
        lambda f: f.image("t1", GOOD, object_xml(difficult="<difficult>perhaps</difficult>")),
        ("Annotations/t1.xml", 1, "difficult", "perhaps"),
        "object",
    ),
    "another size": (
        "size_mismatch",
        lambda f: f.image("t1", xml=annotation_xml(GOOD, width=30, height=40)),
        ("Annotations/t1.xml", None, "size", "30 x 40"),
        "image",
    ),
    "duplicate": (
        "duplicate_id",
        lambda f: f.split("test", "t1", "b1", "t1"),
        ("ImageSets/Main/test.txt", None, "line 3", "t1"),
        "line",
    ),
    "two images": (
        "duplicate_id",
        lambda f: (f.image("t1", GOOD), f.image("t1", suffix=".png", xml=annotation_xml(GOOD, filename="other.jpg"))),
        ("JPEGImages/t1", None, "file", "t1.jpg, t1.png"),
        "image",
    ),
    "class": (
        "unknown_class",
        lambda f: f.image("t1", GOOD, object_xml("Cat")),
        ("Annotations/t1.xml", 1, "name", "Cat"),
        "object",
    ),
    "reversed": (
        "degenerate_box",
        lambda f: f.image("t1", GOOD, object_xml(box=(10, 3, 2, 12))),
        ("Annotations/t1.xml", 1, "bndbox", "xmin 10, ymin 3, xmax 2, ymax 12"),
        "object",
    ),
    "empty": (
        "degenerate_box",
        lambda f: f.image("t1", GOOD, object_xml(box=(2, 5, 10, 5))),
        ("Annotations/t1.xml", 1, "bndbox", "xmin 2, ymin 5, xmax 10, ymax 5"),
        "object",
    ),
    "xmin": (
        "box_outside",
        lambda f: f.image("t1", GOOD, object_xml(box=(-2, 3, 10, 12))),
        ("Annotations/t1.xml", 1, "bndbox", "xmin -2, ymin 3, xmax 10, ymax 12"),
        "object",
    ),
    "ymax": (
        "box_outside",
        lambda f: f.image("t1", GOOD, object_xml(box=(2, 3, 10, 33))),
        ("Annotations/t1.xml", 1, "bndbox", "xmin 2, ymin 3, xmax 10, ymax 33"),
        "object",
    ),
}
cases = pytest.mark.parametrize(("kind", "spoil", "where", "what"), CASES.values(), ids=CASES.keys())


@cases
def test_fault_stops_by_default_and_says_where(config, files, kind, spoil, where, what):
    spoil(files)
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/train", config)  # the fault is in another split of the same data set
    (fault,) = caught.value.faults
    assert fault.kind == kind
    if where == "XML":
        assert (fault.file, fault.object, fault.field) == ("Annotations/t1.xml", None, "XML")
    else:
        assert (fault.file, fault.object, fault.field, fault.value) == where
    assert f"{kind} 1" in str(caught.value)
    assert str(fault) in str(caught.value)


@cases
def test_fault_is_dropped_and_counted(config, files, kind, spoil, where, what, caplog):
    files.image("b1", GOOD)
    files.split("test", "t1", "b1")
    spoil(files)
    config = dataclasses.replace(config, faults=FaultPolicy(**{kind: "drop"}))
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/test", config)
    assert data.dropped == {kind: 1}
    messages = [r.message for r in caplog.records if ", split test:" in r.message]
    assert messages == [f"{files.root}, split test: dropped 1 for {kind}"]
    assert data.image_ids == {"image": ("b1",), "object": ("t1", "b1"), "line": ("t1", "b1")}[what]
    if what == "object":
        np.testing.assert_array_equal(data.annotations[0].boxes, [[1, 2, 10, 12]])
    caplog.clear()
    assert open_dataset("folder/test", config).dropped == {kind: 1}, "kept with the data set"
    assert open_dataset("folder/train", config).dropped == {}
    assert not caplog.records


def test_box_is_clipped_on_request(config, files, caplog):
    boxes = [(0, -5, 10, 12), (30, 20, 99, 30.5), (2, 3, 10, 12)]
    files.image("t1", *(object_xml(box=box) for box in boxes))
    config = dataclasses.replace(config, faults=FaultPolicy(box_outside="clip"))
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/test", config)
    np.testing.assert_array_equal(data.annotations[0].boxes, [[0, 0, 10, 12], [29, 19, 40, 30], [1, 2, 10, 12]])
    assert (data.dropped, data.clipped) == ({}, 2)
    assert [record.message for record in caplog.records] == [
        f"{files.root}: corners are 1-based and inclusive, as VOC's own (data.corners auto: 1 of 6 objects have a "
        "corner of 0, too few to count from there: these are clipped)",
        f"{files.root}, split test: clipped 2 boxes to the image",
    ]


def test_a_box_over_the_border_by_up_to_two_pixels_is_clipped_and_counted(config, files):
    files.image("t1", object_xml(box=(0, 3, 10, 32)), object_xml(box=(-1, 3, 41.5, 12)), object_xml())
    for box_outside in ("error", "drop"):
        config = dataclasses.replace(config, faults=FaultPolicy(box_outside=box_outside))
        data = open_dataset("folder/test", config)
        np.testing.assert_array_equal(data.annotations[0].boxes, [[0, 2, 10, 30], [0, 2, 40, 12], [1, 2, 10, 12]])
        assert (data.dropped, data.clipped) == ({}, 2)


def test_box_with_nothing_inside_is_degenerate_once_clipped(config, files):
    files.image("t1", object_xml(box=(50, 3, 60, 12)))
    with pytest.raises(DatasetFaultError, match="box_outside 1"):
        open_dataset("folder/test", config)
    clip = FaultPolicy(box_outside="clip")
    with pytest.raises(DatasetFaultError, match=r"xmin 50, .*: nothing left of it inside the image \[degenerate_box\]"):
        open_dataset("folder/test", dataclasses.replace(config, faults=clip))
    drop = dataclasses.replace(clip, degenerate_box="drop")
    assert open_dataset("folder/test", dataclasses.replace(config, faults=drop)).dropped == {"degenerate_box": 1}


def test_a_box_over_the_border_by_rounding_is_no_fault(config, files):
    files.image("t1", object_xml(box=(0.9999, 3, 40.0001, 12)))
    data = open_dataset("folder/test", config)
    np.testing.assert_array_equal(data.annotations[0].boxes, [[0, 2, 40, 12]])
    assert data.clipped == 0


def test_all_faults_are_in_one_error(config, files):
    for number, (_, spoil, _, _) in enumerate(CASES.values()):
        other = VocFiles(files.root.parent / f"one{number}")
        other.image("t1", GOOD)
        spoil(other)
        for path in other.root.glob("Annotations/t1.xml"):
            path.write_text(path.read_text().replace("t1.jpg", ""))  # or the missing image would be found by that
        for path in other.root.glob("*/t1.*"):
            path.rename(files.root / path.parent.name / f"case{number}{path.suffix}")
    files.split("test", *(f"case{number}" for number in range(len(CASES))), "t1", "t1")
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/train", config)
    expected = sorted(kind for kind, *_ in CASES.values())
    assert sorted(fault.kind for fault in caught.value.faults) == expected
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults
    # What is left to error is listed alone.
    kinds = [field.name for field in dataclasses.fields(FaultPolicy) if field.name != "tolerance"]
    drop = dict.fromkeys(kinds, "drop") | {"unknown_class": "error"}
    with pytest.raises(DatasetFaultError, match="has 1 fault") as caught:
        open_dataset("folder/train", dataclasses.replace(config, faults=FaultPolicy(**drop)))
    assert [fault.kind for fault in caught.value.faults] == ["unknown_class"]


def test_an_image_without_annotation_is_empty_on_request(config, files):
    (files.root / "Annotations/t1.xml").unlink()
    config = dataclasses.replace(config, faults=FaultPolicy(missing_annotation="empty"))
    data = open_dataset("folder/test", config)
    assert (data.image_ids, data.dropped, len(data.annotations[0].boxes)) == (("t1",), {}, 0)
    assert sum(len(truth.boxes) for truth in open_dataset("folder/train", config).annotations) == 2
    # A folder without any annotation needs the policy, and the names of the classes.
    shutil.rmtree(files.root / "Annotations")
    assert all(len(truth.boxes) == 0 for truth in open_dataset("folder/train", config).annotations)
    with pytest.raises(FileNotFoundError, match="has no folder Annotations"):
        open_dataset("folder/train", dataclasses.replace(config, faults=FaultPolicy()))
    with pytest.raises(ValueError, match=r"give the names in data\.classes"):
        open_dataset("folder/train", dataclasses.replace(config, classes=None))


def test_an_object_dropped_for_one_fault_has_no_other(config, files):
    files.image("t1", GOOD, object_xml("dog", (-3, 3, 10, 12)))
    config = dataclasses.replace(config, faults=FaultPolicy(unknown_class="drop"))
    data = open_dataset("folder/test", config)
    assert data.dropped == {"unknown_class": 1}


def test_nothing_left_is_an_error(config, files):
    for name in ("a1", "a2", "b1", "t1"):
        (files.root / f"JPEGImages/{name}.jpg").unlink()
    config = dataclasses.replace(config, faults=FaultPolicy(missing_image="drop"))
    with pytest.raises(ValueError, match="no split has any image left"):
        open_dataset("folder/test", config)


def test_split_that_lost_all_images_is_an_error_that_names_the_others(config, files):
    (files.root / "JPEGImages/t1.jpg").unlink()
    config = dataclasses.replace(config, faults=FaultPolicy(missing_image="drop"))
    dropped = r"all images of split 'test' were dropped for their faults \(missing_image 1\); put them right"
    with pytest.raises(ValueError, match=rf"{dropped} \(there: train, trainval, validation\)"):
        open_dataset("folder/test", config)


def test_faults_come_before_the_lack_of_classes(config, files):
    for name in ("a1", "a2", "b1", "t1"):
        files.image(name, xml="<annotation>")
    config = dataclasses.replace(config, classes=None)
    with pytest.raises(DatasetFaultError, match="unreadable_annotation 4"):
        open_dataset("folder/test", config)
    for name in ("a1", "a2", "b1", "t1"):
        files.image(name)
    with pytest.raises(ValueError, match=r"name no class; give the names in data\.classes"):
        open_dataset("folder/test", config)
