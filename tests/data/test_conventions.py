"""Conventions that a folder's files do not state, decided for the whole folder: corners and orientation."""

import dataclasses
import logging

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.joined import JoinedDataset
from frcnn_jax.data.prepared.conventions import Conventions, follow
from frcnn_jax.data.prepared.load import LoadedImage
from frcnn_jax.data.records import ImageRecord, ObjectRecord
from tests.data.formats.written import write_coco, write_yolo
from tests.data.voc_files import annotation_xml, object_xml, with_exif_orientation


def prepared(config, caplog, split="test"):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = open_dataset(f"folder/{split}", config)
    return data, " | ".join(record.message for record in caplog.records)


def boxes(files, *corners):
    files.image("t1", *(object_xml(box=box) for box in corners))


ZERO = [(0, 3, 10, 12), (2, 0, 10, 12), (0, 0, 10, 12)]
BETWEEN = [(5.25, 6.75, 17.5, 18.5)] * 4


@pytest.mark.parametrize(
    ("corners", "expected", "text"),
    [
        ([*ZERO, (2, 3, 39, 29)], [[0, 3, 11, 13], [2, 3, 40, 30]],
         "corners are 0-based and inclusive (data.corners auto: 3 of 7"),
        ([*ZERO, (2, 3, 40, 29), (2, 3, 40, 30), (2, 3, 9, 30)], [[0, 3, 10, 12], [2, 3, 9, 30]],
         "corners are 0-based, with xmax and ymax at the border itself (data.corners auto: 3 of 9 objects have a corner"
         " of 0, 4 have xmax = width"),
        ([*ZERO, (2, 3, 40, 29)], [[0, 3, 11, 13], [2, 3, 40, 30]], "2 have xmax = width or ymax = height, too few"),
        ([*ZERO[:2], (2, 3, 40, 30)], [[0, 2, 10, 12], [1, 2, 40, 30]], "corners are 1-based and inclusive"),
        ([(1, 3, 10, 12), (2, 3, 40, 30)], [[0, 2, 10, 12], [1, 2, 40, 30]], ""),
        ([*BETWEEN, (2, 3, 9.5, 9), (2, 3, 40, 30)], [[5.25, 6.75, 17.5, 18.5], [2, 3, 40, 30]],
         "corners are 0-based, with xmax and ymax at the border itself (data.corners auto: 5 of 9 objects have corners "
         "between pixels"),
        ([*ZERO, *BETWEEN, *BETWEEN], [[0, 3, 10, 12], [5.25, 6.75, 17.5, 18.5]], "8 of 14 objects have"),
        ([*BETWEEN, (2, 3, 40, 30)], [[4.25, 5.75, 17.5, 18.5], [1, 2, 40, 30]], ""),
    ],
    ids=["zero_based", "zero_based_open", "few at the border", "two are too few", "voc", "between pixels", "also at 0",
         "half between pixels"],
)  # fmt: skip
def test_corners_are_counted_as_the_objects_say(config, files, caplog, corners, expected, text):
    boxes(files, *corners)
    data, said = prepared(config, caplog)
    np.testing.assert_array_equal(data.annotations[0].boxes[[0, -1]], expected)
    assert text in said
    assert bool(text) == bool(said)
    assert data.dropped == {}


@pytest.mark.parametrize(
    ("corners", "kept"),
    [
        ([*ZERO, *[(2, 3, 40, 30)] * 3, (10.2, 5, 10.6, 9), (10.2, 5, 11.2, 9)], [10.2, 5, 11.2, 9]),
        ([(0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.51, 0.7), (0.5, 0.5, 0.7, 0.7)], [20, 15, 28, 21]),
    ],
    ids=["zero_based_open", "fractions"],
)
def test_a_box_below_a_pixel_is_empty(config, files, corners, kept):
    boxes(files, *corners)
    for name in ("a1", "a2", "b1"):
        files.image(name)
    with pytest.raises(DatasetFaultError, match=r"has 1 fault \(degenerate_box 1\)(.*\n)*.*reversed or below 1 pixel"):
        open_dataset("folder/test", config)
    data = open_dataset("folder/test", dataclasses.replace(config, faults=FaultPolicy(degenerate_box="drop")))
    np.testing.assert_allclose(data.annotations[0].boxes[-1], kept, atol=1e-3)
    assert len(data.annotations[0].boxes) == len(corners) - 1


