"""VOC's XML: by hand, and read back by our own reader as a data set."""

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.voc.annotation import read_annotation
from frcnn_jax.evaluation.outputs.voc_xml import check_xml_files, voc_xml, write_voc_xml, xml_file
from tests.evaluation.records import detections


def test_a_file_by_hand(tmp_path):
    found = detections(([0, 0, 10, 20], 0.9, 1), ([4.4, 5.5, 39.6, 29.5], 0.5, 2), ([0, 0, 5, 5], 0.49, 1))
    path = write_voc_xml(tmp_path, "a", "a.png", (30, 40), found, ["R&D <x>", "dog"])
    assert path == tmp_path / "a.xml"
    annotation = read_annotation(path)
    assert (annotation.filename, annotation.width, annotation.height) == ("a.png", 40, 30)
    assert [(item.name, item.corners) for item in annotation.objects] == [
        ("R&D <x>", (1, 1, 10, 20)),  # half-open (0, 0, 10, 20) covers pixels 1 ... 10 and 1 ... 20
        ("dog", (5, 7, 40, 30)),
    ]
    assert not any(item.difficult or item.truncated for item in annotation.objects)
    assert (annotation.problems, annotation.parts) == ((), 0)
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax>" in path.read_text()


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([3, 3, 3.2, 3.2], (4, 4, 5, 5)),  # at least two pixels
        ([40, 30, 40, 30], (39, 29, 40, 30)),
        ([-2, -3, 50, 40], (1, 1, 40, 30)),
        ([39.4, 29.4, 40, 30], (39, 29, 40, 30)),
    ],
)
def test_boxes_stay_inside_the_image_and_are_not_empty(tmp_path, box, corners):
    write_voc_xml(tmp_path, "a", "a.png", (30, 40), detections((box, 0.9)), ["cat"])
    (item,) = read_annotation(tmp_path / "a.xml").objects
    assert item.corners == corners


def test_a_folder_of_images_and_these_files_is_a_data_set(tmp_path):
    """A folder corrected in labelImg: boxes are the detected ones in whole pixels; an image without boxes remains."""
    random, folder = np.random.default_rng(0), tmp_path / "data"
    boxes = {}
    for name in ("a", "b", "c", "d"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (60, 80, 3), np.uint8))
        low = random.integers(0, 30, (0 if name == "c" else 3, 2))
        boxes[name] = np.concatenate([low, low + random.integers(2, 30, low.shape)], axis=1)
        rows = [(box, 0.9, 1 + i % 2) for i, box in enumerate(boxes[name])]
        write_voc_xml(folder, name, path.name, (60, 80), detections(*rows), ["cat", "dog"])
    dataset = open_dataset("folder/all", DataConfig(root=str(folder), tfds_dir=str(tmp_path / "prepared")))
    assert dataset.image_ids == ("a", "b", "c", "d")
    assert dataset.classes == ("cat", "dog")
    for name, found in zip(dataset.image_ids, dataset.annotations, strict=True):
        np.testing.assert_array_equal(found.boxes, boxes[name])
        assert found.labels.tolist() == [1, 2, 1][: len(boxes[name])]


def test_ids_with_folders_and_those_that_lead_out(tmp_path):
    assert xml_file(tmp_path, "cats/0001") == tmp_path / "cats/0001.xml"
    assert xml_file(tmp_path, "a.b") == tmp_path / "a.b.xml"
    for bad in ("../a", "/a", "a//b", "", "a/.", "..\\a"):
        with pytest.raises(ValueError, match="cannot be the name of an XML file"):
            xml_file(tmp_path, bad)


def test_corrections_are_not_overwritten(tmp_path):
    check_xml_files(tmp_path, ["a", "b"])
    for name in ("a", "b"):
        (tmp_path / f"{name}.xml").write_text(voc_xml("a.jpg", (1, 1), []))
    with pytest.raises(FileExistsError, match=r"a\.xml and 1 others exist and may hold corrections: give --overwrite"):
        check_xml_files(tmp_path, ["a", "b", "c"])
    check_xml_files(tmp_path, ["a", "b"], overwrite=True)


@pytest.mark.parametrize("image", ["x" * 252, "é" * 126, "x" * 256 + "/a"])
def test_ids_too_long_for_a_file_are_refused_before_the_evaluation(tmp_path, image):
    assert len(xml_file(tmp_path, "a/" + "x" * 251).name) == 255
    with pytest.raises(ValueError, match=r"is too long for the name of an XML file, of 255 bytes: leave out"):
        check_xml_files(tmp_path, [image])
