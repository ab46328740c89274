"""A handful of faults is dropped and counted; more of them stop with a report that says how to go on."""

import dataclasses
import logging
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.config import Config, FaultPolicy, override
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.voc_files import VocFiles, annotation_xml, object_xml

GOOD, REVERSED = object_xml("cat"), object_xml("cat", (10, 3, 2, 12))


@pytest.fixture
def many(files) -> VocFiles:
    """200 images with 201 objects, all but one to train on."""
    files.split("val")
    files.split("test", "b1")
    files.image("b1")
    names = [f"i{number}" for number in range(199)]
    for name in names:
        files.image(name, GOOD)
    files.split("train", *names)
    (files.root / "ImageSets/Main/val.txt").unlink()
    files.image("i0", GOOD, GOOD, GOOD)
    return files


def prepared(config, caplog, **policy):
    caplog.clear()
    config = dataclasses.replace(config, faults=FaultPolicy(**policy))
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/train", config)
    return data, [record.message for record in caplog.records]


def test_one_percent_of_the_images_and_of_the_objects_is_dropped_and_counted(config, many, caplog):
    files = many
    (files.root / "JPEGImages/i5.jpg").unlink()
    (files.root / "Annotations/i6.xml").write_text("<annotation>")
    files.image("i7", REVERSED)
    files.image("i8", object_xml("cat", (2, 3, 50, 12)))
    data, messages = prepared(config, caplog)
    assert data.dropped == {"box_outside": 1, "degenerate_box": 1, "missing_image": 1, "unreadable_annotation": 1}
    assert (len(data), sum(len(truth.labels) for truth in data.annotations)) == (197, 197)
    assert (
        "for a handful of faults (box_outside 1, degenerate_box 1, missing_image 1, unreadable_annotation 1)"
        in messages[0]
    )
    assert "as data.faults.tolerance = 0.01 allows of 200 images and 200 objects" in messages[0]
    assert "; the first: Annotations/i6.xml: XML = 'no element found" in messages[0]
    listed = Path(re.search(r"all of them are in (\S+)$", messages[0])[1]).read_text().splitlines()
    assert len(listed) == 4
    assert all(line.startswith("dropped, tolerated: ") for line in listed)
    assert "split train: dropped 1 for box_outside, 1 for degenerate_box, 1 for missing_image" in messages[1]
    # Opened again without a word; with another tolerance it is another data set.
    again, messages = prepared(config, caplog)
    assert (again.directory, messages) == (data.directory, [])
    with pytest.raises(DatasetFaultError, match="has 4 faults"):
        prepared(config, caplog, tolerance=0)
    # A third image is too many; the objects are still few.
    (files.root / "JPEGImages/i9.jpg").unlink()
    with pytest.raises(DatasetFaultError, match=r"has 3 faults \(missing_image 2, unreadable_annotation 1\)") as caught:
        prepared(config, caplog)
    assert "degenerate_box              -        1  drop: within data.faults.tolerance = 0.01" in str(caught.value)
    assert "--data.faults.missing-image drop --data.faults.unreadable-annotation drop" in str(caught.value)
    assert "--data.faults.degenerate" not in str(caught.value)
    # So is a third object.
    for name in ("i5", "i6", "i9"):
        files.image(name, GOOD)
    files.image("i10", REVERSED)
    with pytest.raises(DatasetFaultError, match=r"has 3 faults \(box_outside 1, degenerate_box 2\)"):
        prepared(config, caplog)
    data, _ = prepared(config, caplog, tolerance=0.015)
    assert data.dropped == {"box_outside": 1, "degenerate_box": 2}


def test_the_tolerance_is_a_share_of_all_objects_also_with_a_subset_of_the_classes(config, many, caplog):
    many.image("i1", object_xml("bee"), object_xml("bee", (10, 3, 2, 12)))
    config = dataclasses.replace(config, classes=("bee",))
    data, messages = prepared(config, caplog)  # 1 of 202, though 1 of 2 of the class
    assert data.dropped == {"degenerate_box": 1, "unknown_class": 200}
    assert "as data.faults.tolerance = 0.01 allows of 200 images and 202 objects" in messages[1]


def test_without_faults_the_tolerance_makes_no_other_data_set(config, many, caplog):
    first, messages = prepared(config, caplog)
    assert messages == []
    assert prepared(config, caplog, tolerance=0)[0].directory == first.directory


def test_ids_that_are_only_listed_may_be_more(config, many, caplog):
    names = [f"i{number}" for number in range(199)]
    many.split("train", *names, *(f"gone.{number}" for number in range(15)))
    data, messages = prepared(config, caplog)
    assert (len(data), data.dropped) == (199, {"missing_annotation": 15})
    assert "missing_annotation 15, missing_image 15" in messages[0]
    many.split("train", *names, *(f"gone.{number}" for number in range(23)))
    with pytest.raises(DatasetFaultError, match=r"missing_annotation 23, missing_image 23"):
        prepared(config, caplog)
    many.split("train", *names, "gone")
    with pytest.raises(DatasetFaultError):
        prepared(config, caplog, tolerance=0)