def test_evidence_for_corners_comes_from_all_splits_and_needs_half_a_percent(config, files, caplog):
    boxes(files, (2, 3, 10, 12))
    files.image("a1", *(object_xml(box=box) for box in ZERO), *[object_xml(box=(2, 3, 4, 5))] * 590)
    data, _ = prepared(config, caplog)  # 3 of 595
    np.testing.assert_array_equal(data.annotations[0].boxes, [[2, 3, 11, 13]])
    files.image("a1", *(object_xml(box=box) for box in ZERO), *[object_xml(box=(2, 3, 4, 5))] * 600)
    data, said = prepared(config, caplog)  # 3 of 605
    np.testing.assert_array_equal(data.annotations[0].boxes, [[1, 2, 10, 12]])
    assert "3 of 605 objects have a corner of 0, too few" in said
    assert "split train: clipped 3 boxes" in said


def test_a_subset_of_the_classes_does_not_change_the_corners(config, files, caplog):
    others = [object_xml("bee", (2, 3, 4, 5))] * 600
    files.image("t1", *(object_xml("cat", box) for box in ZERO), *others)
    data, said = prepared(dataclasses.replace(config, classes=("cat",)), caplog)
    np.testing.assert_array_equal(data.annotations[0].boxes[0], [0, 2, 10, 12])
    assert "3 of 606 objects have a corner of 0, too few" in said
    assert data.dropped == {"unknown_class": 600}
    files.image("t1", *(object_xml("bee", box) for box in ZERO), object_xml("cat", (2, 3, 10, 12)))
    data, said = prepared(dataclasses.replace(config, classes=("cat",)), caplog)
    np.testing.assert_array_equal(data.annotations[0].boxes, [[2, 3, 11, 13]])
    assert "corners are 0-based and inclusive (data.corners auto: 3 of 7" in said


@pytest.mark.parametrize(
    ("setting", "box"),
    [("one_based", [1, 2, 10, 12]), ("zero_based", [2, 3, 11, 13]), ("zero_based_open", [2, 3, 10, 12])],
)  # fmt: skip
def test_corners_as_set(config, files, caplog, setting, box):
    boxes(files, (2, 3, 10, 12), *ZERO)
    data, _ = prepared(dataclasses.replace(config, corners=setting), caplog)
    np.testing.assert_array_equal(data.annotations[0].boxes[0], box)
    first = open_dataset("folder/test", config).directory
    assert first != data.directory


@pytest.mark.parametrize(
    ("write", "boxes"), [(write_coco, r"x, y, x \+ width, y \+ height"), (write_yolo, "fractions of the image")]
)
def test_corners_are_not_set_for_other_boxes(tmp_path, write, boxes):
    write(tmp_path / "set")
    config = DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds"), corners="zero_based")
    with pytest.raises(
        ValueError, match=rf"^data.corners = 'zero_based' is for .*nothing in .*set, where boxes are {boxes}: leave"
    ):
        open_dataset("folder/train", config)


def test_corners_are_not_set_for_fractions(config, files):
    for name in ("a1", "a2", "b1", "t1"):
        files.image(name, object_xml(box=(0.1, 0.1, 0.5, 0.6)))
    with pytest.raises(ValueError, match=r"where boxes are fractions of the image: leave it out"):
        open_dataset("folder/test", dataclasses.replace(config, corners="one_based"))


