"""Names of image files in what an evaluation writes for other programs."""

import json
from types import SimpleNamespace

import cv2
import numpy as np

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import file_name, open_dataset
from frcnn_jax.data.formats.voc.annotation import read_annotation
from frcnn_jax.data.joined import JoinedDataset
from frcnn_jax.evaluation.outputs.files import ResultFiles
from tests.data.voc_files import annotation_xml, object_xml, pixels
from tests.evaluation.records import detections


def test_files_are_named_as_the_images_are(tmp_path):
    """PNG, an ending in capitals, and equal names in two folders."""
    names = ("red/000.png", "blue/000.JPEG", "blue/a b.BMP")
    for number, name in enumerate(names):
        path = tmp_path / "data/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, pixels(number))[1].tobytes())
        xml = (tmp_path / "data/annotations" / name).with_suffix(".xml")
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(annotation_xml(object_xml()))
    config = DataConfig(root=str(tmp_path / "data"), tfds_dir=str(tmp_path / "prepared"), train=("folder/all",))
    dataset = open_dataset("folder/all", config)
    expected = {
        "a b": "a b.BMP",
        "images/blue/000": "images/blue/000.JPEG",
        "images/red/000": "images/red/000.png",
    }
    assert sorted(dataset.image_ids) == sorted(expected)

    files = ResultFiles(coco_results=tmp_path / "out/found.json", voc_xml=tmp_path / "out/xml")
    files.write({image: detections() for image in dataset.image_ids}, dataset, min_score=0.5)
    images = json.loads((tmp_path / "out/found.annotations.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [expected[image] for image in dataset.image_ids]
    for image, name in expected.items():
        assert read_annotation(tmp_path / f"out/xml/{image}.xml").filename == name.rpartition("/")[2]

    joined = JoinedDataset([dataset, dataset])
    assert [file_name(joined, index) for index in range(6)] == 2 * [file_name(dataset, index) for index in range(3)]


def test_a_data_set_without_names_of_files_has_those_of_its_ids():
    dataset = SimpleNamespace(image_ids=("a", "cats/b"), sizes=np.ones((2, 2), np.int32))
    assert [file_name(dataset, index) for index in (0, 1)] == ["a.jpg", "b.jpg"]