def test_the_report(config, files, caplog):
    """Counts in a table, three of each kind, all of them in a file, and settings that are understood and work."""
    files.image(
        "t1", *[REVERSED] * 4, *[object_xml("cat", (2, 3, 60, 12))] * 2, object_xml("cat", (50, 3, 60, 12)), GOOD
    )
    files.image("b1", xml=annotation_xml(GOOD, width=30, height=40))
    files.image("a2", xml=annotation_xml(object_xml("cat", (2, 3, 42, 12)), width=0, height=0))
    files.split("train", "a1", "a2", "gone", "a1")
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/train", config)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"{files.root} has 11 faults (box_outside 3, degenerate_box 4, duplicate_id 1, missing_annotation 1, "
        "missing_image 1, size_mismatch 1); data.faults says what to do about each kind"
    )
    assert lines[1].split() == ["fault", "images", "objects", "what", "the", "settings", "do", "about", "it"]
    assert lines[3].split() == ["degenerate_box", "-", "4", "stops"]
    assert lines[8].split() == ["box", "over", "border", "-", "1", "clip:", "up", "to", "2", "pixels", "over", "it"]
    assert lines[9].split()[:6] == ["size", "1", "-", "the", "image's", "own:"]
    assert lines[10].strip().startswith("of 5 images and 12 objects; data.faults.tolerance = 0.01")
    examples = [line for line in lines if line.endswith("[degenerate_box]")]
    assert len(examples) == 3
    assert "  ... and 1 more of degenerate_box" in lines
    file = Path(re.search(r"All of them are in (\S+)", str(caught.value))[1])
    assert file.read_text().splitlines() == [f"stops: {fault}" for fault in caught.value.faults]
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    # The settings go on as they are.
    command = shlex.split(lines[lines.index("To go on without them:") + 1])
    config = dataclasses.replace(config, faults=override(Config(), command).data.faults)
    data = open_dataset("folder/trainval", config)
    assert data.image_ids == ("a1", "a2"), "b1 was dropped for its size"
    assert open_dataset("folder/test", config).dropped == {"degenerate_box": 5}
    np.testing.assert_array_equal(open_dataset("folder/test", config).annotations[0].boxes[0], [1, 2, 40, 12])
    assert "  (size_mismatch: use_image takes the boxes as pixels of the image)" in lines


def test_where_nothing_would_be_left_it_says_so(config, files):
    broken = (
        "<object><name>ant</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmin>9</xmin><xmax>8</xmax></bndbox></object>"
    )
    for name in ("a1", "a2", "b1", "t1"):
        files.image(name, broken, broken)
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/train", config)
    assert len(caught.value.faults) == 8
    assert "xmin twice and no ymax: the program that wrote the file is at fault" in str(caught.value)
    assert "Dropping what is wrong would leave nothing to train on: it has to be put right" in str(caught.value)
    assert "--data" not in str(caught.value)


def go_on(config, error):
    """The settings that the report gives, as they are."""
    lines = str(error).splitlines()
    command = lines[lines.index("To go on without them:") + 1].strip()
    return command, dataclasses.replace(config, faults=override(Config(), shlex.split(command)).data.faults)


def test_where_every_size_contradicts_the_image_its_own_is_offered(config, files):
    for name in ("a1", "a2", "b1", "t1"):
        files.image(name, xml=annotation_xml(GOOD, REVERSED, width=30, height=40))
    with pytest.raises(DatasetFaultError, match="size_mismatch 4") as caught:
        open_dataset("folder/train", config)
    command, config = go_on(config, caught.value)
    assert command == "--data.faults.degenerate-box drop --data.faults.size-mismatch use_image"
    assert "nothing to train on" not in str(caught.value)
    data = open_dataset("folder/train", config)
    assert (len(data), data.dropped) == (2, {"degenerate_box": 2})
    # Dropping stays the way on where it leaves something.
    files.image("a1", GOOD)
    with pytest.raises(DatasetFaultError, match="size_mismatch 3") as caught:
        open_dataset("folder/train", dataclasses.replace(config, faults=FaultPolicy()))
    assert "--data.faults.size-mismatch drop" in go_on(config, caught.value)[0]


@pytest.mark.parametrize("classes", [None, ("cat", "dog")])
def test_where_every_annotation_is_missing_images_without_objects_are_offered(config, files, classes):
    for file in (files.root / "Annotations").iterdir():
        file.unlink()
    config = dataclasses.replace(config, classes=classes)
    with pytest.raises(DatasetFaultError, match="missing_annotation 4") as caught:
        open_dataset("folder/train", config)
    command, config = go_on(config, caught.value)
    assert command == "--data.faults.missing-annotation empty"
    hint = "  (no annotation names a class: give the names too, as --data.classes cat dog)"
    assert (hint in str(caught.value).splitlines()) == (classes is None)
    classes = override(Config(), shlex.split(hint.rpartition("as ")[2].rstrip(")"))).data.classes
    data = open_dataset("folder/train", dataclasses.replace(config, classes=classes))
    assert (len(data), data.classes, data.annotations[0].boxes.shape) == (2, ("cat", "dog"), (0, 4))


def test_sizes_that_are_not_stated_or_not_followed(config, files, caplog):
    files.image("t1", xml=annotation_xml(object_xml("ant"), width=0, height=0))
    files.image("b1", xml="<annotation>" + object_xml("ant", (2, 3, 40, 30)) + "</annotation>")
    files.split("train", "a1", "t1", "b1")
    files.split("test", "a2")
    data, messages = prepared(config, caplog)
    assert data.sizes.tolist() == [[30, 40]] * 3
    assert data.dropped == {}
    text = "took the image's own size for 2 images, where the annotation states none or another"
    assert f"{files.root}, split train: {text}" in messages
    # A contradiction is a fault, unless the image is right.
    files.image("t1", xml=annotation_xml(object_xml("ant", (2, 3, 40, 30)), width=30, height=40))
    with pytest.raises(DatasetFaultError, match="size_mismatch 1"):
        prepared(config, caplog)
    data, messages = prepared(config, caplog, size_mismatch="use_image")
    np.testing.assert_array_equal(data.annotations[1].boxes, [[1, 2, 40, 30]])
    assert f"{files.root}, split train: {text}" in messages