def turn(files, name, mark, size=None):
    """Marks an image of 40 x 30; `size` is stated, width first."""
    xml = annotation_xml(object_xml("ant"), **({} if size is None else {"width": size[0], "height": size[1]}))
    files.image(name, xml=xml)
    path = files.root / f"JPEGImages/{name}.jpg"
    path.write_bytes(with_exif_orientation(path.read_bytes(), mark))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("stated", "turned"), [((30, 40), True), ((40, 30), False), ((0, 0), True)], ids=["turned", "as it lies", "nothing"]
)
def test_images_are_turned_as_the_stated_sizes_say(config, files, caplog, stated, turned):
    data = turn(files, "t1", 6, stated)
    other = turn(files, "b1", 3)  # its size says nothing
    dataset, said = prepared(config, caplog)
    assert "2 of 4 images have an EXIF orientation, which is " + ("followed" if turned else "ignored") in said
    assert {(30, 40): "1 state the size of the turned image, 0", (40, 30): "0 state the size of the turned image, 1",
            (0, 0): "none of them states a size"}[stated] in said  # fmt: skip
    validation = open_dataset("folder/validation", config)
    for now, encoded, mark in ((dataset, data, 6), (validation, other, 3)):
        np.testing.assert_array_equal(now.read_image(0), decode_image(encoded, mark if turned else 1))
        assert now.sizes.tolist() == [list(now.read_image(0).shape[:2])]
        np.testing.assert_array_equal(now.annotations[0].boxes, [[1, 2, 10, 12]])
        assert now.image_fingerprint(0)[64:] == (f"+turned{mark}" if turned else "")
    for again in (open_dataset("folder/test", config), open_dataset("folder/trainval", config)):
        assert bool([name for name in map(again.image_fingerprint, range(len(again))) if "+" in name]) == turned
        assert again.orientation == JoinedDataset([again, again]).orientation == ("apply" if turned else "ignore")
    (dataset.directory / "frcnn_summary.json").unlink()  # as of an earlier version
    (dataset.directory / "checksums.json").unlink()
    assert open_dataset("folder/test", config).orientation is None


@pytest.mark.parametrize(
    ("mark", "orientation", "last"),
    [(6, "auto", (2, 3, 30, 40)), (6, "ignore", (2, 3, 40, 30)), (3, "auto", (2, 3, 40, 30))],
)  # fmt: skip
def test_corners_at_the_border_are_those_of_the_turned_image(config, files, caplog, mark, orientation, last):
    xml = annotation_xml(*(object_xml(box=box) for box in [*ZERO, last, last, last]), width=0, height=0)
    files.image("t1", xml=xml)
    path = files.root / "JPEGImages/t1.jpg"
    path.write_bytes(with_exif_orientation(path.read_bytes(), mark))
    data, said = prepared(dataclasses.replace(config, orientation=orientation), caplog)
    assert "with xmax and ymax at the border itself" in said
    np.testing.assert_array_equal(data.annotations[0].boxes[[0, -1]], [[0, 3, 10, 12], last])
    assert "clipped" not in said


def test_orientation_as_set(config, files, caplog):
    turn(files, "t1", 6, (30, 40))
    with pytest.raises(
        DatasetFaultError, match=r"40 x 30 pixels .*; its EXIF orientation, 6, is ignored \[size_mismatch"
    ):
        open_dataset("folder/test", dataclasses.replace(config, orientation="ignore"))
    data, said = prepared(dataclasses.replace(config, orientation="apply"), caplog)
    assert (data.sizes.tolist(), "(data.orientation apply; as t1.jpg)" in said) == ([[40, 30]], True)
    turn(files, "t1", 6, (40, 30))
    data, said = prepared(dataclasses.replace(config, orientation="ignore"), caplog)
    assert (data.sizes.tolist(), "ignored (data.orientation ignore;" in said) == ([[30, 40]], True)


def test_contradicting_evidence_stops_with_both_settings(config, files):
    files.image("i1")
    files.split("train", "a1", "a2", "i1")
    for name, stated in (("a1", (30, 40)), ("a2", (30, 40)), ("t1", (40, 30))):
        turn(files, name, 6, stated)
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset("folder/test", config)
    (fault,) = caught.value.faults
    assert (fault.kind, fault.file, fault.value) == ("orientation", "Annotations/t1.xml", "40 x 30")
    assert "--data.orientation apply\n  --data.orientation ignore\n" in str(caught.value)
    assert "2 state the size of the turned image, 1 that of the image as it lies" in str(caught.value)
    # Either setting leaves sizes that contradict; the images may be dropped, or their own sizes be used.
    drop = FaultPolicy(size_mismatch="drop")
    assert "  --data.faults.size-mismatch drop" in str(caught.value).splitlines()
    for setting, dropped in (("apply", 0), ("ignore", 2)):
        data = open_dataset("folder/train", dataclasses.replace(config, orientation=setting, faults=drop))
        assert data.dropped == ({"size_mismatch": dropped} if dropped else {})
    apply = dataclasses.replace(config, orientation="apply")
    with pytest.raises(DatasetFaultError, match="has 1 fault"):
        open_dataset("folder/test", apply)
    use = dataclasses.replace(apply, faults=FaultPolicy(size_mismatch="use_image"))
    assert open_dataset("folder/test", use).sizes.tolist() == [[40, 30]]


