"""Trees of images mirrored by one of annotations, with equal names in several folders."""

import dataclasses
import logging

import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.evaluation.analysis.matches import match_dataset
from frcnn_jax.evaluation.outputs.voc_results import write_voc_results
from frcnn_jax.evaluation.pages.gallery import write_gallery
from frcnn_jax.evaluation.report import write_report
from frcnn_jax.evaluation.voc_map import precision_recall, summarize
from frcnn_jax.types import Detections
from tests.data.formats.written import Picture, write_labelimg, write_text

KINDS = ("cats", "dogs", "dogs/old")
PICTURES = [
    Picture(f"00{number}", kind, (20 + place, 33), ((kind, (place, 0, 5, 5 + number)),))
    for place, kind in enumerate(KINDS)
    for number in range(2)
]


def read(root, split="all"):
    """Format, and class and box of each image by its path."""
    name, reader = open_reader(root, DataConfig())
    split = reader.read(split)
    assert split.faults == ()
    assert not any(record.faults for record in split.records)
    found = {
        record.path.relative_to(root).as_posix(): [(item.name, item.box) for item in record.objects]
        for record in split.records
    }
    return name, found, list(split.ids)


def expected(folder):
    return {folder.format(p.split) + f"/{p.name}": list(p.objects) for p in PICTURES}


@pytest.mark.parametrize(
    ("images", "xml"),
    [
        ("images/{}", "annotations/{}"),
        ("data/images/{}", "data/annots/xmls/{}"),
        ("{}/photos", "xml/{}/labels"),
        ("{}/images", "{}/annots"),
        ("{}", "{}"),
    ],
)
def test_xml_is_that_of_the_image_in_the_folder_of_the_same_name(tmp_path, images, xml):
    write_labelimg(tmp_path, PICTURES, images=images, xml=xml)
    name, found, ids = read(tmp_path)
    assert (name, found) == ("labelimg", expected(images))
    assert ids == sorted(path.removesuffix(".jpg") for path in found)


def test_months_and_days_are_not_confused(tmp_path):
    pictures = [dataclasses.replace(p, split=f"0{n + 1}/0{2 - n}") for n, p in enumerate(PICTURES[0:4:3])]
    pictures = [dataclasses.replace(p, stem="IMG") for p in pictures]
    write_labelimg(tmp_path, pictures, images="images/{}", xml="xml/{}")
    assert read(tmp_path)[1] == {f"images/{p.split}/IMG.jpg": list(p.objects) for p in pictures}


def test_an_image_has_the_nearest_of_several_annotations(tmp_path):
    """The other one has lost its image, and must not give its objects to a namesake."""
    write_labelimg(tmp_path, PICTURES[:4], images="images/{}", xml="annotations/{}")
    (tmp_path / "images/cats/000.jpg").unlink()
    lost = ("missing_image", "annotations/cats/000.xml")
    for objects in (["dogs"], []):
        records = open_reader(tmp_path, DataConfig())[1].read("all")
        namesake = [record for record in records.records if record.path and record.path.parent.name == "dogs"][:-1]
        assert ([item.name for record in namesake for item in record.objects], records.faults) == (objects, ())
        assert [(fault.kind, fault.file) for record in records.records for fault in record.faults] == [lost]
        (tmp_path / "annotations/dogs/000.xml").unlink(missing_ok=True)