@pytest.mark.parametrize(("turned", "lying"), [(11, 1), (1, 11)])
def test_a_stray_contradiction_is_decided_by_the_many(config, files, caplog, turned, lying):
    """11 to 1, in a set of 16 images, so that one is not a handful; counted, said and dropped."""
    names = [f"i{number:02}" for number in range(turned + lying)]
    files.split("train", "a1", "a2", *names)
    for number, name in enumerate(names):
        turn(files, name, 6, (30, 40) if number < turned else (40, 30))
    odd = names[-1] if turned > 1 else names[0]
    data, said = prepared(config, caplog, "train")
    assert data.image_ids == ("a1", "a2", *(name for name in names if name != odd))
    assert data.dropped == {"size_mismatch": 1}
    assert [list(size) for size in data.sizes[2:]] == [[40, 30] if turned > 1 else [30, 40]] * 11
    assert (
        f"{turned} state the size of the turned image, {lying} that of the image as it lies, which is decided " in said
    )
    assert f"against (the first: Annotations/{odd}.xml)" in said
    why = "they state the size of the other orientation, and many more do not; the first: "
    assert f"DROPPED 1 image (size_mismatch 1): {why}Annotations/{odd}.xml: size = " in said
    # With a tolerance of 0 it stops, also where it is prepared with another; an answer of one's own holds.
    strict = dataclasses.replace(config, faults=FaultPolicy(tolerance=0, size_mismatch="drop"))
    drop = dataclasses.replace(config, faults=FaultPolicy(size_mismatch="drop"))
    assert prepared(drop, caplog, "train")[0].dropped == {"size_mismatch": 1}
    with pytest.raises(DatasetFaultError, match=r"orientation 1\b"):
        open_dataset("folder/train", strict)
    use = dataclasses.replace(config, faults=FaultPolicy(size_mismatch="use_image"))
    assert len(prepared(use, caplog, "train")[0]) == 14
    # Nine to one stops.
    for name in [name for name in names if name != odd][:2]:
        turn(files, name, 3)
    with pytest.raises(DatasetFaultError, match=r"orientation 1\b"):
        open_dataset("folder/train", config)


def test_a_contradiction_within_the_tolerance_is_decided_too(config, files, caplog):
    names = [f"i{number:02}" for number in range(6)]
    files.split("train", *names)
    for number, name in enumerate(names):
        turn(files, name, 8, (30, 40) if number else (40, 30))
    with pytest.raises(DatasetFaultError, match=r"orientation 1\b"):
        prepared(config, caplog, "train")
    config = dataclasses.replace(config, faults=FaultPolicy(tolerance=0.17))
    assert prepared(config, caplog, "train")[0].dropped == {"size_mismatch": 1}


def test_fractions_of_an_image_turn_with_it():
    record = ImageRecord("a", None, "a.txt", None, (ObjectRecord(0, "cat", (4, 3, 40, 30)),), fractions=True)
    image = LoadedImage(record, (30, 40), (), mark=6)
    turned = follow(image, Conventions(True, "one_based"))
    assert (turned.size, turned.record.objects[0].box) == ((40, 30), (3, 4, 30, 40))
    assert follow(image, Conventions(False, "one_based")).record.objects == record.objects
    assert follow(dataclasses.replace(image, mark=3), Conventions(True, "one_based")).record.objects == record.objects


def test_png_with_an_orientation_is_turned(tmp_path, files, caplog):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 8
    (files.root / "JPEGImages/t1.jpg").unlink()
    pixels = cv2.imread(str(files.root / "JPEGImages/a1.jpg"))
    Image.fromarray(pixels).save(files.root / "JPEGImages/t1.jpg", "PNG", exif=exif)
    (files.root / "Annotations/t1.xml").write_text(annotation_xml(object_xml("ant"), width=30, height=40))
    data, said = prepared(DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds")), caplog)
    assert "1 of 4 images has an EXIF orientation, which is followed" in said
    np.testing.assert_array_equal(data.read_image(0), np.rot90(pixels))