@pytest.mark.parametrize("lists", [True, False])
def test_voc_folders_with_folders_in_them(tmp_path, lists, caplog):
    """Ids have a slash, in lists too, in whatever form they are written."""
    write_labelimg(tmp_path, PICTURES, images="JPEGImages/{}", xml="Annotations/{}")
    if lists:
        write_text(
            tmp_path / "ImageSets/Main/train.txt",
            'cats/000\ncats\\001.jpg  1\n"dogs/000" 1\ndogs/001.jpg\ndogs/old/000\n',
        )
        write_text(tmp_path / "ImageSets/Main/test.txt", "dogs/old/001\n")
    ids = [f"{p.split}/{p.stem}" for p in PICTURES]
    with caplog.at_level(logging.WARNING):
        name, found, known = read(tmp_path, "train" if lists else "all")
    paths = expected("JPEGImages/{}")
    assert (name, known) == ("voc", ids[:-1] if lists else ids)
    assert found == {path: paths[path] for path in list(paths)[: len(known)]}
    assert caplog.text == ""
    config = DataConfig(root=str(tmp_path), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    train, test = (open_dataset(f"folder/{split}", config) for split in ("train", "test"))
    assert sorted((*train.image_ids, *test.image_ids)) == ids
    if lists:
        write_text(tmp_path / "ImageSets/Main/test.txt", "dogs/old/001\ndogs/lost\n")
        (_, lost) = open_reader(tmp_path, config)[1].read("test").records
        assert [fault.kind for fault in lost.faults] == ["missing_annotation", "missing_image"]
        for line in ("JPEGImages/dogs/000", "../Annotations/cats/000", "/cats/000", "birds/000"):
            write_text(tmp_path / "ImageSets/Main/test.txt", f"{line}\n")
            with pytest.raises(ValueError, match=r"test.txt: line 1 = .*: a path, where the id of an image is wanted"):
                open_reader(tmp_path, config)[1].read("test")


def test_folders_in_a_plain_voc_folder_are_left_out_and_said(tmp_path, caplog):
    """Copies in a folder of old annotations are still skipped."""
    write_labelimg(
        tmp_path, [dataclasses.replace(p, split="") for p in PICTURES[:2]], images="JPEGImages", xml="Annotations"
    )
    write_labelimg(tmp_path, PICTURES[2:4], images="JPEGImages/{}", xml="Annotations/{}")
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path)[2] == ["000", "001"]
    assert [message.removeprefix(str(tmp_path)) for message in caplog.messages] == [
        ": left out 2 images without annotation, in no list (JPEGImages/dogs/000.jpg)",
        ": left out 2 annotations in folders of Annotations (dogs/000.xml)",
    ]


def test_ids_with_a_slash_go_through_proposals_results_and_the_page(tmp_path):
    write_labelimg(tmp_path / "set", PICTURES, images="JPEGImages/{}", xml="Annotations/{}")
    write_text(tmp_path / "set/ImageSets/Main/test.txt", "cats/000\ndogs/000\ndogs/old/001\n")
    config = DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    data = open_dataset("folder/test", config)
    assert data.image_ids == ("cats/000", "dogs/000", "dogs/old/001")
    np.savez(
        tmp_path / "boxes.npz",
        **{name: truth.boxes for name, truth in zip(data.image_ids, data.annotations, strict=True)},
    )
    boxes = read_proposal_file(tmp_path / "boxes.npz", data.image_ids, data.sizes, "error")
    found = {
        name: Detections(boxes=its, scores=np.ones(1, np.float32), labels=truth.labels, mask=np.ones(1, bool))
        for name, its, truth in zip(data.image_ids, boxes, data.annotations, strict=True)
    }
    paths = write_voc_results(tmp_path / "results", found, ["a", "b", "c"], "test")
    lines = [path.read_text().split() for path in paths]
    assert [line[0] for line in lines] == list(data.image_ids)
    truth = dict(zip(data.image_ids, data.annotations, strict=True))
    curves = precision_recall(found, truth, class_names=data.classes)
    metrics = summarize(curves, use_07_metric=False)
    assert metrics["map"] == 1
    matches = match_dataset(found, truth, num_classes=len(data.classes))
    gallery = write_gallery(tmp_path / "eval", data, found, matches, pictures=3, min_score=0.5)
    metrics = {**metrics, "dataset": "x", "images": 3, "iou_threshold": 0.5}
    page = write_report(tmp_path / "eval", metrics, curves, gallery=gallery)
    assert len(list((tmp_path / "eval/images").iterdir())) == 3
    assert all(name in page.read_text() for name in data.image_ids)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "labels/{}"),
        ("{}/images", "{}/labels"),
        ("{}", "{}"),
        ("{}", "labels/{}"),
        ("photos/{}", "labels/{}"),
        ("photos/{}", "txt/{}"),
    ],
)
def test_labels_are_those_of_the_folder_of_the_same_name(tmp_path, images, labels):
    for number, picture in enumerate(PICTURES):
        picture.save(tmp_path / images.format(picture.split))
        write_text(tmp_path / labels.format(picture.split) / f"{picture.stem}.txt", f"{number} 0.5 0.5 1 1\n")
    write_text(tmp_path / "classes.txt", "\n".join("abcdef"))
    name, found, _ = read(tmp_path)
    assert (name, [item[0][0] for item in found.values()]) == ("yolo", list("abcdef"))
    assert list(found) == list(expected(images))
